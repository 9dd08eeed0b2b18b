// SPDX-License-Identifier: Apache-2.0
//
// Walks the capability matrix: what a backend says it supports agrees with the fp64 reference, and
// what it does not is refused by name.
#include <tuple>

#include "gtest/gtest.h"
#include "tests/conformance/backend_under_test.h"
#include "tests/conformance/compare.h"
#include "tests/conformance/problem.h"

namespace attnd::conformance {
namespace {

// Every option alone, and the combinations that models use.
std::vector<FeatureSet> FeatureCells() {
  using enum Feature;
  std::vector<FeatureSet> cells = {
      {},
      {kCausal, kLse},
      {kCausal, kWindow, kSoftcap},
      {kCausal, kWindow, kSinks, kLse},
      {kCausal, kAlibi},
      {kTreeMask, kLse},
      {kCausal, kDropout},
      {kCausal, kWindow, kSoftcap, kAlibi, kSinks, kTreeMask, kDropout, kLse}};
  for (Feature feature : kAllFeatures) cells.push_back({feature});
  return cells;
}

struct Phase {
  const char* name;
  std::vector<ItemSpec> items;
};

std::vector<Phase> Phases() {
  return {
      {"prefill", {{.query_len = 21}, {.query_len = 13, .start = 27}}},
      {"decode",
       {{.query_len = 1, .start = 70},
        {.query_len = 1, .start = 0},
        {.query_len = 1, .start = 38}}},
      {"mixed",
       {{.query_len = 1, .start = 45},
        {.query_len = 17, .start = 5},
        {.query_len = 3, .start = 20},
        {.query_len = 4, .start = 9, .write_only = true},
        {.query_len = 2, .start = 11, .kv_len = 40, .append = false}}},
  };
}

constexpr uint64_t kCellStride = kSanitized ? 5 : 1;
constexpr uint64_t kVariantCellStride = 11;

using MatrixParam = std::tuple<BackendFactory, DType, DType>;

class MatrixTest : public testing::TestWithParam<MatrixParam> {};

TEST_P(MatrixTest, EverySupportedCellMatchesTheReference) {
  const auto& [factory, q_dtype, kv_dtype] = GetParam();
  BackendUnderTest under_test = factory.make(/*num_threads=*/2);
  // Of a sample, each of the nine pairs of types begins elsewhere. Together they leave out at most
  // two neighbours of eleven: of the six cells of each head dim and feature set, four are taken or
  // more.
  uint64_t cell = TestSeed() + 3 * static_cast<uint64_t>(q_dtype) + static_cast<uint64_t>(kv_dtype);
  int walked = 0, supported = 0;
  for (const auto& [dk, dv] : under_test.backend->capabilities().head_dims) {
    for (FeatureSet features : FeatureCells()) {
      for (const Phase& phase : Phases()) {
        for (int64_t page_size : {int64_t{16}, int64_t{0}}) {
          ++cell;
          if (cell % (factory.every_cell ? kCellStride : kVariantCellStride) != 0) continue;
          ++walked;
          ProblemSpec spec{.q_dtype = q_dtype,
                           .kv_dtype = kv_dtype,
                           .head_dim_k = dk,
                           .head_dim_v = dv,
                           .query_heads = 4,
                           .kv_heads = 2,
                           .page_size = page_size,
                           .features = features,
                           .items = phase.items};
          SCOPED_TRACE(std::string(phase.name) + " seed " + std::to_string(cell));
          Problem problem(spec, cell, under_test.memory);
          const absl::Status supports = under_test.backend->Supports(problem.params().key);
          if (!supports.ok()) {
            EXPECT_EQ(supports.code(), absl::StatusCode::kUnimplemented);
            EXPECT_EQ(under_test.Run(problem.params()).code(), absl::StatusCode::kUnimplemented);
            continue;
          }
          ++supported;
          ASSERT_EQ(under_test.Run(problem.params()), absl::OkStatus());
          ExpectMatchesReference(problem);
          ASSERT_FALSE(HasFailure());
        }
      }
    }
  }
  RecordProperty("cells", walked);
  RecordProperty("supported", supported);
  EXPECT_GT(walked, 0);
}

// Dims that no kernel was tuned for, where the backend says that it takes them.
TEST_P(MatrixTest, OddHeadDimsMatchTheReference) {
  const auto& [factory, q_dtype, kv_dtype] = GetParam();
  BackendUnderTest under_test = factory.make(2);
  if (!under_test.backend->capabilities().any_head_dims) GTEST_SKIP() << "listed head dims only";
  uint64_t seed = TestSeed();
  for (const auto& [dk, dv] : {std::pair{1, 1},
                               {3, 5},
                               {17, 33},
                               {40, 72},
                               {72, 31},
                               {100, 20},
                               {31, 112},
                               {255, 249},
                               {64, 256},
                               {256, 16}}) {
    const int32_t multiple = under_test.backend->capabilities().head_dim_multiple;
    if (dk % multiple != 0 || dv % multiple != 0) continue;  // RefusesByName
    for (const Phase& phase : Phases()) {
      ProblemSpec spec{.q_dtype = q_dtype,
                       .kv_dtype = kv_dtype,
                       .head_dim_k = dk,
                       .head_dim_v = dv,
                       .query_heads = 3,
                       .kv_heads = 1,
                       .page_size = 5,
                       .features = {Feature::kCausal, Feature::kLse},
                       .items = phase.items};
      Problem problem(spec, ++seed, under_test.memory);
      ASSERT_EQ(under_test.Run(problem.params()), absl::OkStatus());
      ExpectMatchesReference(problem);
      ASSERT_FALSE(HasFailure()) << "seed " << seed;
    }
  }
}

TEST_P(MatrixTest, RefusesByName) {
  const auto& [factory, q_dtype, kv_dtype] = GetParam();
  BackendUnderTest under_test = factory.make(1);
  const Capabilities& capabilities = under_test.backend->capabilities();
  std::vector<int32_t> refused = {0, capabilities.max_head_dim + 1};
  if (capabilities.head_dim_multiple > 1)
    refused.push_back(64 + capabilities.head_dim_multiple / 2);
  for (int32_t dim : refused) {
    const absl::Status status = under_test.backend->Supports({q_dtype, kv_dtype, dim, 64, {}});
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_NE(std::string(status.message()).find("head_dim_k"), std::string::npos) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, MatrixTest,
                         testing::Combine(testing::ValuesIn(Backends()),
                                          testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                                          testing::Values(DType::kF32, DType::kF16, DType::kBF16)),
                         [](const testing::TestParamInfo<MatrixParam>& info) {
                           std::string name = std::get<0>(info.param).name;
                           name += "_q_";
                           name += Name(std::get<1>(info.param));
                           name += "_kv_";
                           name += Name(std::get<2>(info.param));
                           return name;
                         });

}  // namespace
}  // namespace attnd::conformance
