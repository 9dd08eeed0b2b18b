// SPDX-License-Identifier: Apache-2.0
//
// The client library and attnctl against the real daemon.
#include <future>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "client/cli/reference.h"
#include "client/cpp/client.h"
#include "client/cpp/error_detail.h"
#include "tests/unit/client/daemon_process.h"

namespace attnd::client {
namespace {

using cli::ErrorStats;
using cli::HostKv;
using cli::HostTensor;
using testing::HasSubstr;

constexpr CacheGeometry kGeometry{
    .num_layers = 2, .num_query_heads = 4, .num_kv_heads = 2, .head_dim_k = 64};
constexpr int64_t kQRow = 4 * 64, kKvRow = 2 * 64;

class DaemonTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared_daemon = new DaemonProcess; }
  static void TearDownTestSuite() {
    delete shared_daemon;
    shared_daemon = nullptr;
  }

  void SetUp() override {
    ASSERT_EQ(shared_daemon->error(), "");
    auto client = Client::Connect({.address = shared_daemon->address()});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    cache_ = *client_->OpenCache("client-test", kGeometry);
    session_ = *client_->OpenSession({.label = "client-test"});
  }
  void TearDown() override {
    if (session_ != nullptr) {
      EXPECT_TRUE(session_->Close().ok());
    }
    if (client_ != nullptr) {
      EXPECT_TRUE(client_->CheckIntegrity().ok());
    }
  }

  // q, k and v of `rows` tokens.
  struct Rows {
    HostTensor q, k, v;
  };
  Rows Draw(int64_t rows) {
    return {HostTensor::Normal(DType::kF32, rows * kQRow, random_),
            HostTensor::Normal(DType::kF32, rows * kKvRow, random_),
            HostTensor::Normal(DType::kF32, rows * kKvRow, random_)};
  }
  static AttendItem Item(const Sequence& sequence, int64_t start, const Rows& rows) {
    AttendItem item{.sequence = &sequence, .start_position = start};
    item.q = rows.q.view();
    item.k = rows.k.view();
    item.v = rows.v.view();
    item.options.causal = true;
    return item;
  }
  // Writes and attends, and compares every row with the reference.
  void AttendAndCompare(const Sequence& sequence, HostKv& host, int64_t start, int64_t rows) {
    const Rows tensors = Draw(rows);
    AttendItem item = Item(sequence, start, tensors);
    item.options.return_lse = true;
    const auto result = session_->Attend({&item, 1});
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_TRUE(result->ok()) << result->first_error();
    host.Write(start, item.k, item.v);
    ErrorStats out, lse;
    host.Compare({.q = item.q, .start_position = start, .options = item.options},
                 result->items()[0].out, result->items()[0].lse, out, lse);
    EXPECT_LE(out.relative_l2(), 1e-6);
    EXPECT_LE(lse.max_abs, 1e-5);
    EXPECT_EQ(lse.elems, rows * 4);
    EXPECT_EQ(result->items()[0].layer_length, start + rows);
  }

  static inline DaemonProcess* shared_daemon = nullptr;
  std::mt19937_64 random_{7};
  std::unique_ptr<Client> client_;
  std::unique_ptr<Session> session_;
  Cache cache_;
};

TEST_F(DaemonTest, AttendsForkedAndTruncatedSequencesLikeTheReference) {
  const Sequence parent = *session_->CreateSequence(cache_);
  HostKv host(kGeometry);
  AttendAndCompare(parent, host, 0, 33);
  AttendAndCompare(parent, host, 33, 1);
  const auto child = parent.Fork();
  ASSERT_TRUE(child.ok()) << child.status();
  HostKv child_host = host;
  AttendAndCompare(*child, child_host, 20, 5);
  AttendAndCompare(parent, host, 34, 2);
  ASSERT_TRUE(parent.Truncate(10).ok());
  AttendAndCompare(parent, host, 10, 3);
  EXPECT_EQ(parent.Describe()->layer_lengths[0], 13);
  EXPECT_TRUE(child->Free().ok());
  EXPECT_TRUE(absl::IsNotFound(child->Describe().status()));
}

TEST_F(DaemonTest, SaysWhatIsWrongWithAnItem) {
  const Sequence sequence = *session_->CreateSequence(cache_);
  const Rows rows = Draw(1);
  const AttendItem item = Item(sequence, 5, rows);
  const auto result = session_->Attend({&item, 1});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(absl::IsFailedPrecondition(result->first_error())) << result->first_error();
}

TEST_F(DaemonTest, ARetryWithTheSameStepWritesNothing) {
  const Sequence sequence = *session_->CreateSequence(cache_);
  const Rows rows = Draw(3);
  AttendItem item = Item(sequence, 0, rows);
  item.step = 1;
  const auto first = session_->Attend({&item, 1});
  const auto second = session_->Attend({&item, 1});
  ASSERT_TRUE(first.ok() && first->ok());
  ASSERT_TRUE(second.ok() && second->ok());
  EXPECT_FALSE(first->items()[0].replayed);
  EXPECT_TRUE(second->items()[0].replayed);
  EXPECT_TRUE(std::ranges::equal(first->items()[0].out.f32(), second->items()[0].out.f32()));
}

