// SPDX-License-Identifier: Apache-2.0
//
// Kernels with known faults, for the test of the code object report: one as it should be, one that
// spills, one whose loop has no matrix instructions, one that calls a function.
#include <hip/hip_runtime.h>

namespace attnd::probe {

typedef float F32x4 __attribute__((ext_vector_type(4)));
typedef float F32x8 __attribute__((ext_vector_type(8)));
typedef _Float16 F16x4 __attribute__((ext_vector_type(4)));
typedef _Float16 F16x8 __attribute__((ext_vector_type(8)));
typedef _Float16 F16x16 __attribute__((ext_vector_type(16)));

#if defined(__GFX11__)
using Operand = F16x16;
using Accumulator = F32x8;
#elif defined(__GFX12__)
using Operand = F16x8;
using Accumulator = F32x8;
#else
using Operand = F16x4;
using Accumulator = F32x4;
#endif

__device__ inline Accumulator Multiply(Operand a, Operand b, Accumulator c) {
#if defined(__GFX11__)
  return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, b, c);
#elif defined(__GFX12__)
  return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(a, b, c);
#elif defined(__HIP_DEVICE_COMPILE__)
  return __builtin_amdgcn_mfma_f32_16x16x16f16(a, b, c, 0, 0, 0);
#else
  return c;
#endif
}

// Four matrix instructions a turn, independent of each other.
__global__ void __launch_bounds__(128) Clean(const Operand* a, Accumulator* out, int n) {
  Accumulator sum[4] = {};
  for (int i = 0; i < n; ++i) {
    const Operand b = a[i * blockDim.x + threadIdx.x];
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] = Multiply(b, b, sum[j]);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) out[j * blockDim.x + threadIdx.x] = sum[j];
}

// 96 values live across a barrier in 32 registers.
__global__ void __launch_bounds__(128) __attribute__((amdgpu_num_vgpr(32)))
Spills(const float* in, float* out) {
  float x[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) x[i] = in[i * 128 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; ++i) out[(95 - i) * 128 + threadIdx.x] = x[i] * x[95 - i];
}

__global__ void __launch_bounds__(128) NoMatrix(const float* in, float* out, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += in[i * blockDim.x + threadIdx.x];
  out[threadIdx.x] = sum;
}

__device__ __attribute__((noinline)) float Square(float x) { return x * x; }

__global__ void __launch_bounds__(128) Calls(float* out) {
  out[threadIdx.x] = Square(out[threadIdx.x]);
}

}  // namespace attnd::probe
