// SPDX-License-Identifier: Apache-2.0
//
// A lane's asynchronous copies into LDS (PTX cp.async). A copy lands when the lane waits for its
// group and no sooner; from its issue until then its destination holds NaN. So both a missing wait
// and a destination that others still read show.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace attnd::simt {

class AsyncCopies {
 public:
  void Clear();
  // 16 bytes; zeros where `from` is nullptr.
  void Issue(void* to, const void* from);
  void Commit();
  // Lands all groups but the newest `pending` ones. Copies in no group yet stay.
  void Wait(size_t pending);

 private:
  struct Copy {
    void* to;
    std::array<std::byte, 16> data;
  };
  std::vector<Copy> copies_;  // in the order of issue
  std::vector<size_t>
      groups_;  // for each group that has not landed, the number of copies up to its end
};

// Those of the lane that runs.
AsyncCopies& CopiesOfLane();

}  // namespace attnd::simt
