// SPDX-License-Identifier: Apache-2.0
#include "client/cli/doctor/visible_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace attnd::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<AmdGpu> Gpus(int count) {
  std::vector<AmdGpu> gpus;
  gpus.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    gpus.push_back({.index = i, .target = "gfx1100", .unique_id = 0xdeadbeefdead0000u + i});
  }
  return gpus;
}

VisibleDevices Resolve(const Environment& environment) {
  return ResolveVisibleDevices(environment, Gpus(4));
}

TEST(VisibleDevicesTest, NothingSetShowsAll) {
  EXPECT_THAT(Resolve({}).gpus, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Resolve({}).settings, IsEmpty());
}

TEST(VisibleDevicesTest, HipCountsAmongThoseThatRocrLeft) {
  const VisibleDevices both =
      Resolve({{"ROCR_VISIBLE_DEVICES", "2,1"}, {"HIP_VISIBLE_DEVICES", "1"}});
  EXPECT_THAT(both.gpus, ElementsAre(1));
  EXPECT_THAT(both.problems, IsEmpty());
  // The usual mistake: the same list twice.
  const VisibleDevices twice =
      Resolve({{"ROCR_VISIBLE_DEVICES", "3"}, {"HIP_VISIBLE_DEVICES", "3"}});
  EXPECT_THAT(twice.gpus, IsEmpty());
  EXPECT_THAT(twice.problems, testing::Contains(HasSubstr("set one of them")));
}

TEST(VisibleDevicesTest, AListEndsAtItsFirstBadEntry) {
  const VisibleDevices visible = Resolve({{"HIP_VISIBLE_DEVICES", "2,7,1"}});
  EXPECT_THAT(visible.gpus, ElementsAre(2));
  EXPECT_THAT(visible.problems, ElementsAre(HasSubstr("\"7\" names none of the 4 GPUs (0 to 3)")));
  EXPECT_THAT(Resolve({{"HIP_VISIBLE_DEVICES", "0,x"}}).gpus, ElementsAre(0));
}

TEST(VisibleDevicesTest, EmptyMeansNoneForRocrAndUnsetForHip) {
  EXPECT_THAT(Resolve({{"ROCR_VISIBLE_DEVICES", ""}}).gpus, IsEmpty());
  const VisibleDevices hip = Resolve({{"HIP_VISIBLE_DEVICES", ""}});
  EXPECT_THAT(hip.gpus, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(hip.problems, ElementsAre(HasSubstr("write -1 for none")));
  const VisibleDevices none = Resolve({{"HIP_VISIBLE_DEVICES", "-1"}});
  EXPECT_THAT(none.gpus, IsEmpty());
  EXPECT_THAT(none.problems, IsEmpty()) << "it is meant";
}

TEST(VisibleDevicesTest, CudaCountsWhereHipIsNotSet) {
  EXPECT_THAT(Resolve({{"CUDA_VISIBLE_DEVICES", "3"}}).gpus, ElementsAre(3));
  const VisibleDevices both =
      Resolve({{"CUDA_VISIBLE_DEVICES", "3"}, {"HIP_VISIBLE_DEVICES", "1"}});
  EXPECT_THAT(both.gpus, ElementsAre(1));
  EXPECT_THAT(both.problems, ElementsAre(HasSubstr("disagree")));
}

TEST(VisibleDevicesTest, TakesIdsAndNamesDuplicates) {
  EXPECT_THAT(Resolve({{"ROCR_VISIBLE_DEVICES", "GPU-DEADBEEFDEAD0002, 0"}}).gpus,
              ElementsAre(2, 0));
  const VisibleDevices twice = Resolve({{"ROCR_VISIBLE_DEVICES", "1,1"}});
  EXPECT_THAT(twice.gpus, ElementsAre(1));
  EXPECT_THAT(twice.problems, ElementsAre(HasSubstr("named twice")));
}

TEST(VisibleDevicesTest, GpuDeviceOrdinalIsNotToBeReliedOn) {
  EXPECT_THAT(Resolve({{"GPU_DEVICE_ORDINAL", "0"}}).problems,
              ElementsAre(HasSubstr("say it with ROCR_VISIBLE_DEVICES")));
}

}  // namespace
}  // namespace attnd::cli
