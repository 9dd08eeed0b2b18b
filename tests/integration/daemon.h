// SPDX-License-Identifier: Apache-2.0
//
// A daemon to test against: in this process, on the CPU backend or on a fake one, or as a real
// child process. Nothing here chooses a port or sleeps: Unix sockets lie in a folder of their own,
// and a child is ready when its ready file appears.
//
//   InProcessDaemon daemon;                       // CPU backend, 64 MiB pool
//   TestClient client(daemon.address());
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/options.h"
#include "server/server.h"
#include "tests/fakes/fake_backend.h"

namespace attnd {

// A folder that is removed with all it holds.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class InProcessDaemon {
 public:
  using Change = std::function<void(Options&)>;

  explicit InProcessDaemon(const Change& change = {});
  explicit InProcessDaemon(Platform platform, const Change& change = {});
  // On a fake, which must outlive the daemon.
  explicit InProcessDaemon(FakePlatform& platform, const Change& change = {});

  const std::string& address() const { return server_->listen_addresses().front(); }
  Server& server() { return *server_; }
  const std::string& metrics_address() const { return server_->metrics_address(); }
  void Stop() { server_.reset(); }

 private:
  void Start(Platform platform, const Change& change);

  TempDir dir_;
  std::unique_ptr<Server> server_;
};

// The attnd program with flags of the test's choice; killed where the test did not end it.
class ChildDaemon {
 public:
  // Starts it on a Unix socket of its own and waits until it serves, unless `flags` make it exit.
  explicit ChildDaemon(std::vector<std::string> flags = {});
  ~ChildDaemon();

  bool serving() const { return !address_.empty(); }
  const std::string& address() const { return address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  const TempDir& dir() const { return dir_; }

  void Signal(int signal) const;
  // Waits for the end; the exit code, or 128 + n for an end by signal n.
  int Wait();
  std::string log() const;  // what it wrote so far, to both outputs

 private:
  TempDir dir_;
  pid_t pid_ = -1;
  int pid_fd_ = -1;
  int exit_code_ = -1;
  std::string address_;
  std::string metrics_address_;
};

// The body of an HTTP GET; fails the test where the answer is not `expected_code`. `authorization`
// is the header of that name.
std::string HttpGet(const std::string& address, const std::string& path, int expected_code = 200,
                    const std::string& authorization = "");

}  // namespace attnd
