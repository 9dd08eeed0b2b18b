// SPDX-License-Identifier: Apache-2.0
//
// The HIP backend: attention on a GPU's matrix cores, from the kernels of this folder.
//
// Every dtype pair, head dims that are multiples of 8 up to 256, any page size, every mask and
// score option. q, new_k, new_v, out and lse of an item are memory that the device reaches: its
// own, or pinned host memory from it, which kernels read and write across the bus. Rows of all
// tensors and of pages are aligned to 16 bytes. Block tables and options are the caller's, and
// copied. Launch returns once the work is queued. Thread safety: that of AttentionBackend.
//
//   ATTND_ASSIGN_OR_RETURN(std::unique_ptr<HipDevice> device, HipDevice::Open(0));
//   ATTND_ASSIGN_OR_RETURN(std::unique_ptr<AttentionBackend> backend, MakeHipBackend(*device));
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/backend/attention_backend.h"
#include "kernels/hip/hip_device.h"
#include "kernels/hip/tile_shape.h"

namespace attnd {

struct HipBackendOptions {
  // Launches on their way at a time; the next waits for the oldest.
  int launches = 8;
  // Reserved at start; both grow to the largest launch.
  Bytes upload_bytes = Bytes(4 << 20);      // of each launch: block tables, tasks
  Bytes workspace_bytes = Bytes(32 << 20);  // partial results of splits
};

// `device` must outlive the backend. UNIMPLEMENTED names an architecture without kernels.
absl::StatusOr<std::unique_ptr<AttentionBackend>> MakeHipBackend(
    HipDevice& device, const HipBackendOptions& options = {});

// The matrix core of an architecture as HIP names it ("gfx1100", "gfx90a:sramecc+:xnack-",
// "sm_90"). UNIMPLEMENTED where there are no kernels for it.
absl::StatusOr<gpu::Core> CoreOf(std::string_view architecture);

}  // namespace attnd
