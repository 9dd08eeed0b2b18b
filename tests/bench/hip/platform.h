// SPDX-License-Identifier: Apache-2.0
//
// What a launcher runs on. Each library links one definition of OpenBenchPlatform: hip_platform.cc
// for GPUs, cpu_platform.cc for the tests of the benchmark itself.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend/attention_backend.h"
#include "kernels/backend/device.h"

namespace attnd::bench {

// Destroyed from the last member to the first.
struct BenchPlatform {
  std::unique_ptr<Device> device;
  std::unique_ptr<AttentionBackend> backend;
  std::unique_ptr<Stream> stream;
  void* native_stream = nullptr;
};

// With room for `launches` on their way at a time; 0: what the backend has unless told.
absl::StatusOr<BenchPlatform> OpenBenchPlatform(int device, int launches);

}  // namespace attnd::bench
