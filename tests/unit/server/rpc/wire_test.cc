// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "attnd/v1/attention.pb.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

v1::AttendRequest SomeRequest() {
  v1::AttendRequest request;
  request.set_request_id(300);
  request.mutable_session()->set_boot(7);
  request.set_epoch(3);
  for (int i = 0; i < 5; ++i) {
    v1::AttendItem& item = *request.add_items();
    item.set_layer(i);
    item.mutable_q()->add_shape(i + 1);
    item.mutable_options()->set_softmax_scale(0.5f);
  }
  for (int i = 0; i < 1000; ++i) request.mutable_tensor_data()->push_back(static_cast<char>(i));
  return request;
}

std::vector<ByteRange> CutIntoPieces(const std::string& bytes, size_t piece_bytes) {
  std::vector<ByteRange> pieces;
  for (size_t at = 0; at < bytes.size(); at += piece_bytes) {
    pieces.push_back(ByteRange(bytes).substr(at, piece_bytes));
  }
  return pieces;
}

std::string Tensors(const WireMessage& message) {
  std::string data(message.tensor_bytes, '\0');
  CopyBytes(message.tensor_data, 0, message.tensor_bytes,
            reinterpret_cast<std::byte*>(data.data()));
  return data;
}

TEST(WireTest, SplitsAMessageHoweverItWasCut) {
  const v1::AttendRequest request = SomeRequest();
  const std::string bytes = request.SerializeAsString();
  for (size_t piece_bytes = 1; piece_bytes <= bytes.size(); ++piece_bytes) {
    // The pieces are apart in memory, as slices of a socket are.
    std::vector<std::string> owned;
    for (ByteRange piece : CutIntoPieces(bytes, piece_bytes)) owned.emplace_back(piece);
    const std::vector<ByteRange> pieces(owned.begin(), owned.end());
    uint64_t request_id = 0;
    const auto message = SplitMessage(pieces, {}, &request_id);
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(request_id, 300u);
    v1::AttendRequest header;
    ASSERT_TRUE(ParseHeader(*message, header).ok()) << piece_bytes;
    EXPECT_EQ(Tensors(*message), request.tensor_data());
    header.set_tensor_data(request.tensor_data());
    ASSERT_EQ(header.SerializeAsString(), bytes) << piece_bytes;
  }
}

TEST(WireTest, TheTensorsAreNotCopied) {
  const std::string bytes = SomeRequest().SerializeAsString();
  const ByteRange piece(bytes);
  const auto message = SplitMessage({&piece, 1}, {});
  ASSERT_TRUE(message.ok());
  ASSERT_EQ(message->tensor_data.size(), 1u);
  EXPECT_EQ(message->tensor_data[0].data(), bytes.data() + bytes.size() - 1000);
}

TEST(WireTest, FieldsBehindTheTensorsBelongToTheHeader) {
  v1::AttendRequest first, second;
  first.set_tensor_data("tensors");
  second.set_epoch(9);
  const std::string bytes = first.SerializeAsString() + second.SerializeAsString();
  const ByteRange piece(bytes);
  const auto message = SplitMessage({&piece, 1}, {});
  ASSERT_TRUE(message.ok());
  v1::AttendRequest header;
  ASSERT_TRUE(ParseHeader(*message, header).ok());
  EXPECT_EQ(header.epoch(), 9u);
  EXPECT_EQ(Tensors(*message), "tensors");
}

TEST(WireTest, CopiesAnyPartOfTheRanges) {
  const std::string bytes = "0123456789";
  const std::vector<ByteRange> ranges = CutIntoPieces(bytes, 3);
  for (size_t from = 0; from <= bytes.size(); ++from) {
    for (size_t size = 0; from + size <= bytes.size(); ++size) {
      std::string copy(size, '?');
      CopyBytes(ranges, from, size, reinterpret_cast<std::byte*>(copy.data()));
      EXPECT_EQ(copy, bytes.substr(from, size));
    }
  }
}

