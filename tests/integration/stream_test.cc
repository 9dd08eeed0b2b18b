// SPDX-License-Identifier: Apache-2.0
//
// AttendStream: many requests in flight, answers in order of completion, refusals that leave the
// stream alive, and its end from either side.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <thread>

#include "tests/integration/daemon.h"
#include "tests/integration/reference_model.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using Code = grpc::StatusCode;
using Stream = grpc::ClientReaderWriter<v1::AttendRequest, v1::AttendResponse>;

TEST(StreamTest, ManyRequestsInFlightAllComeBackRight) {
  constexpr uint64_t kRequests = 300;  // more than may be in flight
  InProcessDaemon daemon([](Options& options) { options.max_stream_requests = 8; });
  TestClient client(daemon.address());
  const v1::Id cache = client.OpenCache();
  const TestSession session = client.NewSession();
  std::vector<v1::Id> sequences;
  sequences.reserve(10);
  for (int i = 0; i < 10; ++i) sequences.push_back(client.NewSequence(session, cache));

  // Request r adds one token to one sequence; each sequence gets them in order.
  std::map<uint64_t, Batch> batches;
  for (uint64_t r = 1; r <= kRequests; ++r) {
    const uint64_t turn = (r - 1) / sequences.size();
    Batch& batch = batches.emplace(r, Batch(session, r)).first->second;
    batch.Add({.sequence = sequences[(r - 1) % sequences.size()],
               .step = turn + 1,
               .start = static_cast<int64_t>(turn)});
  }
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = client.attention->AttendStream(&context);
  std::thread writer([&] {
    for (auto& [id, batch] : batches) {
      if (!stream->Write(batch.request())) break;
    }
    stream->WritesDone();
  });
  std::map<uint64_t, v1::AttendResponse> responses;
  for (v1::AttendResponse response; stream->Read(&response);) {
    responses[response.request_id()] = response;
  }
  writer.join();
  const grpc::Status status = stream->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(responses.size(), kRequests);
  ReferenceModel model;
  for (auto& [id, batch] : batches) {
    model.Apply(batch);
    model.ExpectMatches(batch, responses[id]);
  }
  client.StateOf(session);
}

TEST(StreamTest, AnswersComeInOrderOfCompletion) {
  FakePlatform platform(FakePlatform::Completion::kManual);
  InProcessDaemon daemon(platform);
  TestClient client(daemon.address());
  const v1::Id cache = client.OpenCache();
  const TestSession session = client.NewSession();
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = client.attention->AttendStream(&context);
  Batch slow(session, 1), refused(session, 2);
  slow.Add({.sequence = client.NewSequence(session, cache)});
  ASSERT_TRUE(stream->Write(slow.request()));
  platform.WaitForLaunches(1);
  ASSERT_TRUE(stream->Write(refused.request()));  // has no items
  v1::AttendResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.request_id(), 2u);
  EXPECT_EQ(response.status().code(), Code::INVALID_ARGUMENT);
  platform.CompleteAll();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.request_id(), 1u);
  EXPECT_FALSE(response.has_status());
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(StreamTest, ARefusedRequestLeavesTheStreamAlive) {
  InProcessDaemon daemon;
  TestClient client(daemon.address());
  const v1::Id cache = client.OpenCache();
  const TestSession session = client.NewSession();
  const v1::Id sequence = client.NewSequence(session, cache);
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = client.attention->AttendStream(&context);
  TestSession stale = session;
  stale.id.set_boot(1);
  Batch bad(stale, 1), good(session, 2);
  bad.Add({.sequence = sequence});
  good.Add({.sequence = sequence});
  v1::AttendResponse response;
  ASSERT_TRUE(stream->Write(bad.request()));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.request_id(), 1u);
  EXPECT_EQ(response.status().code(), Code::NOT_FOUND);
  EXPECT_EQ(response.status().detail().reason(), v1::ErrorDetail::STALE_ID);
  ASSERT_TRUE(stream->Write(good.request()));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.results(0).status().code(), Code::OK);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(StreamTest, CancellingTheStreamEndsWhatIsQueued) {
  FakePlatform platform(FakePlatform::Completion::kManual);
  InProcessDaemon daemon(platform);
  TestClient client(daemon.address());
  const v1::Id cache = client.OpenCache();
  const TestSession session = client.NewSession();
  std::vector<v1::Id> sequences;
  sequences.reserve(3);
  for (int i = 0; i < 3; ++i) sequences.push_back(client.NewSequence(session, cache));
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = client.attention->AttendStream(&context);
  for (uint64_t i = 0; i < 3; ++i) {
    Batch batch(session, i);
    batch.Add({.sequence = sequences[i]});
    ASSERT_TRUE(stream->Write(batch.request()));
    if (i < 2) platform.WaitForLaunches(static_cast<int64_t>(i) + 1);
  }
  while (client.Stats().queued_items() != 1) {
  }
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), Code::CANCELLED);
  while (client.Stats().queued_items() != 0) {
  }
  platform.CompleteAll();
  // The launched ones ran to their end, the queued one never began.
  while (client.Describe(session, sequences[1]).layer_lengths(0) != 1) {
  }
  EXPECT_EQ(client.Describe(session, sequences[2]).layer_lengths(0), 0);
  client.StateOf(session);
}

TEST(StreamTest, AnIdleStreamDoesNotKeepTheDaemonFromEnding) {
  InProcessDaemon daemon;
  TestClient client(daemon.address());
  client.Stats();
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = client.attention->AttendStream(&context);
  daemon.Stop();
  v1::AttendResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_FALSE(stream->Finish().ok());
}

}  // namespace
}  // namespace attnd
