// SPDX-License-Identifier: Apache-2.0
//
// The kernels beside attention: append and merge.
#include "kernels/hip/append.h"
#include "kernels/hip/instances/instance.h"
#include "kernels/hip/kernel_table.h"
#include "kernels/hip/merge.h"

namespace attnd::gpu {

template <>
AppendFunction GetAppendKernel<kTable>() {
  return AppendKernel<InstanceTarget>;
}
template <>
MergeFunction GetMergeKernel<kTable>() {
  return MergeKernel<InstanceTarget>;
}

}  // namespace attnd::gpu
