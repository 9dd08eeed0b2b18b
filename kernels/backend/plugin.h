// SPDX-License-Identifier: Apache-2.0
//
// A backend in a shared library of its own: what it exports, and what must agree before any C++ is
// called across the border.
//
// The library exports one C function by the name kPluginSymbol, of type PluginFactory. What it
// points to begins with the version of this interface, whatever the version; the build id then says
// which headers, compiler and libraries the plugin was built with. Both must be the daemon's own: a
// plugin comes from the daemon's build. Nothing but the factory is visible, so the two do not share
// functions or statics by accident; and since each may have its own copy of them, nothing passes
// that depends on a static (Abseil's hash tables are seeded by the address of one).
// A plugin stays loaded until the process ends. Thread safety: open is called once.
//
//   auto* factory = reinterpret_cast<PluginFactory>(dlsym(library, kPluginSymbol));
//   ATTND_RETURN_IF_ERROR(CheckPlugin(*factory()));
//   ATTND_ASSIGN_OR_RETURN(Platform platform, factory()->open());
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend/attention_backend.h"
#include "kernels/backend/device.h"

namespace attnd {

// A device and the kernels that run on it, which go first.
struct PlatformDevice {
  std::unique_ptr<Device> device;
  std::unique_ptr<AttentionBackend> backend;
};

// Where attention runs.
struct Platform {
  std::vector<PlatformDevice> devices;  // at least one, all of one kind
  // What was found on the way, for the log: devices that were passed over and why.
  std::vector<std::string> notes;
};

// Raised with every change of what follows and of what is passed through it.
inline constexpr uint32_t kPluginVersion = 2;

struct BackendPlugin {
  uint32_t version = kPluginVersion;
  const char* build_id = nullptr;  // PluginBuildId() as the plugin was built
  const char* name = nullptr;      // of the backend: "hip"
  // Opens every device that can be used. NOT_FOUND where there is none, and why.
  absl::StatusOr<Platform> (*open)() = nullptr;
};

using PluginFactory = const BackendPlugin* (*)();
inline constexpr char kPluginSymbol[] = "attnd_backend_plugin";

// What was built into whoever calls: "attnd 0.1.0, interface 1f0c9a..., GCC 12.2.0, ...".
const char* PluginBuildId();

// OK, or FAILED_PRECONDITION: what the plugin is and what it would have to be.
absl::Status CheckPlugin(const BackendPlugin& plugin);

}  // namespace attnd
