// SPDX-License-Identifier: Apache-2.0
//
// What operators see: health, draining, metrics that move with the work, and stages that add up.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

// The sum of a metric's samples whose line has `label` in it.
double Metric(const std::string& text, const std::string& name, const std::string& label = "") {
  std::istringstream lines(text);
  double sum = 0;
  bool found = false;
  for (std::string line; std::getline(lines, line);) {
    const bool named = line.rfind(name + "{", 0) == 0 || line.rfind(name + " ", 0) == 0;
    if (!named || line.find(label) == std::string::npos) continue;
    sum += std::stod(line.substr(line.rfind(' ') + 1));
    found = true;
  }
  EXPECT_TRUE(found) << name << " " << label << "\n" << text;
  return sum;
}

// grpc.health.v1: SERVING is 1, NOT_SERVING 2. The messages are one string field and one enum
// field, written by hand: the protos of the health service are not installed with gRPC.
class HealthWatch {
 public:
  explicit HealthWatch(TestClient& client, const std::string& service) : stub_(client.channel()) {
    std::string request;
    if (!service.empty()) {
      request = std::string("\x0a") + static_cast<char>(service.size()) + service;
    }
    const grpc::Slice slice(request);
    const grpc::ByteBuffer message(&slice, 1);
    call_ = stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_);
    call_->StartCall(nullptr);
    Next();
    call_->WriteLast(message, {}, nullptr);
    Next();
  }
  ~HealthWatch() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }
  // Waits for the next status.
  int Read() {
    grpc::ByteBuffer message;
    call_->Read(&message, nullptr);
    if (!Next()) return -1;
    grpc::Slice slice;
    if (!message.DumpToSingleSlice(&slice).ok() || slice.size() != 2) return -1;
    return slice.begin()[1];
  }

 private:
  bool Next() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};
constexpr int kServing = 1, kNotServing = 2;

TEST(OperationsTest, MetricsMoveWithTheWorkAndStagesAddUp) {
  InProcessDaemon daemon([](Options& options) { options.metrics_listen = "127.0.0.1:0"; });
  TestClient client(daemon.address());
  const v1::Id cache = client.OpenCache();
  const TestSession session = client.NewSession();
  const v1::Id sequence = client.NewSequence(session, cache);
  const std::string& address = daemon.server().metrics_address();
  EXPECT_EQ(HttpGet(address, "/healthz"), "ok\n");

  int64_t stages_ns = 0;
  constexpr int kRequests = 5;
  for (int i = 0; i < kRequests; ++i) {
    Batch batch(session);
    for (int layer = 0; layer < 2; ++layer) {
      batch.Add(
          {.sequence = sequence, .layer = layer, .step = static_cast<uint64_t>(i) + 1, .start = i});
    }
    const AttendReply reply = client.Attend(batch.request());
    ASSERT_TRUE(reply.status.ok());
    const v1::RequestTiming& timing = reply.response.timing();
    for (int64_t ns :
         {timing.stage_in_ns(), timing.queue_ns(), timing.kernel_ns(), timing.stage_out_ns()}) {
      EXPECT_GE(ns, 0);
      stages_ns += ns;
    }
  }
  Batch bad(session);
  bad.Add({.sequence = sequence, .layer = 9});
  EXPECT_TRUE(client.Attend(bad.request()).status.ok());
  bad.request().clear_items();
  EXPECT_FALSE(client.Attend(bad.request()).status.ok());

  const std::string text = HttpGet(address, "/metrics");
  const std::string total = "attnd_request_duration_seconds";
  EXPECT_EQ(Metric(text, total + "_count", "code=\"OK\""), kRequests + 1);
  EXPECT_EQ(Metric(text, total + "_count", "code=\"INVALID_ARGUMENT\""), 1);
  // One set of numbers: the stages' sums are the total's, in the metrics and against the responses.
  const double sum = Metric(text, total + "_sum");
  EXPECT_NEAR(Metric(text, "attnd_stage_duration_seconds_sum"), sum, 1e-9);
  EXPECT_GT(sum, static_cast<double>(stages_ns) * 1e-9);
  EXPECT_EQ(Metric(text, "attnd_pages", "state=\"used\""), 2);
  EXPECT_EQ(Metric(text, "attnd_sequences"), 1);

  const v1::GetStatsResponse stats = client.Stats();
  EXPECT_EQ(stats.tokens_written_total(), 2u * kRequests);
  EXPECT_EQ(stats.requests_total(), kRequests + 2u);
  EXPECT_GT(stats.kernel_seconds_total(), 0);
  EXPECT_GT(stats.resident_bytes(), 1u << 20);
  EXPECT_EQ(stats.version(), Version());
}

