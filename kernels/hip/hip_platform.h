// SPDX-License-Identifier: Apache-2.0
//
// All GPUs that HIP shows to this process, opened, as what a plugin hands to the daemon.
//
// A GPU that cannot be used is passed over, with a note that says why; so is one of another
// architecture than the first that can be, since the daemon has one set of capabilities.
// Called once, at start.
//
//   ATTND_ASSIGN_OR_RETURN(Platform platform, OpenHipPlatform(MakeHipBackend));
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend/plugin.h"
#include "kernels/hip/hip_device.h"

namespace attnd {

// `make_backend` fails where it has no kernels for the device's architecture.
using MakeBackend =
    absl::FunctionRef<absl::StatusOr<std::unique_ptr<AttentionBackend>>(HipDevice& device)>;

// NOT_FOUND where HIP sees no device, or none that can be used: says why of each.
absl::StatusOr<Platform> OpenHipPlatform(MakeBackend make_backend);

}  // namespace attnd
