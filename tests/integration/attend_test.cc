// SPDX-License-Identifier: Apache-2.0
//
// Attend from a client to the CPU kernels and back: the numbers, and what the contract says of
// steps, reads and writes.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "tests/integration/daemon.h"
#include "tests/integration/reference_model.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

class AttendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    cache_ = client_.OpenCache();
    session_ = client_.NewSession();
  }

  v1::Id NewSequence() { return client_.NewSequence(session_, cache_); }

  InProcessDaemon daemon_;
  TestClient client_{daemon_.address()};
  v1::Id cache_;
  TestSession session_;
};

TEST_F(AttendTest, MixedRaggedBatchesOverAllLayersMatchTheReference) {
  const uint64_t seed = std::random_device()();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  const std::vector<v1::Id> sequences = {NewSequence(), NewSequence(), NewSequence()};
  const std::vector<std::vector<int64_t>> rows_of_rounds = {{7, 1, 18}, {1, 5, 1}, {1, 1, 1}};
  ReferenceModel model;
  std::vector<int64_t> lengths(sequences.size(), 0);
  for (size_t round = 0; round < rows_of_rounds.size(); ++round) {
    Batch batch(session_, seed + round);
    for (int layer = 0; layer < TestGeometry::kLayers; ++layer) {
      for (size_t s = 0; s < sequences.size(); ++s) {
        v1::AttendItem& item = batch.Add({.sequence = sequences[s],
                                          .layer = layer,
                                          .rows = rows_of_rounds[round][s],
                                          .step = round + 1,
                                          .start = lengths[s]});
        item.mutable_options()->set_return_lse(s == 1);
        if (s == 2) item.mutable_options()->set_window_left(5);
      }
    }
    const AttendReply reply = client_.Attend(batch.request());
    ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
    EXPECT_EQ(reply.response.request_id(), seed + round);
    model.Apply(batch);
    model.ExpectMatches(batch, reply.response);
    for (size_t s = 0; s < sequences.size(); ++s) {
      lengths[s] += rows_of_rounds[round][s];
      EXPECT_EQ(reply.response.results(static_cast<int>(s)).layer_length(), lengths[s]);
    }
  }
}

TEST_F(AttendTest, TensorsMayLieAnywhereInTensorData) {
  const v1::Id sequence = NewSequence();
  Batch batch(session_);
  v1::AttendItem& item = batch.Add({.sequence = sequence, .rows = 3});
  // Shifts all tensors off their alignment.
  batch.request().mutable_tensor_data()->insert(0, "abc");
  for (v1::Tensor* tensor : {item.mutable_q(), item.mutable_k(), item.mutable_v()}) {
    tensor->set_offset_bytes(tensor->offset_bytes() + 3);
  }
  const AttendReply reply = client_.Attend(batch.request());
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  ReferenceModel model;
  model.Apply(batch);
  model.ExpectMatches(batch, reply.response);
}

TEST_F(AttendTest, ARetryWithTheSameStepIsHarmless) {
  const v1::Id sequence = NewSequence();
  Batch prompt(session_, 1);
  prompt.Add({.sequence = sequence, .rows = 6, .step = 1});
  Batch next(session_, 2);
  next.Add({.sequence = sequence, .rows = 2, .step = 2, .start = 6});
  ASSERT_TRUE(client_.Attend(prompt.request()).status.ok());
  const AttendReply first = client_.Attend(next.request());
  ASSERT_TRUE(first.status.ok());
  EXPECT_FALSE(first.response.results(0).replayed());
  const std::string before = client_.StateOf(session_);

  const AttendReply again = client_.Attend(next.request());
  ASSERT_TRUE(again.status.ok());
  EXPECT_TRUE(again.response.results(0).replayed());
  EXPECT_EQ(again.response.tensor_data(), first.response.tensor_data());
  EXPECT_EQ(client_.StateOf(session_), before);
}

