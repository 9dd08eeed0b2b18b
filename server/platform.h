// SPDX-License-Identifier: Apache-2.0
//
// Where attention runs: a GPU through the plugin, or the CPU, and why.
//
// --backend=hip insists on the plugin; auto takes it where it loads, is of this build and finds a
// device, and else goes on with the CPU. Called once, at start, from one thread. The daemon itself
// links no GPU library: one binary serves with and without a GPU.
//
//   ATTND_ASSIGN_OR_RETURN(ChosenPlatform chosen, ChoosePlatform(options, MakeCpuPlatform));
//   spdlog::info("backend: {}", chosen.why);
#pragma once

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend/plugin.h"
#include "server/options.h"

namespace attnd {

struct ChosenPlatform {
  Platform platform;
  std::string why;  // "as asked for with --backend"
};

// `make_cpu` makes the CPU's platform, if it comes to that. An error names --backend and what is
// wrong with the plugin; with --backend=auto or cpu there is none.
absl::StatusOr<ChosenPlatform> ChoosePlatform(const Options& options,
                                              absl::FunctionRef<Platform(const Options&)> make_cpu);

// Loads the library at `path`, for good, and opens its devices. FAILED_PRECONDITION where it does
// not load or is of another build, NOT_FOUND where it finds no device; the message names the path.
absl::StatusOr<Platform> OpenPlugin(const std::string& path);

// Where a plugin is looked for unless --hip_plugin says where: beside the program, and in the
// library folder of the same installation.
std::vector<std::string> DefaultPluginPaths();

}  // namespace attnd
