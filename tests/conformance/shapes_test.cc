// SPDX-License-Identifier: Apache-2.0
//
// Shapes that the matrix holds fixed: GQA ratios, page sizes, tile borders, appends, empty items.
#include "gtest/gtest.h"
#include "tests/conformance/backend_under_test.h"
#include "tests/conformance/compare.h"
#include "tests/conformance/problem.h"

namespace attnd::conformance {
namespace {

class ShapesTest : public testing::TestWithParam<BackendFactory> {
 protected:
  void RunAndCompare(const ProblemSpec& spec) {
    SCOPED_TRACE("seed " + std::to_string(++seed_));
    Problem problem(spec, seed_, under_test_.memory);
    ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
    ExpectMatchesReference(problem);
  }

  BackendUnderTest under_test_ = GetParam().make(/*num_threads=*/2);
  uint64_t seed_ = TestSeed();
};

TEST_P(ShapesTest, EveryGqaRatio) {
  for (int32_t ratio = 1; ratio <= 16; ++ratio) {
    ProblemSpec spec{
        .q_dtype = DType::kF16,
        .kv_dtype = DType::kF16,
        .query_heads = 2 * ratio,
        .kv_heads = 2,
        .features = {Feature::kCausal, Feature::kLse},
        .items = {{.query_len = 1, .start = 50}, {.query_len = 5, .start = 31}, {.query_len = 40}}};
    RunAndCompare(spec);
    ASSERT_FALSE(HasFailure());
  }
}

TEST_P(ShapesTest, EveryPageSize) {
  for (int64_t page_size : {1, 3, 16, 64, 256}) {
    for (DType kv_dtype : {DType::kF32, DType::kBF16}) {
      ProblemSpec spec{.kv_dtype = kv_dtype,
                       .query_heads = 3,
                       .kv_heads = 1,
                       .page_size = page_size,
                       .features = {Feature::kCausal, Feature::kWindow},
                       .items = {{.query_len = 1, .start = 299},
                                 {.query_len = 2, .start = 64},
                                 {.query_len = 70, .start = 250}}};
      RunAndCompare(spec);
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Query and key counts on, before and behind every border that tiles are cut at.
TEST_P(ShapesTest, TileBorders) {
  for (int64_t query_len : {1, 2, 7, 8, 9, 11, 12, 13, 24, 47, 48, 49, 95, 97}) {
    for (int64_t kv_len : {1, 31, 32, 33, 63, 64, 65, 255, 256, 257}) {
      if (kv_len < query_len) continue;
      RunAndCompare({.head_dim_k = 32,
                     .head_dim_v = 32,
                     .query_heads = 1,
                     .features = {Feature::kCausal},
                     .items = {{.query_len = query_len, .start = kv_len - query_len}}});
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Writes that begin and end inside pages; ExpectMatchesReference compares every byte of the pool.
TEST_P(ShapesTest, AppendsAcrossPageBorders) {
  for (int64_t start : {0, 1, 15, 16, 17, 40}) {
    for (int64_t query_len : {1, 2, 16, 17, 100}) {
      ProblemSpec spec{.q_dtype = DType::kF32,
                       .kv_dtype = DType::kF16,
                       .query_heads = 2,
                       .kv_heads = 2,
                       .items = {{.query_len = query_len, .start = start},
                                 {.query_len = query_len, .start = start, .write_only = true}}};
      RunAndCompare(spec);
      ASSERT_FALSE(HasFailure());
    }
  }
}

// Rewriting at a lower position: keys behind the item are there but beyond its kv_len.
TEST_P(ShapesTest, RewritesTheMiddleOfASequence) {
  RunAndCompare({.features = {Feature::kCausal, Feature::kLse},
                 .items = {{.query_len = 5, .start = 20, .kv_len = 64},
                           {.query_len = 1, .start = 3, .kv_len = 64}}});
}

TEST_P(ShapesTest, MoreQueriesThanKeys) {
  // A dense call with Sq > Sk: the first rows stand before the first key and see nothing.
  for (int64_t query_len : {3, 40}) {
    ProblemSpec spec{
        .query_heads = 2,
        .page_size = 0,
        .features = {Feature::kCausal, Feature::kLse},
        .items = {{.query_len = query_len, .start = -query_len + 2, .kv_len = 2, .append = false}}};
    Problem problem(spec, ++seed_, under_test_.memory);
    ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
    ExpectMatchesReference(problem);
    EXPECT_EQ(problem.Out(0)[0], 0.0f);
    EXPECT_EQ(problem.Lse(0)[0], -std::numeric_limits<float>::infinity());
  }
}

TEST_P(ShapesTest, NothingToAttendTo) {
  for (bool sinks : {false, true}) {
    FeatureSet features = {Feature::kLse};
    if (sinks) features.Add(Feature::kSinks);
    // No keys at all, and no queries at all.
    RunAndCompare({.query_heads = 2,
                   .features = features,
                   .items = {{.query_len = 3, .kv_len = 0, .append = false},
                             {.query_len = 60, .kv_len = 0, .append = false},
                             {.query_len = 0, .kv_len = 7, .append = false}}});
  }
  RunAndCompare({.items = {}});
}

// The window has moved past all keys: rows see nothing although keys are there.
TEST_P(ShapesTest, WindowsBesideTheKeys) {
  for (int64_t query_len : {1, 30}) {
    RunAndCompare(
        {.features = {Feature::kWindow, Feature::kLse},
         .items = {{.query_len = query_len, .start = 90, .kv_len = 80, .append = false}}});
  }
}

TEST_P(ShapesTest, SplitContextsMerge) {
  using enum Feature;
  for (FeatureSet features : {FeatureSet{kCausal, kLse}, FeatureSet{kCausal, kSinks, kLse},
                              FeatureSet{kCausal, kWindow}}) {
    RunAndCompare({.q_dtype = DType::kF32,
                   .kv_dtype = DType::kF16,
                   .query_heads = 4,
                   .kv_heads = 2,
                   .features = features,
                   .items = {{.query_len = 1, .start = 3000},
                             {.query_len = 2, .start = 2047},
                             {.query_len = 9, .start = 4090},
                             {.query_len = 20, .start = 8200}},
                   .window_left = 2500});
    ASSERT_FALSE(HasFailure());
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ShapesTest, testing::ValuesIn(Backends()), BackendName);

}  // namespace
}  // namespace attnd::conformance
