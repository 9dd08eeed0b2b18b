// SPDX-License-Identifier: Apache-2.0
//
// Batch invariance, as a property: an item's bits do not depend on the threads, on its neighbours,
// on the run, on where its pages lie.
#include <bit>

#include "gtest/gtest.h"
#include "kernels/attention/kv_address.h"
#include "tests/conformance/backend_under_test.h"
#include "tests/conformance/compare.h"
#include "tests/conformance/problem.h"

namespace attnd::conformance {
namespace {

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  bits.reserve(values.size());
  for (float v : values) bits.push_back(std::bit_cast<uint32_t>(v));
  return bits;
}

ProblemSpec RandomSpec(std::mt19937_64& random) {
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  const int32_t dims[] = {32, 64, 80, 128};
  const int32_t kv_heads = static_cast<int32_t>(1 + below(2));
  ProblemSpec spec{.q_dtype = static_cast<DType>(below(3)),
                   .kv_dtype = static_cast<DType>(below(3)),
                   .head_dim_k = dims[below(4)],
                   .head_dim_v = dims[below(4)],
                   .query_heads = static_cast<int32_t>(kv_heads * (1 + below(5))),
                   .kv_heads = kv_heads,
                   .page_size = 1 + below(40)};
  for (Feature feature : {Feature::kCausal, Feature::kWindow, Feature::kSoftcap, Feature::kAlibi,
                          Feature::kSinks, Feature::kDropout}) {
    if (below(3) == 0) spec.features.Add(feature);
  }
  spec.features.Add(Feature::kLse);
  spec.window_left = 100;
  for (int64_t items = 2 + below(5); items > 0; --items) {
    const bool decode = below(2) == 0;
    spec.items.push_back({.query_len = decode ? 1 + below(2) : 1 + below(150),
                          .start = decode ? below(2600) : below(300)});
  }
  return spec;
}

class InvarianceTest : public testing::TestWithParam<BackendFactory> {};

TEST_P(InvarianceTest, BitsDependOnNothingButTheItem) {
  BackendUnderTest one = GetParam().make(1), two = GetParam().make(2), three = GetParam().make(3);
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < (kSanitized ? 4 : 12); ++round) {
    const ProblemSpec spec = RandomSpec(random);
    SCOPED_TRACE(ToString(spec) + " round " + std::to_string(round));
    Problem problem(spec, random(), one.memory);
    ASSERT_EQ(one.Run(problem.params()), absl::OkStatus());
    std::vector<std::vector<uint32_t>> outs, lses;
    for (size_t i = 0; i < spec.items.size(); ++i) {
      outs.push_back(Bits(problem.Out(i)));
      lses.push_back(Bits(problem.Lse(i)));
    }
    const auto expect_same = [&](size_t i, const char* what) {
      EXPECT_EQ(Bits(problem.Out(i)), outs[i]) << what << ", item " << i;
      EXPECT_EQ(Bits(problem.Lse(i)), lses[i]) << what << ", item " << i;
    };

    for (auto& [under_test, what] :
         {std::pair(&one, "again"), std::pair(&two, "2 threads"), std::pair(&three, "3 threads")}) {
      problem.Reset();
      ASSERT_EQ(under_test->Run(problem.params()), absl::OkStatus());
      for (size_t i = 0; i < spec.items.size(); ++i) expect_same(i, what);
    }
    for (size_t i = 0; i < spec.items.size(); ++i) {
      problem.Reset();
      AttentionParams alone = problem.params();
      alone.items = alone.items.subspan(i, 1);
      ASSERT_EQ(two.Run(alone), absl::OkStatus());
      expect_same(i, "alone");
    }
    problem.Reset();
    std::vector<AttentionItem> reversed(problem.items().rbegin(), problem.items().rend());
    AttentionParams params = problem.params();
    params.items = reversed;
    ASSERT_EQ(two.Run(params), absl::OkStatus());
    for (size_t i = 0; i < spec.items.size(); ++i) expect_same(i, "reversed");
    ASSERT_FALSE(HasFailure());
  }
}

