// SPDX-License-Identifier: Apache-2.0
#include "server/preflight.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "server/config_file.h"
#include "server/platform.h"
#include "server/rpc/listen_address.h"
#include "server/security/certificates.h"
#include "server/security/tenants_file.h"

namespace attnd {
namespace {

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// What keeps this process from making files in `folder`; empty where nothing does.
std::string WhyNotWritable(const std::string& folder) {
  struct stat status {};
  if (stat(folder.c_str(), &status) != 0) {
    if (errno != ENOENT) return absl::StrCat(ShownValue(folder, 200), ": ", strerror(errno));
    std::string why = absl::StrCat("there is no directory ", ShownValue(folder, 200),
                                   ": create it, writable for the daemon's user");
    constexpr absl::string_view kRuntime = "/run/";
    if (absl::StartsWith(folder, kRuntime)) {
      absl::StrAppend(&why, " (a systemd unit does with RuntimeDirectory=",
                      folder.substr(kRuntime.size()), ")");
    }
    return why;
  }
  if (!S_ISDIR(status.st_mode)) return absl::StrCat(ShownValue(folder, 200), " is no directory");
  if (faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0) return "";
  if (errno == EACCES) {
    return absl::StrCat("the directory ", ShownValue(folder, 200),
                        " is not writable for the daemon's user, uid ", geteuid());
  }
  return absl::StrCat("the directory ", ShownValue(folder, 200), ": ", strerror(errno));
}

void CheckSocket(const std::string& address, Preflight& found) {
  const absl::StatusOr<ListenAddress> parsed = ParseListenAddress(address);
  if (!parsed.ok() || !parsed->is_unix) return;  // Validate's matter, or CheckPorts'
  const std::string about = absl::StrCat("--listen: Unix socket ", ShownValue(parsed->path, 200));
  constexpr size_t kMost = sizeof(sockaddr_un::sun_path) - 1;
  if (parsed->path.size() > kMost) {
    found.errors.push_back(absl::StrCat(about, ": the path has ", parsed->path.size(),
                                        " bytes, at most ", kMost, " fit"));
    return;
  }
  const std::string why = WhyNotWritable(FolderOf(parsed->path));
  if (!why.empty()) found.errors.push_back(absl::StrCat(about, ": ", why));
}

void CheckPlugin(const Options& options, Preflight& found) {
  if (options.backend == "cpu") return;
  const auto readable = [](const std::string& path) { return access(path.c_str(), R_OK) == 0; };
  if (!options.hip_plugin.empty()) {
    if (readable(options.hip_plugin)) return;
    const std::string why =
        absl::StrCat("--hip_plugin ", ShownValue(options.hip_plugin, 200), ": ", strerror(errno));
    if (options.backend == "hip") {
      found.errors.push_back(absl::StrCat(why, "; expected the GPU plugin, libattnd_hip.so"));
    } else {
      found.warnings.push_back(absl::StrCat(why, "; with --backend=auto the CPU serves"));
    }
    return;
  }
  const std::vector<std::string> paths = DefaultPluginPaths();
  if (options.backend != "hip" || std::any_of(paths.begin(), paths.end(), readable)) return;
  found.errors.push_back(absl::StrCat("--backend=hip: there is no ",
                                      absl::StrJoin(paths, " and no "),
                                      "; --hip_plugin says where the GPU plugin is"));
}

void CheckSecrets(const Options& options, Preflight& found) {
  if (!options.tls_cert.empty()) {
    const absl::Status tls =
        ReadTls(
            {.cert = options.tls_cert, .key = options.tls_key, .client_ca = options.tls_client_ca},
            std::chrono::system_clock::now())
            .status();
    if (!tls.ok()) found.errors.emplace_back(tls.message());
  }
  if (!options.tenants_file.empty()) {
    const absl::StatusOr<std::string> text = ReadSecretFile(options.tenants_file);
    absl::Status tenants = text.status();
    if (text.ok()) tenants = ParseTenants(*text, options.tenants_file).status();
    if (!tenants.ok()) found.errors.push_back(absl::StrCat("--tenants_file ", tenants.message()));
  }
}

// Why a socket cannot be bound there; empty where it can.
std::string WhyNotBindable(const addrinfo& where) {
  const int fd = socket(where.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return strerror(errno);
  const absl::Cleanup close_fd = [fd] { close(fd); };
  // As gRPC and civetweb: what a former process left in TIME_WAIT does not count.
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (bind(fd, where.ai_addr, where.ai_addrlen) == 0) return "";
  switch (errno) {
    case EADDRINUSE:
      return "it is in use: another process listens there";
    case EADDRNOTAVAIL:
      return "it is no address of this machine";
    case EACCES:
      return "permission denied: a port below 1024 needs CAP_NET_BIND_SERVICE";
    default:
      return strerror(errno);
  }
}

absl::Status CheckPort(absl::string_view flag, const std::string& text) {
  ATTND_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(text));
  if (address.is_unix) return absl::OkStatus();
  const auto fail = [&](absl::string_view why) {
    return absl::FailedPreconditionError(
        absl::StrCat("--", flag, ": cannot listen on \"", text, "\": ", why));
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  if (const int error = getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found)) {
    return fail(gai_strerror(error));
  }
  const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  // gRPC serves on those of a name's addresses that it can bind; one is enough.
  std::string why;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    why = WhyNotBindable(*one);
    if (why.empty()) return absl::OkStatus();
  }
  return fail(why);
}

}  // namespace

Preflight CheckFiles(const Options& options) {
  Preflight found;
  CheckPlugin(options, found);
  CheckSecrets(options, found);
  for (const std::string& address : options.listen) CheckSocket(address, found);
  if (!options.ready_file.empty()) {
    const std::string why = WhyNotWritable(FolderOf(options.ready_file));
    if (!why.empty()) {
      found.errors.push_back(
          absl::StrCat("--ready_file ", ShownValue(options.ready_file, 200), ": ", why));
    }
  }
  return found;
}

absl::Status CheckPorts(const Options& options) {
  for (const std::string& address : options.listen) {
    ATTND_RETURN_IF_ERROR(CheckPort("listen", address));
  }
  if (options.metrics_listen.empty()) return absl::OkStatus();
  return CheckPort("metrics_listen", options.metrics_listen);
}

}  // namespace attnd
