// SPDX-License-Identifier: Apache-2.0
//
// The client against a fake daemon: retries, deadlines, errors, checks before sending.
#include "client/cpp/client.h"

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cpp/error_detail.h"
#include "tests/unit/client/fake_daemon.h"
#include "tests/unit/client/manual_timers.h"

namespace attnd::client {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr CacheGeometry kGeometry{
    .num_layers = 2, .num_query_heads = 4, .num_kv_heads = 2, .head_dim_k = 8};
constexpr int kQElems = 4 * 8;
constexpr int kKvElems = 2 * 8;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class ClientTest : public testing::Test {
 protected:
  void Connect(ClientOptions options = {}) {
    options.address = daemon_.address();
    auto client = Client::Connect(options);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    auto session = client_->OpenSession();
    ASSERT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    auto cache = client_->OpenCache("test", kGeometry);
    ASSERT_TRUE(cache.ok()) << cache.status();
    auto sequence = session_->CreateSequence(*cache);
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    sequence_ = *std::move(sequence);
  }

  AttendItem Item() {
    return {.sequence = &sequence_, .layer = 0, .start_position = 0, .q = q_, .k = k_, .v = v_};
  }
  absl::StatusOr<AttendResult> Attend(const AttendItem& item, const CallOptions& call = {}) {
    return session_->Attend({&item, 1}, call);
  }
  static grpc::Status Answer(grpc::ServerContext&, const v1::AttendRequest& request,
                             v1::AttendResponse* response) {
    AnswerWithZeros(request, kGeometry.head_dim_k, response);
    return grpc::Status::OK;
  }
  static grpc::Status QueueFull(int64_t delay_ms) {
    v1::ErrorDetail detail;
    detail.set_reason(v1::ErrorDetail::QUEUE_FULL);
    detail.set_retry_delay_ms(delay_ms);
    return Refusal(grpc::StatusCode::UNAVAILABLE, "the queue is full", detail);
  }

  FakeDaemon daemon_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Session> session_;
  Sequence sequence_;
  std::vector<float> q_ = std::vector<float>(kQElems, 1.0f);
  std::vector<float> k_ = std::vector<float>(kKvElems, 2.0f);
  std::vector<float> v_ = std::vector<float>(kKvElems, 3.0f);
};

TEST_F(ClientTest, SendsTensorsShapesAndSteps) {
  v1::AttendRequest seen;
  daemon_.on_attend = [&seen](grpc::ServerContext& context, const v1::AttendRequest& request,
                              v1::AttendResponse* response) {
    seen = request;
    return Answer(context, request, response);
  };
  Connect();
  ASSERT_TRUE(Attend(Item()).ok());
  ASSERT_TRUE(Attend(Item()).ok());
  ASSERT_EQ(seen.items_size(), 1);
  EXPECT_EQ(seen.items(0).step(), 2) << "each write takes the next step";
  EXPECT_THAT(seen.items(0).q().shape(), testing::ElementsAre(1, 4, 8));
  EXPECT_THAT(seen.items(0).k().shape(), testing::ElementsAre(1, 2, 8));
  ASSERT_EQ(seen.tensor_data().size(), (kQElems + 2 * kKvElems) * sizeof(float));
  EXPECT_EQ(LoadAsFloat(DType::kF32, seen.tensor_data().data() + seen.items(0).v().offset_bytes(),
                        kKvElems - 1),
            3.0f);
}

TEST_F(ClientTest, WritesOutputsWhereTheCallerWantsThem) {
  daemon_.on_attend = Answer;
  Connect();
  std::vector<float> out(kQElems, 9.0f);
  AttendItem item = Item();
  item.out = out;
  const auto result = Attend(item);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->items()[0].out.data, out.data());
  EXPECT_THAT(out, testing::Each(0.0f));
}

TEST_F(ClientTest, RetriesAFullQueueWithTheSameStepAfterTheDaemonsDelay) {
  auto timers = std::make_shared<ManualTimers>();
  std::vector<uint64_t> steps;
  daemon_.on_attend = [&](grpc::ServerContext& context, const v1::AttendRequest& request,
                          v1::AttendResponse* response) {
    steps.push_back(request.items(0).step());
    return steps.size() < 3 ? QueueFull(500) : Answer(context, request, response);
  };
  Connect({.timers = timers});
  session_ = nullptr;  // no renewals among the timers
  session_ = *client_->OpenSession({.renew_lease = false});
  timers->Advance(seconds(30));  // what was left of the first one's
  sequence_ = *session_->CreateSequence(*client_->OpenCache("test", kGeometry));

  auto done = std::make_shared<std::promise<absl::Status>>();
  const AttendItem item = Item();
  session_->AttendAsync({&item, 1}, {}, [done](absl::StatusOr<AttendResult> result) {
    done->set_value(result.status());
  });
  for (int retry = 0; retry < 2; ++retry) {
    // Not a tick further: the answer to the next attempt may come while Advance still runs.
    const Duration delay = timers->WaitForNext();
    EXPECT_GE(delay, milliseconds(500));
    EXPECT_EQ(daemon_.attends, retry + 1);
    timers->Advance(delay);
  }
  EXPECT_TRUE(done->get_future().get().ok());
  EXPECT_THAT(steps, testing::ElementsAre(1, 1, 1));
}

