// SPDX-License-Identifier: Apache-2.0
//
// Which slabs have to be emptied so that a contiguous run of superblocks comes free.
//
// Pure functions over runs: what is free, and what could be made free, the least recently used
// first. No two of the given runs overlap. O(n log n) in their number: for when pages run out.
//
//   std::vector<size_t> chosen = ChooseSlabs(pool.FreeRuns(), evictable, /*superblocks=*/3);
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv_cache/device_pool.h"

namespace attnd {

// Indexes into `evictable` of runs that, with what is free around them, hold `superblocks` in one
// piece: such that the most recently used of them was used least recently. Empty where all of them
// do not suffice, or none is needed.
std::vector<size_t> ChooseSlabs(std::span<const SuperblockRun> free,
                                std::span<const SuperblockRun> evictable, int64_t superblocks);

// How many such pieces there would be if all were free.
int64_t CountPieces(std::span<const SuperblockRun> free, std::span<const SuperblockRun> evictable,
                    int64_t superblocks);

}  // namespace attnd
