// SPDX-License-Identifier: Apache-2.0
//
// Accuracy where it is hard: large logits, long contexts, denormals. Each case says what is
// reached, and prints it (--gtest_output=xml keeps it as a property).
#include <cmath>
#include <iostream>
#include <limits>

#include "gtest/gtest.h"
#include "tests/conformance/backend_under_test.h"
#include "tests/conformance/compare.h"
#include "tests/conformance/problem.h"

namespace attnd::conformance {
namespace {

class NumericsTest : public testing::TestWithParam<BackendFactory> {
 protected:
  Error Measure(const ProblemSpec& spec, const std::string& what) {
    Problem problem(spec, ++seed_, under_test_.memory);
    EXPECT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
    const Error error = MeasureError(problem);
    EXPECT_EQ(error.mismatches, 0);
    std::cout << "  " << what << ": relative L2 " << error.relative_l2 << ", max abs "
              << error.max_abs << std::endl;
    RecordProperty(what, std::to_string(error.relative_l2));
    return error;
  }

  BackendUnderTest under_test_ = GetParam().make(2);
  uint64_t seed_ = TestSeed();
};

// Logits with a standard deviation of q_magnitude, over 764 keys. An fp32 product of size s carries
// an error of some s * 1e-7, which the softmax turns into a relative error of the weights: 1e-6 is
// reached up to a deviation of about 2 (largest logits around 8). Beyond, the error grows more
// slowly than the logits, since fewer and fewer keys carry any weight.
TEST_P(NumericsTest, LargeLogits) {
  for (const auto& [magnitude, bound] : {std::pair{1.0f, 1e-6},
                                         {2.0f, 1.5e-6},
                                         {4.0f, 2e-6},
                                         {16.0f, 6e-6},
                                         {64.0f, 2e-5},
                                         {1000.0f, 1e-4}}) {
    for (int64_t query_len : {1, 64}) {
      const Error error = Measure({.head_dim_k = 128,
                                   .head_dim_v = 128,
                                   .items = {{.query_len = query_len, .start = 700}},
                                   .q_magnitude = magnitude},
                                  "logits_of_" + std::to_string(static_cast<int>(magnitude)) +
                                      "_queries_" + std::to_string(query_len));
      EXPECT_LE(error.relative_l2, bound) << magnitude << " seed " << seed_;
    }
  }
}

TEST_P(NumericsTest, LongContext) {
  // The reference takes its time: the whole length on the main variant only.
  const int64_t tokens = GetParam().every_cell ? 128 << 10 : 8 << 10;
  for (int64_t query_len : {1, 24}) {
    const Error error =
        Measure({.head_dim_k = 32,
                 .head_dim_v = 32,
                 .query_heads = 1,
                 .items = {{.query_len = query_len, .start = tokens - query_len}}},
                "context_" + std::to_string(tokens) + "_queries_" + std::to_string(query_len));
    EXPECT_LE(error.relative_l2, 1e-6) << "seed " << seed_;
  }
}

// Denormal inputs and results neither vanish nor blow up.
TEST_P(NumericsTest, Denormals) {
  for (int64_t query_len : {1, 40}) {
    for (DType kv_dtype : {DType::kF32, DType::kBF16}) {
      ProblemSpec spec{.kv_dtype = kv_dtype,
                       .items = {{.query_len = query_len, .start = 50, .append = false}}};
      Problem problem(spec, ++seed_, under_test_.memory);
      constexpr float kTiny = 3e-40f;
      for (int64_t t = 0; t < 50 + query_len; ++t) {
        for (int64_t d = 0; d < 64; ++d) {
          problem.SetValue(0, 0, t, d, (t % 3 == 0 ? -1 : 2) * kTiny);
        }
        problem.SetKey(0, 0, t, 0, kTiny);
      }
      ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
      const std::vector<float> out = problem.Out(0);
      for (size_t e = 0; e < out.size(); ++e) {
        // fp32 has steps of 1.4e-45 down there; each of the keys may cost one.
        ASSERT_NEAR(out[e], problem.expected(0).out[e], 100 * 1.4e-45) << e;
        ASSERT_NE(out[e], 0.0f);
      }
    }
  }
}

// Scores whose last bit is worth many times a softmax's range: the largest one takes all.
TEST_P(NumericsTest, HugeLogits) {
  for (float magnitude : {1e8f, 1e12f, 1e30f}) {
    for (int64_t query_len : {1, 40}) {
      for (DType kv_dtype : {DType::kF32, DType::kBF16}) {
        const Error error = Measure(
            {.kv_dtype = kv_dtype,
             .features = {Feature::kCausal},
             .items = {{.query_len = query_len, .start = 600}},
             .q_magnitude = magnitude},
            "logits_of_" + std::to_string(magnitude) + "_queries_" + std::to_string(query_len));
        EXPECT_EQ(error.mismatches, 0);
        EXPECT_LE(error.relative_l2, 1e-6) << "seed " << seed_;
      }
    }
  }
}

// Numbers whose product is ordinary though they are not, and values of every size beside one
// another: kernels that compute with parts of numbers must not lose the small ones.
TEST_P(NumericsTest, MagnitudesFarApart) {
  for (int64_t query_len : {1, 40}) {
    ProblemSpec spec{.items = {{.query_len = query_len, .start = 90, .append = false}}};
    Problem problem(spec, ++seed_, under_test_.memory);
    for (int64_t i = 0; i < query_len; ++i) {
      for (int64_t head : {0, 1}) problem.SetQuery(0, i, head, /*dim=*/0, 3e-37f);
    }
    for (int64_t t = 0; t < 90 + query_len; ++t) {
      const auto step = static_cast<float>(t % 5);
      if (t % 3 == 0) problem.SetKey(0, 0, t, /*dim=*/0, 1e37f * step);
      problem.SetValue(0, 0, t, /*dim=*/1, 1e-36f * step);
      problem.SetValue(0, 0, t, /*dim=*/2, t == 0 ? 3.4e38f : 1e25f * step);
    }
    ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
    const std::vector<float> out = problem.Out(0);
    for (size_t e = 0; e < out.size(); ++e) {
      const double want = problem.expected(0).out[e];
      const size_t dim = e % 64;
      const double bound = dim == 1 || dim == 2 ? 3e-6 * want : 1e-5;
      ASSERT_NEAR(out[e], want, bound) << "dim " << dim << " of row " << e / 64;
    }
  }
}

// Scores beyond the range of fp32 are infinite, not NaN, however their products are made.
TEST_P(NumericsTest, ScoresBeyondRange) {
  for (int64_t query_len : {1, 40}) {
    ProblemSpec spec{.items = {{.query_len = query_len, .start = 90, .append = false}}};
    Problem problem(spec, ++seed_, under_test_.memory);
    for (int64_t i = 0; i < query_len; ++i) {
      for (int64_t head : {0, 1}) problem.SetQuery(0, i, head, /*dim=*/0, 0x1.018p70f);
    }
    for (int64_t t = 0; t < 90 + query_len; ++t) {
      problem.SetKey(0, 0, t, /*dim=*/0, t % 2 == 0 ? -0x1p70f : 0.0f);
    }
    ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
    ExpectMatchesReference(problem);
  }
}

// An attention sink: one key takes nearly all weight and has no value, so that the output is what
// many keys of weights around e^-14 add up to. None of that may get lost for being small.
TEST_P(NumericsTest, WeightsFarBelowTheLargest) {
  constexpr int64_t kKeys = 800;
  for (int64_t query_len : {1, 40}) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      ProblemSpec spec{.q_dtype = dtype,
                       .kv_dtype = dtype,
                       .features = {Feature::kLse},
                       .items = {{.query_len = query_len,
                                  .start = kKeys - query_len,
                                  .kv_len = kKeys,
                                  .append = false}}};
      Problem problem(spec, ++seed_, under_test_.memory);
      for (int64_t i = 0; i < query_len; ++i) {
        for (int64_t head : {0, 1}) problem.SetQuery(0, i, head, /*dim=*/0, 8.0f);
      }
      for (int64_t t = 0; t < kKeys; ++t) {
        for (int64_t d = 0; d < 64; ++d) {
          if (t == 0 || d == 0) problem.SetKey(0, 0, t, d, t + d == 0 ? 14.0f : 0.0f);
          problem.SetValue(0, 0, t, d, t == 0 ? 0.0f : static_cast<float>(64 + (t + d) % 7));
        }
      }
      ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
      ExpectMatchesReference(problem);
    }
  }
}

// Softmax scales that are no plain positive number.
TEST_P(NumericsTest, UnusualScales) {
  for (float scale : {0.0f, 1e-30f, 2.0f}) {
    for (int64_t query_len : {1, 40}) {
      const Error error =
          Measure({.features = {Feature::kLse},
                   .items = {{.query_len = query_len, .start = 90}},
                   .scale = scale,
                   .q_magnitude = 0.25f},
                  "scale_" + std::to_string(scale) + "_queries_" + std::to_string(query_len));
      EXPECT_LE(error.relative_l2, 2e-6);
      EXPECT_LE(error.max_lse, 3e-6);
    }
  }
  ProblemSpec spec{.items = {{.query_len = 1, .start = 90}, {.query_len = 40, .start = 90}}};
  Problem problem(spec, ++seed_, under_test_.memory);
  for (AttentionItem& item : problem.items()) item.options.softmax_scale = -0.2f;
  ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
  ExpectMatchesReference(problem);
}

INSTANTIATE_TEST_SUITE_P(Backends, NumericsTest, testing::ValuesIn(Backends()), BackendName);

}  // namespace
}  // namespace attnd::conformance
