// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/client/daemon_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/poll.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <nlohmann/json.hpp>

#include "tests/fakes/built_files.h"
extern char** environ;

namespace attnd::client {
namespace {

pid_t Spawn(const std::string& program, const std::vector<std::string>& arguments, int output_fd) {
  std::vector<std::string> words = {BuiltProgram(program)};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (output_fd >= 0) {
    posix_spawn_file_actions_adddup2(&actions, output_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output_fd, STDERR_FILENO);
  }
  pid_t pid = -1;
  if (posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ) != 0) pid = -1;
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

// Waits until `path` is complete JSON, or the process is gone.
nlohmann::json AwaitReadyFile(const std::string& folder, const std::string& path, pid_t pid) {
  const int watch = inotify_init1(IN_CLOEXEC);
  inotify_add_watch(watch, folder.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO);
  nlohmann::json ready;
  while (true) {
    std::ifstream file(path);
    ready = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (ready.is_object() || waitpid(pid, nullptr, WNOHANG) != 0) break;
    pollfd changed{.fd = watch, .events = POLLIN, .revents = 0};
    if (poll(&changed, 1, 200) > 0) {
      char events[4096];
      (void)!read(watch, events, sizeof(events));
    }
  }
  close(watch);
  return ready;
}

}  // namespace

ProgramResult RunProgram(const std::string& program, const std::vector<std::string>& arguments) {
  ProgramResult result;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return result;
  const pid_t pid = Spawn(program, arguments, ends[1]);
  close(ends[1]);
  char chunk[4096];
  for (ssize_t size; (size = read(ends[0], chunk, sizeof(chunk))) > 0;) {
    result.output.append(chunk, static_cast<size_t>(size));
  }
  close(ends[0]);
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

DaemonProcess::DaemonProcess(const std::vector<std::string>& flags) {
  char folder[] = "/tmp/attnd-client-test-XXXXXX";
  if (mkdtemp(folder) == nullptr) {
    error_ = "no temporary folder";
    return;
  }
  folder_ = folder;
  const std::string ready_file = folder_ + "/ready.json";
  unix_address_ = "unix:" + folder_ + "/attnd.sock";
  std::vector<std::string> arguments = {
      "--listen",    "127.0.0.1:0",  "--listen", unix_address_, "--metrics_listen",
      "127.0.0.1:0", "--ready_file", ready_file, "--log_level", "warning"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  pid_ = Spawn("attnd", arguments, -1);
  if (pid_ < 0) {
    error_ = "could not start " + BuiltProgram("attnd");
    return;
  }
  const nlohmann::json ready = AwaitReadyFile(folder_, ready_file, pid_);
  if (!ready.is_object()) {
    error_ = BuiltProgram("attnd") + " ended before it was ready";
    pid_ = -1;
    return;
  }
  address_ = ready["listen"][0];
  metrics_address_ = ready["metrics"];
}

DaemonProcess::~DaemonProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void DaemonProcess::Kill() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace attnd::client
