// SPDX-License-Identifier: Apache-2.0
//
// The HIP backend on simt_host: on each matrix core that its kernels are written for.
#include "kernels/attention/check_params.h"
#include "kernels/hip/hip_backend.h"
#include "kernels/hip/hip_device.h"
#include "kernels/hip/simt_host/machine.h"
#include "tests/conformance/backend_under_test.h"
#include "tests/conformance/pinned_memory.h"

namespace attnd::conformance {
namespace {

BackendUnderTest MakeHip() {
  BackendUnderTest under_test;
  std::unique_ptr<HipDevice> device = *HipDevice::Open(0);
  under_test.owned_memory = std::make_unique<PinnedMemory>(*device);
  under_test.memory = {under_test.owned_memory.get(), kOperandAlignmentBytes};
  under_test.stream = *device->NewStream();
  under_test.backend = *MakeHipBackend(
      *device, {.launches = 2, .upload_bytes = Bytes(1 << 16), .workspace_bytes = Bytes(1 << 20)});
  under_test.device = std::move(device);
  return under_test;
}

BackendFactory On(const char* name, simt::Core core) {
  return {name,
          [core](int) {
            if (simt::Options().core != core) {
              simt::SetUp({.core = core});
            }
            return MakeHip();
          },
          /*every_cell=*/false};
}

// Those that kernels are compiled for (ATTND_SIMT_CORES).
const bool kRegistered = [] {
#if defined(ATTND_SIMT_CORE_0)
  RegisterBackend(On("SimtGfx1100", simt::Core::kGfx1100));
#endif
#if defined(ATTND_SIMT_CORE_1)
  RegisterBackend(On("SimtGfx1201", simt::Core::kGfx1201));
#endif
#if defined(ATTND_SIMT_CORE_2)
  RegisterBackend(On("SimtGfx942", simt::Core::kGfx942));
#endif
#if defined(ATTND_SIMT_CORE_3)
  RegisterBackend(On("SimtGfx950", simt::Core::kGfx950));
#endif
#if defined(ATTND_SIMT_CORE_4)
  RegisterBackend(On("SimtSm90", simt::Core::kSm90));
#endif
  return true;
}();

}  // namespace
}  // namespace attnd::conformance
