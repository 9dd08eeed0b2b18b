// SPDX-License-Identifier: Apache-2.0
//
// Prints what a launch gives each AMD attention kernel beside its code, as lines of a limits file
// of the code object report:
//
//   AttendKernel<Target,\(Compute\)1,128,\(Phase\)0,\w+> gfx(1100|1101|1102) lds=49152
#include <iostream>

#include "kernels/hip/tile_shape.h"

namespace attnd::gpu {
namespace {

void Print(Core core, const char* gpus) {
  for (int compute = 0; compute < kNumComputes; ++compute) {
    for (int head_dim : kHeadDims) {
      for (int phase = 0; phase < kNumPhases; ++phase) {
        const LdsLayout lds =
            LdsLayoutFor(core, static_cast<Compute>(compute), head_dim, static_cast<Phase>(phase));
        std::cout << "AttendKernel<Target,\\(Compute\\)" << compute << "," << head_dim
                  << ",\\(Phase\\)" << phase << ",\\w+> " << gpus << " lds=" << lds.total_bytes
                  << "\n";
      }
    }
  }
}

}  // namespace
}  // namespace attnd::gpu

int main() {
  using attnd::gpu::Core;
  attnd::gpu::Print(Core::kWmmaGfx11, "gfx(1100|1101|1102)");
  attnd::gpu::Print(Core::kWmmaGfx12, "gfx1201");
  attnd::gpu::Print(Core::kMfma, "gfx(90a|942)");
  attnd::gpu::Print(Core::kMfmaGfx950, "gfx950");
}
