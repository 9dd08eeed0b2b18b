// SPDX-License-Identifier: Apache-2.0
//
// What a kernel sees of its platform: lanes, waves, barriers, LDS and 16-byte copies, by one set of
// names on AMD (hipcc), on NVIDIA (nvcc) and on the host (simt_host).
//
// Which <hip/hip_runtime.h> is found decides the platform: ROCm's, nvidia/hip/hip_runtime.h or
// simt_host/hip/hip_runtime.h. A wave is 32 lanes (RDNA, NVIDIA) or 64 (CDNA): a trait says which.
// All functions here are for device code; collectives are called by every lane of a wave.
#pragma once

#include <hip/hip_runtime.h>

#include <cassert>
#include <cstddef>
#include <cstdint>

// Exactly one of the three is 1.
#if defined(ATTND_SIMT_HOST)
#define ATTND_GPU_SIMT 1
#define ATTND_GPU_NVIDIA 0
#define ATTND_GPU_AMD 0
#elif defined(__CUDACC__)
#define ATTND_GPU_SIMT 0
#define ATTND_GPU_NVIDIA 1
#define ATTND_GPU_AMD 0
#else
#define ATTND_GPU_SIMT 0
#define ATTND_GPU_NVIDIA 0
#define ATTND_GPU_AMD 1
#endif

// hipcc compiles a source once for the host and once a target; the host's pass needs no bodies.
#if ATTND_GPU_AMD && !defined(__HIP_DEVICE_COMPILE__)
#define ATTND_DEVICE_CODE 0
#else
#define ATTND_DEVICE_CODE 1
#endif

#if ATTND_GPU_SIMT
#include "kernels/hip/simt_host/device.h"
#define ATTND_DEVICE static inline
#define ATTND_MEMBER static
#define ATTND_ACCESSOR inline
#define ATTND_UNROLL
#define ATTND_ROLLED
#else
#define ATTND_DEVICE static __device__ __forceinline__
#define ATTND_MEMBER static __device__ __forceinline__
#define ATTND_ACCESSOR __device__ __forceinline__
#define ATTND_UNROLL _Pragma("unroll")
#define ATTND_ROLLED _Pragma("unroll 1")
#endif

// What may be checked on the device in a debug build: a kernel stops rather than read what it was
// not given.
#if ATTND_GPU_SIMT
#define ATTND_DEVICE_CHECK(condition) assert(condition)
#elif defined(ATTND_CHECK_ON_DEVICE)
#define ATTND_DEVICE_CHECK(condition) \
  do {                                \
    if (!(condition)) __trap();       \
  } while (false)
#else
#define ATTND_DEVICE_CHECK(condition) \
  do {                                \
  } while (false)
#endif

namespace attnd::gpu {

#if ATTND_GPU_SIMT
// simt_host/device.h has them all.
#else
// The block's LDS (shared memory), as many bytes as the launch gave, aligned to 128.
ATTND_DEVICE std::byte* Lds() {
  extern __shared__ __align__(128) unsigned char attnd_lds[];
  return reinterpret_cast<std::byte*>(attnd_lds);
}
// What this lane wrote to memory before is seen by who sees what it writes after; and the other way
// round.
ATTND_DEVICE void MemoryFence() { __threadfence(); }
// The number before.
ATTND_DEVICE uint32_t AtomicIncrement(uint32_t* number) { return atomicAdd(number, 1u); }
// Everything the block wrote to LDS before is seen by everyone in it after.
ATTND_DEVICE void BlockBarrier() { __syncthreads(); }
// The value of the lane whose number differs in the bits of `mask`.
ATTND_DEVICE float ShuffleXor(float value, int mask) {
#if ATTND_GPU_NVIDIA
  return __shfl_xor_sync(0xffffffffu, value, mask);
#else
  return __shfl_xor(value, mask);
#endif
}
// The first thing that each kernel does: on NVIDIA its blocks may start while the launch before it
// in the stream still runs (nvidia/hip/hip_runtime.h), and wait here until that one's results are
// there.
ATTND_DEVICE void WaitForLaunchesBefore() {
#if ATTND_GPU_NVIDIA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
ATTND_DEVICE float BitsToFloat(uint32_t bits) { return __builtin_bit_cast(float, bits); }
ATTND_DEVICE uint32_t FloatToBits(float value) { return __builtin_bit_cast(uint32_t, value); }
// x, which is the same in all lanes of a wave; on AMD it then takes a scalar register.
ATTND_DEVICE int Uniform(int x) {
#if ATTND_GPU_AMD && ATTND_DEVICE_CODE
  return __builtin_amdgcn_readfirstlane(x);
#else
  return x;
#endif
}
// x, and the optimiser does not see that: what is computed from it is computed where it stands, and
// not held in registers across a loop. Only AMD's kernels are short of them that way.
template <class T>
ATTND_DEVICE T Opaque(T x) {
#if ATTND_GPU_AMD && ATTND_DEVICE_CODE
  asm volatile("" : "+v"(x));
#endif
  return x;
}
// The compiler moves no instruction across it: what it would load ahead there are no registers for.
ATTND_DEVICE void ScheduleFence() {
#if ATTND_GPU_AMD && ATTND_DEVICE_CODE
  __builtin_amdgcn_sched_barrier(0);
#endif
}
// 2^x, to 2 units in the last place; denormal results may come out as 0.
ATTND_DEVICE float Exp2(float x) {
#if ATTND_GPU_NVIDIA
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#elif ATTND_DEVICE_CODE
  return __builtin_amdgcn_exp2f(x);
#else
  return x;
#endif
}
// 1 / x, to 2 units in the last place.
ATTND_DEVICE float Reciprocal(float x) {
#if ATTND_GPU_NVIDIA
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#elif ATTND_DEVICE_CODE
  return __builtin_amdgcn_rcpf(x);
#else
  return x;
#endif
}
#endif

// What lies at an address of the device's memory. The compiler does not know that of an address
// which itself was read from memory: AMD would load it by an instruction that waits for LDS too.
template <class T>
ATTND_DEVICE T LoadGlobal(const std::byte* from) {
#if ATTND_GPU_AMD
  return *(const __attribute__((address_space(1))) T*)from;
#else
  return *reinterpret_cast<const T*>(from);
#endif
}

}  // namespace attnd::gpu
