// SPDX-License-Identifier: Apache-2.0
//
// The daemon on GPUs, as simt_host plays them: the HIP backend and its device layer from a client's
// request to its answer, with work that runs as late as it may, with faults, and with two devices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/hip/hip_backend.h"
#include "kernels/hip/hip_platform.h"
#include "kernels/hip/simt_host/machine.h"
#include "tests/fakes/built_files.h"
#include "tests/integration/daemon.h"
#include "tests/integration/reference_model.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Code = grpc::StatusCode;

Platform OpenGpus(int num_devices) {
  simt::SetUp({.num_devices = num_devices, .timing = simt::Timing::kLazy});
  absl::StatusOr<Platform> platform = OpenHipPlatform([](HipDevice& device) {
    return MakeHipBackend(
        device, {.launches = 4, .upload_bytes = Bytes(1 << 16), .workspace_bytes = Bytes(1 << 20)});
  });
  EXPECT_TRUE(platform.ok()) << platform.status();
  return *std::move(platform);
}

void WithHealth(Options& options) { options.metrics_listen = "127.0.0.1:0"; }

class GpuTest : public ::testing::Test {
 protected:
  void Start(int num_devices) {
    daemon_ = std::make_unique<InProcessDaemon>(OpenGpus(num_devices), WithHealth);
    client_ = std::make_unique<TestClient>(daemon_->address());
    cache_ = client_->OpenCache();
    session_ = client_->NewSession();
  }
  v1::Id NewSequence() { return client_->NewSequence(session_, cache_); }
  // Three tokens more in layer 0, checked against the reference where they are served.
  v1::ItemStatus Step(const v1::Id& sequence, uint64_t step, ReferenceModel* model) {
    Batch batch(session_, step);
    batch.Add({.sequence = sequence,
               .rows = 3,
               .step = step,
               .start = 3 * (static_cast<int64_t>(step) - 1)});
    const AttendReply reply = client_->Attend(batch.request());
    EXPECT_TRUE(reply.status.ok()) << reply.status.error_message();
    if (reply.response.results(0).status().code() == Code::OK && model != nullptr) {
      model->Apply(batch);
      model->ExpectMatches(batch, reply.response);
    }
    return reply.response.results(0).status();
  }
  std::string Healthz(int expected_code) {
    return HttpGet(daemon_->server().metrics_address(), "/healthz", expected_code);
  }

  std::unique_ptr<InProcessDaemon> daemon_;
  std::unique_ptr<TestClient> client_;
  v1::Id cache_;
  TestSession session_;
};

TEST_F(GpuTest, ServesSequencesOfTwoDevices) {
  Start(2);
  const std::vector<v1::Id> sequences = {NewSequence(), NewSequence(), NewSequence()};
  ReferenceModel model;
  for (int round = 0; round < 2; ++round) {
    Batch batch(session_, static_cast<uint64_t>(round) + 1);
    for (const v1::Id& sequence : sequences) {
      for (int layer = 0; layer < 2; ++layer) {
        batch.Add({.sequence = sequence,
                   .layer = layer,
                   .rows = 5,
                   .step = static_cast<uint64_t>(round) + 1,
                   .start = 5 * round});
      }
    }
    const AttendReply reply = client_->Attend(batch.request());
    ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
    model.Apply(batch);
    model.ExpectMatches(batch, reply.response);
  }
  const v1::GetStatsResponse stats = client_->Stats();
  ASSERT_EQ(stats.devices_size(), 2);
  EXPECT_EQ(stats.devices(0).sequences(), 2);
  EXPECT_EQ(stats.devices(1).sequences(), 1);
  EXPECT_GT(simt::LaunchCount(0), 0);
  EXPECT_GT(simt::LaunchCount(1), 0);
  EXPECT_EQ(simt::LastReport(), "");
}

TEST_F(GpuTest, AForkWritesIntoItsOwnCopyOfThePage) {
  Start(1);
  const v1::Id parent = NewSequence();
  ReferenceModel model;
  ASSERT_EQ(Step(parent, 1, &model).code(), Code::OK);
  grpc::ClientContext context;
  v1::ForkSequenceRequest request;
  *request.mutable_session() = session_.id;
  request.set_epoch(session_.epoch);
  *request.mutable_sequence() = parent;
  v1::ForkSequenceResponse response;
  ASSERT_TRUE(client_->sequences->ForkSequence(&context, request, &response).ok());
  // Tokens 3 to 5 of the fork share a page with tokens 0 to 2 of both.
  ReferenceModel fork_model = model;
  fork_model.Fork(parent, response.sequence());
  Batch forked(session_, 99);
  forked.Add({.sequence = response.sequence(), .rows = 3, .step = 2, .start = 3});
  const AttendReply reply = client_->Attend(forked.request());
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  fork_model.Apply(forked);
  fork_model.ExpectMatches(forked, reply.response);
  EXPECT_EQ(Step(parent, 2, &model).code(), Code::OK);
}