TEST_F(AttendTest, WritingBelowTheLengthReplacesRejectedTokens) {
  const v1::Id sequence = NewSequence();
  ReferenceModel model;
  const ItemSpec specs[] = {{.sequence = sequence, .rows = 9, .step = 1, .start = 0},
                            {.sequence = sequence, .rows = 2, .step = 2, .start = 5}};
  for (uint64_t i = 0; i < 2; ++i) {
    Batch batch(session_, i);
    batch.Add(specs[i]);
    const AttendReply reply = client_.Attend(batch.request());
    model.Apply(batch);
    model.ExpectMatches(batch, reply.response);
  }
  EXPECT_EQ(client_.Describe(session_, sequence).layer_lengths(0), 7);
}

TEST_F(AttendTest, WritesWithoutQueriesAndReadsWithoutKeys) {
  const v1::Id sequence = NewSequence();
  ReferenceModel model;
  Batch write(session_, 1);
  write.Add({.sequence = sequence, .rows = 11, .attend = false});
  const AttendReply written = client_.Attend(write.request());
  ASSERT_TRUE(written.status.ok()) << written.status.error_message();
  EXPECT_EQ(written.response.tensor_data().size(), 0u);
  EXPECT_EQ(written.response.results(0).layer_length(), 11);
  model.Apply(write);

  Batch read(session_, 2);
  read.Add({.sequence = sequence, .rows = 2, .start = 9, .write = false});
  const std::string before = client_.StateOf(session_);
  model.ExpectMatches(read, client_.Attend(read.request()).response);

  Batch prefix(session_, 3);
  v1::AttendItem& item = prefix.Add({.sequence = sequence, .rows = 2, .start = 9, .write = false});
  item.set_kv_length(4);
  model.ExpectMatches(prefix, client_.Attend(prefix.request()).response);
  EXPECT_EQ(client_.StateOf(session_), before);
}

TEST_F(AttendTest, NanAndInfinityAreDataLikeAnyOther) {
  const v1::Id sequence = NewSequence();
  Batch batch(session_);
  const v1::AttendItem& item = batch.Add({.sequence = sequence, .rows = 3});
  auto* data = reinterpret_cast<float*>(batch.request().mutable_tensor_data()->data());
  // A NaN in the query of row 1 alone, an infinity in the value of row 2.
  data[item.q().offset_bytes() / 4 + TestGeometry::kQueryHeads * TestGeometry::kDimK] =
      std::numeric_limits<float>::quiet_NaN();
  data[item.v().offset_bytes() / 4 + 2 * TestGeometry::kKvHeads * TestGeometry::kDimV] =
      std::numeric_limits<float>::infinity();
  const AttendReply reply = client_.Attend(batch.request());
  ASSERT_TRUE(reply.status.ok());
  ASSERT_EQ(reply.response.results(0).status().code(), 0);
  const std::vector<float> out =
      FloatsOf(reply.response.results(0).out(), reply.response.tensor_data());
  const size_t row = TestGeometry::kQueryHeads * TestGeometry::kDimV;
  for (size_t i = 0; i < row; ++i) EXPECT_TRUE(std::isfinite(out[i])) << i;
  EXPECT_TRUE(std::isnan(out[row]));
  EXPECT_TRUE(std::isfinite(out[2 * row - 1]));  // another head of row 1
  EXPECT_FALSE(std::isfinite(out[2 * row]));
  client_.StateOf(session_);  // sound
}

v1::FlashAttentionRequest FlashRequest(const std::vector<int64_t>& q, const std::vector<int64_t>& k,
                                       const std::vector<int64_t>& v, Batch::Tensors& tensors) {
  Batch batch(TestSession{}, 7);
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  v1::FlashAttentionRequest request;
  const auto append = [&](const std::vector<int64_t>& shape, std::vector<float>& values) {
    size_t count = 1;
    for (int64_t size : shape) count *= static_cast<size_t>(size);
    values.resize(count);
    for (float& value : values) value = normal(random);
    return batch.Append(v1::DTYPE_F32, shape, values.data(), count * sizeof(float));
  };
  *request.mutable_q() = append(q, tensors.q);
  *request.mutable_k() = append(k, tensors.k);
  *request.mutable_v() = append(v, tensors.v);
  request.mutable_options()->set_causal(true);
  request.mutable_options()->set_return_lse(true);
  request.set_tensor_data(batch.request().tensor_data());
  return request;
}

