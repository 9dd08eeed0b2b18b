// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/simt_host/async_copies.h"

#include <cstring>

#include "kernels/hip/simt_host/executor.h"

namespace attnd::simt {

void AsyncCopies::Clear() {
  copies_.clear();
  groups_.clear();
}

void AsyncCopies::Issue(void* to, const void* from) {
  Copy& copy = copies_.emplace_back(Copy{to, {}});
  if (from != nullptr) std::memcpy(copy.data.data(), from, copy.data.size());
  FillWithNan(to, copy.data.size());
}

void AsyncCopies::Commit() { groups_.push_back(copies_.size()); }

void AsyncCopies::Wait(size_t pending) {
  if (groups_.size() <= pending) return;
  const size_t landing_groups = groups_.size() - pending;
  const size_t landing = groups_[landing_groups - 1];
  for (size_t i = 0; i < landing; ++i) {
    std::memcpy(copies_[i].to, copies_[i].data.data(), copies_[i].data.size());
  }
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<ptrdiff_t>(landing));
  groups_.erase(groups_.begin(), groups_.begin() + static_cast<ptrdiff_t>(landing_groups));
  for (size_t& group : groups_) group -= landing;
}

}  // namespace attnd::simt
