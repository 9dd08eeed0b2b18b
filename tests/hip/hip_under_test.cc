// SPDX-License-Identifier: Apache-2.0
//
// The HIP backend on the first GPU, for the conformance suite. Tensors are staged in device memory.
#include <hip/hip_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include "kernels/attention/check_params.h"
#include "kernels/hip/hip_backend.h"
#include "kernels/hip/hip_device.h"
#include "tests/conformance/backend_under_test.h"

namespace attnd::conformance {
namespace {

void Must(hipError_t error, const char* what) {
  if (error == hipSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, hipGetErrorString(error));
  std::abort();
}

class HipTestMemory final : public TestMemory {
 public:
  std::byte* Allocate(size_t bytes) override {
    void* data = nullptr;
    Must(hipMalloc(&data, bytes), "hipMalloc");
    return static_cast<std::byte*>(data);
  }
  void Free(std::byte* data) override { Must(hipFree(data), "hipFree"); }
  void Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    Must(hipMemcpy(to, from, bytes, hipMemcpyDefault), "hipMemcpy");
    // From pageable memory it may return before the device has it all; the tests' stream does not
    // wait for the default one.
    Must(hipDeviceSynchronize(), "hipDeviceSynchronize");
  }
};

BackendUnderTest MakeHip() {
  absl::StatusOr<std::unique_ptr<HipDevice>> device = HipDevice::Open(/*ordinal=*/0);
  if (!device.ok()) {
    std::fprintf(stderr, "no GPU to test: %s\n", device.status().ToString().c_str());
    std::abort();
  }
  BackendUnderTest under_test;
  under_test.stream = *(*device)->NewStream();
  absl::StatusOr<std::unique_ptr<AttentionBackend>> backend = MakeHipBackend(**device);
  if (!backend.ok()) {
    std::fprintf(stderr, "no kernels to test: %s\n", backend.status().ToString().c_str());
    std::abort();
  }
  under_test.backend = *std::move(backend);
  under_test.staging = std::make_unique<HipTestMemory>();
  under_test.memory.row_alignment_bytes = kOperandAlignmentBytes;
  under_test.device = *std::move(device);
  return under_test;
}

const bool kRegistered = RegisterBackend({"Hip", [](int /*num_threads*/) { return MakeHip(); }});

}  // namespace
}  // namespace attnd::conformance
