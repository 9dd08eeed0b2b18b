// SPDX-License-Identifier: Apache-2.0
//
// The factory that libattnd_hip.so exports.
#include "kernels/backend/plugin.h"
#include "kernels/hip/hip_backend.h"
#include "kernels/hip/hip_platform.h"

namespace attnd {
namespace {

absl::StatusOr<Platform> Open() {
  return OpenHipPlatform([](HipDevice& device) { return MakeHipBackend(device); });
}

}  // namespace
}  // namespace attnd

extern "C" const attnd::BackendPlugin* attnd_backend_plugin() {
  static const attnd::BackendPlugin plugin = {
      .build_id = attnd::PluginBuildId(), .name = "hip", .open = &attnd::Open};
  return &plugin;
}
