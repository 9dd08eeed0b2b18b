// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/byte_buffer.h"

#include <grpcpp/support/slice.h>

#include <utility>

#include "google/protobuf/io/coded_stream.h"

namespace attnd {

MessageSlices::MessageSlices(const grpc::ByteBuffer& buffer) {
  // Fails only for a buffer without a message, which then has no pieces.
  if (!buffer.Dump(&slices_).ok()) slices_.clear();
  pieces_.reserve(slices_.size());
  for (const grpc::Slice& slice : slices_) {
    pieces_.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
}

grpc::ByteBuffer MakeMessage(const google::protobuf::MessageLite& header, StagingBuffer tensors,
                             uint64_t tensor_bytes) {
  using google::protobuf::io::CodedOutputStream;
  const size_t header_bytes = header.ByteSizeLong();
  const size_t prefix_bytes =
      tensor_bytes == 0 ? 0 : 1 + CodedOutputStream::VarintSize64(tensor_bytes);
  grpc::Slice head(header_bytes + prefix_bytes);
  // The slice was made just now: nobody else sees its bytes yet.
  uint8_t* end = header.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(head.begin()));
  if (tensor_bytes == 0) return grpc::ByteBuffer(&head, 1);

  *end++ = kTensorDataTag;
  CodedOutputStream::WriteVarint64ToArray(tensor_bytes, end);
  auto* owner = new StagingBuffer(std::move(tensors));
  const grpc::Slice slices[] = {
      std::move(head),
      grpc::Slice(
          owner->data(), tensor_bytes,
          [](void* buffer) { delete static_cast<StagingBuffer*>(buffer); }, owner)};
  return grpc::ByteBuffer(slices, 2);
}

}  // namespace attnd
