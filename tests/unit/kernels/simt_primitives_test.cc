// SPDX-License-Identifier: Apache-2.0
//
// The matrix instructions of simt_host against a plain product, each with operands laid out as its
// instruction set's document says, and with wrong layouts.
#include <hip/hip_runtime.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/dtype.h"
#include "kernels/hip/element.h"
#include "kernels/hip/numbers.h"
#include "kernels/hip/simt_host/amd_primitives.h"
#include "kernels/hip/simt_host/machine.h"
#include "kernels/hip/simt_host/nv_primitives.h"

namespace attnd::gpu {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

template <class Element>
constexpr DType kDType = kIsBFloat16<Element> ? DType::kBF16 : DType::kF16;

// d = a b + c: [16][depth] [depth][columns] [16][columns], a and b in 16-bit elements.
struct Product {
  int columns = 16, depth = 16;
  std::vector<uint16_t> a, b;
  std::vector<float> c, d;

  static size_t Index(int row, int column, int columns) {
    return static_cast<size_t>(row) * static_cast<size_t>(columns) + static_cast<size_t>(column);
  }
  template <class Element>
  static Product Random(int columns, int depth, uint64_t seed) {
    Product p{columns, depth, {}, {}, {}, {}};
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    p.a.resize(Index(16, 0, depth));
    p.b.resize(Index(depth, 0, columns));
    p.c.resize(Index(16, 0, columns));
    p.d.assign(p.c.size(), NAN);
    for (size_t i = 0; i < p.a.size(); ++i) {
      StoreFromFloat(kDType<Element>, p.a.data(), static_cast<int64_t>(i), normal(random));
    }
    for (size_t i = 0; i < p.b.size(); ++i) {
      StoreFromFloat(kDType<Element>, p.b.data(), static_cast<int64_t>(i), normal(random));
    }
    for (float& x : p.c) x = normal(random);
    return p;
  }
  uint16_t A(int row, int k) const { return a[Index(row, k, depth)]; }
  uint16_t B(int k, int column) const { return b[Index(k, column, columns)]; }
  float C(int row, int column) const { return c[Index(row, column, columns)]; }
  void SetD(int row, int column, float x) { d[Index(row, column, columns)] = x; }

  template <class Element>
  float MaxError() const {
    float worst = 0;
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < columns; ++column) {
        double sum = C(row, column);
        for (int k = 0; k < depth; ++k) {
          const uint16_t x = A(row, k), y = B(k, column);
          sum += static_cast<double>(LoadAsFloat(kDType<Element>, &x, 0)) *
                 LoadAsFloat(kDType<Element>, &y, 0);
        }
        const float got = d[Index(row, column, columns)];
        // NaN is the worst of all.
        const auto error = static_cast<float>(std::abs(got - sum));
        if (!(error <= worst)) worst = error;
      }
    }
    return worst;
  }
};

struct ProductArgs {
  Product* p;
};

// Packs elements 2i and 2i + 1 of a lane's operand, which `at` gives.
template <class Registers, class At>
Registers PackOperand(At at) {
  Registers r{};
  for (size_t i = 0; i < sizeof(r) / 4; ++i) {
    const auto element = static_cast<int>(2 * i);
    r[i] = at(element) | static_cast<uint32_t>(at(element + 1)) << 16;
  }
  return r;
}

template <class Element>
void Gfx11(const ProductArgs args) {
  Product& p = *args.p;
  const int lane = static_cast<int>(threadIdx.x), row = lane % 16, half = lane / 16;
  const auto a = PackOperand<U32x8>([&](int i) { return p.A(row, i); });
  const auto b = PackOperand<U32x8>([&](int i) { return p.B(i, row); });
  F32x8 c;
  for (int i = 0; i < 8; ++i) c[i] = p.C(2 * i + half, row);
  c = amd::WmmaGfx11<Element>(a, b, c);
  for (int i = 0; i < 8; ++i) p.SetD(2 * i + half, row, c[i]);
}

