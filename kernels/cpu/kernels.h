// SPDX-License-Identifier: Apache-2.0
//
// The kernels of one instruction set, as a table: the seam between plain C++ and Highway.
//
// Immutable; the functions are safe from any thread on disjoint outputs and scratch.
//
//   const CpuKernels& kernels = DispatchedKernels();
//   kernels.attend_tile[static_cast<size_t>(key.kv_dtype)](args);
#pragma once

#include <array>

#include "kernels/base/dtype.h"
#include "kernels/cpu/attention_task.h"

namespace attnd {

struct CpuKernels {
  using Attend = void (*)(const TaskArgs&);

  const char* isa;                             // Highway's name of the target: "AVX3"
  std::array<Attend, kNumDTypes> attend_tile;  // by KV dtype
  // Those that multiply bf16, without dropout; null where not compiled in.
  Attend attend_tile_dot;  // queries and KV in bf16, on Bf16Unit::kDot
  std::array<std::array<Attend, kNumDTypes>, kNumDTypes> attend_tile_amx;  // by query, KV dtype
  std::array<Attend, kNumDTypes> attend_decode;                            // by KV dtype
  void (*merge)(const MergeArgs&);
  void (*append)(const AppendArgs&);
};

// Those of the best target that was compiled in and that this CPU has.
const CpuKernels& DispatchedKernels();

}  // namespace attnd
