// SPDX-License-Identifier: Apache-2.0
//
// Puts a request together without copying its tensors.
//
// The bytes on the wire are those of the protobuf message: the header's fields, then field 15,
// `tensor_data`, whose contents are the tensors one after another. The header is serialized into
// one slice; each large tensor is a slice over the caller's memory; small ones are copied into the
// slice before them, since below a few KiB a copy costs less than a reference. Not thread-safe.
//
//   MessageWriter writer;
//   item->mutable_q()->set_offset_bytes(writer.Append(q.data, q.size_bytes()));
//   OutgoingMessage message = writer.Finish(header);
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include "client/cpp/internal/borrow_guard.h"

namespace attnd::client {

// The field number of `tensor_data` in every message that carries tensors.
inline constexpr int kTensorDataField = 15;

// Serialized bytes on their way out. Move-only: grpc::ByteBuffer copies where it seems to move, and
// a forgotten copy would keep the caller's memory borrowed.
class OutgoingMessage {
 public:
  OutgoingMessage() = default;
  OutgoingMessage(const grpc::Slice* slices, size_t count) : bytes_(slices, count) {}
  OutgoingMessage(OutgoingMessage&& other) noexcept { bytes_.Swap(&other.bytes_); }
  OutgoingMessage& operator=(OutgoingMessage&& other) noexcept {
    bytes_.Clear();
    bytes_.Swap(&other.bytes_);
    return *this;
  }

  const grpc::ByteBuffer& bytes() const { return bytes_; }
  uint64_t size_bytes() const { return bytes_.Length(); }
  // Gives back what is borrowed, as far as this object is concerned.
  void Clear() { bytes_.Clear(); }

 private:
  grpc::ByteBuffer bytes_;
};

class MessageWriter {
 public:
  // Tensors up to this size are copied.
  static constexpr size_t kCopyUpToBytes = 4096;
  // Of each tensor's offset: the largest element.
  static constexpr uint64_t kAlignment = 4;

  MessageWriter() : guard_(std::make_shared<BorrowGuard>()) {}

  // Adds a tensor and returns its offset in tensor_data. The memory is borrowed until the guard
  // says that it was returned.
  uint64_t Append(const void* data, uint64_t size_bytes);

  uint64_t tensor_bytes() const { return tensor_bytes_; }
  // The message: `header`, whose tensor_data must be empty, and the tensors. Call it once, last.
  OutgoingMessage Finish(const google::protobuf::MessageLite& header);
  const std::shared_ptr<BorrowGuard>& guard() const { return guard_; }

 private:
  struct Piece {
    const void* data;
    size_t size;
  };

  std::vector<Piece> pieces_;
  uint64_t tensor_bytes_ = 0;
  std::shared_ptr<BorrowGuard> guard_;  // shared with the slices, which outlive this
};

// A message without tensors.
OutgoingMessage Serialize(const google::protobuf::MessageLite& message);

}  // namespace attnd::client