TEST(WireTest, RefusesWhatIsNoMessage) {
  const std::pair<std::string, const char*> cases[] = {
      {std::string("\x7a\x05hell", 6), "field 15 has 5 bytes, but only 4 follow"},
      {std::string("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11), "but only 0 follow"},
      {std::string("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11), "varint"},
      {std::string("\x7a\x01t\x7a\x01u", 6), "tensor_data is given twice"},
      {std::string("\x78\x05", 2), "tensor_data has wire type 0"},
      {std::string("\x7d\x01\x02\x03\x04", 5), "tensor_data has wire type 5"},
      {std::string("\x00\x01", 2), "field number 0"},
      {std::string("\x0b\x0c", 2), "wire type 3"},
      {std::string("\x0e", 1), "wire type 6"},
      {std::string("\x80", 1), "bad tag"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10), "bad tag"},
      {std::string("\x09\x01\x02", 3), "field 1 has 8 bytes, but only 2 follow"}};
  for (const auto& [bytes, message] : cases) {
    const ByteRange piece(bytes);
    const auto split = SplitMessage({&piece, 1}, {});
    ASSERT_FALSE(split.ok()) << message;
    EXPECT_EQ(split.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(split.status().message()), HasSubstr(message));
  }
}

TEST(WireTest, HeadersAreBounded) {
  std::string bytes;
  for (int i = 0; i < 100; ++i) bytes += std::string("\x22\x00", 2);  // an empty item
  const ByteRange piece(bytes);
  EXPECT_TRUE(SplitMessage({&piece, 1}, {.counted_field = 4, .max_count = 100}).ok());
  const auto many = SplitMessage({&piece, 1}, {.counted_field = 4, .max_count = 99});
  EXPECT_THAT(std::string(many.status().message()), HasSubstr("more than 99 items"));
  const auto large = SplitMessage({&piece, 1}, {.max_header_bytes = 199});
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("exceeds 199 bytes"));
}

TEST(WireTest, EveryTruncationIsRefusedOrAMessageOfItsOwn) {
  const std::string bytes = SomeRequest().SerializeAsString();
  int refused = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    // A copy of its own, so that a read beyond the end is seen by the address sanitizer.
    const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    const ByteRange piece(cut.data(), cut.size());
    const auto message = SplitMessage({&piece, 1}, {});
    if (!message.ok()) {
      ++refused;
      continue;
    }
    v1::AttendRequest header;
    EXPECT_TRUE(ParseHeader(*message, header).ok());
    EXPECT_EQ(message->tensor_bytes, 0u);
  }
  EXPECT_GT(refused, 1000);
}

TEST(WireTest, RandomMutationsNeverReadOutOfBounds) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::string original = SomeRequest().SerializeAsString();
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = original;
    for (uint64_t n = random() % 8 + 1; n > 0; --n) {
      // Mostly in the header, where structure is.
      const size_t at = random() % (random() % 4 == 0 ? bytes.size() : bytes.size() - 1000);
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, random() % 5);
          break;
        case 2:
          bytes.insert(at, 1 + random() % 5, static_cast<char>(random()));
          break;
        default:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
      }
      if (bytes.size() <= 1000) break;
    }
    std::vector<std::string> owned;
    for (ByteRange piece : CutIntoPieces(bytes, 1 + random() % 400)) owned.emplace_back(piece);
    const std::vector<ByteRange> pieces(owned.begin(), owned.end());
    const auto message = SplitMessage(pieces, {});
    if (!message.ok()) continue;
    uint64_t header_bytes = 0;
    for (ByteRange range : message->header) header_bytes += range.size();
    EXPECT_EQ(header_bytes, message->header_bytes);
    EXPECT_EQ(Tensors(*message).size(), message->tensor_bytes);
    v1::AttendRequest header;
    ParseHeader(*message, header).IgnoreError();
  }
}

}  // namespace
}  // namespace attnd
