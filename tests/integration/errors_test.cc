// SPDX-License-Identifier: Apache-2.0
//
// Bad input, one case a line: its code, what the message says, and that nothing changed. Items fail
// one by one: in each batch of this file a second, good item goes on where only the first is bad.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

// A bad request: changes a batch of two good items, the first of which is `item`.
struct BadRequest {
  const char* name;
  std::function<void(v1::AttendRequest& request, v1::AttendItem& item)> change;
  Code code;
  const char* message;
};

void PrintTo(const BadRequest& bad, std::ostream* out) { *out << bad.name; }

void SetShape(v1::Tensor& tensor, const std::vector<int64_t>& shape) {
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
}

class Daemon : public ::testing::Test {
 protected:
  void SetUp() override {
    cache_ = client_.OpenCache();
    session_ = client_.NewSession();
    bad_ = client_.NewSequence(session_, cache_);
    good_ = client_.NewSequence(session_, cache_);
    // Both hold five tokens by step 3.
    Batch prompt(session_);
    for (const v1::Id& sequence : {bad_, good_}) {
      prompt.Add({.sequence = sequence, .rows = 5, .step = 3});
    }
    ASSERT_TRUE(client_.Attend(prompt.request()).status.ok());
  }

  // Two items that would be fine, the first for the sequence whose item a test spoils.
  Batch GoodBatch() {
    Batch batch(session_);
    batch.Add({.sequence = bad_, .rows = 2, .step = 4, .start = 5});
    batch.Add({.sequence = good_, .layer = 1, .rows = 3, .step = 1, .start = 0});
    return batch;
  }

  InProcessDaemon daemon_;
  TestClient client_{daemon_.address()};
  v1::Id cache_, bad_, good_;
  TestSession session_;
};

// ---------------------------------------------------------------- items that fail by themselves

class BadItemTest : public Daemon, public ::testing::WithParamInterface<BadRequest> {};

TEST_P(BadItemTest, FailsAloneAndChangesNothing) {
  const BadRequest& bad = GetParam();
  Batch batch = GoodBatch();
  bad.change(batch.request(), *batch.request().mutable_items(0));
  const std::string before = client_.Describe(session_, bad_).ShortDebugString();
  const AttendReply reply = client_.Attend(batch.request());
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  ASSERT_EQ(reply.response.results_size(), 2);
  const v1::ItemStatus& status = reply.response.results(0).status();
  EXPECT_EQ(status.code(), bad.code) << status.message();
  EXPECT_THAT(status.message(), HasSubstr(bad.message));
  EXPECT_FALSE(reply.response.results(0).has_out());
  EXPECT_EQ(client_.Describe(session_, bad_).ShortDebugString(), before);
  // The other one went on.
  EXPECT_EQ(reply.response.results(1).status().code(), Code::OK)
      << reply.response.results(1).status().message();
  EXPECT_EQ(client_.Describe(session_, good_).layer_lengths(1), 3);
  client_.StateOf(session_);  // sound
}

constexpr int64_t kHuge = int64_t{1} << 40;

