// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/capabilities.h"

#include <string>

#include "absl/hash/hash.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Capabilities Narrow() {
  Capabilities capabilities;
  capabilities.backend = "test";
  capabilities.dtypes = {{DType::kF16, DType::kF16}};
  capabilities.head_dims = {{64, 64}, {192, 128}};
  capabilities.max_head_dim = 192;
  capabilities.features = {Feature::kCausal, Feature::kLse};
  return capabilities;
}

KernelKey Supported() { return {DType::kF16, DType::kF16, 64, 64, {Feature::kCausal}}; }

std::string Refusal(const Capabilities& capabilities, const KernelKey& key) {
  const absl::Status status = CheckSupported(capabilities, key);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  return std::string(status.message());
}

TEST(CapabilitiesTest, TakesWhatIsListed) {
  EXPECT_TRUE(CheckSupported(Narrow(), Supported()).ok());
  KernelKey key = Supported();
  key.head_dim_k = 192, key.head_dim_v = 128;
  EXPECT_TRUE(CheckSupported(Narrow(), key).ok());
}

TEST(CapabilitiesTest, NamesTheMissingDTypes) {
  KernelKey key = Supported();
  key.kv_dtype = DType::kBF16;
  EXPECT_THAT(Refusal(Narrow(), key), AllOf(HasSubstr("q=f16 kv=bf16"), HasSubstr("q=f16 kv=f16")));
}

TEST(CapabilitiesTest, NamesTheMissingHeadDims) {
  KernelKey key = Supported();
  key.head_dim_v = 128;
  EXPECT_THAT(Refusal(Narrow(), key),
              AllOf(HasSubstr("head_dim_k=64 head_dim_v=128"), HasSubstr("dk=192 dv=128")));
}

TEST(CapabilitiesTest, AnyHeadDimStillHasAMaximum) {
  Capabilities capabilities = Narrow();
  capabilities.any_head_dims = true;
  KernelKey key = Supported();
  key.head_dim_k = 191;
  EXPECT_TRUE(CheckSupported(capabilities, key).ok());
  key.head_dim_k = 193;
  EXPECT_THAT(Refusal(capabilities, key), HasSubstr("any up to 192"));
  key.head_dim_k = 0;
  EXPECT_THAT(Refusal(capabilities, key), HasSubstr("head_dim_k=0"));
}

TEST(CapabilitiesTest, NamesEveryMissingFeature) {
  KernelKey key = Supported();
  key.features = {Feature::kCausal, Feature::kAlibi, Feature::kDropout};
  EXPECT_THAT(Refusal(Narrow(), key),
              AllOf(HasSubstr("lacks: alibi+dropout"), HasSubstr("has: causal+lse")));
}

TEST(KernelKeyTest, PrintsAndHashesByValue) {
  EXPECT_EQ(ToString(Supported()), "q=f16 kv=f16 dk=64 dv=64 causal");
  EXPECT_EQ(ToString(FeatureSet{}), "none");
  const absl::Hash<KernelKey> hash;
  EXPECT_EQ(hash(Supported()), hash(Supported()));
  KernelKey other = Supported();
  other.features.Add(Feature::kSinks);
  EXPECT_NE(other, Supported());
}

}  // namespace
}  // namespace attnd
