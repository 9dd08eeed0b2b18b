// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/hip_platform.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

absl::StatusOr<PlatformDevice> OpenOne(int ordinal, MakeBackend make_backend,
                                       const Platform& before) {
  ATTND_ASSIGN_OR_RETURN(std::unique_ptr<HipDevice> device, HipDevice::Open(ordinal));
  const std::string& arch = device->info().arch;
  if (!before.devices.empty() && before.devices.front().device->info().arch != arch) {
    return absl::FailedPreconditionError(absl::StrCat(device->info().name,
                                                      ": its architecture is not that of ",
                                                      before.devices.front().device->info().name));
  }
  ATTND_ASSIGN_OR_RETURN(std::unique_ptr<AttentionBackend> backend, make_backend(*device));
  return PlatformDevice{.device = std::move(device), .backend = std::move(backend)};
}

}  // namespace

absl::StatusOr<Platform> OpenHipPlatform(MakeBackend make_backend) {
  ATTND_ASSIGN_OR_RETURN(const int count, NumHipDevices());
  Platform platform;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    absl::StatusOr<PlatformDevice> device = OpenOne(ordinal, make_backend, platform);
    if (device.ok()) {
      platform.devices.push_back(*std::move(device));
    } else {
      platform.notes.push_back(
          absl::StrCat("hip:", ordinal, " is passed over: ", device.status().message()));
    }
  }
  if (platform.devices.empty()) return absl::NotFoundError(absl::StrJoin(platform.notes, "; "));
  platform.notes.push_back(absl::StrCat("HIP shows ", count,
                                        count == 1 ? " device, " : " devices, ",
                                        platform.devices.size(), " in use"));
  return platform;
}

}  // namespace attnd
