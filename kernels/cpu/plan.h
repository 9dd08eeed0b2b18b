// SPDX-License-Identifier: Apache-2.0
//
// How a launch is cut into tasks: a pure function of shapes, reusable without allocating.
//
// Batch invariance: where the keys of a row are split depends on its item's own lengths and
// options, never on its neighbours' or on the number of threads. How rows are gathered into tiles
// may, since a row's arithmetic does not depend on the rows beside it. Thread safety: one thread at
// a time; read-only while a launch runs.
//
//   CpuPlan plan;
//   ATTND_RETURN_IF_ERROR(MakePlan(params, {.num_threads = 2}, plan));
//   // run plan.appends, then plan.attends, then plan.merges
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention/params.h"
#include "kernels/backend/attention_backend.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/cpu_topology.h"
#include "kernels/cpu/tile_shape.h"

namespace attnd {

struct CpuPlan final : public LaunchPlan {
  TileShape shape;
  std::vector<AppendTask> appends;
  std::vector<AttentionTask> attends;  // most work first
  std::vector<MergeTask> merges;
  int64_t partial_rows = 0;  // rows of the workspace that splits write their results to
  double multiply_adds = 0;  // of all attends
};

// What a plan is made for, besides the shapes: fixed for the life of a backend.
struct CpuMachine {
  CacheSizes caches = {};
  int num_threads = 1;
};

// INVALID_ARGUMENT names what is wrong with the shapes of an item.
absl::Status MakePlan(const AttentionParams& params, const CpuMachine& machine, CpuPlan& plan);

}  // namespace attnd
