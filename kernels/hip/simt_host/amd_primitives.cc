// SPDX-License-Identifier: Apache-2.0
//
// Compiled like fragments.cc: it reads the registers of waiting lanes and nothing else.
#include "kernels/hip/simt_host/amd_primitives.h"

#include <cstring>
#include <utility>

namespace attnd::simt {
namespace {

struct Operands {
  bool bfloat16;
  const uint32_t* a;
  const uint32_t* b;
  float* d;
  const Site* site;
};

const Operands& Of(void* const* lanes, int lane) {
  return *static_cast<const Operands*>(lanes[lane]);
}

void RequireWave(int wave_size, int wanted, const Site& site) {
  if (wave_size != wanted) {
    Fail(site, "needs waves of %d lanes, these have %d", wanted, wave_size);
  }
}

// The hardware reads k from either half as it likes.
void RequireEqualHalves(const char* name, const uint32_t* lower, const uint32_t* upper, int row,
                        const Site& site) {
  uint64_t a[4], b[4];
  std::memcpy(a, lower, sizeof(a));
  std::memcpy(b, upper, sizeof(b));
  if (((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) == 0) return;
  for (int i = 0; i < 8; ++i) {
    if (lower[i] == upper[i]) continue;
    Fail(site, "operand %s differs between its lane halves: register %d of lanes %d and %d", name,
         i, row, row + 16);
  }
}

void RunWmmaGfx11(void* const* lanes, int wave_size) {
  TileMultiplyAdd tile;
  const Site& site = *Of(lanes, 0).site;
  RequireWave(wave_size, 32, site);
  for (int row = 0; row < 16; ++row) {
    const Operands lower = Of(lanes, row);
    const Operands upper = Of(lanes, row + 16);
    RequireEqualHalves("A", lower.a, upper.a, row, site);
    RequireEqualHalves("B", lower.b, upper.b, row, site);
    std::memcpy(tile.a[row], lower.a, 32);
    std::memcpy(tile.b[row], lower.b, 32);
    for (int i = 0; i < 8; ++i) {
      tile.c[2 * i][row] = lower.d[i];
      tile.c[2 * i + 1][row] = upper.d[i];
    }
  }
  tile.Run16x16(Of(lanes, 0).bfloat16);
  for (int row = 0; row < 16; ++row) {
    float* const lower = Of(lanes, row).d;
    float* const upper = Of(lanes, row + 16).d;
    for (int i = 0; i < 8; ++i) {
      lower[i] = tile.c[2 * i][row];
      upper[i] = tile.c[2 * i + 1][row];
    }
  }
}

void RunWmmaGfx12(void* const* lanes, int wave_size) {
  TileMultiplyAdd tile;
  RequireWave(wave_size, 32, *Of(lanes, 0).site);
  for (int lane = 0; lane < 32; ++lane) {
    const Operands in = Of(lanes, lane);
    const int row = lane % 16, half = lane / 16;
    for (int part = 0; part < 2; ++part) {
      std::memcpy(&tile.a[row][8 * part + 4 * half], in.a + 2 * part, 8);
      std::memcpy(&tile.b[row][8 * part + 4 * half], in.b + 2 * part, 8);
    }
    for (int i = 0; i < 8; ++i) tile.c[8 * half + i][row] = in.d[i];
  }
  tile.Run16x16(Of(lanes, 0).bfloat16);
  for (int lane = 0; lane < 32; ++lane) {
    float* const d = Of(lanes, lane).d;
    const int row = lane % 16, half = lane / 16;
    for (int i = 0; i < 8; ++i) d[i] = tile.c[8 * half + i][row];
  }
}

// kPerLane: elements of A and of B that a lane holds.
template <int kPerLane>
void RunMfma(void* const* lanes, int wave_size) {
  TileMultiplyAdd tile;
  RequireWave(wave_size, 64, *Of(lanes, 0).site);
  for (int lane = 0; lane < 64; ++lane) {
    const Operands in = Of(lanes, lane);
    const int row = lane % 16, quarter = lane / 16;
    std::memcpy(&tile.a[row][kPerLane * quarter], in.a, 2 * kPerLane);
    std::memcpy(&tile.b[row][kPerLane * quarter], in.b, 2 * kPerLane);
    for (int i = 0; i < 4; ++i) tile.c[4 * quarter + i][row] = in.d[i];
  }
  const bool bfloat16 = Of(lanes, 0).bfloat16;
  kPerLane == 4 ? tile.Run16x16(bfloat16) : tile.Run16x32(bfloat16);
  for (int lane = 0; lane < 64; ++lane) {
    float* const d = Of(lanes, lane).d;
    const int row = lane % 16, quarter = lane / 16;
    for (int i = 0; i < 4; ++i) d[i] = tile.c[4 * quarter + i][row];
  }
}

}  // namespace

void MultiplyAddAmd(AmdMatrixCore core, bool bfloat16, const uint32_t* a, const uint32_t* b,
                    float* d, const Site& site) {
  Operands mine{bfloat16, a, b, d, &site};
  switch (core) {
    case AmdMatrixCore::kWmmaGfx11:
      return MeetInWave(site, &mine, &RunWmmaGfx11);
    case AmdMatrixCore::kWmmaGfx12:
      return MeetInWave(site, &mine, &RunWmmaGfx12);
    case AmdMatrixCore::kMfma16:
      return MeetInWave(site, &mine, &RunMfma<4>);
    case AmdMatrixCore::kMfma32:
      return MeetInWave(site, &mine, &RunMfma<8>);
  }
}

}  // namespace attnd::simt

namespace attnd::gpu::amd {

uint32_t SwapHalves16(uint32_t x, const char* file, int line) {
  const simt::Site site{"SwapHalves16", file, line};
  struct Exchange {
    uint32_t value;
    const simt::Site* site;
  } mine{x, &site};
  simt::MeetInWave(site, &mine, [](void* const* lanes, int wave_size) {
    const auto at = [&](int lane) -> Exchange& { return *static_cast<Exchange*>(lanes[lane]); };
    simt::RequireWave(wave_size, 32, *at(0).site);
    for (int lane = 0; lane < 16; ++lane) std::swap(at(lane).value, at(lane + 16).value);
  });
  return mine.value;
}

}  // namespace attnd::gpu::amd
