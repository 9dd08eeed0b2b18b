// SPDX-License-Identifier: Apache-2.0
//
// Attend requests and responses between the caller's items and the wire; shared by the unary call
// and the stream. Stateless; thread-safe.
//
//   ATTND_ASSIGN_OR_RETURN(AttendCodec::Request request, AttendCodec::Encode(session, items, id));
//   ATTND_ASSIGN_OR_RETURN(AttendCodec::Response response, AttendCodec::Parse(bytes));
//   absl::StatusOr<AttendResult> result = AttendCodec::Finish(std::move(response),
//   request.outputs);
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

#include "absl/status/statusor.h"
#include "attnd/v1/attention.pb.h"
#include "client/cpp/attend.h"
#include "client/cpp/internal/borrow_guard.h"
#include "client/cpp/internal/message_reader.h"
#include "client/cpp/internal/message_writer.h"
#include "client/cpp/internal/state.h"

namespace attnd::client {

class AttendCodec {
 public:
  // What an item's result must look like, and where it goes.
  struct Output {
    int64_t rows = 0;
    int32_t num_query_heads = 0;
    int32_t head_dim_v = 0;
    DType dtype = DType::kF32;
    MutableTensor out;
    MutableTensor lse;
  };
  struct Request {
    OutgoingMessage message;
    std::shared_ptr<BorrowGuard> guard;  // shared with the message's slices
    std::vector<Output> outputs;
  };
  struct Response {
    v1::AttendResponse header;
    MessageReader reader;
  };

  // INVALID_ARGUMENT for items that disagree with their cache's geometry, RESOURCE_EXHAUSTED for a
  // request over the daemon's limits. Takes the steps of the items' writes.
  static absl::StatusOr<Request> Encode(const SessionState& session,
                                        std::span<const AttendItem> items, uint64_t request_id);
  static absl::StatusOr<Response> Parse(const grpc::ByteBuffer& bytes);
  // The status of a refused request, with its details; OK for results.
  static absl::Status RefusalOf(const Response& response);
  // INTERNAL where the response does not answer the request.
  static absl::StatusOr<AttendResult> Finish(Response response, std::span<const Output> outputs);
};

// Writes or views a received tensor of `shape` in `reader`'s message. INTERNAL where the daemon
// sent another one.
absl::StatusOr<TensorView> ReceiveTensor(const v1::Tensor& tensor, DType dtype,
                                         const absl::InlinedVector<int64_t, 4>& shape,
                                         const MutableTensor& destination, MessageReader& reader);

// RESOURCE_EXHAUSTED with the limit in its details where `bytes` exceed the daemon's message limit.
absl::Status CheckMessageBytes(uint64_t bytes, const Capabilities& capabilities);

}  // namespace attnd::client
