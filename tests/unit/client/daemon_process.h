// SPDX-License-Identifier: Apache-2.0
//
// The real daemon as a child process, on ports of its own choosing, ended with the object.
//
//   DaemonProcess daemon;
//   ASSERT_EQ(daemon.error(), "");
//   auto client = Client::Connect({.address = daemon.address()});
#pragma once

#include <sys/types.h>
#include <string>
#include <vector>

namespace attnd::client {

struct ProgramResult {
  int exit_code = -1;
  std::string output;  // stdout and stderr
};
// Runs a program of the build to its end.
ProgramResult RunProgram(const std::string& program, const std::vector<std::string>& arguments);

class DaemonProcess {
 public:
  explicit DaemonProcess(const std::vector<std::string>& flags = {});
  ~DaemonProcess();
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  const std::string& error() const { return error_; }  // why it is not serving, or empty
  const std::string& address() const { return address_; }
  const std::string& unix_address() const { return unix_address_; }
  const std::string& metrics_address() const { return metrics_address_; }
  // Ends it the hard way.
  void Kill();

 private:
  std::string folder_;
  std::string error_;
  std::string address_;
  std::string unix_address_;
  std::string metrics_address_;
  pid_t pid_ = -1;
};

}  // namespace attnd::client
