// SPDX-License-Identifier: Apache-2.0
//
// What the machine can do, sampled in turn with what is compared with it: a shared machine's clock
// and memory change from one second to the next, ratios of neighbouring samples much less.
//
//   Ceilings ceilings(pool);
//   double flops = ceilings.SampleFma();   // 20 ms
//   double bytes = ceilings.SampleRead();  // 256 MiB
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/thread_pool.h"

namespace attnd::bench {

// Each sample runs on all threads of the pool at once. One user at a time.
class Ceilings {
 public:
  explicit Ceilings(ThreadPool& pool) : pool_(pool) {}

  // fp32 FLOP/s of independent fused multiply-adds in registers; each counts as two. The
  // best of four tries.
  double SampleFma();
  // FLOP/s of bf16 products in the registers of the unit that the backend uses (bf16_unit.h); 0
  // where there is none. The best of four tries.
  double SampleBf16();
  // Bytes/s of reading memory that no cache of a core holds: four streams a thread, prefetched,
  // which was the fastest of those tried (one stream, 16, other distances, other hints).
  double SampleRead();

 private:
  // FLOP/s of `rounds` of a kernel that returns the FLOPs it did, on every thread.
  double SampleFlops(double (*kernel)(int64_t rounds, float* result), int64_t rounds);

  ThreadPool& pool_;
  std::unique_ptr<CpuDevice> device_;  // made by the first SampleRead, with the buffer
  Buffer buffer_;
  int64_t next_piece_ = 0;
};

}  // namespace attnd::bench
