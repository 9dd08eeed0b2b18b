// SPDX-License-Identifier: Apache-2.0
//
// What kernels/hip/gpu.h offers on the host: the same names, carried out by the executor. Each
// wave-wide operation waits for all lanes of its wave; file and line are the caller's and are only
// for reports.
//
// Include kernels/hip/gpu.h instead, and compile with ATTND_SIMT_HOST (by linking attnd_simt_host).
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/hip/simt_host/executor.h"
#include "kernels/hip/simt_host/qualifiers.h"

namespace attnd::simt {
struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
}  // namespace attnd::simt

// Those of the lane that runs now. Only x is used; blockDim and gridDim have 1 in y and z.
// NOLINTNEXTLINE(readability-identifier-naming): HIP's names
extern attnd::simt::Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace attnd::gpu {

inline std::byte* Lds() { return simt::lds_of_block; }
inline int WaveSize() { return simt::wave_size_of_launch; }

inline void BlockBarrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::MeetInBlock({"BlockBarrier", file, line}, false);
}
inline void MemoryFence() { std::atomic_thread_fence(std::memory_order_acq_rel); }
inline uint32_t AtomicIncrement(uint32_t* number) {
  return std::atomic_ref(*number).fetch_add(1, std::memory_order_acq_rel);
}
// Launches of a stream run one after another.
inline void WaitForLaunchesBefore() {}
inline bool BlockBarrierOr(bool mine, const char* file = __builtin_FILE(),
                           int line = __builtin_LINE()) {
  return simt::MeetInBlock({"BlockBarrierOr", file, line}, mine);
}
float ShuffleXor(float value, int mask, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE());
bool WaveAny(bool mine, const char* file = __builtin_FILE(), int line = __builtin_LINE());

inline float BitsToFloat(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t FloatToBits(float value) { return std::bit_cast<uint32_t>(value); }
inline int Uniform(int x) { return x; }
template <class T>
inline T Opaque(T x) {
  return x;
}
inline void ScheduleFence() {}
inline float Exp2(float x) { return std::exp2(x); }
inline float Reciprocal(float x) { return 1.0f / x; }

}  // namespace attnd::gpu
