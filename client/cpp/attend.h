// SPDX-License-Identifier: Apache-2.0
//
// The items of an Attend request and its results.
//
// An item is one sequence in one layer: n query rows and, unless it only reads, n new keys and
// values at [start_position, start_position + n). n follows from the sizes of the tensors and the
// geometry of the sequence's cache; what disagrees is INVALID_ARGUMENT before anything is sent,
// naming the item, the argument, its size and the size expected.
//
//   AttendItem item{.sequence = &sequence, .layer = 3, .start_position = 127, .q = q, .k = k, .v =
//   v}; absl::StatusOr<AttendResult> result = session->Attend({&item, 1}); if (result.ok() &&
//   result->ok()) Use(result->items()[0].out.f32());
//
// Items are plain values that borrow. An AttendResult owns the received bytes that its views show;
// it is movable, and not to be changed from two threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "client/cpp/tensor.h"
#include "client/cpp/types.h"

namespace attnd::client {

class Sequence;

// Given q, k and v: writes, then attends. Without q: writes only. Without k and v: reads only.
struct AttendItem {
  const Sequence* sequence = nullptr;
  int32_t layer = 0;
  // At most the layer's length. Below it, the layer is cut there first: that is how rejected
  // speculative tokens go.
  int64_t start_position = 0;
  ConstTensor q{};  // [n, num_query_heads, head_dim_k]
  ConstTensor k{};  // [n, num_kv_heads, head_dim_k], dtype of q
  ConstTensor v{};  // [n, num_kv_heads, head_dim_v], dtype of q
  AttentionOptions options{};
  std::optional<int64_t> kv_length{};  // reads only: attend over [0, kv_length)
  // 0: the next one of this sequence and layer, which is right unless steps are counted elsewhere.
  uint64_t step = 0;
  // Where to put the results. Not given: the result views the received message.
  MutableTensor out{};  // [n, num_query_heads, head_dim_v], dtype of q
  MutableTensor lse{};  // f32 [num_query_heads, n]
};

struct AttendItemResult {
  absl::Status status{};  // of this item; the tensors are there only where it is OK
  TensorView out{};       // [n, num_query_heads, head_dim_v]; absent where q was
  TensorView lse{};       // f32 [num_query_heads, n], where asked for
  int64_t layer_length = 0;
  bool replayed = false;  // the step had been applied before: nothing was written
};

class AttendResult {
 public:
  AttendResult();
  ~AttendResult();
  AttendResult(AttendResult&&) noexcept;
  AttendResult& operator=(AttendResult&&) noexcept;

  // One per item, in the order of the request.
  std::span<const AttendItemResult> items() const { return items_; }
  const RequestTiming& timing() const { return timing_; }
  bool ok() const { return first_error().ok(); }
  // The status of the first item that failed, with its index in the message; OK where none did.
  absl::Status first_error() const;

 private:
  friend class AttendCodec;
  struct Received;  // the slices that the views show

  std::vector<AttendItemResult> items_;
  RequestTiming timing_;
  std::unique_ptr<Received> received_;
};

}  // namespace attnd::client
