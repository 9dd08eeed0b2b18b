// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include "attnd/v1/attention.pb.h"
#include "client/cpp/internal/borrow_guard.h"
#include "client/cpp/internal/message_reader.h"
#include "client/cpp/internal/message_writer.h"
#include "kernels/base/dtype.h"
#include "tests/unit/client/manual_timers.h"

namespace attnd::client {
namespace {

std::vector<float> Ramp(size_t size) {
  std::vector<float> values(size);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

std::string Flatten(const OutgoingMessage& message) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(message.bytes().Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

// A response with one tensor of `values` behind `skew` other bytes of tensor data.
std::string SerializedResponse(const std::vector<float>& values, size_t skew) {
  v1::AttendResponse response;
  response.set_request_id(300);
  response.add_results()->mutable_out()->set_offset_bytes(skew);
  std::string* data = response.mutable_tensor_data();
  data->append(skew, 'x');
  data->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return response.SerializeAsString();
}

grpc::ByteBuffer Cut(const std::string& bytes, size_t at) {
  const grpc::Slice slices[] = {grpc::Slice(bytes.data(), at),
                                grpc::Slice(bytes.data() + at, bytes.size() - at)};
  return {slices, 2};
}

TEST(MessageWriterTest, WritesWhatProtobufReads) {
  const std::vector<float> small = Ramp(3), large = Ramp(5000), last = Ramp(1);
  MessageWriter writer;
  v1::AttendRequest header;
  header.set_request_id(7);
  for (const auto* tensor : {&small, &large, &last}) {
    header.add_items()->mutable_q()->set_offset_bytes(
        writer.Append(tensor->data(), tensor->size() * sizeof(float)));
  }
  v1::AttendRequest read;
  ASSERT_TRUE(read.ParseFromString(Flatten(writer.Finish(header))));
  EXPECT_EQ(read.request_id(), 7);
  ASSERT_EQ(read.items_size(), 3);
  ASSERT_EQ(read.tensor_data().size(), (3 + 5000 + 1) * sizeof(float));
  const char* data = read.tensor_data().data();
  EXPECT_EQ(LoadAsFloat(DType::kF32, data + read.items(1).q().offset_bytes(), 4999), 5000.0f);
  EXPECT_EQ(LoadAsFloat(DType::kF32, data + read.items(2).q().offset_bytes(), 0), 1.0f);
}

TEST(MessageWriterTest, AlignsEachTensor) {
  const std::string odd = "abc";
  MessageWriter writer;
  EXPECT_EQ(writer.Append(odd.data(), odd.size()), 0);
  EXPECT_EQ(writer.Append(odd.data(), odd.size()), 4);
  EXPECT_EQ(writer.tensor_bytes(), 7);
}

TEST(MessageWriterTest, BorrowsLargeTensorsAndCopiesSmallOnes) {
  const std::vector<float> large = Ramp(MessageWriter::kCopyUpToBytes), small = Ramp(4);
  MessageWriter writer;
  writer.Append(large.data(), large.size() * sizeof(float));
  writer.Append(small.data(), small.size() * sizeof(float));
  const OutgoingMessage message = writer.Finish(v1::AttendRequest());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(message.bytes().Dump(&slices).ok());
  ASSERT_EQ(slices.size(), 3);  // header, the large tensor, the small one
  EXPECT_EQ(static_cast<const void*>(slices[1].begin()), large.data());
  EXPECT_NE(static_cast<const void*>(slices[2].begin()), small.data());
}

TEST(BorrowGuardTest, ReportsOnlyWhenTheLastSliceIsGone) {
  ManualTimers timers;
  auto guard = std::make_shared<BorrowGuard>();
  const std::vector<float> memory = Ramp(100);
  bool returned = false;
  {
    grpc::Slice first = BorrowGuard::Lend(guard, memory.data(), 64);
    {
      // A second reference.
      // NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
      const grpc::Slice copy = first;
      guard->WhenReturned(timers, [&returned] { returned = true; });
    }
    timers.Advance(Duration(1));
    EXPECT_FALSE(returned);
  }
  EXPECT_FALSE(returned) << "ran inside gRPC";
  timers.Advance(Duration(1));
  EXPECT_TRUE(returned);
}

TEST(BorrowGuardTest, ReportsAtOnceWhereNothingIsLent) {
  ManualTimers timers;
  auto guard = std::make_shared<BorrowGuard>();
  { const grpc::Slice slice = BorrowGuard::Lend(guard, "x", 1); }
  bool returned = false;
  guard->WhenReturned(timers, [&returned] { returned = true; });
  EXPECT_TRUE(returned);
}

TEST(MessageReaderTest, ReadsAMessageCutAnywhere) {
  const std::vector<float> values = Ramp(40);
  const std::string bytes = SerializedResponse(values, 4);
  for (size_t at = 0; at <= bytes.size(); ++at) {
    MessageReader reader;
    v1::AttendResponse header;
    ASSERT_TRUE(reader.Parse(Cut(bytes, at), &header).ok()) << "cut at " << at;
    EXPECT_EQ(header.request_id(), 300);
    ASSERT_EQ(header.results_size(), 1);
    const auto view = reader.View(4, values.size() * sizeof(float), alignof(float));
    ASSERT_TRUE(view.ok());
    ASSERT_EQ(reinterpret_cast<uintptr_t>(*view) % alignof(float), 0);
    const auto* begin = static_cast<const float*>(*view);
    EXPECT_EQ(std::vector<float>(begin, begin + values.size()), values) << "cut at " << at;
    std::vector<float> copy(values.size());
    ASSERT_TRUE(reader.CopyTo(4, copy.size() * sizeof(float), copy.data()).ok());
    EXPECT_EQ(copy, values);
  }
}

TEST(MessageReaderTest, ViewsAContiguousTensorInPlace) {
  const std::vector<float> values = Ramp(1000);
  const std::string bytes = SerializedResponse(values, 0);
  const grpc::Slice slice(bytes);
  MessageReader reader;
  v1::AttendResponse header;
  ASSERT_TRUE(reader.Parse(grpc::ByteBuffer(&slice, 1), &header).ok());
  const auto view = reader.View(0, values.size() * sizeof(float), 1);
  ASSERT_TRUE(view.ok());
  EXPECT_GE(static_cast<const uint8_t*>(*view), slice.begin());
  EXPECT_LT(static_cast<const uint8_t*>(*view), slice.end());
}

TEST(MessageReaderTest, ViewsStayValidWhenTheReaderMoves) {
  const std::string bytes = SerializedResponse(Ramp(2), 0);  // short enough to live in a slice
  MessageReader reader;
  v1::AttendResponse header;
  ASSERT_TRUE(reader.Parse(Cut(bytes, 0), &header).ok());
  const auto view = reader.View(0, 8, alignof(float));
  ASSERT_TRUE(view.ok());
  const MessageReader moved = std::move(reader);
  EXPECT_EQ(static_cast<const float*>(*view)[1], 2.0f);
}

TEST(MessageReaderTest, RefusesATruncatedMessage) {
  const std::string bytes = SerializedResponse(Ramp(10), 0);
  for (size_t size = 1; size < bytes.size(); ++size) {
    const grpc::Slice slice(bytes.substr(0, size));
    MessageReader reader;
    v1::AttendResponse header;
    // A cut between two fields leaves a shorter message that is well formed.
    if (v1::AttendResponse().ParseFromString(bytes.substr(0, size))) continue;
    EXPECT_TRUE(absl::IsInternal(reader.Parse(grpc::ByteBuffer(&slice, 1), &header))) << size;
  }
}

TEST(MessageReaderTest, RefusesATensorOutsideItsData) {
  const std::string bytes = SerializedResponse(Ramp(4), 0);
  const grpc::Slice slice(bytes);
  MessageReader reader;
  v1::AttendResponse header;
  ASSERT_TRUE(reader.Parse(grpc::ByteBuffer(&slice, 1), &header).ok());
  EXPECT_TRUE(reader.View(0, 16, 4).ok());
  EXPECT_TRUE(absl::IsInternal(reader.View(0, 17, 4).status()));
  EXPECT_TRUE(absl::IsInternal(reader.View(UINT64_MAX, 2, 4).status()));
}

}  // namespace
}  // namespace attnd::client
