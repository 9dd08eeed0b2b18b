// SPDX-License-Identifier: Apache-2.0
//
// The attention kernels of one compute and head dim: compiled once for each, with ATTND_COMPUTE
// (kF16, kBF16, kF32) and ATTND_HEAD_DIM defined.
#include "kernels/hip/attend.h"
#include "kernels/hip/instances/instance.h"
#include "kernels/hip/kernel_table.h"

namespace attnd::gpu {

template <>
AttendKernels GetAttendKernels<kTable, Compute::ATTND_COMPUTE, ATTND_HEAD_DIM>() {
  constexpr Compute kCompute = Compute::ATTND_COMPUTE;
  constexpr int kDim = ATTND_HEAD_DIM;
  return {{{AttendKernel<InstanceTarget, kCompute, kDim, Phase::kPrefill, false>,
            AttendKernel<InstanceTarget, kCompute, kDim, Phase::kPrefill, true>},
           {AttendKernel<InstanceTarget, kCompute, kDim, Phase::kDecode, false>,
            AttendKernel<InstanceTarget, kCompute, kDim, Phase::kDecode, true>}}};
}

}  // namespace attnd::gpu