// kIsaOrder: k as the ISA has it; else the order in which a lane's elements are neighbours, which
// gives the same product as long as both operands use it.
template <class Element, bool kIsaOrderA, bool kIsaOrderB>
void Gfx12(const ProductArgs args) {
  Product& p = *args.p;
  const int lane = static_cast<int>(threadIdx.x), row = lane % 16, half = lane / 16;
  const auto k = [&](bool isa, int i) {
    return isa ? 8 * (i / 4) + 4 * half + i % 4 : 8 * half + i;
  };
  const auto a = PackOperand<U32x4>([&](int i) { return p.A(row, k(kIsaOrderA, i)); });
  const auto b = PackOperand<U32x4>([&](int i) { return p.B(k(kIsaOrderB, i), row); });
  F32x8 c;
  for (int i = 0; i < 8; ++i) c[i] = p.C(8 * half + i, row);
  c = amd::WmmaGfx12<Element>(a, b, c);
  for (int i = 0; i < 8; ++i) p.SetD(8 * half + i, row, c[i]);
}

template <class Element>
void Mfma16(const ProductArgs args) {
  Product& p = *args.p;
  const int lane = static_cast<int>(threadIdx.x), row = lane % 16, quarter = lane / 16;
  const auto a = PackOperand<U32x2>([&](int i) { return p.A(row, 4 * quarter + i); });
  const auto b = PackOperand<U32x2>([&](int i) { return p.B(4 * quarter + i, row); });
  F32x4 c;
  for (int i = 0; i < 4; ++i) c[i] = p.C(4 * quarter + i, row);
  c = amd::Mfma16x16x16<Element>(a, b, c);
  for (int i = 0; i < 4; ++i) p.SetD(4 * quarter + i, row, c[i]);
}

template <class Element>
void Mfma32(const ProductArgs args) {
  Product& p = *args.p;
  const int lane = static_cast<int>(threadIdx.x), row = lane % 16, quarter = lane / 16;
  const auto a = PackOperand<U32x4>([&](int i) { return p.A(row, 8 * quarter + i); });
  const auto b = PackOperand<U32x4>([&](int i) { return p.B(8 * quarter + i, row); });
  F32x4 c;
  for (int i = 0; i < 4; ++i) c[i] = p.C(4 * quarter + i, row);
  c = amd::Mfma16x16x32<Element>(a, b, c);
  for (int i = 0; i < 4; ++i) p.SetD(4 * quarter + i, row, c[i]);
}

template <class Element>
void NvMma(const ProductArgs args) {
  Product& p = *args.p;
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  uint32_t a[4], b[2];
  float c[4];
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i % 2), k = 2 * t + 8 * (i / 2);
    a[i] = p.A(row, k) | static_cast<uint32_t>(p.A(row, k + 1)) << 16;
    c[i] = p.C(g + 8 * (i / 2), 2 * t + i % 2);
  }
  for (int i = 0; i < 2; ++i) {
    b[i] = p.B(2 * t + 8 * i, g) | static_cast<uint32_t>(p.B(2 * t + 8 * i + 1, g)) << 16;
  }
  nv::Mma16816<Element>(c, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) p.SetD(g + 8 * (i / 2), 2 * t + i % 2, c[i]);
}

class SimtPrimitivesTest : public ::testing::Test {
 protected:
  void TearDown() override { simt::SetUp({}); }

  template <class Args>
  static std::string Run(simt::Core core, void (*kernel)(Args),
                         const std::type_identity_t<Args>& args, size_t lds_bytes = 0) {
    simt::SetUp({.core = core});
    const bool wave64 = core == simt::Core::kGfx942 || core == simt::Core::kGfx950;
    EXPECT_EQ(LaunchKernel(kernel, 1, wave64 ? 64 : 32, lds_bytes, nullptr, args), hipSuccess);
    return simt::LastReport();
  }

  template <class Element>
  static void ExpectProduct(simt::Core core, void (*kernel)(ProductArgs), int columns, int depth) {
    Product p = Product::Random<Element>(columns, depth, 17);
    EXPECT_EQ(Run(core, kernel, {&p}), "");
    EXPECT_LT(p.MaxError<Element>(), 1e-5f);
  }
};

