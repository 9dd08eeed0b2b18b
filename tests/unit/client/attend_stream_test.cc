// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/attend_stream.h"

#include <future>
#include <memory>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cpp/client.h"
#include "client/cpp/error_detail.h"
#include "kernels/base/mutex.h"
#include "tests/unit/client/fake_daemon.h"

namespace attnd::client {
namespace {

constexpr CacheGeometry kGeometry{
    .num_layers = 64, .num_query_heads = 2, .num_kv_heads = 1, .head_dim_k = 4};

class AttendStreamTest : public testing::Test {
 protected:
  void Connect() {
    client_ = *Client::Connect({.address = daemon_.address()});
    session_ = *client_->OpenSession();
    sequence_ = *session_->CreateSequence(*client_->OpenCache("test", kGeometry));
  }

  absl::Status Send(AttendStream& stream, int32_t layer) {
    const AttendItem item{.sequence = &sequence_, .layer = layer, .q = q_, .k = k_, .v = k_};
    return stream.Send({&item, 1}, [this, layer](absl::StatusOr<AttendResult> result) {
      MutexLock lock(mu_);
      completed_.push_back(layer);
      statuses_.push_back(result.status());
      changed_.SignalAll();
    });
  }
  static void Answer(const v1::AttendRequest& request, FakeDaemon::Stream* stream) {
    v1::AttendResponse response;
    AnswerWithZeros(request, kGeometry.head_dim_k, &response);
    stream->Write(response);
  }

  FakeDaemon daemon_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Session> session_;
  Sequence sequence_;
  const std::vector<float> q_ = std::vector<float>(8, 1.0f);
  const std::vector<float> k_ = std::vector<float>(4, 1.0f);