TEST_F(GpuTest, AFaultFencesItsDeviceAndTheOtherServesOn) {
  Start(2);
  const v1::Id lost = NewSequence(), kept = NewSequence();
  ReferenceModel lost_model, kept_model;
  for (uint64_t step = 1; step <= 2; ++step) {
    ASSERT_EQ(Step(lost, step, &lost_model).code(), Code::OK);
    ASSERT_EQ(Step(kept, step, &kept_model).code(), Code::OK);
  }
  Healthz(200);

  simt::SetFaults(0, {.failing_launch = 1});
  const v1::ItemStatus failed = Step(lost, 3, nullptr);
  EXPECT_EQ(failed.code(), Code::INTERNAL);
  EXPECT_THAT(failed.message(),
              AllOf(HasSubstr("hip:0"), HasSubstr(hipGetErrorName(hipErrorIllegalAddress))));
  const v1::ItemStatus later = Step(lost, 4, nullptr);
  EXPECT_EQ(later.code(), Code::DATA_LOSS);
  EXPECT_THAT(later.message(), HasSubstr("recompute"));
  EXPECT_EQ(client_->Truncate(session_, lost, 1).error_code(), Code::DATA_LOSS);
  EXPECT_THAT(Healthz(503), HasSubstr("hip:0"));

  EXPECT_EQ(Step(kept, 3, &kept_model).code(), Code::OK);
  EXPECT_TRUE(client_->Free(session_, lost).ok());
  const v1::Id recomputed = NewSequence();
  ReferenceModel model;
  EXPECT_EQ(Step(recomputed, 1, &model).code(), Code::OK);
  const v1::GetStatsResponse stats = client_->Stats();
  EXPECT_THAT(stats.devices(0).failure(), HasSubstr("hip:0"));
  EXPECT_EQ(stats.devices(0).sequences(), 0);
  EXPECT_EQ(stats.devices(1).failure(), "");
  EXPECT_EQ(stats.devices(1).sequences(), 2);

  // The second is attention itself: what it needs was uploaded before.
  simt::SetFaults(1, {.failing_launch = 2});
  EXPECT_EQ(Step(kept, 4, nullptr).code(), Code::INTERNAL);
  EXPECT_EQ(Step(recomputed, 2, nullptr).code(), Code::DATA_LOSS);
}

TEST(GpuStartTest, TheProgramLoadsThePluginAndServes) {
  ChildDaemon daemon({"--hip_plugin=" + BuiltTestPlugin("attnd_hip_simt")});
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  EXPECT_THAT(daemon.log(), AllOf(HasSubstr("HIP shows 1 device, 1 in use"),
                                  HasSubstr("backend: hip (gfx1100), chosen because"),
                                  HasSubstr("pool: 64MiB on hip:0: ")));
  TestClient client(daemon.address());
  const TestSession session = client.NewSession();
  Batch batch(session);
  batch.Add({.sequence = client.NewSequence(session, client.OpenCache()), .rows = 9});
  const AttendReply reply = client.Attend(batch.request());
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  ReferenceModel model;
  model.Apply(batch);
  model.ExpectMatches(batch, reply.response);
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
}

TEST(GpuStartTest, TooLittleMemoryNamesTheFlags) {
  Platform platform = OpenGpus(1);
  simt::SetFaults(0, {.bytes_used_by_others = simt::Options().memory_bytes / 2});
  Options options;
  TempDir dir;
  options.listen = {"unix:" + dir.path("s")};
  options.metrics_listen = "";
  const absl::Status by_fraction = Server::Start(options, std::move(platform)).status();
  EXPECT_EQ(by_fraction.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(by_fraction.message(), AllOf(HasSubstr("bytes asked"), HasSubstr(" free; "),
                                           HasSubstr("--gpu_memory_fraction=0.9")));
  platform = OpenGpus(1);
  simt::SetFaults(0, {.bytes_used_by_others = simt::Options().memory_bytes / 2});
  options.pool_bytes = Bytes(simt::Options().memory_bytes);
  const absl::Status by_bytes = Server::Start(options, std::move(platform)).status();
  EXPECT_THAT(by_bytes.message(), HasSubstr("set by --pool_bytes"));
}

}  // namespace
}  // namespace attnd
