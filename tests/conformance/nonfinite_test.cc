// SPDX-License-Identifier: Apache-2.0
//
// NaN and infinity go exactly where the arithmetic takes them: from a query to its own row, from a
// key or a value to the rows that attend it. Every other row keeps every bit.
#include <bit>
#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/attention/visibility.h"
#include "tests/conformance/backend_under_test.h"
#include "tests/conformance/compare.h"
#include "tests/conformance/problem.h"

namespace attnd::conformance {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// A prefill with rows on both sides of every key, one that goes through the diagonal of several
// tiles, a decode, a speculative decode.
ProblemSpec Spec(FeatureSet features, DType kv_dtype) {
  return {.kv_dtype = kv_dtype,
          .head_dim_k = 64,
          .head_dim_v = 80,
          .query_heads = 4,
          .kv_heads = 2,
          .features = features,
          .items = {{.query_len = 90, .start = 0, .append = false},
                    {.query_len = 40, .start = 250, .append = false},
                    {.query_len = 1, .start = 70, .append = false},
                    {.query_len = 4, .start = 66, .append = false}},
          .window_left = 30};
}

class NonFiniteTest : public testing::TestWithParam<BackendFactory> {
 protected:
  // Runs the problem as it is, plants a value, runs again: rows for which `reached` holds must not
  // be finite (where strict), all others must have the same bits as before.
  template <class Plant, class Reached>
  void ExpectReachesExactly(Problem& problem, const Plant& plant, const Reached& reached,
                            bool strict = true) {
    ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
    std::vector<std::vector<float>> before;
    for (size_t i = 0; i < problem.items().size(); ++i) before.push_back(problem.Out(i));
    plant();
    problem.Reset();
    ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
    const int64_t heads = problem.spec().query_heads, dv = problem.spec().head_dim_v;
    for (size_t i = 0; i < problem.items().size(); ++i) {
      const std::vector<float> after = problem.Out(i);
      for (size_t e = 0; e < after.size(); ++e) {
        const auto row = static_cast<int64_t>(e) / dv;
        const int64_t query = row / heads, head = row % heads, d = static_cast<int64_t>(e) % dv;
        if (reached(i, query, head, d)) {
          if (strict) {
            ASSERT_FALSE(std::isfinite(after[e]))
                << "not reached: item " << i << " query " << query << " head " << head;
          }
        } else {
          ASSERT_EQ(std::bit_cast<uint32_t>(after[e]), std::bit_cast<uint32_t>(before[i][e]))
              << "item " << i << " query " << query << " head " << head << " dim " << d << " was "
              << before[i][e] << " is " << after[e];
        }
      }
    }
  }

  static bool Sees(Problem& problem, size_t i, int64_t query, int64_t key) {
    const AttentionItem& item = problem.items()[i];
    return VisibleRange(item.options, item.start_position + query, item.kv_len).Contains(key) &&
           TreeMaskAllows(item, query, key);
  }

  static std::vector<FeatureSet> Masks() {
    using enum Feature;
    return {{}, {kCausal}, {kCausal, kWindow}, {kTreeMask}, {kCausal, kSoftcap, kAlibi, kSinks}};
  }

  // Which items of Spec() the next case plants in: all; under a sanitizer one, another each time.
  std::vector<size_t> NextItems() {
    if (kSanitized) return {next_item_++ % 4};
    return {0, 1, 2, 3};
  }

  BackendUnderTest under_test_ = GetParam().make(2);
  uint64_t seed_ = TestSeed();

