// SPDX-License-Identifier: Apache-2.0
//
// A launch's upload block to the device, by a kernel that reads pinned host memory: where a few
// kilobytes go, a copy engine costs more in handing over to the kernels behind it than in copying.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/mma/vectors.h"

namespace attnd::gpu {

template <class TargetT>
__global__ void __launch_bounds__(kUploadThreads) UploadKernel(const UploadArgs args) {
#if ATTND_DEVICE_CODE
  WaitForLaunchesBefore();
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kUploadThreads + threadIdx.x) * 16;
  if (i >= args.bytes) return;
  *reinterpret_cast<U32x4*>(args.to + i) = *reinterpret_cast<const U32x4*>(args.from + i);
#endif
}

}  // namespace attnd::gpu
