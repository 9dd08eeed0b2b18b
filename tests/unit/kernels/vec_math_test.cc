// SPDX-License-Identifier: Apache-2.0
//
// The vector functions on every instruction set that this machine has.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/unit/kernels/vec_math_test.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/vec_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {

// Each over 16 floats, whatever the vector.
void Exp2Of16(const float* x, float* y) {
  const FloatTag d;
  for (int64_t i = 0; i < 16; i += FloatLanes()) hn::StoreU(Exp2(d, hn::LoadU(d, x + i)), d, y + i);
}
// Of arguments without the bias that is added here.
void BiasedExp2Of16(const float* x, float* y) {
  const FloatTag d;
  for (int64_t i = 0; i < 16; i += FloatLanes()) {
    const auto biased = hn::Add(hn::LoadU(d, x + i), hn::Set(d, kExp2Bias));
    hn::StoreU(BiasedExp2(d, biased), d, y + i);
  }
}
void TanhOf16(const float* x, float* y) {
  const FloatTag d;
  for (int64_t i = 0; i < 16; i += FloatLanes()) hn::StoreU(Tanh(d, hn::LoadU(d, x + i)), d, y + i);
}

// Rows of any length, by way of fp32, between the element types of the arguments.
template <class From, class To>
void Convert(const void* from, void* to, int64_t n) {
  ConvertRow(static_cast<const From*>(from), static_cast<To*>(to), n);
}
void HalfToFloats(const void* from, void* to, int64_t n) { Convert<Half, float>(from, to, n); }
void BFloat16ToFloats(const void* from, void* to, int64_t n) {
  Convert<BFloat16, float>(from, to, n);
}
void FloatsToHalf(const void* from, void* to, int64_t n) { Convert<float, Half>(from, to, n); }
void FloatsToBFloat16(const void* from, void* to, int64_t n) {
  Convert<float, BFloat16>(from, to, n);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/dtype.h"

namespace attnd {
namespace {

HWY_EXPORT(Exp2Of16);
HWY_EXPORT(BiasedExp2Of16);
HWY_EXPORT(TanhOf16);
HWY_EXPORT(HalfToFloats);
HWY_EXPORT(BFloat16ToFloats);
HWY_EXPORT(FloatsToHalf);
HWY_EXPORT(FloatsToBFloat16);

constexpr float kInf = std::numeric_limits<float>::infinity();

class VecMathTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().DeInit();
  }

  static float Exp2One(float x) {
    float in[16], out[16];
    std::fill_n(in, 16, x);
    HWY_DYNAMIC_DISPATCH(Exp2Of16)(in, out);
    return out[7];
  }
  static float BiasedExp2One(float x) {
    float in[16], out[16];
    std::fill_n(in, 16, x);
    HWY_DYNAMIC_DISPATCH(BiasedExp2Of16)(in, out);
    return out[7];
  }
  static float TanhOne(float x) {
    float in[16], out[16];
    std::fill_n(in, 16, x);
    HWY_DYNAMIC_DISPATCH(TanhOf16)(in, out);
    return out[7];
  }
};

// The bound that vec_math-inl.h states, at a million points.
TEST_P(VecMathTest, Exp2StaysWithinItsBound) {
  double worst = 0, worst_biased = 0;
  for (int i = 0; i < 62'500; ++i) {
    float x[16], y[16], z[16];
    for (int j = 0; j < 16; ++j) {
      // Multiples of 2^-16: exact with and without the bias.
      x[j] =
          static_cast<float>(std::round(65536.0 * (253.0 * (i * 16 + j) / 1e6 - 125.99)) / 65536.0);
    }
    HWY_DYNAMIC_DISPATCH(Exp2Of16)(x, y);
    HWY_DYNAMIC_DISPATCH(BiasedExp2Of16)(x, z);
    for (int j = 0; j < 16; ++j) {
      const double want = std::exp2(static_cast<double>(x[j]));
      worst = std::max(worst, std::abs(y[j] - want) / want);
      worst_biased = std::max(worst_biased, std::abs(z[j] - want) / want);
    }
  }
  EXPECT_LT(worst, 1.5e-7);
  EXPECT_GT(worst, 1e-8) << "too good to have been measured";
  EXPECT_LT(worst_biased, 1.5e-7);
  EXPECT_GT(worst_biased, 1e-8);
}

TEST_P(VecMathTest, Exp2HasItsSpecialValues) {
  for (const auto& exp2 : {&VecMathTest::Exp2One, &VecMathTest::BiasedExp2One}) {
    EXPECT_EQ(exp2(0.0f), 1.0f);  // exactly: rescaling by an unchanged maximum changes no bit
    EXPECT_EQ(exp2(-0.0f), 1.0f);
    EXPECT_EQ(exp2(-kInf), 0.0f);
    EXPECT_EQ(exp2(-1e30f), 0.0f);
    EXPECT_EQ(exp2(-127.0f), 0.0f);
    EXPECT_GT(exp2(-126.0f), 0.0f);
    // Any payload: the bits of a NaN must not be taken for an exponent.
    for (uint32_t bits :
         {0x7fc00000u, 0xffc00000u, 0x7fc00001u, 0x7fffffffu, 0xffffffffu, 0x7f800001u}) {
      EXPECT_TRUE(std::isnan(exp2(std::bit_cast<float>(bits)))) << bits;
    }
  }
}

TEST_P(VecMathTest, TanhStaysWithinItsBound) {
  double worst = 0;
  for (int i = 0; i < 62'500; ++i) {
    float x[16], y[16];
    for (int j = 0; j < 16; ++j) {
      // From 1e-12 to 30 in equal ratios, both signs.
      const double exponent = -12.0 + 13.477 * (i * 16 + j) / 1'000'000.0;
      x[j] = static_cast<float>((j % 2 == 0 ? 1 : -1) * std::pow(10.0, exponent));
    }
    HWY_DYNAMIC_DISPATCH(TanhOf16)(x, y);
    for (int j = 0; j < 16; ++j) {
      const double want = std::tanh(static_cast<double>(x[j]));
      worst = std::max(worst, std::abs((y[j] - want) / want));
    }
  }
  EXPECT_LT(worst, 4e-7);
  EXPECT_GT(worst, 1e-8);
}

TEST_P(VecMathTest, TanhHasItsSpecialValues) {
  EXPECT_EQ(TanhOne(0.0f), 0.0f);
  EXPECT_EQ(TanhOne(kInf), 1.0f);
  EXPECT_EQ(TanhOne(-kInf), -1.0f);
  EXPECT_EQ(TanhOne(1e30f), 1.0f);
  EXPECT_TRUE(std::isnan(TanhOne(std::nanf(""))));
}

TEST_P(VecMathTest, EveryStoredValueLoadsExactly) {
  std::vector<uint16_t> bits(0x10000 + 5);  // a length that leaves a part of a vector
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> half(bits.size()), bfloat(bits.size());
  const auto n = static_cast<int64_t>(bits.size());
  HWY_DYNAMIC_DISPATCH(HalfToFloats)(bits.data(), half.data(), n);
  HWY_DYNAMIC_DISPATCH(BFloat16ToFloats)(bits.data(), bfloat.data(), n);
  const auto same = [](float a, float b) {
    return (std::isnan(a) && std::isnan(b)) ||
           std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
  };
  for (size_t i = 0; i < bits.size(); ++i) {
    ASSERT_TRUE(same(half[i], HalfToFloat(bits[i]))) << bits[i];
    ASSERT_TRUE(same(bfloat[i], BFloat16ToFloat(bits[i]))) << bits[i];
  }
}

TEST_P(VecMathTest, StoresRoundAsTheScalarsDo) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float half = HalfToFloat(static_cast<uint16_t>(bits));
    const float bfloat = BFloat16ToFloat(static_cast<uint16_t>(bits));
    for (float v : {half, bfloat}) {
      // The value and what lies at and around the tie to its neighbour.
      const uint32_t b = std::bit_cast<uint32_t>(v);
      for (uint32_t tie : {0u, 0xfffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u}) {
        values.push_back(std::bit_cast<float>(b + tie));
      }
    }
  }
  std::mt19937 random(2);
  for (int i = 0; i < 200'003; ++i) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  }
  std::vector<uint16_t> half(values.size()), bfloat(values.size());
  const auto n = static_cast<int64_t>(values.size());
  HWY_DYNAMIC_DISPATCH(FloatsToHalf)(values.data(), half.data(), n);
  HWY_DYNAMIC_DISPATCH(FloatsToBFloat16)(values.data(), bfloat.data(), n);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(half[i], FloatToHalf(values[i])) << std::bit_cast<uint32_t>(values[i]);
    ASSERT_EQ(bfloat[i], FloatToBFloat16(values[i])) << std::bit_cast<uint32_t>(values[i]);
  }
}

std::vector<int64_t> Targets() {
  std::vector<int64_t> targets;
  int64_t left = hwy::SupportedTargets() & HWY_TARGETS;
  for (; left != 0; left &= left - 1) targets.push_back(left & -left);
  return targets;
}

INSTANTIATE_TEST_SUITE_P(Targets, VecMathTest, testing::ValuesIn(Targets()),
                         [](const testing::TestParamInfo<int64_t>& info) {
                           return std::string(hwy::TargetName(info.param));
                         });

}  // namespace
}  // namespace attnd
#endif  // HWY_ONCE
