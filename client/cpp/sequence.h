// SPDX-License-Identifier: Apache-2.0
//
// A sequence: the keys and values of one stream of tokens, in all layers of a cache.
//
// A handle. Destroying it leaves the sequence on the daemon; Free() gives its pages back. It counts
// the steps of its writes, so use one handle per sequence. Thread-safe, but the order of concurrent
// calls is that of their admission.
//
//   absl::StatusOr<Sequence> child = sequence.Fork();        // shares pages until it writes
//   absl::StatusOr<uint64_t> version = sequence.SetClientState(0, state);
//   absl::Status status = sequence.Free();
//
// All calls: NOT_FOUND for a sequence or session that is gone, ABORTED once the session was resumed
// elsewhere; neither is worth a retry.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/types.h"

namespace attnd::client {

struct SequenceState;

class Sequence {
 public:
  Sequence() = default;  // of nothing; every call is FAILED_PRECONDITION
  explicit Sequence(std::shared_ptr<SequenceState> state) : state_(std::move(state)) {}

  bool valid() const { return state_ != nullptr; }
  // These need valid().
  const Id& id() const;
  const CacheGeometry& geometry() const;
  // Of the Prefix that it was created with, how many tokens were there already; 0 without one.
  int64_t matched_tokens() const;

  // Publishes full pages under content keys, keys[0] the page `first_page`, for later sequences
  // that begin the same; a published page never changes, and a known key keeps its page. Returns
  // how many are published under these keys now. FAILED_PRECONDITION where a page is not complete
  // in every layer or has another key.
  absl::StatusOr<int64_t> Publish(std::span<const std::string> keys, int64_t first_page = 0,
                                  const CallOptions& call = {}) const;

  // A new sequence that shares the first `length` tokens (all, where absent) and a copy of the
  // client state. FAILED_PRECONDITION where `length` exceeds every layer's length. Not repeated by
  // itself after a connection error: a repetition would leave a second child.
  absl::StatusOr<Sequence> Fork(std::optional<int64_t> length = std::nullopt,
                                const CallOptions& call = {}) const;
  // Shortens every layer to at most `length` tokens.
  absl::Status Truncate(int64_t length, const CallOptions& call = {}) const;
  absl::Status Free(const CallOptions& call = {}) const;
  absl::StatusOr<SequenceInfo> Describe(const CallOptions& call = {}) const;
  // Replaces the opaque state where its version is still the expected one (0: none was set) and
  // returns the new version. ABORTED otherwise: Describe, then decide. Not repeated by itself after
  // a connection error: the state may have been set.
  absl::StatusOr<uint64_t> SetClientState(uint64_t expected_version, std::string_view state,
                                          const CallOptions& call = {}) const;

 private:
  friend class AttendCodec;
  std::shared_ptr<SequenceState> state_;  // shared with copies of the handle
};

}  // namespace attnd::client
