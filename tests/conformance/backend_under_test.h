// SPDX-License-Identifier: Apache-2.0
//
// The backends that the suite runs on. A backend joins by one line in a source file of its own:
//
//   const bool registered = RegisterBackend({"hip", [] { return MakeHipUnderTest(); }});
//
// Not thread-safe: registration happens before main, tests run one at a time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend/attention_backend.h"
#include "kernels/backend/device.h"
#include "tests/conformance/problem.h"
#include "tests/conformance/staged_launch.h"

namespace attnd::conformance {

// A sanitizer finds in some of the cases what it finds in all, and takes ten times as long on each:
// tests that walk many take a sample, in which every kind of case is.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// A backend and the device it runs on, destroyed in reverse order.
struct BackendUnderTest {
  std::unique_ptr<Device> device;
  std::unique_ptr<std::pmr::memory_resource> owned_memory;  // null: the problem's own
  ProblemMemory memory;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<AttentionBackend> backend;
  // Where its kernels do not read the host's memory: what tensors are copied to and back.
  std::unique_ptr<TestMemory> staging = nullptr;

  // Plans, launches and waits.
  absl::Status Run(const AttentionParams& params);

 private:
  absl::Status RunInPlace(const AttentionParams& params);
};

struct BackendFactory {
  std::string name;
  // A fresh instance that computes on `num_threads` threads where that means anything.
  std::function<BackendUnderTest(int num_threads)> make;
  // Whether the matrix test walks every cell on this one, or a sample (variants of another).
  bool every_cell = true;
};

bool RegisterBackend(BackendFactory factory);
const std::vector<BackendFactory>& Backends();

// Names the tests of a suite that has the backends as parameters.
std::string BackendName(const testing::TestParamInfo<BackendFactory>& info);
// For gtest's messages.
void PrintTo(const BackendFactory& factory, std::ostream* out);

// The seed of this run: $ATTND_TEST_SEED, or a fresh one. Printed once.
uint64_t TestSeed();

}  // namespace attnd::conformance
