// SPDX-License-Identifier: Apache-2.0
//
// FlashAttention requests and responses between the caller's tensors and the wire. Stateless;
// thread-safe.
//
//   ATTND_ASSIGN_OR_RETURN(FlashCodec::Request request, FlashCodec::Encode(args, capabilities));
//   absl::StatusOr<FlashAttentionResult> result = FlashCodec::Finish(bytes, request.outputs);
#pragma once

#include <memory>

#include <grpcpp/support/byte_buffer.h>

#include "absl/status/statusor.h"
#include "client/cpp/flash_attention.h"
#include "client/cpp/internal/borrow_guard.h"
#include "client/cpp/internal/message_writer.h"

namespace attnd::client {

class FlashCodec {
 public:
  using Shape = absl::InlinedVector<int64_t, 4>;
  struct Outputs {
    DType dtype = DType::kF32;
    Shape out_shape;
    Shape lse_shape;
    MutableTensor out;
    MutableTensor lse;
  };
  struct Request {
    OutgoingMessage message;
    std::shared_ptr<BorrowGuard> guard;  // shared with the message's slices
    Outputs outputs;
  };

  static absl::StatusOr<Request> Encode(const FlashAttentionArgs& args,
                                        const Capabilities& capabilities);
  static absl::StatusOr<FlashAttentionResult> Finish(const grpc::ByteBuffer& bytes,
                                                     const Outputs& outputs);
};

}  // namespace attnd::client
