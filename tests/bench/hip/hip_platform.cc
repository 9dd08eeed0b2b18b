// SPDX-License-Identifier: Apache-2.0
//
// The launcher on a GPU: PyTorch's memory is in the same primary context, its stream is ours.
#include "kernels/base/status_macros.h"
#include "kernels/hip/hip_backend.h"
#include "kernels/hip/hip_device.h"
#include "kernels/hip/hip_stream.h"
#include "tests/bench/hip/platform.h"

namespace attnd::bench {

absl::StatusOr<BenchPlatform> OpenBenchPlatform(int device, int launches) {
  BenchPlatform platform;
  ATTND_ASSIGN_OR_RETURN(std::unique_ptr<HipDevice> hip, HipDevice::Open(device));
  HipBackendOptions options;
  if (launches > 0) options.launches = launches;
  ATTND_ASSIGN_OR_RETURN(platform.backend, MakeHipBackend(*hip, options));
  ATTND_ASSIGN_OR_RETURN(platform.stream, hip->NewStream());
  platform.native_stream = static_cast<HipStream&>(*platform.stream).handle();
  platform.device = std::move(hip);
  return platform;
}

}  // namespace attnd::bench