 private:
  size_t next_item_ = seed_;
};

TEST_P(NonFiniteTest, ANaNQueryReachesItsOwnRow) {
  for (FeatureSet features : {FeatureSet{}, FeatureSet{Feature::kCausal, Feature::kSoftcap}}) {
    for (size_t item = 0; item < 4; ++item) {
      Problem problem(Spec(features, DType::kF32), ++seed_, under_test_.memory);
      const int64_t query = problem.items()[item].query_len / 2;
      ExpectReachesExactly(
          problem, [&] { problem.SetQuery(item, query, /*head=*/2, /*dim=*/63, kNaN); },
          [&](size_t i, int64_t q, int64_t h, int64_t) {
            return i == item && q == query && h == 2;
          });
      ASSERT_FALSE(HasFailure()) << ToString(features) << " item " << item << " seed " << seed_;
    }
  }
}

TEST_P(NonFiniteTest, ANaNKeyReachesTheRowsThatAttendIt) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (FeatureSet features : Masks()) {
      for (size_t item : NextItems()) {
        Problem problem(Spec(features, dtype), ++seed_, under_test_.memory);
        const int64_t key = problem.items()[item].kv_len - 1 - static_cast<int64_t>(seed_ % 37);
        ExpectReachesExactly(
            problem, [&] { problem.SetKey(item, /*head=*/1, key, /*dim=*/5, kNaN); },
            [&](size_t i, int64_t q, int64_t h, int64_t) {
              return i == item && h / 2 == 1 && Sees(problem, i, q, key);
            });
        ASSERT_FALSE(HasFailure()) << ToString(features) << " item " << item << " key " << key;
      }
    }
  }
}

TEST_P(NonFiniteTest, ANaNOrInfiniteValueReachesTheRowsThatAttendIt) {
  for (float value : {kNaN, kInf, -kInf}) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (FeatureSet features : Masks()) {
        for (size_t item : NextItems()) {
          Problem problem(Spec(features, dtype), ++seed_, under_test_.memory);
          const int64_t key = problem.items()[item].kv_len - 1 - static_cast<int64_t>(seed_ % 37);
          ExpectReachesExactly(
              problem, [&] { problem.SetValue(item, /*head=*/0, key, /*dim=*/77, value); },
              [&](size_t i, int64_t q, int64_t h, int64_t d) {
                return i == item && h / 2 == 0 && d == 77 && Sees(problem, i, q, key);
              });
          ASSERT_FALSE(HasFailure())
              << value << " " << ToString(features) << " item " << item << " key " << key;
        }
      }
    }
  }
}

// An infinite key gives infinite scores of either sign: what must hold is that no other row
// changes, and that the result is the reference's.
TEST_P(NonFiniteTest, AnInfiniteKeyReachesNoOtherRow) {
  for (FeatureSet features : Masks()) {
    for (size_t item : NextItems()) {
      Problem problem(Spec(features, DType::kF32), ++seed_, under_test_.memory);
      const int64_t key = problem.items()[item].kv_len / 2;
      ExpectReachesExactly(
          problem, [&] { problem.SetKey(item, /*head=*/0, key, /*dim=*/5, kInf); },
          [&](size_t i, int64_t q, int64_t h, int64_t) {
            return i == item && h / 2 == 0 && Sees(problem, i, q, key);
          },
          /*strict=*/false);
      ExpectMatchesReference(problem);
      ASSERT_FALSE(HasFailure()) << ToString(features) << " item " << item;
    }
  }
}

// Every element of every key and value is NaN, but for one that all rows see.
TEST_P(NonFiniteTest, RowsThatSeeNoNaNStayFinite) {
  ProblemSpec spec{.features = {Feature::kCausal},
                   .items = {{.query_len = 60, .start = 0, .append = false}}};
  Problem problem(spec, ++seed_, under_test_.memory);
  for (int64_t t = 1; t < 60; ++t) {
    for (int64_t d = 0; d < 64; ++d) {
      problem.SetKey(0, 0, t, d, kNaN);
      problem.SetValue(0, 0, t, d, kNaN);
    }
  }
  ASSERT_EQ(under_test_.Run(problem.params()), absl::OkStatus());
  ExpectMatchesReference(problem);
  EXPECT_TRUE(std::isfinite(problem.Out(0)[0]));
  EXPECT_TRUE(std::isnan(problem.Out(0).back()));
}

INSTANTIATE_TEST_SUITE_P(Backends, NonFiniteTest, testing::ValuesIn(Backends()), BackendName);

}  // namespace
}  // namespace attnd::conformance
