// SPDX-License-Identifier: Apache-2.0
//
// Prefixes by content keys, from client to kernels and back: what is not computed again, that the
// bits are the same, who may share, and what goes when pages run out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <future>
#include <random>
#include <string>
#include <vector>

#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

constexpr int kPage = TestGeometry::kPageSize;
constexpr int kLayers = TestGeometry::kLayers;

// The service's messages, by a session. Statuses are kept for what must be refused.
class PrefixClient : public TestClient {
 public:
  using TestClient::TestClient;

  TestSession NewTenant(const std::string& tenant) {
    grpc::ClientContext context;
    v1::OpenSessionRequest request;
    v1::OpenSessionResponse response;
    request.set_tenant(tenant);
    status = sessions->OpenSession(&context, request, &response);
    return {.id = response.session(), .epoch = response.epoch(), .token = response.token()};
  }

  v1::CreateSequenceResponse Create(const TestSession& session, const v1::Id& cache,
                                    const std::vector<std::string>& keys, int64_t num_tokens) {
    v1::CreateSequenceRequest request;
    v1::CreateSequenceResponse response;
    *request.mutable_session() = session.id;
    request.set_epoch(session.epoch);
    *request.mutable_cache() = cache;
    request.mutable_prefix()->mutable_keys()->Add(keys.begin(), keys.end());
    request.mutable_prefix()->set_num_tokens(num_tokens);
    grpc::ClientContext context;
    status = sequences->CreateSequence(&context, request, &response);
    return response;
  }

  v1::PublishPrefixResponse Publish(const TestSession& session, const v1::Id& sequence,
                                    const std::vector<std::string>& keys, int64_t first_page = 0) {
    v1::PublishPrefixRequest request;
    v1::PublishPrefixResponse response;
    *request.mutable_session() = session.id;
    request.set_epoch(session.epoch);
    *request.mutable_sequence() = sequence;
    request.mutable_keys()->Add(keys.begin(), keys.end());
    request.set_first_page(first_page);
    grpc::ClientContext context;
    status = sequences->PublishPrefix(&context, request, &response);
    return response;
  }

  int64_t Match(const TestSession& session, const v1::Id& cache,
                const std::vector<std::string>& keys, int64_t num_tokens) {
    v1::MatchPrefixRequest request;
    v1::MatchPrefixResponse response;
    *request.mutable_session() = session.id;
    request.set_epoch(session.epoch);
    *request.mutable_cache() = cache;
    request.mutable_keys()->Add(keys.begin(), keys.end());
    request.set_num_tokens(num_tokens);
    grpc::ClientContext context;
    status = sequences->MatchPrefix(&context, request, &response);
    return response.matched_tokens();
  }

  grpc::Status status;  // of the last of these
};

std::vector<std::string> Keys(const std::string& prompt, int count) {
  std::vector<std::string> keys;
  for (int page = 0; page < count; ++page) {
    std::string key = prompt + ", page " + std::to_string(page);
    key.resize(32, '.');
    keys.push_back(key);
  }
  return keys;
}

class PrefixTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed_));
    cache_ = client_.OpenCache();
    session_ = client_.NewSession();
  }

  // Random rows [start, start + rows) for every layer, causal.
  Batch Rows(const TestSession& session, const v1::Id& sequence, int64_t start, int64_t rows,
             uint64_t step) {
    Batch batch(session, ++seed_);
    for (int layer = 0; layer < kLayers; ++layer) {
      v1::AttendItem& item = batch.Add(
          {.sequence = sequence, .layer = layer, .rows = rows, .step = step, .start = start});
      item.mutable_options()->set_causal(true);
    }
    return batch;
  }
  // The same rows to another sequence, as its first.
  static v1::AttendRequest For(const Batch& batch, const TestSession& session,
                               const v1::Id& sequence) {
    v1::AttendRequest request = const_cast<Batch&>(batch).request();
    *request.mutable_session() = session.id;
    request.set_epoch(session.epoch);
    for (v1::AttendItem& item : *request.mutable_items()) {
      *item.mutable_sequence() = sequence;
      item.set_step(1);
    }
    return request;
  }
  // Each item's output.
  std::vector<std::vector<float>> Attend(const v1::AttendRequest& request) {
    const AttendReply reply = client_.Attend(request);
    EXPECT_TRUE(reply.status.ok()) << reply.status.error_message();
    std::vector<std::vector<float>> outs;
    for (const v1::ItemResult& result : reply.response.results()) {
      EXPECT_EQ(result.status().code(), 0) << result.status().message();
      outs.push_back(FloatsOf(result.out(), reply.response.tensor_data()));
    }
    return outs;
  }
  // A sequence of `pages` random pages, published as `prompt`.
  v1::Id PublishNew(const TestSession& session, const std::string& prompt, int pages) {
    v1::Id sequence = client_.NewSequence(session, cache_);
    Attend(Rows(session, sequence, 0, pages * kPage, 1).request());
    client_.Publish(session, sequence, Keys(prompt, pages));
    EXPECT_TRUE(client_.status.ok()) << client_.status.error_message();
    return sequence;
  }
  // What a query over the first `kv_length` tokens of layer 1 gives; the same query for all.
  std::vector<float> Read(const TestSession& session, const v1::Id& sequence, int64_t kv_length) {
    Batch batch(session, /*seed=*/7);
    batch.Add({.sequence = sequence, .layer = 1, .start = kv_length - 1, .write = false});
    return Attend(batch.request()).at(0);
  }
  int64_t Matched(const std::string& prompt, int pages) {
    return client_.Match(session_, cache_, Keys(prompt, pages), pages * kPage + 1) / kPage;
  }
  v1::CacheInfo Info() { return client_.Stats().caches(0); }
  void Close(const TestSession& session) {
    grpc::ClientContext context;
    v1::CloseSessionRequest request;
    v1::CloseSessionResponse response;
    *request.mutable_session() = session.id;
    request.set_epoch(session.epoch);
    EXPECT_TRUE(client_.sessions->CloseSession(&context, request, &response).ok());
  }

  uint64_t seed_ = std::random_device()();
  InProcessDaemon daemon_{[](Options& options) { options.metrics_listen = "127.0.0.1:0"; }};
  PrefixClient client_{daemon_.address()};
  v1::Id cache_;
  TestSession session_;
};

TEST_F(PrefixTest, ASecondSequenceComputesNoFullPageAgainAndHasTheSameBits) {
  const std::vector<std::string> keys = Keys("prompt", 3);
  const TestSession former = client_.NewSession();
  const v1::Id first = client_.Create(former, cache_, keys, 3 * kPage + 2).sequence();
  Attend(Rows(former, first, 0, 3 * kPage, 1).request());
  Batch rest = Rows(former, first, 3 * kPage, 2, 2);
  const std::vector<std::vector<float>> computed = Attend(rest.request());
  EXPECT_EQ(client_.Publish(former, first, keys).new_pages(), 3);
  Close(former);
  EXPECT_EQ(Info().pages_used(), 0);
  EXPECT_EQ(Info().pages_cached(), 3);

  const v1::GetStatsResponse before = client_.Stats();
  const v1::CreateSequenceResponse created = client_.Create(session_, cache_, keys, 3 * kPage + 2);
  EXPECT_EQ(created.matched_tokens(), 3 * kPage);
  EXPECT_THAT(client_.Describe(session_, created.sequence()).layer_lengths(),
              testing::ElementsAre(12, 12, 12));
  EXPECT_EQ(Attend(For(rest, session_, created.sequence())), computed);
  const v1::GetStatsResponse after = client_.Stats();
  EXPECT_EQ(after.tokens_written_total() - before.tokens_written_total(), 2u * kLayers);
  EXPECT_EQ(after.prefix_tokens_queried_total(), 2u * (3 * kPage + 2));
  EXPECT_EQ(after.prefix_tokens_matched_total(), 3u * kPage);

  const std::string metrics = HttpGet(daemon_.server().metrics_address(), "/metrics");
  EXPECT_THAT(metrics, HasSubstr("attnd_prefix_tokens_queried_total 28\n"));
  EXPECT_THAT(metrics, HasSubstr("attnd_prefix_tokens_matched_total 12\n"));
  EXPECT_THAT(metrics, HasSubstr("attnd_prefix_pages_evicted_total 0\n"));
  EXPECT_THAT(metrics, HasSubstr("attnd_pages{tenant=\"\",cache=\"model\",state=\"cached\"} 0\n"));
}

