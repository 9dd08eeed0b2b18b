// SPDX-License-Identifier: Apache-2.0
//
// Protobuf messages that carry tensors, taken apart without copying the tensors.
//
// The messages of the attention service keep all tensor bytes in one field, `tensor_data`, number
// 15. SplitMessage walks the top-level fields over the pieces in which the message arrived: the
// ranges of every other field make up the header, which protobuf parses; those of `tensor_data`
// stay where they are until they are copied, once, to where kernels read them. Nothing is trusted:
// every length is checked against what is there, and a header cannot make the parser allocate more
// than its limits allow. Knows no gRPC. Pure functions, safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(WireMessage message, SplitMessage(pieces, limits));
//   ATTND_RETURN_IF_ERROR(ParseHeader(message, header));
//   CopyBytes(message.tensor_data, /*offset=*/0, message.tensor_bytes, staging.data());
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message_lite.h"

namespace attnd {

inline constexpr uint32_t kTensorDataField = 15;
// The tag of `tensor_data` on the wire: field 15, length-delimited.
inline constexpr uint8_t kTensorDataTag = (kTensorDataField << 3) | 2;

// A run of bytes that lie after one another in memory.
using ByteRange = absl::string_view;
using ByteRanges = absl::InlinedVector<ByteRange, 8>;

struct WireLimits {
  uint64_t max_header_bytes = 8u << 20;
  // Occurrences of one repeated top-level field, so that two bytes on the wire cannot each become
  // an object.
  uint32_t counted_field = 0;  // 0: none
  uint64_t max_count = 0;
};

// Refers to the memory of the pieces it was made from.
struct WireMessage {
  ByteRanges header;
  ByteRanges tensor_data;
  uint64_t header_bytes = 0;
  uint64_t tensor_bytes = 0;
};

// INVALID_ARGUMENT for anything that is not a well-formed message, for `tensor_data` given twice
// and for what exceeds the limits. Where `field_1` is not null it gets the value of a varint field
// 1, as soon as that was read: a request id survives an error behind it.
absl::StatusOr<WireMessage> SplitMessage(std::span<const ByteRange> pieces,
                                         const WireLimits& limits, uint64_t* field_1 = nullptr);

// INVALID_ARGUMENT where protobuf refuses the header.
absl::Status ParseHeader(const WireMessage& message, google::protobuf::MessageLite& header);

// Copies bytes [offset, offset + bytes) of the concatenation of `ranges`, which must hold them.
void CopyBytes(std::span<const ByteRange> ranges, uint64_t offset, uint64_t bytes,
               std::byte* destination);

}  // namespace attnd
