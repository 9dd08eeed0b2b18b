// SPDX-License-Identifier: Apache-2.0
//
// A backend plugin around the fakes, and by FAKE_PLUGIN the ways in which a plugin is of no use.
#include "kernels/backend/plugin.h"
#include "tests/fakes/fake_backend.h"

namespace attnd {
namespace {

#define GOOD 0
#define OTHER_VERSION 1
#define OTHER_BUILD 2
#define NO_DEVICE 3
#define NO_FACTORY 4
#define MISSING_SYMBOL 5

absl::StatusOr<Platform> Open() {
  if (FAKE_PLUGIN == NO_DEVICE) return absl::NotFoundError("no fake is plugged in");
  // What it hands out outlives nothing but the process.
  static auto* const fake = new FakePlatform;
  Platform platform = fake->TakePlatform();
  platform.notes.emplace_back("fake:1 is passed over: it is a fake");
  return platform;
}

// Another version's struct begins with its version and has nothing else that could be read.
const BackendPlugin kPlugin = {
    .version = FAKE_PLUGIN == OTHER_VERSION ? kPluginVersion + 1 : kPluginVersion,
    .build_id = FAKE_PLUGIN == OTHER_VERSION ? nullptr
                : FAKE_PLUGIN == OTHER_BUILD ? "attnd 0.0.0"
                                             : PluginBuildId(),
    .name = "fake",
    .open = FAKE_PLUGIN == OTHER_VERSION ? nullptr : &Open};

}  // namespace
}  // namespace attnd

#if FAKE_PLUGIN == MISSING_SYMBOL
extern "C" void attnd_nobody_defines_this();
#endif

#if FAKE_PLUGIN != NO_FACTORY
extern "C" const attnd::BackendPlugin* attnd_backend_plugin() {
#if FAKE_PLUGIN == MISSING_SYMBOL
  attnd_nobody_defines_this();
#endif
  return &attnd::kPlugin;
}
#endif
