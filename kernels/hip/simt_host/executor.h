// SPDX-License-Identifier: Apache-2.0
//
// Runs a grid of blocks on the calling thread. A block's lanes are fibers, in waves of 32 or 64.
//
// What it promises to find, whatever the schedule:
//   - a wave-wide operation that not all lanes of the wave reach (divergence), or that lanes reach
//     at different places of the source: reported with the lanes, instead of a hang;
//   - a block barrier that some lanes or waves never reach, because they ended;
//   - accesses outside LDS: by primitives always, by plain code under AddressSanitizer, and writes
//     shortly behind its end without it.
// What it makes likely to show as wrong results: a missing block barrier (LDS starts as NaN, and a
// wave runs ahead, in random order, until it waits at a barrier), a missing wait for an
// asynchronous copy, and blocks that depend on each other's order, which is random too. Under
// ThreadSanitizer lanes are threads, so that a race in LDS is reported by its two accesses; all
// that the lanes of a wave did before a wave-wide operation is visible to each of them after.
//
// Thread safety: none; one grid at a time.
//
//   std::string report = RunGrid({.grid = 8, .block = 128, .wave_size = 32, .lds_bytes = 4096,
//                                 .seed = 1, .run_lane = kernel});
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace attnd::simt {

struct GridLaunch {
  unsigned grid = 0;   // blocks
  unsigned block = 0;  // lanes of a block, whole waves
  int wave_size = 0;
  size_t lds_bytes = 0;  // at most kMaxLdsBytes
  uint64_t seed = 0;     // of the order of blocks, waves and lanes
  std::function<void()> run_lane;
};
inline constexpr unsigned kMaxBlockLanes = 1024;
inline constexpr int kMaxWaveSize = 64;
inline constexpr size_t kMaxLdsBytes = size_t{256} << 10;

// Empty, or what is wrong with the kernel; the rest of the grid did not run then.
std::string RunGrid(const GridLaunch& launch);

// The bytes that memory is filled with before a kernel sees it: 0x7fff, a NaN in f16 and bf16, and
// with its neighbour in f32.
void FillWithNan(void* data, size_t size);

// ------------------------------------------------------------------- for device code (device.h)

// A place in a kernel where lanes meet.
struct Site {
  const char* operation;
  const char* file;
  int line;
};

extern std::byte* lds_of_block;
extern int wave_size_of_launch;
int CurrentLane();  // in its wave

// Waits until all lanes of the wave are here; one of them then calls `complete` with the arguments
// of all, by lane.
void MeetInWave(const Site& site, void* argument,
                void (*complete)(void* const* arguments, int wave_size));
// Waits until all lanes of the block are here. Whether any lane passed true.
bool MeetInBlock(const Site& site, bool mine);

// Fails where [data, data + size) is not LDS of this block or not aligned to `alignment`.
void CheckLds(const Site& site, const void* data, size_t size, size_t alignment);

// Ends the grid with a report of the place and of `format` (printf's). The lane's stack is given up
// as it is, so its frames own nothing: hence no std::string.
[[noreturn, gnu::format(printf, 2, 3)]] void Fail(const Site& site, const char* format, ...);

}  // namespace attnd::simt
