// SPDX-License-Identifier: Apache-2.0
//
// The attnd program: options, the choice of a backend, and the life between the first log line and
// the last.
//
// Exit codes: 0 after a signal (or the end of standard input) and a drain (complete or not: the log
// says which), 1 where the daemon could not start, 2 for bad options, 128 + n where a second signal
// n cut the drain short.
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_device.h"
#include "server/observe/log.h"
#include "server/options.h"
#include "server/platform.h"
#include "server/preflight.h"
#include "server/server.h"
#include "server/service_manager.h"
#include "spdlog/spdlog.h"

namespace attnd {
namespace {

constexpr int kExitCannotStart = 1;

// A closed terminal ends what was started in it. Elsewhere SIGHUP is what operators send to have
// files read again, and must not end a service.
bool HangupEnds() { return isatty(STDIN_FILENO) == 1; }

// SIGTERM, SIGINT and SIGHUP are taken by WaitForEnd: every thread that is started later inherits
// the mask, so it is set before any.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A client that hangs up is an error of its call.
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

// Reads what there is and throws it away. False where there will be no more.
bool StdinIsOpen() {
  char buffer[4096];
  const ssize_t count = read(STDIN_FILENO, buffer, sizeof(buffer));
  return count > 0 || (count < 0 && (errno == EINTR || errno == EAGAIN));
}

// Until a signal or, where `with_stdin`, the end of standard input; says which.
std::string WaitForEnd(const sigset_t& signals, bool with_stdin) {
  const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
  pollfd events[] = {{.fd = signal_fd, .events = POLLIN, .revents = 0},
                     {.fd = with_stdin ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0}};
  for (;;) {
    if (poll(events, 2, -1) < 0) continue;  // EINTR
    signalfd_siginfo signal{};
    if (events[0].revents != 0 && read(signal_fd, &signal, sizeof(signal)) == sizeof(signal)) {
      if (signal.ssi_signo == SIGHUP && !HangupEnds()) {
        spdlog::info(
            "SIGHUP: nothing to do, certificates and tenants are read again when their files "
            "change; other options need a restart");
        continue;
      }
      close(signal_fd);
      return absl::StrCat("SIG", sigabbrev_np(static_cast<int>(signal.ssi_signo)));
    }
    if (events[1].revents != 0 && !StdinIsOpen()) {
      close(signal_fd);
      return "the end of standard input";
    }
  }
}

// From now on a signal ends the process at once, with the code that a shell shows for it.
void LetSignalsEndTheProcess(const sigset_t& signals) {
  const auto exit_now = [](int signal) { _exit(128 + signal); };
  std::signal(SIGTERM, exit_now);
  std::signal(SIGINT, exit_now);
  if (!HangupEnds()) std::signal(SIGHUP, SIG_IGN);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

Platform MakeCpuPlatform(const Options& options) {
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = options.num_threads});
  std::unique_ptr<AttentionBackend> backend = MakeCpuBackend(*device);
  Platform platform;
  platform.devices.push_back({.device = std::move(device), .backend = std::move(backend)});
  return platform;
}

double GiB(Bytes bytes) { return static_cast<double>(bytes.value()) / (uint64_t{1} << 30); }

void Log(const ChosenPlatform& chosen) {
  // What the GPU's runtime itself reads to choose among devices.
  for (const char* name : {"HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"}) {
    if (const char* value = std::getenv(name)) spdlog::info("environment: {} = {}", name, value);
  }
  for (const std::string& note : chosen.platform.notes) spdlog::info("{}", note);
  const AttentionBackend& backend = *chosen.platform.devices.front().backend;
  spdlog::info("backend: {} ({}), {}", backend.capabilities().backend, backend.capabilities().isa,
               chosen.why);
  for (const PlatformDevice& device : chosen.platform.devices) {
    const DeviceInfo& info = device.device->info();
    if (info.host_memory) {
      spdlog::info("device: {}", info.name);
    } else {
      spdlog::info("device: {}; {} compute units, waves of {}, {:.1f} of {:.1f} GiB free",
                   info.name, info.compute_units, info.wave_size, GiB(info.free_memory),
                   GiB(info.total_memory));
    }
  }
}

absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options) {
  const Preflight found = CheckFiles(options);
  if (!found.errors.empty()) return absl::FailedPreconditionError(found.errors.front());
  ATTND_RETURN_IF_ERROR(CheckPorts(options));
  ATTND_ASSIGN_OR_RETURN(ChosenPlatform chosen, ChoosePlatform(options, MakeCpuPlatform));
  Log(chosen);
  return Server::Start(options, std::move(chosen.platform));
}

// systemd's not being told keeps nobody from serving; it will say itself what it misses.
void Warn(const absl::Status& status) {
  if (!status.ok()) spdlog::warn("{}", std::string(status.message()));
}

int Run(int argc, const char* const* argv) {
  const ParsedOptions parsed = ParseOptions(argc, argv);
  if (parsed.exit_code >= 0) {
    std::fputs(parsed.message.c_str(), parsed.exit_code == 0 ? stdout : stderr);
    return parsed.exit_code;
  }
  const Options& options = parsed.options;
  const sigset_t signals = BlockSignals();
  // Validated: both are names.
  SetUpLogging(*ParseLogFormat(options.log_format), *ParseLogLevel(options.log_level));
  Log(LogLevel::kInfo, "attnd starts",
      {{"version", absl::string_view(Version())}, {"pid", int64_t{getpid()}}});
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(options.ToString(), '\n', absl::SkipEmpty()))) {
    spdlog::info("option: {}", line);
  }

  absl::StatusOr<std::unique_ptr<Server>> server = Start(options);
  if (!server.ok()) {
    spdlog::error("cannot start: {}", std::string(server.status().message()));
    return kExitCannotStart;
  }

  const ServiceManager manager(std::getenv("NOTIFY_SOCKET"));
  Warn(manager.Ready(
      absl::StrCat("serving on ", absl::StrJoin((*server)->listen_addresses(), ", "))));
  const std::string why = WaitForEnd(signals, options.exit_with_stdin);
  spdlog::info("{}: draining for at most {} s; a second signal exits at once", why,
               std::chrono::duration<double>(options.drain_timeout).count());
  LetSignalsEndTheProcess(signals);
  Warn(manager.Stopping(options.drain_timeout));
  if (absl::Status status = (*server)->Drain(options.drain_timeout); status.ok()) {
    spdlog::info("drained");
  } else {
    spdlog::warn("not drained: {}", std::string(status.message()));
  }
  server->reset();
  LogSuppressedCalls(/*now=*/true);
  spdlog::info("attnd ends");
  return 0;
}

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) { return attnd::Run(argc, argv); }