TEST_F(PrefixTest, AWriteOfThePublisherGoesToACopy) {
  const v1::Id publisher = PublishNew(session_, "prompt", 2);
  const std::vector<float> before = Read(session_, publisher, 2 * kPage);
  Attend(Rows(session_, publisher, kPage + 1, kPage - 1, 2).request());
  EXPECT_NE(Read(session_, publisher, 2 * kPage), before);
  const v1::Id reader =
      client_.Create(session_, cache_, Keys("prompt", 2), 2 * kPage + 1).sequence();
  EXPECT_EQ(Read(session_, reader, 2 * kPage), before);
  // And so does that of who matched.
  Attend(Rows(session_, reader, 0, 2 * kPage, 1).request());
  const v1::Id other = client_.Create(session_, cache_, Keys("prompt", 2), 2 * kPage).sequence();
  Attend(Rows(session_, other, 2 * kPage - 1, 1, 1).request());
  const v1::Id last = client_.Create(session_, cache_, Keys("prompt", 2), 2 * kPage + 1).sequence();
  EXPECT_EQ(Read(session_, last, 2 * kPage), before);
}

TEST_F(PrefixTest, TenantsAreKeptApart) {
  const TestSession a = client_.NewTenant("a"), b = client_.NewTenant("b");
  const v1::Id of_a = PublishNew(a, "prompt", 2);
  EXPECT_EQ(client_.Match(b, cache_, Keys("prompt", 2), 100), 0);
  EXPECT_EQ(client_.Match(session_, cache_, Keys("prompt", 2), 100), 0);
  const v1::Id of_b = PublishNew(b, "prompt", 2);
  const v1::Id matched_a = client_.Create(a, cache_, Keys("prompt", 2), 100).sequence();
  const v1::Id matched_b = client_.Create(b, cache_, Keys("prompt", 2), 100).sequence();
  EXPECT_EQ(Read(a, matched_a, 2 * kPage), Read(a, of_a, 2 * kPage));
  EXPECT_EQ(Read(b, matched_b, 2 * kPage), Read(b, of_b, 2 * kPage));
  EXPECT_NE(Read(a, matched_a, 2 * kPage), Read(b, matched_b, 2 * kPage));
  client_.NewTenant(std::string(129, 't'));
  EXPECT_EQ(client_.status.error_code(), Code::INVALID_ARGUMENT);
}

TEST_F(PrefixTest, WhenPagesRunOutTheLeastRecentlyUsedGoFirst) {
  cache_ = client_.OpenCache("model", /*page_quota=*/10);
  for (const char* prompt : {"old", "used", "new"}) {
    const TestSession publisher = client_.NewSession();
    PublishNew(publisher, prompt, 3);
    Close(publisher);
  }
  const TestSession user = client_.NewSession();
  client_.Create(user, cache_, Keys("old", 3), 3 * kPage + 1);
  Close(user);
  EXPECT_EQ(Info().pages_cached(), 9);
  const v1::Id writer = client_.NewSequence(session_, cache_);
  Attend(Rows(session_, writer, 0, 5 * kPage, 1).request());  // one is free, four are evicted
  EXPECT_EQ(client_.Stats().prefix_pages_evicted_total(), 4u);
  EXPECT_EQ(Matched("used", 3), 0);
  EXPECT_EQ(Matched("new", 3), 2);
  EXPECT_EQ(Matched("old", 3), 3);
  // What sequences hold stays, and the refusal counts what could have been evicted.
  const v1::Id holder = client_.Create(session_, cache_, Keys("old", 3), 100).sequence();
  const std::vector<float> held = Read(session_, holder, 3 * kPage);
  const AttendReply refused =
      client_.Attend(Rows(session_, writer, 5 * kPage, 3 * kPage, 2).request());
  ASSERT_TRUE(refused.status.ok());
  EXPECT_EQ(refused.response.results(0).status().code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.response.results(0).status().detail().needed_pages(), 3);
  EXPECT_EQ(refused.response.results(0).status().detail().free_pages(), 2);
  EXPECT_EQ(Matched("new", 3), 2);
  Attend(Rows(session_, writer, 5 * kPage, 2 * kPage, 3).request());
  EXPECT_EQ(Matched("new", 3), 0);
  EXPECT_EQ(Read(session_, holder, 3 * kPage), held);
  client_.StateOf(session_);  // checks the integrity
}

