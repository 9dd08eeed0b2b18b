// SPDX-License-Identifier: Apache-2.0
//
// Which backend is chosen and what is said of it, with plugins that work and plugins that do not
// (tests/fakes/plugin).
#include "server/platform.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/fakes/built_files.h"
#include "tests/fakes/fake_backend.h"

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string PluginPath(const std::string& kind) {
  return BuiltTestPlugin("attnd_fake_plugin_" + kind);
}

// Stands for the CPU: a platform that is known by its lack of devices.
Platform NoDevices(const Options&) { return {}; }

absl::StatusOr<ChosenPlatform> Choose(const std::string& backend, const std::string& plugin) {
  Options options;
  options.backend = backend;
  options.hip_plugin = plugin;
  return ChoosePlatform(options, NoDevices);
}

TEST(PlatformTest, APluginOfThisBuildOpensItsDevices) {
  const absl::StatusOr<Platform> platform = OpenPlugin(PluginPath("good"));
  ASSERT_TRUE(platform.ok()) << platform.status();
  ASSERT_EQ(platform->devices.size(), 1u);
  const auto& [device, backend] = platform->devices.front();
  EXPECT_EQ(device->info().name, "fake");
  EXPECT_EQ(backend->capabilities().backend, "fake");
  EXPECT_THAT(platform->notes, ElementsAre(HasSubstr("fake:1 is passed over")));
  // Memory, errors and virtual calls cross the border.
  EXPECT_TRUE(device->Allocate(Bytes(2u << 20)).ok());
  KernelKey key;
  key.head_dim_k = key.head_dim_v = 1000;
  EXPECT_EQ(backend->Supports(key).code(), absl::StatusCode::kUnimplemented);
}

TEST(PlatformTest, APluginShowsNothingButItsFactory) {
  void* const library = dlopen(PluginPath("good").c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  EXPECT_NE(dlsym(library, kPluginSymbol), nullptr);
  // It has this function, since it answers with its build id: a copy of its own.
  EXPECT_EQ(dlsym(library, "_ZN5attnd13PluginBuildIdEv"), nullptr);
  dlclose(library);
}

TEST(PlatformTest, WhatIsNoUseSaysWhy) {
  using Code = absl::StatusCode;
  const struct {
    std::string kind;
    Code code;
    std::string message;
  } cases[] = {{"other_version", Code::kFailedPrecondition,
                absl::StrCat("its plugin interface is version ", kPluginVersion + 1, ", not ",
                             kPluginVersion)},
               {"other_build", Code::kFailedPrecondition, "it is of another build (attnd 0.0.0)"},
               {"no_device", Code::kNotFound, "no fake is plugged in"},
               {"no_factory", Code::kFailedPrecondition, "it exports no attnd_backend_plugin"},
               {"missing_symbol", Code::kFailedPrecondition, "attnd_nobody_defines_this"},
               {"that_is_not_there", Code::kFailedPrecondition, "No such file"}};
  for (const auto& [kind, code, message] : cases) {
    const absl::Status status = OpenPlugin(PluginPath(kind)).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr(message), HasSubstr(PluginPath(kind))));
    // With auto the CPU takes over and the reason is told; hip insists.
    const absl::StatusOr<ChosenPlatform> by_auto = Choose("auto", PluginPath(kind));
    ASSERT_TRUE(by_auto.ok()) << by_auto.status();
    EXPECT_TRUE(by_auto->platform.devices.empty());
    EXPECT_THAT(by_auto->why, AllOf(HasSubstr("no GPU can be used"), HasSubstr(message)));
    const absl::Status by_hip = Choose("hip", PluginPath(kind)).status();
    EXPECT_EQ(by_hip.code(), code);
    EXPECT_THAT(by_hip.message(), AllOf(HasSubstr("--backend=hip"), HasSubstr(message)));
  }
}

TEST(PlatformTest, TheCpuIsTakenWithoutALookAtThePlugin) {
  const absl::StatusOr<ChosenPlatform> chosen = Choose("cpu", PluginPath("good"));
  ASSERT_TRUE(chosen.ok());
  EXPECT_TRUE(chosen->platform.devices.empty());
  EXPECT_EQ(chosen->why, "as asked for with --backend");
}

TEST(PlatformTest, WithoutAPluginInItsPlacesTheMessageNamesThem) {
  for (const std::string& path : DefaultPluginPaths()) {
    EXPECT_THAT(path, HasSubstr("/libattnd_hip.so"));
    EXPECT_THAT(Choose("hip", "").status().message(), HasSubstr(path));
  }
}

}  // namespace
}  // namespace attnd