TEST_F(DaemonTest, StreamsManyRequestsInFlight) {
  const Sequence sequence = *session_->CreateSequence(cache_);
  const auto stream = session_->OpenStream({.max_in_flight = 16});
  std::vector<Rows> rows;
  for (int64_t i = 0; i < 64; ++i) rows.push_back(Draw(1));
  std::atomic<int> succeeded = 0;
  for (int64_t i = 0; i < 64; ++i) {
    const AttendItem item = Item(sequence, i, rows[static_cast<size_t>(i)]);
    ASSERT_TRUE(stream
                    ->Send({&item, 1},
                           [&succeeded](const absl::StatusOr<AttendResult>& result) {
                             succeeded += result.ok() && result->ok() ? 1 : 0;
                           })
                    .ok());
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(succeeded, 64);
  EXPECT_EQ(sequence.Describe()->layer_lengths[0], 64);
}

TEST_F(DaemonTest, ANewClientGoesOnWithTheTokenAlone) {
  HostKv host(kGeometry);
  {
    const Sequence sequence = *session_->CreateSequence(cache_, "step 0");
    AttendAndCompare(sequence, host, 0, 20);
    const auto version = sequence.SetClientState(1, "step 1");
    ASSERT_TRUE(version.ok()) << version.status();
    EXPECT_EQ(*version, 2);
    EXPECT_TRUE(absl::IsAborted(sequence.SetClientState(1, "late").status()));
  }
  const std::string token = session_->token();
  const std::unique_ptr<Session> stale = std::move(session_);
  client_ = *Client::Connect({.address = shared_daemon->unix_address()});
  auto resumed = client_->ResumeSession(token);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  session_ = std::move(resumed->session);
  EXPECT_TRUE(absl::IsAborted(stale->RenewLease().status())) << "the former client is superseded";
  ASSERT_TRUE(session_->RenewLease().ok());
  EXPECT_TRUE(absl::IsNotFound(client_->ResumeSession(token).status())) << "the token is void";
  ASSERT_EQ(resumed->sequences.size(), 1);
  EXPECT_EQ(resumed->sequences[0].info.client_state, "step 1");
  EXPECT_EQ(resumed->sequences[0].info.layer_lengths[0], 20);
  AttendAndCompare(resumed->sequences[0].sequence, host, 20, 4);
}

TEST_F(DaemonTest, SequencesThatBeginAlikeShareWhatWasPublished) {
  const int64_t page = kGeometry.page_size_tokens;
  const std::vector<std::string> keys = {std::string(32, 'a'), std::string(64, 'b')};
  const Prefix prefix{.keys = keys, .num_tokens = 2 * page + 1};
  const auto tenant = *client_->OpenSession({.label = "client-test", .tenant = "tenant"});
  const Sequence first = *tenant->CreateSequence(cache_, prefix, "state");
  EXPECT_EQ(first.matched_tokens(), 0);
  EXPECT_EQ(first.Describe()->client_state, "state");
  for (int32_t layer = 0; layer < kGeometry.num_layers; ++layer) {
    const Rows rows = Draw(2 * page);
    AttendItem item = Item(first, 0, rows);
    item.layer = layer;
    ASSERT_TRUE(tenant->Attend({&item, 1}).ok());
  }
  EXPECT_EQ(*first.Publish({keys.data() + 1, 1}, /*first_page=*/1), 1);
  EXPECT_EQ(*tenant->MatchPrefix(cache_, prefix), 0);
  EXPECT_EQ(*first.Publish(keys), 2);
  EXPECT_EQ(*tenant->MatchPrefix(cache_, prefix), 2 * page);
  ASSERT_TRUE(first.Free().ok());
  const Sequence second = *tenant->CreateSequence(cache_, prefix);
  EXPECT_EQ(second.matched_tokens(), 2 * page);
  EXPECT_EQ(second.Describe()->min_length(), 2 * page);
  EXPECT_EQ(*session_->MatchPrefix(cache_, prefix), 0);  // another tenant's
  const Stats stats = *client_->GetStats();
  EXPECT_GE(stats.prefix_tokens_matched_total, static_cast<uint64_t>(2 * page));
  EXPECT_GT(stats.prefix_tokens_queried_total, stats.prefix_tokens_matched_total);
  EXPECT_EQ(Sequence().Publish(keys).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(tenant->Close().ok());
}

TEST_F(DaemonTest, FlashAttentionMatchesTheReferenceForATensorOverManyFrames) {
  constexpr int64_t kRows = 700;  // a few hundred KiB: several slices on either side
  const Rows rows = Draw(kRows);
  FlashAttentionArgs args{.batch = 1,
                          .query_len = kRows,
                          .key_len = kRows,
                          .num_query_heads = 4,
                          .num_kv_heads = 2,
                          .head_dim_k = 64};
  args.q = rows.q.view();
  args.k = rows.k.view();
  args.v = rows.v.view();
  args.options.causal = true;
  const auto result = client_->FlashAttention(args);
  ASSERT_TRUE(result.ok()) << result.status();
  HostKv host(kGeometry);
  host.Write(0, args.k, args.v);
  ErrorStats out, lse;
  TensorView view = result->out();
  host.Compare({.q = args.q, .options = args.options, .first_row = kRows - 8}, view, {}, out, lse);
  EXPECT_EQ(out.elems, 8 * kQRow);
  EXPECT_LE(out.relative_l2(), 1e-6);
}

TEST_F(DaemonTest, QuickstartRuns) {
  const ProgramResult result = RunProgram("attnd_quickstart", {shared_daemon->address()});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("4 tokens, out[0] = 2"));
}

TEST_F(DaemonTest, AttnctlShowsTheDaemon) {
  const auto run = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--address", shared_daemon->address(), "--metrics",
                                         shared_daemon->metrics_address()});
    return RunProgram("attnctl", arguments);
  };
  EXPECT_THAT(run({"capabilities"}).output, HasSubstr("f32 / bf16"));
  EXPECT_THAT(run({"caches"}).output, HasSubstr("client-test"));
  EXPECT_THAT(run({"sequences"}).output, HasSubstr("client-test"));
  EXPECT_THAT(run({"integrity"}).output, HasSubstr("integrity: ok"));
  const ProgramResult top = run({"top", "--once", "--interval", "0.1"});
  EXPECT_EQ(top.exit_code, 0) << top.output;
  EXPECT_THAT(top.output, HasSubstr("stage_in"));
  EXPECT_THAT(top.output, testing::Not(HasSubstr("\x1b"))) << "no escape codes off a terminal";
  EXPECT_THAT(run({"status"}).output, HasSubstr("pages used  cached"));
  const auto status = nlohmann::json::parse(run({"--json", "status"}).output, nullptr, false);
  ASSERT_TRUE(status.is_object());
  EXPECT_GE(status["sessions"], 1);
  EXPECT_THAT(run({"doctor"}).output, HasSubstr("metrics         served"));
  const auto doctor = nlohmann::json::parse(run({"--json", "doctor"}).output, nullptr, false);
  ASSERT_TRUE(doctor.is_object());
  EXPECT_EQ(doctor["checks"][0]["check"], "connection");
  EXPECT_EQ(doctor["checks"][0]["verdict"], "ok");
}