TEST_F(PrefixTest, WhatIsMalformedIsRefusedAndChangesNothing) {
  const v1::Id sequence = PublishNew(session_, "prompt", 2);
  const std::string state = client_.StateOf(session_);
  const std::string key(16, 'k');
  const std::vector<std::pair<std::vector<std::string>, int64_t>> prefixes = {
      {{key, std::string(15, 'k')}, 100},
      {{std::string(65, 'k')}, 100},
      {{""}, 100},
      {{key, key}, 2 * kPage - 1},
      {{key}, 0},
      {{}, -1},
      {{key}, INT64_MIN},
      {{key}, INT64_MAX},
      {std::vector<std::string>((1 << 16) + 1, key), 1 << 20}};
  for (const auto& [keys, num_tokens] : prefixes) {
    client_.Create(session_, cache_, keys, num_tokens);
    EXPECT_EQ(client_.status.error_code(), Code::INVALID_ARGUMENT) << num_tokens;
    client_.Match(session_, cache_, keys, num_tokens);
    EXPECT_EQ(client_.status.error_code(), Code::INVALID_ARGUMENT) << num_tokens;
  }
  client_.Create(session_, cache_, prefixes[0].first, 100);
  EXPECT_THAT(client_.status.error_message(), HasSubstr("keys[1]: 15 bytes"));
  for (const auto& [page, code] :
       std::vector<std::pair<int64_t, Code>>{{-1, Code::INVALID_ARGUMENT},
                                             {INT64_MIN, Code::INVALID_ARGUMENT},
                                             {2, Code::FAILED_PRECONDITION},
                                             {INT64_MAX, Code::FAILED_PRECONDITION},
                                             {0, Code::FAILED_PRECONDITION}}) {
    client_.Publish(session_, sequence, {key}, page);
    EXPECT_EQ(client_.status.error_code(), code) << page;
  }
  const TestSession other = client_.NewSession();
  client_.Publish(other, sequence, Keys("prompt", 1));
  EXPECT_EQ(client_.status.error_code(), Code::NOT_FOUND);
  client_.Match({.id = session_.id, .epoch = 0, .token = ""}, cache_, {key}, 100);
  EXPECT_EQ(client_.status.error_code(), Code::ABORTED);
  EXPECT_EQ(client_.StateOf(session_), state);
}

TEST(PrefixOrderTest, PublishingWaitsForWhatWasAdmittedBefore) {
  FakePlatform platform(FakePlatform::Completion::kManual);
  InProcessDaemon daemon(platform);
  PrefixClient client(daemon.address());
  const v1::Id cache = client.OpenCache();
  const TestSession session = client.NewSession();
  const v1::Id sequence = client.NewSequence(session, cache);
  Batch batch(session);
  for (int layer = 0; layer < kLayers; ++layer) {
    batch.Add({.sequence = sequence, .layer = layer, .rows = kPage});
  }
  PendingAttend attend = client.StartAttend(batch.request());
  platform.WaitForLaunches(1);
  // While its pages are being written they cannot be published: it would be FAILED_PRECONDITION.
  auto published = std::async(std::launch::async, [&] {
    PrefixClient publisher(daemon.address());
    publisher.Publish(session, sequence, Keys("prompt", 1));
    return publisher.status;
  });
  EXPECT_EQ(published.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  platform.CompleteNext();
  EXPECT_TRUE(published.get().ok());
  EXPECT_TRUE(attend.status.get().ok());
  EXPECT_EQ(client.Match(session, cache, Keys("prompt", 1), kPage + 1), kPage);
}

}  // namespace
}  // namespace attnd