INSTANTIATE_TEST_SUITE_P(
    All, BadItemTest,
    ::testing::Values(
        BadRequest{"ShapeAndBytesDisagree",
                   [](auto& r, auto& i) {
                     i.mutable_q()->set_offset_bytes(r.tensor_data().size() - 1020);
                   },
                   Code::INVALID_ARGUMENT, "items[0].q: 1024 bytes at offset"},
        BadRequest{"WrongShape",
                   [](auto&, auto& i) { SetShape(*i.mutable_k(), {2, 8, 64}); },
                   Code::INVALID_ARGUMENT,
                   "items[0].k: shape [2, 8, 64], expected [2, 2, 32] (n, num_kv_heads, "
                   "head_dim_k)"},
        BadRequest{"RowsOfKAndQDiffer",
                   [](auto&, auto& i) { SetShape(*i.mutable_v(), {3, 2, 16}); },
                   Code::INVALID_ARGUMENT, "items[0].v: shape [3, 2, 16], expected [2, 2, 16]"},
        BadRequest{"DimsOverflow64Bits",
                   [](auto&, auto& i) { SetShape(*i.mutable_q(), {kHuge, kHuge, 32}); },
                   Code::INVALID_ARGUMENT, "items[0].q: shape [1099511627776, 1099511627776, 32]: "
                                           "its size in bytes exceeds 64 bits"},
        BadRequest{"DimsOverflowToTheRightNumberOfBytes",
                   [](auto&, auto& i) { SetShape(*i.mutable_q(), {2, int64_t{1} << 62, 4}); },
                   Code::INVALID_ARGUMENT, "exceeds 64 bits"},
        BadRequest{"ZeroSize", [](auto&, auto& i) { SetShape(*i.mutable_q(), {0, 4, 32}); },
                   Code::INVALID_ARGUMENT, "items[0].q: shape [0, 4, 32] has a size of 0"},
        BadRequest{"NegativeSize", [](auto&, auto& i) { SetShape(*i.mutable_k(), {2, -2, 32}); },
                   Code::INVALID_ARGUMENT, "items[0].k: shape [2, -2, 32] has a size of -2"},
        BadRequest{"WrongRank", [](auto&, auto& i) { SetShape(*i.mutable_q(), {2, 128}); },
                   Code::INVALID_ARGUMENT, "items[0].q: shape [2, 128] has 2 dimensions"},
        BadRequest{"OffsetOverflows",
                   [](auto&, auto& i) { i.mutable_q()->set_offset_bytes(UINT64_MAX - 3); },
                   Code::INVALID_ARGUMENT, "do not lie inside tensor_data"},
        BadRequest{"DTypesDisagree",
                   [](auto&, auto& i) { i.mutable_v()->set_dtype(v1::DTYPE_F16); },
                   Code::INVALID_ARGUMENT, "items[0].v: dtype f16 (2), expected f32"},
        BadRequest{"NoDType", [](auto&, auto& i) { i.mutable_q()->clear_dtype(); },
                   Code::INVALID_ARGUMENT, "items[0].q: dtype unspecified (0), expected f32, f16"},
        BadRequest{"LayerOutOfRange", [](auto&, auto& i) { i.set_layer(3); },
                   Code::INVALID_ARGUMENT, "items[0].layer: 3, expected 0 to 2"},
        BadRequest{"NegativeLayer", [](auto&, auto& i) { i.set_layer(-1); },
                   Code::INVALID_ARGUMENT, "items[0].layer: -1, expected 0 to 2"},
        BadRequest{"Hole", [](auto&, auto& i) { i.set_start_position(6); },
                   Code::FAILED_PRECONDITION, "6"},
        BadRequest{"NegativeStart", [](auto&, auto& i) { i.set_start_position(-1); },
                   Code::INVALID_ARGUMENT, "items[0].start_position: -1"},
        BadRequest{"StartOverflows", [](auto&, auto& i) { i.set_start_position(INT64_MAX); },
                   Code::INVALID_ARGUMENT, "items[0].start_position: 9223372036854775807"},
        BadRequest{"WriteWithoutStep", [](auto&, auto& i) { i.set_step(0); },
                   Code::INVALID_ARGUMENT, "items[0].step: 0, expected at least 1"},
        BadRequest{"LowerStep", [](auto&, auto& i) { i.set_step(2); }, Code::ABORTED, "2"},
        BadRequest{"NeitherQueriesNorKeys",
                   [](auto&, auto& i) {
                     i.clear_q();
                     i.clear_k();
                     i.clear_v();
                   },
                   Code::INVALID_ARGUMENT, "items[0]: has neither q nor k and v"},
        BadRequest{"KeysWithoutValues", [](auto&, auto& i) { i.clear_v(); },
                   Code::INVALID_ARGUMENT, "items[0].v: is missing"},
        BadRequest{"ReadBeyondTheLength",
                   [](auto&, auto& i) {
                     i.clear_k();
                     i.clear_v();
                   },
                   Code::FAILED_PRECONDITION, "7"},
        BadRequest{"KvLengthOfAWrite", [](auto&, auto& i) { i.set_kv_length(3); },
                   Code::INVALID_ARGUMENT, "items[0].kv_length: is for reads only"},
        BadRequest{"KvLengthBeyondTheLength",
                   [](auto&, auto& i) {
                     i.clear_k();
                     i.clear_v();
                     i.set_kv_length(6);
                   },
                   Code::FAILED_PRECONDITION, "6"},
        BadRequest{"NoSequence", [](auto&, auto& i) { i.clear_sequence(); },
                   Code::INVALID_ARGUMENT, "items[0].sequence: is missing"},
        BadRequest{"UnknownSequence",
                   [](auto&, auto& i) { i.mutable_sequence()->set_handle(99 | uint64_t{1} << 32); },
                   Code::NOT_FOUND, "sequence"},
        BadRequest{"OtherBoot",
                   [](auto&, auto& i) {
                     i.mutable_sequence()->set_boot(i.sequence().boot() + 1);
                   },
                   Code::NOT_FOUND, "sequence"},
        BadRequest{"NegativeSoftcap",
                   [](auto&, auto& i) { i.mutable_options()->set_softcap(-1); },
                   Code::INVALID_ARGUMENT, "items[0].options.softcap: -1"},
        BadRequest{"InfiniteScale",
                   [](auto&, auto& i) { i.mutable_options()->set_softmax_scale(INFINITY); },
                   Code::INVALID_ARGUMENT, "items[0].options.softmax_scale: inf"},
        BadRequest{"NegativeWindow",
                   [](auto&, auto& i) { i.mutable_options()->set_window_left(-1); },
                   Code::INVALID_ARGUMENT, "items[0].options.window_left: -1"},
        BadRequest{"DropoutOfOne",
                   [](auto&, auto& i) {
                     i.mutable_options()->mutable_dropout()->set_probability(1);
                   },
                   Code::INVALID_ARGUMENT, "items[0].options.dropout.probability: 1"},
        BadRequest{"DropoutNan",
                   [](auto&, auto& i) {
                     i.mutable_options()->mutable_dropout()->set_probability(NAN);
                   },
                   Code::INVALID_ARGUMENT, "expected a number in [0, 1)"},
        BadRequest{"AlibiOfAnotherShape",
                   [](auto&, auto& i) {
                     v1::Tensor& slopes = *i.mutable_options()->mutable_alibi_slopes();
                     slopes.set_dtype(v1::DTYPE_F32);
                     slopes.add_shape(3);
                   },
                   Code::INVALID_ARGUMENT,
                   "items[0].options.alibi_slopes: shape [3], expected [4] (num_query_heads)"},
        BadRequest{"TreeMaskOfAnotherShape",
                   [](auto&, auto& i) {
                     v1::Tensor& mask = *i.mutable_options()->mutable_tree_mask();
                     mask.set_dtype(v1::DTYPE_U8);
                     mask.add_shape(2);
                     mask.add_shape(2);
                   },
                   Code::INVALID_ARGUMENT,
                   "items[0].options.tree_mask: shape [2, 2], expected [2, 1]"}),
    [](const auto& info) { return std::string(info.param.name); });