TEST_F(ClientTest, ReturnsTheRefusalWhereTheDeadlineComesBeforeTheNextAttempt) {
  daemon_.on_attend = [](auto&&...) { return QueueFull(3'600'000); };
  Connect();
  const absl::Status status = Attend(Item()).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(Message(status), "the queue is full");
  EXPECT_EQ(daemon_.attends, 1);
  ASSERT_TRUE(GetErrorDetail(status).has_value());
  EXPECT_EQ(GetErrorDetail(status)->retry_delay, seconds(3600));
  EXPECT_FALSE(IsChannelError(status));
}

TEST_F(ClientTest, HandsOnTheDetailsOfARefusal) {
  daemon_.on_attend = [](auto&&...) {
    v1::ErrorDetail detail;
    detail.set_reason(v1::ErrorDetail::PAGES_EXHAUSTED);
    detail.set_needed_pages(8);
    detail.set_free_pages(3);
    return Refusal(grpc::StatusCode::RESOURCE_EXHAUSTED, "needs 8 pages, 3 are free", detail);
  };
  Connect();
  const absl::Status status = Attend(Item()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(Message(status), "needs 8 pages, 3 are free");
  const auto detail = GetErrorDetail(status);
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(detail->reason, ErrorReason::kPagesExhausted);
  EXPECT_EQ(detail->needed_pages, 8);
  EXPECT_EQ(detail->free_pages, 3);
  EXPECT_EQ(daemon_.attends, 1) << "not to be retried";
}

TEST_F(ClientTest, RepeatsAttendButNotCreateAfterAConnectionError) {
  daemon_.on_attend = [this](grpc::ServerContext& context, const v1::AttendRequest& request,
                             v1::AttendResponse* response) {
    if (daemon_.attends == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "reset");
    return Answer(context, request, response);
  };
  Connect();
  EXPECT_TRUE(Attend(Item()).ok());
  EXPECT_EQ(daemon_.attends, 2);

  daemon_.on_create = [](const auto&) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "reset");
  };
  const auto cache = client_->OpenCache("test", kGeometry);
  const int before = daemon_.creates;
  const absl::Status status = session_->CreateSequence(*cache).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(IsChannelError(status));
  EXPECT_EQ(daemon_.creates, before + 1);
}