// A batch of decode that fills any GPU is cut into blocks in another way than one that does not:
// each block computes many splits.
TEST_P(InvarianceTest, BitsDoNotDependOnWhetherTheBatchFillsTheDevice) {
  BackendUnderTest under_test = GetParam().make(2);
  ProblemSpec spec{.q_dtype = DType::kBF16,
                   .kv_dtype = DType::kBF16,
                   .query_heads = 2,
                   .kv_heads = 2,
                   .features = {Feature::kCausal, Feature::kLse}};
  constexpr size_t kItems = 160;
  for (size_t i = 0; i < kItems; ++i) {
    spec.items.push_back({.query_len = 1, .start = 1290 + static_cast<int64_t>(i) % 5});
  }
  Problem problem(spec, TestSeed(), under_test.memory);
  std::vector<std::vector<uint32_t>> outs, lses;
  for (size_t i = 0; i < kItems; i += kItems / 4) {
    AttentionParams alone = problem.params();
    alone.items = alone.items.subspan(i, 1);
    ASSERT_EQ(under_test.Run(alone), absl::OkStatus());
    outs.push_back(Bits(problem.Out(i)));
    lses.push_back(Bits(problem.Lse(i)));
  }
  problem.Reset();
  ASSERT_EQ(under_test.Run(problem.params()), absl::OkStatus());
  ExpectMatchesReference(problem);
  for (size_t i = 0; i < outs.size(); ++i) {
    EXPECT_EQ(Bits(problem.Out(i * (kItems / 4))), outs[i]) << "item " << i * (kItems / 4);
    EXPECT_EQ(Bits(problem.Lse(i * (kItems / 4))), lses[i]) << "item " << i * (kItems / 4);
  }
}

// Where the bytes lie is no part of the geometry.
TEST_P(InvarianceTest, BitsDoNotDependOnThePageSize) {
  BackendUnderTest under_test = GetParam().make(2);
  for (int64_t query_len : {1, 50}) {
    ProblemSpec spec{.query_heads = 4,
                     .kv_heads = 2,
                     .page_size = 16,
                     .features = {Feature::kCausal},
                     .items = {{.query_len = query_len, .start = 500}}};
    const uint64_t seed = TestSeed();
    Problem pages(spec, seed, under_test.memory);
    spec.page_size = 7;
    Problem others(spec, seed, under_test.memory);
    // The two draw their tokens in another order: copy them over.
    AttentionItem& from = pages.items()[0];
    AttentionItem& to = others.items()[0];
    for (int64_t t = 0; t < 500; ++t) {
      for (int64_t h = 0; h < 2; ++h) {
        for (int64_t d = 0; d < 64; ++d) {
          others.SetKey(0, h, t, d,
                        LoadAsFloat(DType::kF32, KeyAddress(from.kv, DType::kF32, h, t), d));
          others.SetValue(0, h, t, d,
                          LoadAsFloat(DType::kF32, ValueAddress(from.kv, DType::kF32, h, t), d));
        }
      }
    }
    to.q = from.q, to.new_k = from.new_k, to.new_v = from.new_v;
    ASSERT_EQ(under_test.Run(pages.params()), absl::OkStatus());
    ASSERT_EQ(under_test.Run(others.params()), absl::OkStatus());
    EXPECT_EQ(Bits(pages.Out(0)), Bits(others.Out(0)));
  }
}

// The decode and the tile kernel are two implementations of one thing.
TEST_P(InvarianceTest, DecodeAgreesWithPrefill) {
  BackendUnderTest under_test = GetParam().make(2);
  constexpr int64_t kTokens = 40;
  ProblemSpec spec{.query_heads = 2,
                   .kv_heads = 1,
                   .features = {Feature::kCausal},
                   .items = {{.query_len = kTokens, .start = 300}}};
  Problem problem(spec, TestSeed(), under_test.memory);
  ASSERT_EQ(under_test.Run(problem.params()), absl::OkStatus());
  const std::vector<float> together = problem.Out(0);
  problem.Reset();
  // The same tokens again, one a launch.
  AttentionItem step = problem.items()[0];
  const size_t elem = SizeOf(spec.q_dtype);
  const auto advance = [&](auto& view) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>,
                                    const std::byte, std::byte>;
    view.data = static_cast<Byte*>(view.data) + static_cast<size_t>(view.token_stride_elems) * elem;
  };
  step.query_len = 1;
  for (int64_t t = 0; t < kTokens; ++t) {
    step.kv_len = step.start_position + 1;
    AttentionParams params = problem.params();
    params.items = {&step, 1};
    ASSERT_EQ(under_test.Run(params), absl::OkStatus());
    ++step.start_position;
    advance(step.q), advance(step.new_k), advance(step.new_v), advance(step.out);
  }
  ExpectMatchesReference(problem);
  const std::vector<float> one_by_one = problem.Out(0);
  for (size_t i = 0; i < together.size(); ++i) ASSERT_NEAR(together[i], one_by_one[i], 3e-6) << i;
}

INSTANTIATE_TEST_SUITE_P(Backends, InvarianceTest, testing::ValuesIn(Backends()), BackendName);

}  // namespace
}  // namespace attnd::conformance