  Mutex mu_;
  CondVar changed_;
  std::vector<int32_t> completed_ ABSL_GUARDED_BY(mu_);
  std::vector<absl::Status> statuses_ ABSL_GUARDED_BY(mu_);
};

TEST_F(AttendStreamTest, CompletesInTheOrderOfTheResponses) {
  daemon_.on_stream = [](grpc::ServerContext&, FakeDaemon::Stream* stream) {
    std::vector<v1::AttendRequest> requests(3);
    for (auto& request : requests) stream->Read(&request);
    for (int i : {2, 0, 1}) Answer(requests[static_cast<size_t>(i)], stream);
    v1::AttendRequest end;
    while (stream->Read(&end)) {
    }
    return grpc::Status::OK;
  };
  Connect();
  const auto stream = session_->OpenStream();
  for (int32_t layer = 0; layer < 3; ++layer) ASSERT_TRUE(Send(*stream, layer).ok());
  EXPECT_TRUE(stream->Finish().ok());
  MutexLock lock(mu_);
  EXPECT_THAT(completed_, testing::ElementsAre(2, 0, 1));
  EXPECT_THAT(statuses_, testing::Each(absl::OkStatus()));
}

TEST_F(AttendStreamTest, SendsInTheOrderOfItsCalls) {
  std::vector<int32_t> seen;
  daemon_.on_stream = [&seen](grpc::ServerContext&, FakeDaemon::Stream* stream) {
    v1::AttendRequest request;
    while (stream->Read(&request)) {
      seen.push_back(request.items(0).layer());
      Answer(request, stream);
    }
    return grpc::Status::OK;
  };
  Connect();
  const auto stream = session_->OpenStream({.max_in_flight = 4});
  std::vector<int32_t> sent;
  for (int32_t layer = 0; layer < 64; ++layer) {
    ASSERT_TRUE(Send(*stream, layer).ok());
    sent.push_back(layer);
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(seen, sent);
  MutexLock lock(mu_);
  EXPECT_EQ(completed_.size(), 64);
}

TEST_F(AttendStreamTest, HasNoMoreInFlightThanAllowed) {
  std::atomic<int> most = 0;
  std::atomic<int> in_flight = 0;
  daemon_.on_stream = [&](grpc::ServerContext&, FakeDaemon::Stream* stream) {
    v1::AttendRequest request;
    while (stream->Read(&request)) Answer(request, stream);
    return grpc::Status::OK;
  };
  Connect();
  const auto stream = session_->OpenStream({.max_in_flight = 2});
  const AttendItem item{.sequence = &sequence_, .q = q_, .k = k_, .v = k_};
  for (int i = 0; i < 50; ++i) {
    // Counted before the callback of the one that made room has run at the latest.
    ASSERT_TRUE(
        stream->Send({&item, 1}, [&in_flight](const absl::StatusOr<AttendResult>&) { --in_flight; })
            .ok());
    most = std::max(most.load(), ++in_flight);
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_LE(most, 3) << "two without a response, one whose callback is about to run";
  EXPECT_EQ(in_flight, 0);
}

TEST_F(AttendStreamTest, GoesOnAfterARefusedRequest) {
  daemon_.on_stream = [](grpc::ServerContext&, FakeDaemon::Stream* stream) {
    v1::AttendRequest request;
    while (stream->Read(&request)) {
      if (request.items(0).layer() == 1) {
        v1::AttendResponse response;
        response.set_request_id(request.request_id());
        response.mutable_status()->set_code(grpc::StatusCode::UNAVAILABLE);
        response.mutable_status()->set_message("the queue is full");
        response.mutable_status()->mutable_detail()->set_reason(v1::ErrorDetail::QUEUE_FULL);
        response.mutable_status()->mutable_detail()->set_retry_delay_ms(5);
        stream->Write(response);
      } else {
        Answer(request, stream);
      }
    }
    return grpc::Status::OK;
  };
  Connect();
  const auto stream = session_->OpenStream();
  for (int32_t layer = 0; layer < 3; ++layer) ASSERT_TRUE(Send(*stream, layer).ok());
  EXPECT_TRUE(stream->Finish().ok());
  MutexLock lock(mu_);
  ASSERT_EQ(statuses_.size(), 3);
  EXPECT_TRUE(statuses_[0].ok());
  EXPECT_TRUE(absl::IsUnavailable(statuses_[1])) << statuses_[1];
  ASSERT_TRUE(GetErrorDetail(statuses_[1]).has_value());
  EXPECT_EQ(GetErrorDetail(statuses_[1])->reason, ErrorReason::kQueueFull);
  EXPECT_TRUE(statuses_[2].ok());
}

TEST_F(AttendStreamTest, ABrokenStreamEndsEveryRequestAsPossiblyExecuted) {
  daemon_.on_stream = [](grpc::ServerContext&, FakeDaemon::Stream* stream) {
    v1::AttendRequest request;
    stream->Read(&request);
    stream->Read(&request);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
  };
  Connect();
  const auto stream = session_->OpenStream();
  ASSERT_TRUE(Send(*stream, 0).ok());
  ASSERT_TRUE(Send(*stream, 1).ok());
  EXPECT_TRUE(absl::IsUnavailable(stream->Finish()));
  {
    MutexLock lock(mu_);
    ASSERT_EQ(statuses_.size(), 2);
    for (const absl::Status& status : statuses_) EXPECT_TRUE(IsChannelError(status)) << status;
  }
  EXPECT_TRUE(absl::IsUnavailable(Send(*stream, 2)));
}

TEST_F(AttendStreamTest, DestructionCancelsWhatIsInFlight) {
  daemon_.on_stream = [](grpc::ServerContext& context, FakeDaemon::Stream*) {
    while (!context.IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  Connect();
  auto stream = session_->OpenStream();
  ASSERT_TRUE(Send(*stream, 0).ok());
  stream = nullptr;
  MutexLock lock(mu_);
  ASSERT_EQ(statuses_.size(), 1);
  EXPECT_TRUE(absl::IsCancelled(statuses_[0])) << statuses_[0];
}

TEST_F(AttendStreamTest, RefusesABadItemWithoutSending) {
  daemon_.on_stream = [](grpc::ServerContext&, FakeDaemon::Stream* stream) {
    v1::AttendRequest request;
    return stream->Read(&request) ? grpc::Status(grpc::StatusCode::INTERNAL, "sent anyway")
                                  : grpc::Status::OK;
  };
  Connect();
  const auto stream = session_->OpenStream();
  EXPECT_TRUE(absl::IsInvalidArgument(Send(*stream, 64)));
  EXPECT_TRUE(stream->Finish().ok());
}

}  // namespace
}  // namespace attnd::client
