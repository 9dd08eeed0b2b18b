// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/message_reader.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "client/cpp/internal/concat.h"
#include "client/cpp/internal/message_writer.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

// Reads through slices as if they were one array.
class SliceCursor {
 public:
  explicit SliceCursor(const std::vector<grpc::Slice>& slices) : slices_(slices) { SkipEmpty(); }

  bool done() const { return slice_ == slices_.size(); }

  bool ReadByte(uint8_t* byte) {
    if (done()) return false;
    *byte = slices_[slice_].begin()[at_];
    Advance(1);
    return true;
  }

  bool ReadVarint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      uint8_t byte;
      if (!ReadByte(&byte)) return false;
      if (shift < 64) *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  // Calls visit(data, size) for each contiguous part of the next `size` bytes.
  template <typename Visitor>
  bool Visit(uint64_t size, const Visitor& visit) {
    while (size > 0) {
      if (done()) return false;
      const uint64_t part = std::min<uint64_t>(size, slices_[slice_].size() - at_);
      visit(slices_[slice_].begin() + at_, part);
      Advance(part);
      size -= part;
    }
    return true;
  }

 private:
  void Advance(uint64_t size) {
    at_ += size;
    SkipEmpty();
  }
  void SkipEmpty() {
    while (slice_ < slices_.size() && at_ == slices_[slice_].size()) {
      ++slice_;
      at_ = 0;
    }
  }

  const std::vector<grpc::Slice>& slices_;
  size_t slice_ = 0;
  uint64_t at_ = 0;
};

void AppendVarint(uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

absl::Status Malformed() { return absl::InternalError("the daemon's answer is malformed"); }

}  // namespace

absl::Status MessageReader::Parse(const grpc::ByteBuffer& message,
                                  google::protobuf::MessageLite* header) {
  slices_ = std::make_unique<std::vector<grpc::Slice>>();
  segments_.clear();
  gathered_.clear();
  tensor_bytes_ = 0;
  if (message.Valid() && !message.Dump(slices_.get()).ok()) return Malformed();

  constexpr uint64_t kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5;
  std::string rest;  // the message without tensor_data
  const auto keep = [&rest](const uint8_t* data, uint64_t size) {
    rest.append(reinterpret_cast<const char*>(data), size);
  };
  SliceCursor cursor(*slices_);
  while (!cursor.done()) {
    uint64_t tag, value;
    if (!cursor.ReadVarint(&tag)) return Malformed();
    if (tag == (kTensorDataField << 3 | kLengthDelimited)) {
      if (!cursor.ReadVarint(&value)) return Malformed();
      // The last one of a repeated singular field counts, as in protobuf.
      segments_.clear();
      tensor_bytes_ = 0;
      const bool complete = cursor.Visit(value, [this](const uint8_t* data, uint64_t size) {
        segments_.push_back({data, size, tensor_bytes_});
        tensor_bytes_ += size;
      });
      if (!complete) return Malformed();
      continue;
    }
    AppendVarint(tag, &rest);
    uint64_t size = 0;
    switch (tag & 7) {
      case kVarint:
        if (!cursor.ReadVarint(&value)) return Malformed();
        AppendVarint(value, &rest);
        break;
      case kLengthDelimited:
        if (!cursor.ReadVarint(&size)) return Malformed();
        AppendVarint(size, &rest);
        break;
      case kFixed64:
        size = 8;
        break;
      case kFixed32:
        size = 4;
        break;
      default:  // groups do not occur in proto3
        return Malformed();
    }
    if (!cursor.Visit(size, keep)) return Malformed();
  }
  return header->ParseFromString(rest) ? absl::OkStatus() : Malformed();
}

absl::Status MessageReader::CheckRange(uint64_t offset, uint64_t size) const {
  if (offset <= tensor_bytes_ && size <= tensor_bytes_ - offset) return absl::OkStatus();
  return absl::InternalError(Concat("the daemon's answer places a tensor of ", size,
                                    " bytes at offset ", offset, " of ", tensor_bytes_,
                                    " bytes of tensor data"));
}

std::vector<MessageReader::Segment>::const_iterator MessageReader::SegmentAt(
    uint64_t offset) const {
  return std::prev(std::upper_bound(
      segments_.begin(), segments_.end(), offset,
      [](uint64_t value, const Segment& segment) { return value < segment.offset; }));
}

absl::StatusOr<const void*> MessageReader::View(uint64_t offset, uint64_t size, size_t alignment) {
  ATTND_RETURN_IF_ERROR(CheckRange(offset, size));
  if (size == 0) return nullptr;
  const Segment& segment = *SegmentAt(offset);
  const uint8_t* data = segment.data + (offset - segment.offset);
  const bool contiguous = offset + size <= segment.offset + segment.size;
  if (contiguous && reinterpret_cast<uintptr_t>(data) % alignment == 0) return data;
  // new[] of bytes is aligned for every element type.
  gathered_.push_back(std::make_unique_for_overwrite<std::byte[]>(size));
  ATTND_RETURN_IF_ERROR(CopyTo(offset, size, gathered_.back().get()));
  return gathered_.back().get();
}

absl::Status MessageReader::CopyTo(uint64_t offset, uint64_t size, void* destination) const {
  ATTND_RETURN_IF_ERROR(CheckRange(offset, size));
  if (size == 0) return absl::OkStatus();
  auto* out = static_cast<uint8_t*>(destination);
  for (auto segment = SegmentAt(offset); size > 0; ++segment) {
    const uint64_t skip = offset - segment->offset;
    const uint64_t part = std::min(size, segment->size - skip);
    std::memcpy(out, segment->data + skip, part);
    out += part;
    offset += part;
    size -= part;
  }
  return absl::OkStatus();
}

}  // namespace attnd::client
