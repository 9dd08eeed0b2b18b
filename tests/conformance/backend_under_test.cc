// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/backend_under_test.h"

#include <cstdlib>
#include <iostream>
#include <random>

#include "kernels/base/status_macros.h"

namespace attnd::conformance {
namespace {

std::vector<BackendFactory>& Registry() {
  static auto* const registry = new std::vector<BackendFactory>;
  return *registry;
}

}  // namespace

absl::Status BackendUnderTest::Run(const AttentionParams& params) {
  if (staging == nullptr) return RunInPlace(params);
  StagedLaunch staged(*staging, params);
  ATTND_RETURN_IF_ERROR(RunInPlace(staged.params()));
  staged.CopyBack();
  return absl::OkStatus();
}

absl::Status BackendUnderTest::RunInPlace(const AttentionParams& params) {
  std::unique_ptr<LaunchPlan> plan = backend->NewPlan();
  ATTND_RETURN_IF_ERROR(backend->Plan(params, *plan));
  ATTND_RETURN_IF_ERROR(backend->Launch(*stream, *plan, params));
  ATTND_ASSIGN_OR_RETURN(std::unique_ptr<Event> event, stream->Record());
  return event->Wait();
}

bool RegisterBackend(BackendFactory factory) {
  Registry().push_back(std::move(factory));
  return true;
}

const std::vector<BackendFactory>& Backends() { return Registry(); }

std::string BackendName(const testing::TestParamInfo<BackendFactory>& info) {
  return info.param.name;
}

void PrintTo(const BackendFactory& factory, std::ostream* out) { *out << factory.name; }

uint64_t TestSeed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("ATTND_TEST_SEED");
    const uint64_t value =
        given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()() & 0xffffffffu;
    std::cout << "ATTND_TEST_SEED=" << value << std::endl;
    return value;
  }();
  return seed;
}

}  // namespace attnd::conformance
