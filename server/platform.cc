// SPDX-License-Identifier: Apache-2.0
#include "server/platform.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

constexpr char kPluginName[] = "libattnd_hip.so";

absl::Status With(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<Platform> OpenHip(const Options& options) {
  if (!options.hip_plugin.empty()) return OpenPlugin(options.hip_plugin);
  const std::vector<std::string> paths = DefaultPluginPaths();
  for (const std::string& path : paths) {
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored)) return OpenPlugin(path);
  }
  return absl::NotFoundError(absl::StrCat("there is no ", absl::StrJoin(paths, " and no ")));
}

}  // namespace

absl::StatusOr<Platform> OpenPlugin(const std::string& path) {
  // Never unloaded: memory and events that it made may outlive the platform. Its undefined symbols
  // are looked up now, so that what is missing is missing at start.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("it does not load: ", dlerror()));
  }
  void* const factory = dlsym(library, kPluginSymbol);
  if (factory == nullptr) {
    return With(path, absl::FailedPreconditionError(
                          absl::StrCat("no plugin of attnd: it exports no ", kPluginSymbol)));
  }
  const BackendPlugin* const plugin = reinterpret_cast<PluginFactory>(factory)();
  if (absl::Status status = CheckPlugin(*plugin); !status.ok()) return With(path, status);
  absl::StatusOr<Platform> platform = plugin->open();
  if (!platform.ok()) return With(path, platform.status());
  if (platform->devices.empty()) return With(path, absl::NotFoundError("it opened no device"));
  return platform;
}

std::vector<std::string> DefaultPluginPaths() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path folder = program.parent_path();
  return {(folder / kPluginName).string(),
          (folder.parent_path() / "lib" / "attnd" / kPluginName).string()};
}

absl::StatusOr<ChosenPlatform> ChoosePlatform(
    const Options& options, absl::FunctionRef<Platform(const Options&)> make_cpu) {
  if (options.backend == "cpu") {
    return ChosenPlatform{make_cpu(options), "as asked for with --backend"};
  }
  absl::StatusOr<Platform> hip = OpenHip(options);
  if (options.backend == "hip") {
    if (!hip.ok()) return With("--backend=hip", hip.status());
    return ChosenPlatform{*std::move(hip), "as asked for with --backend"};
  }
  if (hip.ok()) return ChosenPlatform{*std::move(hip), "chosen because there is a GPU"};
  return ChosenPlatform{make_cpu(options), absl::StrCat("chosen because no GPU can be used: ",
                                                        hip.status().message())};
}

}  // namespace attnd
