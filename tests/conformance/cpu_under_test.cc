// SPDX-License-Identifier: Apache-2.0
//
// The CPU backend on the best instruction set, on lesser ones, and with tiles cut for tiny caches,
// so that small problems cross tile borders.
#include "hwy/highway.h"
#include "hwy/targets.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_device.h"
#include "tests/conformance/backend_under_test.h"

namespace attnd::conformance {
namespace {

BackendUnderTest MakeCpu(int num_threads, const CpuBackendOptions& options) {
  BackendUnderTest under_test;
  std::unique_ptr<CpuDevice> device = MakeCpuDevice({.num_threads = num_threads});
  under_test.stream = *device->NewStream();
  under_test.backend = MakeCpuBackend(*device, options);
  under_test.device = std::move(device);
  return under_test;
}

#if HWY_ARCH_X86
BackendFactory OnTarget(const char* name, int64_t target) {
  return {name,
          [target](int num_threads) {
            hwy::SetSupportedTargetsForTest(target);
            BackendUnderTest under_test = MakeCpu(num_threads, {});
            hwy::SetSupportedTargetsForTest(0);
            hwy::GetChosenTarget().DeInit();
            return under_test;
          },
          /*every_cell=*/false};
}
#endif

const bool kRegistered = [] {
  RegisterBackend({"Cpu", [](int num_threads) { return MakeCpu(num_threads, {}); }});
  RegisterBackend({"CpuTinyCaches",
                   [](int num_threads) {
                     return MakeCpu(num_threads, {.caches = {.l1_bytes = 4096, .l2_bytes = 4096}});
                   },
                   /*every_cell=*/false});
  // The best unit for bf16 is "Cpu" already.
  if (DetectBf16Unit() != Bf16Unit::kNone) {
    RegisterBackend(
        {"CpuNoBf16",
         [](int num_threads) { return MakeCpu(num_threads, {.bf16 = Bf16Unit::kNone}); },
         /*every_cell=*/false});
  }
  if (DetectBf16Unit() == Bf16Unit::kTile) {
    RegisterBackend({"CpuAvx512Bf16",
                     [](int num_threads) { return MakeCpu(num_threads, {.bf16 = Bf16Unit::kDot}); },
                     /*every_cell=*/false});
  }
#if HWY_ARCH_X86
  const int64_t supported = hwy::SupportedTargets();
  // The best one is "Cpu" already.
  if ((supported & HWY_AVX3) != 0) RegisterBackend(OnTarget("CpuAvx2", HWY_AVX2));
  if ((supported & HWY_AVX2) != 0) RegisterBackend(OnTarget("CpuSse4", HWY_SSE4));
#endif
  return true;
}();

}  // namespace
}  // namespace attnd::conformance
