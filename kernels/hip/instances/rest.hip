// SPDX-License-Identifier: Apache-2.0
//
// The kernels beside attention: append and upload.
#include "kernels/hip/append.h"
#include "kernels/hip/instances/instance.h"
#include "kernels/hip/kernel_table.h"
#include "kernels/hip/upload.h"

namespace attnd::gpu {

template <>
AppendFunction GetAppendKernel<kTable>() {
  return AppendKernel<InstanceTarget>;
}
template <>
UploadFunction GetUploadKernel<kTable>() {
  return UploadKernel<InstanceTarget>;
}

}  // namespace attnd::gpu
