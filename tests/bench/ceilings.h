// SPDX-License-Identifier: Apache-2.0
//
// What the machine can do, measured in the run that is compared with it.
//
//   ThreadPool pool(2);
//   double flops = MeasureFmaPeak(pool);        // fp32 multiply-adds count as two
//   double bytes = MeasureReadBandwidth(pool);  // a second
#pragma once

#include "kernels/cpu/thread_pool.h"

namespace attnd::bench {

// fp32 FLOP/s of independent fused multiply-adds in registers, on all threads of the pool at once.
// The best of several tries: a ceiling.
double MeasureFmaPeak(ThreadPool& pool);

// Bytes/s of reading 1 GiB that no cache holds, in order, on all threads. The best of several
// tries.
double MeasureReadBandwidth(ThreadPool& pool);

}  // namespace attnd::bench
