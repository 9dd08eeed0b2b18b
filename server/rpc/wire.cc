// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/wire.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/zero_copy_stream.h"
#include "kernels/base/status_macros.h"

namespace attnd {
namespace {

enum WireType : uint32_t {
  kVarint = 0,
  kFixed64 = 1,
  kLengthDelimited = 2,
  kFixed32 = 5,
};

// Appends a range, joined with the last one where it continues it.
void Append(ByteRange range, ByteRanges& ranges) {
  if (range.empty()) return;
  if (!ranges.empty() && ranges.back().data() + ranges.back().size() == range.data()) {
    ranges.back() = ByteRange(ranges.back().data(), ranges.back().size() + range.size());
  } else {
    ranges.push_back(range);
  }
}

// Walks over pieces of memory as if they were one. A copy is a bookmark.
class Cursor {
 public:
  explicit Cursor(std::span<const ByteRange> pieces) : pieces_(pieces) {
    for (ByteRange piece : pieces) remaining_ += piece.size();
  }

  uint64_t remaining() const { return remaining_; }

  bool ReadVarint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (remaining_ == 0) return false;
      while (offset_ == pieces_[index_].size()) NextPiece();
      const uint8_t byte = static_cast<uint8_t>(pieces_[index_][offset_++]);
      --remaining_;
      // The tenth byte holds the 64th bit alone.
      if (shift == 63 && byte > 1) return false;
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  // Moves on by `bytes`, at most remaining(); appends what was passed to `ranges` unless it is
  // null.
  void Advance(uint64_t bytes, ByteRanges* ranges) {
    while (bytes > 0) {
      while (offset_ == pieces_[index_].size()) NextPiece();
      const size_t take =
          static_cast<size_t>(std::min<uint64_t>(bytes, pieces_[index_].size() - offset_));
      if (ranges != nullptr) Append(pieces_[index_].substr(offset_, take), *ranges);
      offset_ += take;
      bytes -= take;
      remaining_ -= take;
    }
  }

 private:
  void NextPiece() {
    ++index_;
    offset_ = 0;
  }

  std::span<const ByteRange> pieces_;
  size_t index_ = 0;
  size_t offset_ = 0;
  uint64_t remaining_ = 0;
};

// Hands protobuf the header's ranges one by one.
class RangeStream final : public google::protobuf::io::ZeroCopyInputStream {
 public:
  explicit RangeStream(std::span<const ByteRange> ranges) : ranges_(ranges) {}

  bool Next(const void** data, int* size) override {
    if (index_ == ranges_.size()) return false;
    *data = ranges_[index_].data() + offset_;
    *size = static_cast<int>(ranges_[index_].size() - offset_);
    count_ += *size;
    ++index_;
    offset_ = 0;
    return true;
  }
  void BackUp(int count) override {
    --index_;
    offset_ = ranges_[index_].size() - static_cast<size_t>(count);
    count_ -= count;
  }
  bool Skip(int count) override {
    const void* data;
    int size;
    while (count > 0 && Next(&data, &size)) {
      if (size > count) BackUp(size - count);
      count -= std::min(size, count);
    }
    return count == 0;
  }
  int64_t ByteCount() const override { return count_; }

 private:
  std::span<const ByteRange> ranges_;
  size_t index_ = 0;
  size_t offset_ = 0;  // of the next byte, where a range was partly backed up
  int64_t count_ = 0;
};

absl::Status Malformed(uint64_t position, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("malformed message: ", what, " at byte ", position));
}

}  // namespace

absl::StatusOr<WireMessage> SplitMessage(std::span<const ByteRange> pieces,
                                         const WireLimits& limits, uint64_t* field_1) {
  WireMessage message;
  Cursor cursor(pieces);
  const uint64_t total = cursor.remaining();
  bool has_tensor_data = false;
  uint64_t count = 0;
  while (cursor.remaining() > 0) {
    Cursor field_start = cursor;
    const uint64_t position = total - cursor.remaining();
    uint64_t tag = 0;
    if (!cursor.ReadVarint(tag) || tag > UINT32_MAX) return Malformed(position, "bad tag");
    const uint32_t field = static_cast<uint32_t>(tag >> 3);
    if (field == 0) return Malformed(position, "field number 0");
    const uint32_t wire_type = static_cast<uint32_t>(tag & 7);
    if (field == kTensorDataField && wire_type != kLengthDelimited) {
      return Malformed(position, absl::StrCat("tensor_data has wire type ", wire_type,
                                              ", expected 2 (length-delimited)"));
    }

    uint64_t value = 0;  // of a varint, or the length of what follows
    switch (wire_type) {
      case kVarint:
      case kLengthDelimited:
        if (!cursor.ReadVarint(value)) return Malformed(position, "bad or truncated varint");
        break;
      case kFixed64:
        value = 8;
        break;
      case kFixed32:
        value = 4;
        break;
      default:
        return Malformed(position, absl::StrCat("wire type ", wire_type, " of field ", field));
    }
    const uint64_t payload = wire_type == kVarint ? 0 : value;
    if (payload > cursor.remaining()) {
      return Malformed(position, absl::StrCat("field ", field, " has ", payload,
                                              " bytes, but only ", cursor.remaining(), " follow"));
    }
    if (field == 1 && wire_type == kVarint && field_1 != nullptr) *field_1 = value;

    if (field == kTensorDataField) {
      if (has_tensor_data) return Malformed(position, "tensor_data is given twice");
      has_tensor_data = true;
      message.tensor_bytes = payload;
      cursor.Advance(payload, &message.tensor_data);
      continue;
    }
    cursor.Advance(payload, nullptr);
    const uint64_t field_bytes = field_start.remaining() - cursor.remaining();
    field_start.Advance(field_bytes, &message.header);
    message.header_bytes += field_bytes;
    if (message.header_bytes > limits.max_header_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("the message without tensor_data exceeds ",
                                                     limits.max_header_bytes,
                                                     " bytes: send smaller batches"));
    }
    if (field == limits.counted_field && ++count > limits.max_count) {
      return absl::InvalidArgumentError(
          absl::StrCat("more than ", limits.max_count, " items in one request"));
    }
  }
  return message;
}

absl::Status ParseHeader(const WireMessage& message, google::protobuf::MessageLite& header) {
  bool parsed = false;
  if (message.header.size() <= 1) {
    const ByteRange range = message.header.empty() ? ByteRange() : message.header.front();
    parsed = header.ParseFromArray(range.data(), static_cast<int>(range.size()));
  } else {
    RangeStream stream(message.header);
    parsed = header.ParseFromZeroCopyStream(&stream);
  }
  if (!parsed) {
    return absl::InvalidArgumentError(
        absl::StrCat("malformed message: protobuf cannot parse a ", header.GetTypeName()));
  }
  return absl::OkStatus();
}

void CopyBytes(std::span<const ByteRange> ranges, uint64_t offset, uint64_t bytes,
               std::byte* destination) {
  for (ByteRange range : ranges) {
    if (bytes == 0) return;
    if (offset >= range.size()) {
      offset -= range.size();
      continue;
    }
    const uint64_t take = std::min<uint64_t>(bytes, range.size() - offset);
    std::memcpy(destination, range.data() + offset, take);
    destination += take;
    bytes -= take;
    offset = 0;
  }
}

}  // namespace attnd
