// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/message_writer.h"

#include <cstring>
#include <utility>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

namespace attnd::client {
namespace {

using ::google::protobuf::internal::WireFormatLite;

// Short slices keep their bytes inside the object, so ask where they are only once it is in place.
uint8_t* MutableBytes(grpc::Slice& slice) { return const_cast<uint8_t*>(slice.begin()); }

}  // namespace

uint64_t MessageWriter::Append(const void* data, uint64_t size_bytes) {
  // The daemon uses aligned tensors where they lie and copies the others once more.
  static constexpr char kZeros[kAlignment] = {};
  if (const uint64_t padding = -tensor_bytes_ % kAlignment; padding > 0) {
    pieces_.push_back({kZeros, static_cast<size_t>(padding)});
    tensor_bytes_ += padding;
  }
  pieces_.push_back({data, static_cast<size_t>(size_bytes)});
  return std::exchange(tensor_bytes_, tensor_bytes_ + size_bytes);
}

OutgoingMessage MessageWriter::Finish(const google::protobuf::MessageLite& header) {
  using ::google::protobuf::io::CodedOutputStream;
  constexpr uint32_t kTag =
      WireFormatLite::MakeTag(kTensorDataField, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  const size_t header_bytes = header.ByteSizeLong();
  const size_t tag_bytes = pieces_.empty() ? 0
                                           : CodedOutputStream::VarintSize32(kTag) +
                                                 CodedOutputStream::VarintSize64(tensor_bytes_);

  std::vector<grpc::Slice> slices;
  size_t next = 0;  // the first piece that is not in a slice yet
  bool first = true;
  while (first || next < pieces_.size()) {
    // A run: the header where this is the first slice, then the small pieces that follow.
    size_t run_bytes = first ? header_bytes + tag_bytes : 0;
    size_t end = next;
    while (end < pieces_.size() && pieces_[end].size <= kCopyUpToBytes) {
      run_bytes += pieces_[end++].size;
    }
    if (run_bytes > 0) {
      slices.emplace_back(run_bytes);
      uint8_t* cursor = MutableBytes(slices.back());
      if (first) {
        cursor = header.SerializeWithCachedSizesToArray(cursor);
        if (tag_bytes > 0) {
          cursor = CodedOutputStream::WriteVarint32ToArray(kTag, cursor);
          cursor = CodedOutputStream::WriteVarint64ToArray(tensor_bytes_, cursor);
        }
      }
      for (; next < end; ++next) {
        std::memcpy(cursor, pieces_[next].data, pieces_[next].size);
        cursor += pieces_[next].size;
      }
    }
    first = false;
    if (next < pieces_.size()) {
      slices.push_back(BorrowGuard::Lend(guard_, pieces_[next].data, pieces_[next].size));
      ++next;
    }
  }
  return {slices.data(), slices.size()};
}

OutgoingMessage Serialize(const google::protobuf::MessageLite& message) {
  return MessageWriter().Finish(message);
}

}  // namespace attnd::client
