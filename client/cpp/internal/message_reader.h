// SPDX-License-Identifier: Apache-2.0
//
// Takes a received message apart without copying its tensors.
//
// A message arrives as slices, cut anywhere. Everything but field 15, `tensor_data`, is small and
// is parsed by protobuf; the tensors stay where gRPC put them and are viewed in place where a
// tensor lies in one slice and is aligned for its type, and gathered into memory of the reader
// otherwise. Movable; views stay valid when it is moved. Not thread-safe.
//
//   MessageReader reader;
//   ATTND_RETURN_IF_ERROR(reader.Parse(received, &header));
//   ATTND_ASSIGN_OR_RETURN(const void* out, reader.View(offset_bytes, size_bytes, alignof(float)));
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace attnd::client {

class MessageReader {
 public:
  // INTERNAL where the bytes are not a message of this type: the peer is broken.
  absl::Status Parse(const grpc::ByteBuffer& message, google::protobuf::MessageLite* header);

  // The bytes [offset, offset + size) of tensor_data, contiguous and aligned. INTERNAL where they
  // do not lie inside it.
  absl::StatusOr<const void*> View(uint64_t offset, uint64_t size, size_t alignment);
  // The same, copied to `destination`.
  absl::Status CopyTo(uint64_t offset, uint64_t size, void* destination) const;

  uint64_t tensor_bytes() const { return tensor_bytes_; }

 private:
  // A part of tensor_data that lies in one slice.
  struct Segment {
    const uint8_t* data;
    uint64_t size;
    uint64_t offset;  // of its first byte in tensor_data
  };
  absl::Status CheckRange(uint64_t offset, uint64_t size) const;
  std::vector<Segment>::const_iterator SegmentAt(uint64_t offset) const;

  std::unique_ptr<std::vector<grpc::Slice>> slices_;  // on the heap: short slices hold their bytes
  std::vector<Segment> segments_;
  uint64_t tensor_bytes_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> gathered_;
};

}  // namespace attnd::client
