// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/daemon.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/fakes/built_files.h"

namespace attnd {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TempDir::TempDir() {
  const std::filesystem::path base = std::filesystem::temp_directory_path();
  std::string name = (base / "attnd-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) std::abort();
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

InProcessDaemon::InProcessDaemon(const Change& change) {
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = 2, .memory_limit = Bytes(0)});
  std::unique_ptr<AttentionBackend> backend = MakeCpuBackend(*device);
  Platform platform;
  platform.devices.push_back({.device = std::move(device), .backend = std::move(backend)});
  Start(std::move(platform), change);
}

InProcessDaemon::InProcessDaemon(Platform platform, const Change& change) {
  Start(std::move(platform), change);
}

InProcessDaemon::InProcessDaemon(FakePlatform& platform, const Change& change) {
  Start(platform.TakePlatform(), change);
}

void InProcessDaemon::Start(Platform platform, const Change& change) {
  Options options;
  options.listen = {"unix:" + dir_.path("s")};
  options.metrics_listen = "";
  options.pool_bytes = Bytes(64u << 20);
  options.max_tensor_bytes = Bytes(8u << 20);
  options.reflection = false;
  if (change) change(options);
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options, std::move(platform));
  if (!server.ok()) {
    ADD_FAILURE() << server.status();
    std::abort();
  }
  server_ = *std::move(server);
}

ChildDaemon::ChildDaemon(std::vector<std::string> flags) {
  const std::string ready = dir_.path("ready.json");
  std::vector<std::string> args = {
      BuiltProgram("attnd"),          "--listen=unix:" + dir_.path("s"),
      "--metrics_listen=127.0.0.1:0", "--ready_file=" + ready,
      "--pool_bytes=64MiB",           "--num_threads=2"};
  args.insert(args.end(), flags.begin(), flags.end());

  const int changes = inotify_init1(IN_CLOEXEC);
  inotify_add_watch(changes, dir_.path(".").c_str(), IN_MOVED_TO);
  pid_ = fork();
  if (pid_ == 0) {
    const int log = open(dir_.path("log").c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    std::vector<char*> argv;
    argv.reserve(args.size() + 1);
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  pid_fd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));

  // Until the ready file is there, or the process has ended.
  while (!std::filesystem::exists(ready)) {
    pollfd events[] = {{.fd = changes, .events = POLLIN, .revents = 0},
                       {.fd = pid_fd_, .events = POLLIN, .revents = 0}};
    poll(events, 2, -1);
    if (events[1].revents != 0) break;
    char buffer[4096];
    if (events[0].revents != 0 && read(changes, buffer, sizeof(buffer)) < 0) break;
  }
  close(changes);
  if (!std::filesystem::exists(ready)) return;
  const nlohmann::json json = nlohmann::json::parse(ReadFile(ready));
  address_ = json["listen"][0];
  metrics_address_ = json["metrics"];
}

ChildDaemon::~ChildDaemon() {
  if (pid_ > 0 && exit_code_ < 0) {
    kill(pid_, SIGKILL);
    Wait();
  }
  if (pid_fd_ >= 0) close(pid_fd_);
}

void ChildDaemon::Signal(int signal) const { kill(pid_, signal); }

int ChildDaemon::Wait() {
  if (exit_code_ >= 0) return exit_code_;
  int status = 0;
  waitpid(pid_, &status, 0);
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_code_;
}

std::string ChildDaemon::log() const { return ReadFile(dir_.path("log")); }

std::string HttpGet(const std::string& address, const std::string& path, int expected_code,
                    const std::string& authorization) {
  const size_t colon = address.rfind(':');
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &name.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0) {
    std::string request = "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\n";
    if (!authorization.empty()) request += "Authorization: " + authorization + "\r\n";
    request += "Connection: close\r\n\r\n";
    send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    char buffer[4096];
    for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      answer.append(buffer, static_cast<size_t>(n));
    }
  }
  close(fd);
  const std::string status = "HTTP/1.1 " + std::to_string(expected_code) + " ";
  EXPECT_EQ(answer.substr(0, status.size()), status) << answer;
  const size_t body = answer.find("\r\n\r\n");
  return body == std::string::npos ? "" : answer.substr(body + 4);
}

}  // namespace attnd
