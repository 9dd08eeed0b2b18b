// SPDX-License-Identifier: Apache-2.0
//
// Compiled like fragments.cc: it reads the registers of waiting lanes, and LDS where it checked
// that it may.
#include "kernels/hip/simt_host/nv_primitives.h"

#include <cstring>

#include "kernels/hip/simt_host/async_copies.h"

namespace attnd::simt {
namespace {

void RequireWave32(int wave_size, const Site& site) {
  if (wave_size != 32) {
    Fail(site, "needs waves of 32 lanes, these have %d", wave_size);
  }
}

struct Operands {
  bool bfloat16;
  float* c;
  const uint32_t* a;
  uint32_t b[2];
  const Site* site;
};

void RunMma(void* const* lanes, int wave_size) {
  const auto of = [&](int lane) -> const Operands& {
    return *static_cast<const Operands*>(lanes[lane]);
  };
  TileMultiplyAdd tile;
  RequireWave32(wave_size, *of(0).site);
  for (int lane = 0; lane < 32; ++lane) {
    const Operands in = of(lane);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      std::memcpy(&tile.a[g + 8 * (i % 2)][2 * t + 8 * (i / 2)], &in.a[i], 4);
      tile.c[g + 8 * (i / 2)][2 * t + i % 2] = in.c[i];
    }
    for (int i = 0; i < 2; ++i) std::memcpy(&tile.b[g][2 * t + 8 * i], &in.b[i], 4);
  }
  tile.Run8x16(of(0).bfloat16);
  for (int lane = 0; lane < 32; ++lane) {
    float* const c = of(lane).c;
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) c[i] = tile.c[g + 8 * (i / 2)][2 * t + i % 2];
  }
}

struct Load {
  bool transposed;
  uint32_t* r;
  const void* row;
  const Site* site;
};

void RunLoad(void* const* lanes, int wave_size) {
  const auto of = [&](int lane) -> const Load& { return *static_cast<const Load*>(lanes[lane]); };
  RequireWave32(wave_size, *of(0).site);
  const bool transposed = of(0).transposed;
  for (int m = 0; m < 4; ++m) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) std::memcpy(matrix[row], of(8 * m + row).row, 16);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = 2 * (lane % 4);
      const uint32_t low = transposed ? matrix[t][g] : matrix[g][t];
      const uint32_t high = transposed ? matrix[t + 1][g] : matrix[g][t + 1];
      of(lane).r[m] = low | high << 16;
    }
  }
}

}  // namespace

void MultiplyAddNv(bool bfloat16, float* c, const uint32_t* a, uint32_t b0, uint32_t b1,
                   const Site& site) {
  Operands mine{bfloat16, c, a, {b0, b1}, &site};
  MeetInWave(site, &mine, &RunMma);
}

void LoadMatrices(bool transposed, uint32_t (&r)[4], const void* row, const Site& site) {
  CheckLds(site, row, 16, 16);
  Load mine{transposed, r, row, &site};
  MeetInWave(site, &mine, &RunLoad);
}

void CopyAsync(void* lds, const void* global, const Site& site) {
  CheckLds(site, lds, 16, 16);
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) Fail(site, "the source is not aligned to 16");
  CopiesOfLane().Issue(lds, global);
}
void CommitAsync() { CopiesOfLane().Commit(); }
void WaitAsync(int pending) { CopiesOfLane().Wait(static_cast<size_t>(pending)); }

}  // namespace attnd::simt
