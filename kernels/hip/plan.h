// SPDX-License-Identifier: Apache-2.0
//
// How a launch is cut into the blocks of its kernels: a pure function of shapes, reusable without
// allocating.
//
// Batch invariance: rows and splits of an item depend on its own lengths, options and head counts
// only. What the batch decides is how many splits one block computes one after another: in a large
// batch many, each started while the one before is still computed on; alone each has its block.
// Blocks are ordered by their work, longest first, so that a batch of very unequal lengths fills
// the GPU to its end. Thread safety: one thread at a time.
//
//   HipPlan plan;
//   ATTND_RETURN_IF_ERROR(MakeHipPlan(params, gpu::Core::kWmmaGfx11, multiprocessors, plan));
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention/params.h"
#include "kernels/hip/args.h"
#include "kernels/hip/tile_shape.h"

namespace attnd {

struct HipPlan {
  gpu::Compute compute = gpu::Compute::kF32;
  int head_dim = 0;      // that kernels are compiled for
  bool general = false;  // options beyond causality and window
  std::vector<gpu::AppendTask> appends;
  std::vector<gpu::AttendTask> attends[gpu::kNumPhases];  // most work first
  std::vector<gpu::MergeRange> ranges;
  int64_t partial_rows = 0;  // of the workspace

  // On the way there: what the tasks are cut from, and at [n] how many of decode have n splits.
  std::vector<gpu::AttendTask> uncut[gpu::kNumPhases];
  std::vector<int64_t> decode_ranges;
};

// INVALID_ARGUMENT names what is wrong with an item's shapes. The key is supported (HipBackend).
absl::Status MakeHipPlan(const AttentionParams& params, gpu::Core core, int num_multiprocessors,
                         HipPlan& plan);

}  // namespace attnd