TEST_F(SimtPrimitivesTest, MultipliesInTheLayoutsOfTheInstructionSets) {
  ExpectProduct<Half>(simt::Core::kGfx1100, &Gfx11<Half>, 16, 16);
  ExpectProduct<BFloat16>(simt::Core::kGfx1100, &Gfx11<BFloat16>, 16, 16);
  ExpectProduct<Half>(simt::Core::kGfx1201, &Gfx12<Half, true, true>, 16, 16);
  ExpectProduct<BFloat16>(simt::Core::kGfx1201, &Gfx12<BFloat16, true, true>, 16, 16);
  ExpectProduct<Half>(simt::Core::kGfx1201, &Gfx12<Half, false, false>, 16, 16);
  ExpectProduct<Half>(simt::Core::kGfx942, &Mfma16<Half>, 16, 16);
  ExpectProduct<BFloat16>(simt::Core::kGfx942, &Mfma16<BFloat16>, 16, 16);
  ExpectProduct<Half>(simt::Core::kGfx950, &Mfma32<Half>, 16, 32);
  ExpectProduct<BFloat16>(simt::Core::kGfx950, &Mfma32<BFloat16>, 16, 32);
  ExpectProduct<Half>(simt::Core::kSm90, &NvMma<Half>, 8, 16);
  ExpectProduct<BFloat16>(simt::Core::kSm90, &NvMma<BFloat16>, 8, 16);
}

TEST_F(SimtPrimitivesTest, AWrongOrderOfOneOperandIsAWrongProduct) {
  Product p = Product::Random<Half>(16, 16, 3);
  EXPECT_EQ(Run(simt::Core::kGfx1201, &Gfx12<Half, true, false>, {&p}), "");
  EXPECT_GT(p.MaxError<Half>(), 0.1f);
}

// gfx12's operands, a half of the row in each lane half, given to gfx11's instruction.
void Gfx12OperandsToGfx11(const ProductArgs args) {
  Product& p = *args.p;
  const int lane = static_cast<int>(threadIdx.x), row = lane % 16, half = lane / 16;
  const auto a = PackOperand<U32x8>([&](int i) { return p.A(row, (8 * half + i) % 16); });
  const auto b = PackOperand<U32x8>([&](int i) { return p.B((8 * half + i) % 16, row); });
  F32x8 c{};
  c = amd::WmmaGfx11<Half>(a, b, c);
  for (int i = 0; i < 8; ++i) p.SetD(2 * i + half, row, c[i]);
}

TEST_F(SimtPrimitivesTest, ReportsGfx11OperandsWhoseHalvesDiffer) {
  Product p = Product::Random<Half>(16, 16, 3);
  EXPECT_THAT(Run(simt::Core::kGfx1100, &Gfx12OperandsToGfx11, {&p}),
              AllOf(HasSubstr("operand A differs between its lane halves"),
                    HasSubstr("lanes 0 and 16"), HasSubstr("simt_primitives_test.cc:")));
}

// gfx12's accumulator rows taken for gfx11's.
void Gfx11WithGfx12Rows(const ProductArgs args) {
  Product& p = *args.p;
  const int lane = static_cast<int>(threadIdx.x), row = lane % 16, half = lane / 16;
  const auto a = PackOperand<U32x8>([&](int i) { return p.A(row, i); });
  const auto b = PackOperand<U32x8>([&](int i) { return p.B(i, row); });
  F32x8 c;
  for (int i = 0; i < 8; ++i) c[i] = p.C(8 * half + i, row);
  c = amd::WmmaGfx11<Half>(a, b, c);
  for (int i = 0; i < 8; ++i) p.SetD(8 * half + i, row, c[i]);
}

TEST_F(SimtPrimitivesTest, WrongAccumulatorRowsAreAWrongProduct) {
  Product p = Product::Random<Half>(16, 16, 3);
  EXPECT_EQ(Run(simt::Core::kGfx1100, &Gfx11WithGfx12Rows, {&p}), "");
  EXPECT_GT(p.MaxError<Half>(), 0.1f);
}

