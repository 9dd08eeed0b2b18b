// SPDX-License-Identifier: Apache-2.0
//
// Counts what a program allocates, to hold a hot path to none. Links a replacement of operator new
// and delete into the program, so use it in one that has no other tests.
//
// Safe from any thread; counts those of all threads.
//
//   const int64_t before = AllocationCount();
//   Step();
//   EXPECT_EQ(AllocationCount() - before, 0);
#pragma once

#include <cstdint>

namespace attnd {

int64_t AllocationCount();

}  // namespace attnd
