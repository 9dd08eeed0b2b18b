// SPDX-License-Identifier: Apache-2.0
//
// tests/fuzz/kv_cache_fuzz.cc on random inputs, since CI has no fuzzing engine. The seed is
// printed; ATTND_TEST_SEED takes it back.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace attnd {
namespace {

TEST(KvCacheFuzzTest, NoSequenceOfCallsBreaksTheCache) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int kInputs = 150;
#else
  constexpr int kInputs = 1500;
#endif
  uint64_t seed = std::random_device()();
  if (const char* given = std::getenv("ATTND_TEST_SEED")) seed = std::strtoull(given, nullptr, 0);
  std::printf("ATTND_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  std::vector<uint8_t> input(4000);
  for (int i = 0; i < kInputs; ++i) {
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
}

}  // namespace
}  // namespace attnd
