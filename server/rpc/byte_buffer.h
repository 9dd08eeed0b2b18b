// SPDX-License-Identifier: Apache-2.0
//
// Messages as gRPC holds them: slices of the socket's reads going in, a header and a staging buffer
// going out. No tensor is copied here.
//
// Not thread-safe; a message belongs to one call.
//
//   MessageSlices slices(*request);
//   ATTND_ASSIGN_OR_RETURN(WireMessage message, SplitMessage(slices.pieces(), limits));
//   *response = MakeMessage(header, std::move(output), output_bytes);
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "google/protobuf/message_lite.h"
#include "server/engine/staging.h"
#include "server/rpc/wire.h"

namespace attnd {

// The pieces of a received message; keeps them alive.
class MessageSlices {
 public:
  explicit MessageSlices(const grpc::ByteBuffer& buffer);
  std::span<const ByteRange> pieces() const { return pieces_; }

 private:
  std::vector<grpc::Slice> slices_;
  absl::InlinedVector<ByteRange, 16> pieces_;
};

// `header` followed by the first `tensor_bytes` of `tensors` as field tensor_data. gRPC owns the
// staging buffer from then on and gives it back once the message is on the wire.
grpc::ByteBuffer MakeMessage(const google::protobuf::MessageLite& header, StagingBuffer tensors,
                             uint64_t tensor_bytes);

}  // namespace attnd