void Gfx11OfZeros(const ProductArgs) { amd::WmmaGfx11<Half>(U32x8{}, U32x8{}, F32x8{}); }
void Mfma16OfZeros(const ProductArgs) { amd::Mfma16x16x16<Half>(U32x2{}, U32x2{}, F32x4{}); }

TEST_F(SimtPrimitivesTest, ReportsAnInstructionOfAnotherWaveSize) {
  EXPECT_THAT(Run(simt::Core::kGfx942, &Gfx11OfZeros, {nullptr}),
              HasSubstr("needs waves of 32 lanes"));
  EXPECT_THAT(Run(simt::Core::kGfx1100, &Mfma16OfZeros, {nullptr}),
              HasSubstr("needs waves of 64 lanes"));
}

// Subnormals are kept, and one NaN or infinity reaches exactly its row.
TEST_F(SimtPrimitivesTest, KeepsSubnormalsAndSpecialValues) {
  Product p = Product::Random<Half>(16, 16, 3);
  for (uint16_t& x : p.a) x = 0x0001;  // 2^-24
  for (uint16_t& x : p.b) x = 0x03ff;  // the largest subnormal
  for (float& x : p.c) x = 0;
  p.a[5 * 16 + 2] = 0x7e00;
  p.a[7 * 16 + 3] = 0xfc00;
  EXPECT_EQ(Run(simt::Core::kGfx1100, &Gfx11<Half>, {&p}), "");
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      const float x = p.d[Product::Index(row, column, 16)];
      if (row == 5) {
        EXPECT_TRUE(std::isnan(x));
      } else if (row == 7) {
        EXPECT_EQ(x, -INFINITY);
      } else {
        EXPECT_EQ(x, 16 * 0x1p-24f * 1023 * 0x1p-24f);
      }
    }
  }
}

// ------------------------------------------------------------------------------- other operations

struct WordArgs {
  uint32_t* out;
  int fault = 0;
};

void SwapHalves(const WordArgs args) { args.out[threadIdx.x] = amd::SwapHalves16(threadIdx.x); }

TEST_F(SimtPrimitivesTest, SwapsLaneHalves) {
  std::array<uint32_t, 32> out{};
  EXPECT_EQ(Run(simt::Core::kGfx1100, &SwapHalves, {out.data()}), "");
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], i ^ 16);
}

TEST_F(SimtPrimitivesTest, PermutesBytes) {
  constexpr uint32_t hi = 0x77668544, lo = 0x33221180;
  EXPECT_EQ(amd::PermuteBytes(hi, lo, 0x07060302), 0x77663322u);
  EXPECT_EQ(amd::PermuteBytes(hi, lo, 0x05040100), 0x85441180u);
  EXPECT_EQ(amd::PermuteBytes(hi, lo, 0x0c0d000c), 0x00ff8000u);
  // The signs of bytes 7, 5, 3 and 1.
  EXPECT_EQ(amd::PermuteBytes(hi, lo, 0x0b0a0908), 0x00ff0000u);
}

TEST_F(SimtPrimitivesTest, PacksHalves) {
  // Between 1 and the next half, nearer to the latter.
  const float above_one = 1.0f + 0.75f * 0x1p-10f;
  EXPECT_EQ(amd::PackHalvesTowardZero(above_one, -above_one), 0xbc003c00u);
  EXPECT_EQ(RoundPair<Half>(above_one, -above_one), 0xbc013c01u);
  EXPECT_EQ(RoundPair<BFloat16>(1.0f, -2.0f), 0xc0003f80u);
  // Toward zero means never to infinity, and to zero below the smallest subnormal.
  EXPECT_EQ(amd::PackHalvesTowardZero(1e6f, INFINITY), 0x7c007bffu);
  EXPECT_EQ(amd::PackHalvesTowardZero(0.9f * 0x1p-24f, 0x1p-24f), 0x00010000u);
  EXPECT_EQ(RoundPair<Half>(0.9f * 0x1p-24f, 1e6f), 0x7c000001u);
}