std::vector<float> Rows(const std::vector<float>& all, int64_t first, int64_t rows, int64_t width) {
  return {all.begin() + first * width, all.begin() + (first + rows) * width};
}

// LSE [heads, rows_of_all] of rows [first, first + rows), as the reference has it.
std::vector<float> LseRows(const std::vector<float>& lse, int64_t heads, int64_t stride,
                           int64_t first, int64_t rows) {
  std::vector<float> result;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t h = 0; h < heads; ++h) {
      result.push_back(lse[static_cast<size_t>(h * stride + first + r)]);
    }
  }
  return result;
}

TEST_F(AttendTest, DenseFlashAttentionMatchesTheReference) {
  constexpr int64_t kBatch = 3, kSq = 5, kSk = 9, kHq = 4, kHkv = 2, kDk = 32, kDv = 16;
  Batch::Tensors tensors;
  const v1::FlashAttentionRequest request = FlashRequest(
      {kBatch, kSq, kHq, kDk}, {kBatch, kSk, kHkv, kDk}, {kBatch, kSk, kHkv, kDv}, tensors);
  const auto reply = client_.Flash(request);
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  const std::vector<float> out = FloatsOf(reply.response.out(), reply.response.tensor_data());
  const std::vector<float> lse = FloatsOf(reply.response.lse(), reply.response.tensor_data());
  EXPECT_EQ(reply.response.lse().shape(0), kBatch);
  for (int64_t b = 0; b < kBatch; ++b) {
    std::vector<double> expected, expected_lse;
    DenseProblem problem{kHq, kHkv, kDk, kDv, kSq, kSk, kSk - kSq, {}};
    problem.options.causal = true;
    DenseReference(problem, Rows(tensors.q, b * kSq, kSq, kHq * kDk),
                   Rows(tensors.k, b * kSk, kSk, kHkv * kDk),
                   Rows(tensors.v, b * kSk, kSk, kHkv * kDv), expected, expected_lse);
    ExpectClose(Rows(out, b * kSq, kSq, kHq * kDv), expected, "out");
    const std::vector<float> own = Rows(lse, b, 1, kHq * kSq);
    ExpectClose(LseRows(own, kHq, kSq, 0, kSq), expected_lse, "lse");
  }
}

TEST_F(AttendTest, RaggedFlashAttentionMatchesTheReference) {
  constexpr int64_t kHq = 4, kHkv = 2, kDk = 32, kDv = 16;
  const std::vector<int64_t> cu_q = {0, 3, 3, 8}, cu_k = {0, 3, 5, 12};
  Batch::Tensors tensors;
  v1::FlashAttentionRequest request = FlashRequest(
      {cu_q.back(), kHq, kDk}, {cu_k.back(), kHkv, kDk}, {cu_k.back(), kHkv, kDv}, tensors);
  request.mutable_cu_seqlens_q()->Add(cu_q.begin(), cu_q.end());
  request.mutable_cu_seqlens_k()->Add(cu_k.begin(), cu_k.end());
  const auto reply = client_.Flash(request);
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  const std::vector<float> out = FloatsOf(reply.response.out(), reply.response.tensor_data());
  const std::vector<float> lse = FloatsOf(reply.response.lse(), reply.response.tensor_data());
  for (size_t b = 0; b + 1 < cu_q.size(); ++b) {
    const int64_t rows = cu_q[b + 1] - cu_q[b], keys = cu_k[b + 1] - cu_k[b];
    if (rows == 0) continue;
    std::vector<double> expected, expected_lse;
    DenseProblem problem{kHq, kHkv, kDk, kDv, rows, keys, keys - rows, {}};
    problem.options.causal = true;
    DenseReference(problem, Rows(tensors.q, cu_q[b], rows, kHq * kDk),
                   Rows(tensors.k, cu_k[b], keys, kHkv * kDk),
                   Rows(tensors.v, cu_k[b], keys, kHkv * kDv), expected, expected_lse);
    ExpectClose(Rows(out, cu_q[b], rows, kHq * kDv), expected, "out");
    ExpectClose(LseRows(lse, kHq, cu_q.back(), cu_q[b], rows), expected_lse, "lse");
  }
}

}  // namespace
}  // namespace attnd