TEST(OperationsTest, DrainRefusesNewWorkAndFinishesTheOld) {
  FakePlatform platform(FakePlatform::Completion::kManual);
  InProcessDaemon daemon(platform);
  TestClient client(daemon.address());
  HealthWatch server_health(client, ""), service_health(client, "attnd.v1.AttentionService");
  EXPECT_EQ(server_health.Read(), kServing);
  EXPECT_EQ(service_health.Read(), kServing);
  const v1::Id cache = client.OpenCache();
  const TestSession session = client.NewSession();
  const v1::Id sequence = client.NewSequence(session, cache);
  Batch batch(session);
  batch.Add({.sequence = sequence});
  PendingAttend admitted = client.StartAttend(batch.request());
  platform.WaitForLaunches(1);

  // A drain that runs out of time says what remains.
  v1::DrainRequest request;
  v1::DrainResponse response;
  request.set_timeout_ms(1);
  grpc::ClientContext hasty;
  ASSERT_TRUE(client.admin->Drain(&hasty, request, &response).ok());
  EXPECT_FALSE(response.complete());
  EXPECT_EQ(response.remaining_items(), 1);
  EXPECT_EQ(server_health.Read(), kNotServing);
  EXPECT_EQ(service_health.Read(), kNotServing);

  const AttendReply refused = client.Attend(batch.request());
  EXPECT_EQ(refused.status.error_code(), Code::UNAVAILABLE);
  EXPECT_EQ(refused.detail.reason(), v1::ErrorDetail::DRAINING);
  EXPECT_GT(refused.detail.retry_delay_ms(), 0);
  // Reads go on.
  EXPECT_TRUE(client.Stats().draining());
  EXPECT_EQ(client.Describe(session, sequence).layer_lengths_size(), TestGeometry::kLayers);

  request.set_timeout_ms(0);
  grpc::ClientContext patient;
  std::promise<grpc::Status> done;
  client.admin->async()->Drain(&patient, &request, &response,
                               [&](grpc::Status status) { done.set_value(std::move(status)); });
  platform.CompleteAll();
  EXPECT_TRUE(done.get_future().get().ok());
  EXPECT_TRUE(response.complete());
  EXPECT_TRUE(admitted.status.get().ok());
  EXPECT_TRUE(daemon.server().Drain(Duration::zero()).ok() ||
              daemon.server().Drain(std::chrono::seconds(10)).ok());
}

TEST(OperationsTest, AFailedDeviceTurnsHealthToNotServing) {
  FakePlatform platform;
  InProcessDaemon daemon(platform,
                         [](Options& options) { options.metrics_listen = "127.0.0.1:0"; });
  TestClient client(daemon.address());
  HealthWatch health(client, "");
  EXPECT_EQ(health.Read(), kServing);
  const TestSession session = client.NewSession();
  Batch batch(session);
  batch.Add({.sequence = client.NewSequence(session, client.OpenCache())});
  platform.FailLaunch(absl::InternalError("the device caught fire"));
  EXPECT_EQ(client.Attend(batch.request()).response.results(0).status().code(), Code::INTERNAL);
  EXPECT_EQ(health.Read(), kNotServing);
  EXPECT_THAT(HttpGet(daemon.server().metrics_address(), "/healthz", 503),
              HasSubstr("the device caught fire"));
  const v1::GetStatsResponse stats = client.Stats();
  ASSERT_EQ(stats.devices_size(), 1);
  EXPECT_THAT(stats.devices(0).failure(), HasSubstr("the device caught fire"));
  EXPECT_TRUE(stats.devices(0).host_memory());
}

TEST(OperationsTest, ReflectionIsOnlyThereWhereAskedFor) {
  for (const bool reflection : {true, false}) {
    InProcessDaemon daemon([&](Options& options) { options.reflection = reflection; });
    TestClient client(daemon.address());
    grpc::GenericStub stub(client.channel());
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareCall(
        &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
    void* tag;
    bool ok;
    call->StartCall(nullptr);
    queue.Next(&tag, &ok);
    call->WritesDone(nullptr);
    queue.Next(&tag, &ok);
    grpc::Status status;
    call->Finish(&status, nullptr);
    queue.Next(&tag, &ok);
    EXPECT_EQ(status.error_code(), reflection ? Code::OK : Code::UNIMPLEMENTED);
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
  }
}

}  // namespace
}  // namespace attnd
