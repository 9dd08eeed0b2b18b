// SPDX-License-Identifier: Apache-2.0
//
// Small vectors that live in registers. On AMD they are the compiler's own vector types, which the
// matrix builtins take and which never go through memory as a struct may; nvcc has none, and takes
// structs apart by itself.
#pragma once

#include <cstdint>

namespace attnd::gpu {

#if defined(__CUDACC__)
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) RegisterVector {
  T values[kSize];
  __device__ __forceinline__ T& operator[](int i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};
using U32x2 = RegisterVector<uint32_t, 2>;
using U32x4 = RegisterVector<uint32_t, 4>;
using U32x8 = RegisterVector<uint32_t, 8>;
using F32x4 = RegisterVector<float, 4>;
using F32x8 = RegisterVector<float, 8>;
#else
using U32x2 = uint32_t __attribute__((vector_size(8)));
using U32x4 = uint32_t __attribute__((vector_size(16)));
using U32x8 = uint32_t __attribute__((vector_size(32)));
using F32x4 = float __attribute__((vector_size(16)));
using F32x8 = float __attribute__((vector_size(32)));
#endif

}  // namespace attnd::gpu
