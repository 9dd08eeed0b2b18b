// SPDX-License-Identifier: Apache-2.0
#include "kernels/backend/plugin.h"

#include <string_view>

#include "absl/base/config.h"
#include "absl/strings/str_cat.h"

#define ATTND_TEXT_(x) #x
#define ATTND_TEXT(x) ATTND_TEXT_(x)

#if defined(__clang__)
#define ATTND_COMPILER "Clang " __clang_version__
#else
#define ATTND_COMPILER "GCC " __VERSION__
#endif
// Instrumented and plain code do not agree on the layout of everything.
#if defined(__SANITIZE_ADDRESS__)
#define ATTND_SANITIZER ", address sanitizer"
#elif defined(__SANITIZE_THREAD__)
#define ATTND_SANITIZER ", thread sanitizer"
#else
#define ATTND_SANITIZER ""
#endif

namespace attnd {

const char* PluginBuildId() {
  return "attnd " ATTND_VERSION ", interface " ATTND_INTERFACE_HASH ", " ATTND_COMPILER
         ", libstdc++ " ATTND_TEXT(__GLIBCXX__) "/" ATTND_TEXT(
             _GLIBCXX_USE_CXX11_ABI) ", Abseil " ATTND_TEXT(ABSL_LTS_RELEASE_VERSION)
             ATTND_SANITIZER;
}

absl::Status CheckPlugin(const BackendPlugin& plugin) {
  // Nothing else of another version's struct can be read.
  if (plugin.version != kPluginVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("its plugin interface is version ", plugin.version, ", not ", kPluginVersion));
  }
  if (std::string_view(plugin.build_id) != PluginBuildId()) {
    return absl::FailedPreconditionError(absl::StrCat("it is of another build (", plugin.build_id,
                                                      "), not of the daemon's (", PluginBuildId(),
                                                      ")"));
  }
  return absl::OkStatus();
}

}  // namespace attnd
