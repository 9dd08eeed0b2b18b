// SPDX-License-Identifier: Apache-2.0
//
// Plain host memory as a Buffer: what Device::AllocateHost gives where kernels run on the host.
//
// Thread-safe.
//
//   ATTND_ASSIGN_OR_RETURN(Buffer buffer, AllocatePlainHostMemory(Bytes(1 << 20)));
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "kernels/backend/device.h"

namespace attnd {

inline constexpr size_t kHostMemoryAlignment = 64;  // of all that AllocateHost gives

// RESOURCE_EXHAUSTED where the system has no more.
absl::StatusOr<Buffer> AllocatePlainHostMemory(Bytes size);

}  // namespace attnd