// Element (row, column) of matrix m is 256 m + 16 row + column.
void LoadMatrices(const WordArgs args) {
  auto* const lds = reinterpret_cast<uint16_t*>(Lds());
  const auto lane = static_cast<int>(threadIdx.x);
  for (int column = 0; column < 8; ++column) {
    lds[8 * lane + column] = static_cast<uint16_t>(256 * (lane / 8) + 16 * (lane % 8) + column);
  }
  BlockBarrier();
  const std::byte* const row = Lds() + 16 * lane + args.fault;
  uint32_t straight[4], transposed[4];
  nv::LoadMatrix4(straight, row);
  nv::LoadMatrix4Transposed(transposed, row);
  for (int m = 0; m < 4; ++m) {
    args.out[8 * lane + m] = straight[m];
    args.out[8 * lane + 4 + m] = transposed[m];
  }
}

TEST_F(SimtPrimitivesTest, LoadsMatrices) {
  std::vector<uint32_t> out(32 * 8);
  EXPECT_EQ(Run(simt::Core::kSm90, &LoadMatrices, {out.data()}, 512), "");
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t straight = 256 * m + 16 * (lane / 4) + 2 * (lane % 4);
      EXPECT_EQ(out[8 * lane + m], straight | (straight + 1) << 16);
      const uint32_t transposed = 256 * m + 16 * (2 * (lane % 4)) + lane / 4;
      EXPECT_EQ(out[8 * lane + 4 + m], transposed | (transposed + 16) << 16);
    }
  }
}

TEST_F(SimtPrimitivesTest, ReportsMatrixRowsThatAreNotInLdsOrNotAligned) {
  std::vector<uint32_t> out(32 * 8);
  EXPECT_THAT(Run(simt::Core::kSm90, &LoadMatrices, {out.data(), 16}, 512),
              AllOf(HasSubstr("lane 31, LoadMatrix4"), HasSubstr("not in the 512 bytes of LDS")));
  EXPECT_THAT(Run(simt::Core::kSm90, &LoadMatrices, {out.data(), 8}, 1024),
              HasSubstr("not aligned to 16"));
}

struct CopyArgs {
  const float* in;  // [2][32][4]
  float* out;       // [2][32]
  int groups_pending;
  bool barrier;
};

// Two groups of copies, the second one to be waited for or not; lane i reads what lane 31 - i
// copied.
void CopyTwoGroups(const CopyArgs args) {
  auto* const lds = reinterpret_cast<float*>(Lds());
  const unsigned lane = threadIdx.x;
  for (unsigned group = 0; group < 2; ++group) {
    nv::CopyAsync16(lds + 128 * group + 4 * lane, args.in + 128 * group + 4 * lane, lane != 9);
    nv::CommitCopies();
  }
  if (args.groups_pending == 0) nv::WaitCopies<0>();
  if (args.groups_pending == 1) nv::WaitCopies<1>();
  BlockBarrier();
  for (unsigned group = 0; group < 2; ++group) {
    args.out[32 * group + lane] = lds[128 * group + 4 * (31 - lane) + 3];
  }
}

TEST_F(SimtPrimitivesTest, AsynchronousCopiesLandWhenTheyAreWaitedFor) {
  alignas(16) std::array<float, 256> in;
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  for (const int pending : {0, 1, 2}) {
    std::array<float, 64> out{};
    EXPECT_EQ(Run(simt::Core::kSm90, &CopyTwoGroups, {in.data(), out.data(), pending, true}, 1024),
              "");
    for (size_t i = 0; i < 64; ++i) {
      const size_t from = 31 - i % 32;
      if (i / 32 >= static_cast<size_t>(2 - pending)) {
        EXPECT_TRUE(std::isnan(out[i])) << pending << " " << i;
      } else {
        EXPECT_EQ(out[i], from == 9 ? 0.0f : in[128 * (i / 32) + 4 * from + 3]);
      }
    }
  }
}

}  // namespace
}  // namespace attnd::gpu