TEST_F(DaemonTest, AttnctlShowsAndChangesTheLogLevel) {
  const auto run = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--address", shared_daemon->address(), "log-level"});
    return RunProgram("attnctl", arguments);
  };
  EXPECT_EQ(run({}).output, "log level: warning\n");
  EXPECT_EQ(run({"error"}).output, "log level: error (was warning)\n");
  EXPECT_EQ(run({}).output, "log level: error\n");
  const ProgramResult refused = run({"loud"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.output, HasSubstr("log level \"loud\": expected one of trace, debug, info, "
                                        "warning, error"));
  const absl::StatusOr<LogLevels> levels = client_->SetLogLevel("warning");
  ASSERT_TRUE(levels.ok()) << levels.status();
  EXPECT_EQ(levels->former, "error");
  EXPECT_EQ(levels->level, "warning");
}

TEST_F(DaemonTest, AttnctlVerifyPasses) {
  const ProgramResult result = RunProgram("attnctl", {"--address", shared_daemon->address(),
                                                      "verify", "--rounds", "1", "--seed", "11"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("verify: ok=yes cells="));
}

TEST_F(DaemonTest, AttnctlDemoPasses) {
  const ProgramResult result =
      RunProgram("attnctl", {"--address", shared_daemon->address(), "demo", "--tokens", "6"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output,
              HasSubstr("demo: tokens_identical=yes resumed=yes verified=yes prompts=3 tokens=18"));
}

TEST(DaemonlessTest, AttnctlSaysThatNobodyAnswers) {
  std::string address;
  {
    const DaemonProcess daemon;
    ASSERT_EQ(daemon.error(), "");
    address = daemon.address();
  }
  const ProgramResult result = RunProgram("attnctl", {"--address", address, "status"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("Is attnd running?"));
}

TEST(DaemonlessTest, CallsEndWhenTheDaemonIsKilled) {
  DaemonProcess daemon;
  ASSERT_EQ(daemon.error(), "");
  const auto client = Client::Connect({.address = daemon.address(), .retry = {.max_attempts = 2}});
  ASSERT_TRUE(client.ok()) << client.status();
  daemon.Kill();
  const absl::Status status = (*client)->GetStats().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(IsChannelError(status));
}

}  // namespace
}  // namespace attnd::client
