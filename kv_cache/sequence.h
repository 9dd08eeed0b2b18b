// SPDX-License-Identifier: Apache-2.0
//
// One sequence: what was written to each of its layers, by which step, and the client's own state.
//
// DESIGN.md's rules on positions and steps are decided here: no holes, steps only rise, the step
// that was applied last may come again with the same coordinates and writes nothing. The table of
// pages always reaches to the end of the longest layer and no further. Not thread-safe: KvCache's
// lock guards it.
//
//   ATTND_ASSIGN_OR_RETURN(ItemRange range, sequence.Check(access));
//   if (range.kind == ItemRange::kWrite) sequence.pages().PrepareWrite(...),
//   sequence.Apply(access);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/units.h"
#include "kv_cache/access.h"
#include "kv_cache/cache_table.h"
#include "kv_cache/ids.h"
#include "kv_cache/sequence_pages.h"

namespace attnd {

class Sequence {
 public:
  struct Layer {
    TokenCount length;
    uint64_t step = 0;   // applied last; 0: none
    TokenCount start{};  // of that step's write
    TokenCount num_tokens{};
  };

  // On one device for life. `cache` outlives the sequence, which counts itself there. Starts with
  // the first `length` tokens of every layer in `pages`, which others hold.
  Sequence(SessionId session, Cache& cache, DeviceIndex device, std::string client_state,
           std::span<const PageId> pages, TokenCount length);
  // A fork: shares the pages of the parent's first `length` tokens.
  Sequence(const Sequence& parent, TokenCount length);
  ~Sequence();
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  SessionId session() const { return session_; }
  Cache& cache() const { return cache_; }
  DeviceIndex device() const { return place_.pages.device(); }
  const std::vector<Layer>& layers() const { return layers_; }
  TokenCount max_length() const { return max_length_; }
  SequencePages& pages() { return pages_; }
  const SequencePages& pages() const { return pages_; }

  // What cannot change while the item waits: the layer's and the positions' ranges.
  // INVALID_ARGUMENT.
  absl::Status CheckRange(const LayerAccess& access) const;
  // Whether the step of a write was applied already: steps only rise, so whenever its turn comes it
  // will be a replay or superseded, and needs no pages.
  bool StepApplied(const LayerAccess& access) const;
  // Promises the pages of a write that passed CheckRange.
  [[nodiscard]] std::optional<PageShortage> Reserve(const LayerAccess& access);

  enum class Kind : uint8_t { kRead, kWrite, kReplay };
  // Also what depends on now: ABORTED for a lower step, FAILED_PRECONDITION for a hole, a read
  // beyond the length, a replay at other positions or of tokens that were truncated.
  absl::StatusOr<Kind> Check(const LayerAccess& access) const;
  // Records a write whose pages PrepareWrite made.
  void Apply(const LayerAccess& access);
  void Truncate(TokenCount length);

  // FAILED_PRECONDITION unless pages [first, first + count) are complete in every layer.
  absl::Status CheckComplete(int64_t first, int64_t count) const;

  // The pages that hold positions [start, end).
  PageRange PagesOf(TokenCount start, TokenCount end) const;

  const std::string& client_state() const { return *client_state_; }
  uint64_t client_state_version() const { return client_state_version_; }
  // The caller compared the versions.
  void ReplaceClientState(std::string state);

  absl::Status CheckIntegrity() const;

 private:
  TokenCount page_size() const { return TokenCount(cache_.geometry.page_size_tokens); }
  void ShrinkToLongestLayer();

  const SessionId session_;
  Cache& cache_;
  CacheOnDevice& place_;
  std::vector<Layer> layers_;  // [num_layers]
  TokenCount max_length_;      // over the layers
  TokenCount reserved_end_;    // the longest layer once all queued items have run
  SequencePages pages_;
  std::shared_ptr<const std::string> client_state_;  // shared with forks, never changed
  uint64_t client_state_version_ = 0;
};

}  // namespace attnd