// ---------------------------------------------------------------- requests that fail as a whole

class BadCallTest : public Daemon, public ::testing::WithParamInterface<BadRequest> {};

TEST_P(BadCallTest, FailsAsAWholeAndChangesNothing) {
  const BadRequest& bad = GetParam();
  Batch batch = GoodBatch();
  bad.change(batch.request(), *batch.request().mutable_items(0));
  const std::string before = client_.StateOf(session_);
  const AttendReply reply = client_.Attend(batch.request());
  EXPECT_EQ(reply.status.error_code(), bad.code) << reply.status.error_message();
  EXPECT_THAT(reply.status.error_message(), HasSubstr(bad.message));
  EXPECT_TRUE(reply.has_detail);
  EXPECT_EQ(client_.StateOf(session_), before);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadCallTest,
    ::testing::Values(
        BadRequest{"NoSession", [](auto& r, auto&) { r.clear_session(); }, Code::INVALID_ARGUMENT,
                   "session is missing"},
        BadRequest{"UnknownSession",
                   [](auto& r, auto&) { r.mutable_session()->set_handle(uint64_t{7} << 32); },
                   Code::NOT_FOUND, "session"},
        BadRequest{"EpochNeverGivenOut", [](auto& r, auto&) { r.set_epoch(2); },
                   Code::INVALID_ARGUMENT, "epoch 2"},
        BadRequest{"EmptyBatch", [](auto& r, auto&) { r.clear_items(); }, Code::INVALID_ARGUMENT,
                   "the batch has no items"},
        BadRequest{"SameSequenceAndLayerTwice",
                   [](auto& r, auto& i) {
                     *r.mutable_items(1)->mutable_sequence() = i.sequence();
                     r.mutable_items(1)->set_layer(i.layer());
                   },
                   Code::INVALID_ARGUMENT, "items[1]: the same sequence and layer as items[0]"},
        BadRequest{"TooManyItems",
                   [](auto& r, auto& i) {
                     for (int n = 0; n < 8192; ++n) *r.add_items() = i;
                   },
                   Code::INVALID_ARGUMENT, "more than 8192 items"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(Daemon, EveryTruncationOfARequestIsRefused) {
  Batch batch = GoodBatch();
  const std::string whole = batch.request().SerializeAsString();
  const std::string before = client_.StateOf(session_);
  // Field 15 comes last, so that a shorter message never is a whole one.
  const size_t header = whole.size() - batch.request().tensor_data().size();
  std::vector<size_t> lengths;
  for (size_t n = 0; n < header; n += 3) lengths.push_back(n);
  lengths.push_back(whole.size() - 1);
  for (size_t length : lengths) {
    const AttendReply reply = client_.AttendRaw(whole.substr(0, length));
    // A cut between two items leaves a shorter, well-formed request, whose tensors are missing.
    if (reply.status.ok()) {
      for (const v1::ItemResult& result : reply.response.results()) {
        EXPECT_EQ(result.status().code(), Code::INVALID_ARGUMENT) << length;
      }
    } else {
      EXPECT_EQ(reply.status.error_code(), Code::INVALID_ARGUMENT)
          << length << ": " << reply.status.error_message();
      EXPECT_TRUE(reply.has_detail);
    }
  }
  EXPECT_EQ(client_.StateOf(session_), before);
}

TEST_F(Daemon, AStaleGenerationIsNotFound) {
  Batch batch(session_);
  batch.Add({.sequence = bad_, .rows = 1, .step = 4, .start = 5});
  ASSERT_TRUE(client_.Free(session_, bad_).ok());
  const v1::Id reborn = client_.NewSequence(session_, cache_);
  ASSERT_EQ(static_cast<uint32_t>(reborn.handle()), static_cast<uint32_t>(bad_.handle()))
      << "the slot is reused";
  const std::string before = client_.StateOf(session_);
  const AttendReply reply = client_.Attend(batch.request());
  ASSERT_TRUE(reply.status.ok());
  EXPECT_EQ(reply.response.results(0).status().code(), Code::NOT_FOUND);
  EXPECT_EQ(client_.StateOf(session_), before);
  const grpc::Status freed = client_.Free(session_, bad_);
  EXPECT_EQ(freed.error_code(), Code::NOT_FOUND);
  EXPECT_EQ(DetailOf(freed)->reason(), v1::ErrorDetail::STALE_ID);
}

TEST_F(Daemon, ASequenceOfAnotherSessionIsNotFound) {
  const TestSession stranger = client_.NewSession();
  const std::string before = client_.StateOf(session_);
  Batch batch(stranger);
  batch.Add({.sequence = bad_, .rows = 1, .step = 4, .start = 5});
  const AttendReply reply = client_.Attend(batch.request());
  ASSERT_TRUE(reply.status.ok());
  EXPECT_EQ(reply.response.results(0).status().code(), Code::NOT_FOUND);
  EXPECT_EQ(client_.Truncate(stranger, bad_, 0).error_code(), Code::NOT_FOUND);
  EXPECT_EQ(client_.Free(stranger, bad_).error_code(), Code::NOT_FOUND);
  EXPECT_EQ(client_.StateOf(session_), before);
}

}  // namespace
}  // namespace attnd