TEST_F(ClientTest, EndsAtTheDeadlineOfTheCall) {
  daemon_.on_attend = [](grpc::ServerContext& context, auto&&...) {
    while (!context.IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  Connect();
  const absl::Status status = Attend(Item(), {.timeout = milliseconds(20)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr(daemon_.address()));
  EXPECT_EQ(daemon_.attends, 1);
}

TEST_F(ClientTest, EndsACallThatIsCancelledInTheMiddleOfALargeRequest) {
  daemon_.on_attend = [](grpc::ServerContext& context, auto&&...) {
    while (!context.IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  Connect();
  // The call ends only when gRPC has let go of q: a reference that is kept anywhere hangs here.
  const int64_t rows = 200'000;
  std::vector<float> q(static_cast<size_t>(rows) * kQElems);
  AttendItem item{.sequence = &sequence_, .q = q, .kv_length = 1};
  const absl::Status status = Attend(item, {.timeout = milliseconds(5)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_F(ClientTest, ItemsFailOneByOne) {
  daemon_.on_attend = [](grpc::ServerContext& context, const v1::AttendRequest& request,
                         v1::AttendResponse* response) {
    grpc::Status status = Answer(context, request, response);
    v1::ItemResult* second = response->mutable_results(1);
    second->clear_out();
    second->mutable_status()->set_code(grpc::StatusCode::FAILED_PRECONDITION);
    second->mutable_status()->set_message("start 7 leaves a hole");
    return status;
  };
  Connect();
  AttendItem items[] = {Item(), Item()};
  items[1].layer = 1;
  const auto result = session_->Attend(items);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->ok());
  EXPECT_TRUE(result->items()[0].status.ok());
  EXPECT_TRUE(result->items()[0].out.present());
  EXPECT_FALSE(result->items()[1].out.present());
  EXPECT_TRUE(absl::IsFailedPrecondition(result->first_error()));
  EXPECT_EQ(Message(result->first_error()), "items[1]: start 7 leaves a hole");
}

TEST_F(ClientTest, RefusesWhatDisagreesWithTheGeometryBeforeSending) {
  Connect();
  const auto message_of = [this](const AttendItem& item) {
    const absl::Status status = Attend(item).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return Message(status);
  };
  const std::vector<float> wrong(kKvElems + 1);
  AttendItem item = Item();
  item.k = wrong;
  EXPECT_EQ(message_of(item),
            "items[0].k has 17 elements; expected 16 = 1 rows x 2 num_kv_heads x 8 head_dim_k");
  item = Item();
  item.q = wrong;
  EXPECT_EQ(message_of(item),
            "items[0].q has 17 elements; expected a multiple of 32 = 4 num_query_heads x 8 "
            "head_dim_k");
  item = Item();
  item.layer = 2;
  EXPECT_EQ(message_of(item), "items[0].layer is 2; expected 0 to 1");
  item = Item();
  item.v = ConstTensor(DType::kF16, v_.data(), kKvElems);
  EXPECT_THAT(message_of(item), HasSubstr("items[0].v is f16; expected f32"));
  item = Item();
  item.v = {};
  EXPECT_THAT(message_of(item), HasSubstr("one of k and v without the other"));
  item = Item();
  item.options.sinks = std::span<const float>(wrong).first(3);
  EXPECT_THAT(message_of(item), HasSubstr("options.sinks has 3 elements; expected 4"));
  item = Item();
  item.start_position = -1;
  EXPECT_THAT(message_of(item), HasSubstr("start_position is -1"));
  EXPECT_TRUE(absl::IsInvalidArgument(session_->Attend({}).status()));
  EXPECT_EQ(daemon_.attends, 0);
}

TEST_F(ClientTest, RefusesAMessageOverTheDaemonsLimit) {
  daemon_.capabilities.set_max_message_bytes(1000);
  Connect();
  std::vector<float> q(kQElems * 100);
  const absl::Status status = Attend({.sequence = &sequence_, .q = q, .kv_length = 1}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  ASSERT_TRUE(GetErrorDetail(status).has_value());
  EXPECT_EQ(GetErrorDetail(status)->reason, ErrorReason::kMessageTooLarge);
  EXPECT_EQ(daemon_.attends, 0);
}

TEST_F(ClientTest, SaysSoWhereTheDaemonAnswersWithAnotherShape) {
  daemon_.on_attend = [](grpc::ServerContext&, const v1::AttendRequest& request,
                         v1::AttendResponse* response) {
    AnswerWithZeros(request, kGeometry.head_dim_k + 1, response);
    return grpc::Status::OK;
  };
  Connect();
  const absl::Status status = Attend(Item()).status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("[1, 4, 9]"));
}

TEST_F(ClientTest, RenewsTheLeaseWhileTheSessionLives) {
  auto timers = std::make_shared<ManualTimers>();
  std::promise<void> renewed;
  daemon_.lease_ms = 30'000;
  daemon_.on_renew = [&renewed](auto*) {
    renewed.set_value();
    return grpc::Status::OK;
  };
  Connect({.timers = timers});
  timers->Advance(seconds(10));
  renewed.get_future().wait();
  EXPECT_EQ(daemon_.renewals, 1);
  EXPECT_TRUE(session_->lease_status().ok());
  session_ = nullptr;
  timers->Advance(seconds(60));
  EXPECT_EQ(daemon_.renewals, 1);
}

TEST_F(ClientTest, CancelsWhatIsInFlightWhenTheLastHandleGoes) {
  daemon_.on_attend = [](grpc::ServerContext& context, auto&&...) {
    while (!context.IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  Connect();
  auto done = std::make_shared<std::promise<absl::Status>>();
  const AttendItem item = Item();
  session_->AttendAsync({&item, 1}, {}, [done](absl::StatusOr<AttendResult> result) {
    done->set_value(result.status());
  });
  client_ = nullptr;
  session_ = nullptr;
  sequence_ = {};
  EXPECT_TRUE(absl::IsCancelled(done->get_future().get()));
}

TEST(ClientConnectTest, SaysWhyNoDaemonAnswers) {
  std::string address;
  {
    FakeDaemon daemon;
    address = daemon.address();
  }
  const auto client = Client::Connect({.address = address});
  EXPECT_TRUE(absl::IsUnavailable(client.status())) << client.status();
  EXPECT_TRUE(IsChannelError(client.status()));
  EXPECT_THAT(Message(client.status()), HasSubstr(address));
  EXPECT_THAT(Message(client.status()), HasSubstr("Connection refused"));
}

TEST(ClientConnectTest, RefusesAMalformedAddress) {
  for (const char* address : {"", "localhost", ":7450", "localhost:", "unix:"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect({.address = address}).status())) << address;
  }
}

}  // namespace
}  // namespace attnd::client
