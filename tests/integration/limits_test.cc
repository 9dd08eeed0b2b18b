// SPDX-License-Identifier: Apache-2.0
//
// What runs out: pages in the middle of a batch, the message limit, the queue, kernels for a
// geometry. Each error says what it is by its details.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

TEST(LimitsTest, PagesRunOutInTheMiddleOfABatch) {
  InProcessDaemon daemon;
  TestClient client(daemon.address());
  // Five pages of four tokens: enough for the first two sequences, not for the third.
  const v1::Id cache = client.OpenCache("small", /*page_quota=*/5);
  const TestSession session = client.NewSession();
  Batch batch(session);
  std::vector<v1::Id> sequences;
  for (int i = 0; i < 3; ++i) {
    sequences.push_back(client.NewSequence(session, cache));
    batch.Add({.sequence = sequences.back(), .rows = 8});
  }
  const AttendReply reply = client.Attend(batch.request());
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_EQ(reply.response.results(0).status().code(), Code::OK);
  EXPECT_EQ(reply.response.results(1).status().code(), Code::OK);
  EXPECT_EQ(reply.response.results(2).status().code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_EQ(reply.response.results(2).status().detail().reason(), v1::ErrorDetail::PAGES_EXHAUSTED);
  EXPECT_GT(reply.response.results(2).status().detail().needed_pages(), 0);
  EXPECT_THAT(reply.response.results(2).status().message(), HasSubstr("needs 2 pages and 1 are"));
  const v1::ErrorDetail& detail = reply.response.results(2).status().detail();
  EXPECT_EQ(detail.reason(), v1::ErrorDetail::PAGES_EXHAUSTED);
  EXPECT_EQ(detail.needed_pages(), 2);
  EXPECT_EQ(detail.free_pages(), 1);
  EXPECT_EQ(client.Describe(session, sequences[2]).layer_lengths(0), 0);
  EXPECT_EQ(client.Describe(session, sequences[2]).pages(), 0);
  client.StateOf(session);

  // After freeing, the same step goes through.
  ASSERT_TRUE(client.Free(session, sequences[0]).ok());
  Batch again(session);
  again.Add({.sequence = sequences[2], .rows = 8});
  EXPECT_EQ(client.Attend(again.request()).response.results(0).status().code(), Code::OK);
}

TEST(LimitsTest, AMessageOverOurLimitSaysSoInItsDetails) {
  InProcessDaemon daemon([](Options& options) { options.max_tensor_bytes = Bytes(64u << 10); });
  TestClient client(daemon.address());
  Options options;
  options.max_tensor_bytes = Bytes(64u << 10);
  const uint64_t limit = options.max_message_bytes().value();
  const TestSession session = client.NewSession();
  const std::string before = client.StateOf(session);
  Batch batch(session);
  batch.Add({.sequence = client.NewSequence(session, client.OpenCache())});
  batch.request().mutable_tensor_data()->resize(limit);
  const AttendReply reply = client.Attend(batch.request());
  EXPECT_EQ(reply.status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_EQ(reply.detail.reason(), v1::ErrorDetail::MESSAGE_TOO_LARGE);
  EXPECT_EQ(reply.detail.limit_bytes(), limit);

  // Far beyond it gRPC refuses before anyone can look: the same code, and no details at all.
  batch.request().mutable_tensor_data()->resize(2 * limit + 1);
  const AttendReply by_grpc = client.Attend(batch.request());
  EXPECT_EQ(by_grpc.status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(by_grpc.has_detail);
  EXPECT_EQ(client.Stats().items_total(), 0u);
}

TEST(LimitsTest, CompressedMessagesAreRefused) {
  InProcessDaemon daemon;
  TestClient client(daemon.address());
  const TestSession session = client.NewSession();
  Batch batch(session);
  batch.Add({.sequence = client.NewSequence(session, client.OpenCache())});
  // Megabytes of zeros, which would be kilobytes on the wire.
  batch.request().mutable_tensor_data()->resize(6u << 20);
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::AttendResponse response;
  const grpc::Status status = client.attention->Attend(&context, batch.request(), &response);
  EXPECT_EQ(status.error_code(), Code::UNIMPLEMENTED) << status.error_message();
}

TEST(LimitsTest, TooManyTokensInARequest) {
  InProcessDaemon daemon([](Options& options) { options.max_tokens_per_request = 10; });
  TestClient client(daemon.address());
  const TestSession session = client.NewSession();
  const v1::Id cache = client.OpenCache();
  Batch batch(session);
  for (int i = 0; i < 2; ++i) {
    batch.Add({.sequence = client.NewSequence(session, cache), .rows = 6});
  }
  const std::string before = client.StateOf(session);
  const AttendReply reply = client.Attend(batch.request());
  EXPECT_EQ(reply.status.error_code(), Code::INVALID_ARGUMENT);
  EXPECT_THAT(reply.status.error_message(), HasSubstr("more than 10 tokens"));
  EXPECT_EQ(client.StateOf(session), before);
}

TEST(LimitsTest, AFullQueueIsUnavailableWithADelay) {
  FakePlatform platform(FakePlatform::Completion::kManual);
  InProcessDaemon daemon(platform, [](Options& options) { options.max_queued_requests = 1; });
  TestClient client(daemon.address());
  const TestSession session = client.NewSession();
  const v1::Id sequence = client.NewSequence(session, client.OpenCache());
  Batch first(session);
  first.Add({.sequence = sequence});
  PendingAttend pending = client.StartAttend(first.request());
  platform.WaitForLaunches(1);

  Batch second(session);
  second.Add({.sequence = sequence, .layer = 1});
  const AttendReply refused = client.Attend(second.request());
  EXPECT_EQ(refused.status.error_code(), Code::UNAVAILABLE);
  EXPECT_EQ(refused.detail.reason(), v1::ErrorDetail::QUEUE_FULL);
  EXPECT_GT(refused.detail.retry_delay_ms(), 0);
  EXPECT_EQ(refused.trailers.count("grpc-retry-pushback-ms"), 1u);

  platform.CompleteAll();
  EXPECT_TRUE(pending.status.get().ok());
  EXPECT_EQ(client.Attend(second.request()).response.results(0).status().code(), Code::OK);
}

TEST(LimitsTest, GeometriesThatCannotBe) {
  InProcessDaemon daemon;
  TestClient client(daemon.address());
  const auto open = [&](const std::function<void(v1::CacheGeometry&)>& change) {
    grpc::ClientContext context;
    v1::OpenCacheRequest request;
    v1::OpenCacheResponse response;
    request.set_name("model");
    *request.mutable_geometry() = TestGeometry::Proto();
    change(*request.mutable_geometry());
    return client.caches->OpenCache(&context, request, &response);
  };
  EXPECT_TRUE(open([](auto&) {}).ok());
  const grpc::Status heads = open([](auto& g) { g.set_num_query_heads(5); });
  EXPECT_EQ(heads.error_code(), Code::INVALID_ARGUMENT);
  EXPECT_THAT(heads.error_message(), HasSubstr("num_query_heads"));
  EXPECT_EQ(open([](auto& g) { g.set_head_dim_k(257); }).error_code(), Code::INVALID_ARGUMENT);
  EXPECT_EQ(open([](auto& g) { g.set_num_layers(0); }).error_code(), Code::INVALID_ARGUMENT);
  EXPECT_EQ(open([](auto& g) { g.set_num_layers(-1); }).error_code(), Code::INVALID_ARGUMENT);
  EXPECT_EQ(open([](auto& g) { g.set_kv_dtype(v1::DTYPE_U8); }).error_code(),
            Code::INVALID_ARGUMENT);
  const grpc::Status differs = open([](auto& g) { g.set_page_size_tokens(8); });
  EXPECT_EQ(differs.error_code(), Code::FAILED_PRECONDITION);
  EXPECT_THAT(differs.error_message(), HasSubstr("page_size"));
}

TEST(LimitsTest, WhatNoKernelSupportsIsNamed) {
  InProcessDaemon daemon;
  TestClient client(daemon.address());
  v1::FlashAttentionRequest request;
  for (v1::Tensor* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    tensor->set_dtype(v1::DTYPE_F32);
    for (int64_t size : {1, 1, 1, 300}) tensor->add_shape(size);
  }
  request.set_tensor_data(std::string(300 * 4, '\0'));
  const auto reply = client.Flash(request);
  EXPECT_EQ(reply.status.error_code(), Code::UNIMPLEMENTED);
  EXPECT_EQ(reply.detail.reason(), v1::ErrorDetail::CAPABILITY_MISSING);
  EXPECT_THAT(reply.status.error_message(), HasSubstr("300"));

  request.mutable_k()->set_shape(2, 2);
  const auto heads = client.Flash(request);
  EXPECT_EQ(heads.status.error_code(), Code::INVALID_ARGUMENT);
  EXPECT_THAT(heads.status.error_message(), HasSubstr("not a multiple of num_kv_heads 2"));
}

TEST(LimitsTest, AFailedDeviceIsFencedAndHealthSaysSo) {
  FakePlatform platform;
  InProcessDaemon daemon(platform);
  TestClient client(daemon.address());
  const TestSession session = client.NewSession();
  const v1::Id sequence = client.NewSequence(session, client.OpenCache());
  platform.FailLaunch(absl::InternalError("the device caught fire"));
  Batch batch(session);
  batch.Add({.sequence = sequence});
  // What was launched failed; what comes after finds its sequence gone.
  for (const Code code : {Code::INTERNAL, Code::DATA_LOSS}) {
    const AttendReply reply = client.Attend(batch.request());
    ASSERT_TRUE(reply.status.ok());
    EXPECT_EQ(reply.response.results(0).status().code(), code);
    EXPECT_THAT(reply.response.results(0).status().message(), HasSubstr("the device caught fire"));
    platform.FailLaunch(absl::OkStatus());  // it stays fenced
  }
}

}  // namespace
}  // namespace attnd
