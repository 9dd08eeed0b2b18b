// SPDX-License-Identifier: Apache-2.0
//
// The compiled kernels, by what selects them. Built once, read only; safe from any thread.
//
//   const KernelTable& table = *KernelTableFor(Core::kWmmaGfx11);
//   AttendFunction kernel = table.attend(Compute::kBF16, 128, Phase::kDecode, /*general=*/false);
#pragma once

#include <cstddef>

#include "kernels/hip/args.h"
#include "kernels/hip/tile_shape.h"

namespace attnd::gpu {

using AttendFunction = void (*)(AttendArgs);
using AppendFunction = void (*)(AppendArgs);
using UploadFunction = void (*)(UploadArgs);

// Those of one compute and head dim, compiled together: [phase][general].
struct AttendKernels {
  AttendFunction functions[kNumPhases][2];
};

struct KernelTable {
  AttendKernels attends[kNumComputes][kNumHeadDims];
  AppendFunction append = nullptr;
  UploadFunction upload = nullptr;

  // `head_dim` is one of kHeadDims.
  AttendFunction attend(Compute compute, int head_dim, Phase phase, bool general) const {
    size_t dim = 0;
    while (kHeadDims[dim] != head_dim) ++dim;
    return attends[static_cast<size_t>(compute)][dim]
        .functions[static_cast<size_t>(phase)][general ? 1 : 0];
  }
};

// A binary's kernels serve whatever core its target has: one table. simt_host has one for each core
// that it was built with; null for others.
const KernelTable* KernelTableFor(Core core);

// Defined in instances/, once for each set of arguments. kTable is the core for simt_host, else 0.
template <int kTable, Compute kCompute, int kDim>
AttendKernels GetAttendKernels();
template <int kTable>
AppendFunction GetAppendKernel();
template <int kTable>
UploadFunction GetUploadKernel();

}  // namespace attnd::gpu
