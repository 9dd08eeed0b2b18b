// SPDX-License-Identifier: Apache-2.0
//
// One scheduler, two devices: what goes where, and what a failure takes with it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/fakes/server_core.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

class SchedulerDevicesTest : public testing::Test {
 protected:
  SchedulerDevicesTest() {
    for (size_t i = 0; i < 2; ++i) {
      sequences_.push_back(core_.NewSequence());
      EXPECT_EQ(core_.cache.PlaceOf(core_.session, sequences_[i])->device,
                DeviceIndex(static_cast<uint32_t>(i)));
    }
  }
  FakePlatform& Gpu(size_t device) { return core_.devices[device].platform; }
  // How many items each launch on a device had, in order.
  std::vector<size_t> Launches(size_t device) {
    std::vector<size_t> sizes;
    for (const FakeStreamOp& op : Gpu(device).ops()) {
      if (op.kind == FakeStreamOp::Kind::kLaunch) sizes.push_back(op.items.size());
    }
    return sizes;
  }

  ServerCore core_{{.completion = FakePlatform::Completion::kManual, .num_devices = 2}};
  std::vector<SequenceId> sequences_;  // one on each device
};

TEST_F(SchedulerDevicesTest, ARequestIsSplitByDeviceAndAnsweredWhenBothAreDone) {
  PendingRequest pending =
      core_.Submit({core_.Write(sequences_[0], 0, 1, 0, 4), core_.Write(sequences_[1], 0, 1, 0, 4),
                    core_.Write(sequences_[0], 1, 1, 0, 4)});
  Gpu(0).WaitForLaunches(1);
  Gpu(1).WaitForLaunches(1);
  EXPECT_EQ(Launches(0), std::vector<size_t>{2});
  EXPECT_EQ(Launches(1), std::vector<size_t>{1});
  // Each writes into its own device's pool.
  for (size_t device : {0u, 1u}) {
    const std::span<std::byte> pool = core_.devices[device].pool.bytes();
    const std::byte* const k = Gpu(device).ops()[0].items[0].kv.k;
    EXPECT_TRUE(k >= pool.data() && k < pool.data() + pool.size()) << device;
  }
  Gpu(1).CompleteNext();
  core_.Sync();
  EXPECT_FALSE(pending.done());
  Gpu(0).CompleteNext();
  for (size_t item = 0; item < 3; ++item) EXPECT_TRUE(pending.WaitForStatus(item).ok());
}

TEST_F(SchedulerDevicesTest, ABusyDeviceHoldsUpNobodyElse) {
  // As many launches as device 0 may have, and items waiting behind them.
  std::vector<PendingRequest> stuck;
  for (uint64_t step = 1; step <= 4; ++step) {
    stuck.push_back(
        core_.Submit({core_.Write(sequences_[0], 0, step, static_cast<int64_t>(step) - 1, 1)}));
    if (step <= 2) Gpu(0).WaitForLaunches(static_cast<int64_t>(step));
  }
  for (uint64_t step = 1; step <= 10; ++step) {
    PendingRequest pending =
        core_.Submit({core_.Write(sequences_[1], 0, step, static_cast<int64_t>(step) - 1, 1)});
    Gpu(1).CompleteNext();
    EXPECT_TRUE(pending.WaitForStatus().ok());
  }
  EXPECT_EQ(Gpu(0).launches(), 2);
  for (const PendingRequest& pending : stuck) EXPECT_FALSE(pending.done());
  Gpu(0).CompleteAll();
  for (PendingRequest& pending : stuck) EXPECT_TRUE(pending.WaitForStatus().ok());
}

TEST_F(SchedulerDevicesTest, DenseItemsGoWhereLessIsLaunched) {
  PendingRequest first = core_.Submit({core_.Dense(4)});
  Gpu(0).WaitForLaunches(1);
  PendingRequest second = core_.Submit({core_.Dense(4)});
  Gpu(1).WaitForLaunches(1);
  Gpu(1).CompleteNext();
  EXPECT_TRUE(second.WaitForStatus().ok());
  PendingRequest third = core_.Submit({core_.Dense(4)});
  Gpu(1).WaitForLaunches(2);
  EXPECT_EQ(Gpu(0).launches(), 1);
  Gpu(0).CompleteAll();
  Gpu(1).CompleteAll();
  EXPECT_TRUE(first.WaitForStatus().ok());
  EXPECT_TRUE(third.WaitForStatus().ok());
}

TEST_F(SchedulerDevicesTest, AFailedDeviceTakesItsOwnSequencesAndNothingElse) {
  PendingRequest launched = core_.Submit({core_.Write(sequences_[0], 0, 1, 0, 4)});
  Gpu(0).WaitForLaunches(1);
  Gpu(0).FailLaunch(absl::InternalError("never asked: it is fenced by then"));
  PendingRequest elsewhere = core_.Submit({core_.Write(sequences_[1], 0, 1, 0, 4)});
  Gpu(1).WaitForLaunches(1);
  EXPECT_TRUE(core_.scheduler->device_status().ok());

  Gpu(0).CompleteNext(absl::InternalError("it caught fire"));
  EXPECT_EQ(launched.WaitForStatus().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(launched.WaitForStatus().message(), HasSubstr("it caught fire"));
  EXPECT_EQ(core_.scheduler->device_status().code(), absl::StatusCode::kInternal);
  // Of one request, what is on the failed device and what is not.
  PendingRequest both = core_.Submit(
      {core_.Write(sequences_[0], 0, 2, 4, 1), core_.Write(sequences_[1], 0, 2, 4, 1)});
  Gpu(1).CompleteAll();
  EXPECT_EQ(both.WaitForStatus(0).code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(both.WaitForStatus(0).message(), HasSubstr("it caught fire"));
  EXPECT_TRUE(both.WaitForStatus(1).ok());
  EXPECT_TRUE(elsewhere.WaitForStatus().ok());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(core_.Run({core_.Dense(4)}).outcomes[0].status.ok());
  EXPECT_EQ(Gpu(0).launches(), 1);
  EXPECT_EQ(core_.cache.Fork(core_.session, sequences_[0], std::nullopt).status().code(),
            absl::StatusCode::kDataLoss);

  Gpu(1).FailLaunch(absl::InternalError("so did the other"));
  EXPECT_EQ(core_.Run({core_.Dense(4)}).outcomes[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(core_.Run({core_.Dense(4)}).outcomes[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(core_.scheduler->device_status().message(), HasSubstr("it caught fire"));
}

}  // namespace
}  // namespace attnd
