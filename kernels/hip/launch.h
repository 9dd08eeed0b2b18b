// SPDX-License-Identifier: Apache-2.0
//
// How a kernel is launched: one plain struct of arguments, dynamic LDS, a 1-D grid of 1-D blocks.
// Host code alone; the same call on AMD, NVIDIA and simt_host, whose header brings its own.
//
// Thread safety: HIP's; the stream's device is current in the calling thread (HipDevice::Use).
//
//   ATTND_RETURN_IF_HIP_ERROR(device.fence(), gpu::AllowLds(kernel, lds_bytes));   // once
//   ATTND_RETURN_IF_HIP_ERROR(device.fence(),
//                             gpu::LaunchKernel(kernel, blocks, lanes, lds_bytes, stream, args));
#pragma once

#include <hip/hip_runtime.h>

#include <cstddef>
#include <type_traits>

namespace attnd::gpu {

#if !defined(ATTND_SIMT_HOST)
// Queues `grid` blocks of `block` lanes with a copy of `args`. The error is that of the launch
// itself; what goes wrong in the kernel comes with a later call.
template <class Args>
hipError_t LaunchKernel(void (*kernel)(Args), unsigned grid, unsigned block, size_t lds_bytes,
                        hipStream_t stream, const std::type_identity_t<Args>& args) {
  static_assert(std::is_trivially_copyable_v<Args>, "a kernel takes one plain struct");
  void* pointers[] = {const_cast<std::remove_const_t<Args>*>(&args)};
  return hipLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(grid), dim3(block), pointers,
                         lds_bytes, stream);
}
#endif

// Lets launches of `kernel` on the current device have that much LDS. NVIDIA wants to be asked for
// more than 48 KiB; on AMD it changes nothing.
template <class Args>
hipError_t AllowLds(void (*kernel)(Args), size_t lds_bytes) {
  return hipFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             hipFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(lds_bytes));
}

}  // namespace attnd::gpu
