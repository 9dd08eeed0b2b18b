// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/tensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace attnd {
namespace {

TEST(InputLayoutTest, AlignedTensorsStayWhereTheyAre) {
  InputLayout layout(100);
  EXPECT_EQ(layout.Place({.offset = 4, .bytes = 8}, 4), 4u);
  EXPECT_EQ(layout.Place({.offset = 98, .bytes = 2}, 2), 98u);
  EXPECT_EQ(layout.total_bytes(), 100u);
  EXPECT_TRUE(layout.Check().ok());
}

TEST(InputLayoutTest, MisalignedTensorsAreCopiedToAnAlignedPlace) {
  const std::string data = "?abcdefgh!";
  InputLayout layout(data.size());
  const uint64_t at = layout.Place({.offset = 1, .bytes = 8}, 4);
  EXPECT_EQ(at % 64, 0u);
  ASSERT_TRUE(layout.Check().ok());
  std::string staging(layout.total_bytes(), '\0');
  const ByteRange ranges[] = {ByteRange(data).substr(0, 3), ByteRange(data).substr(3)};
  layout.CopyTo(ranges, reinterpret_cast<std::byte*>(staging.data()));
  EXPECT_EQ(staging.substr(0, data.size()), data);
  EXPECT_EQ(staging.substr(at, 8), "abcdefgh");
}

TEST(InputLayoutTest, OverlappingMisalignedTensorsCannotAskForMoreThanTheySent) {
  InputLayout layout(1000);
  for (int i = 0; i < 1000; ++i) layout.Place({.offset = 1, .bytes = 900}, 4);
  EXPECT_FALSE(layout.Check().ok());
  EXPECT_LE(layout.total_bytes(), 3000u);
}

TEST(OutputLayoutTest, OffsetsAreAlignedAndOverflowIsSeen) {
  OutputLayout layout;
  EXPECT_EQ(layout.Place(1), 0u);
  EXPECT_EQ(layout.Place(64), 64u);
  EXPECT_EQ(layout.total_bytes(), 128u);
  layout.Place(UINT64_MAX - 200);
  layout.Place(200);
  EXPECT_EQ(layout.total_bytes(), OutputLayout::kOverflow);
}

TEST(CheckTensorTest, TheNumberOfDimensionsCounts) {
  v1::Tensor tensor;
  tensor.set_dtype(v1::DTYPE_F32);
  tensor.add_shape(3);
  EXPECT_TRUE(CheckTensor(tensor, {-1, "q"}, {v1::DTYPE_F32, {3}, "n"}, 12).ok());
  EXPECT_FALSE(CheckTensor(tensor, {-1, "q"}, {v1::DTYPE_F32, {3}, "n"}, 11).ok());
  EXPECT_FALSE(CheckTensor(tensor, {-1, "q"}, {v1::DTYPE_F32, {3, 1}, "n, 1"}, 12).ok());
  tensor.add_shape(1);
  EXPECT_FALSE(CheckTensor(tensor, {-1, "q"}, {v1::DTYPE_F32, {3}, "n"}, 12).ok());
}

TEST(CheckTensorTest, EmptyShapeIsNoShape) {
  v1::Tensor tensor;
  tensor.set_dtype(v1::DTYPE_F32);
  EXPECT_FALSE(CheckTensor(tensor, {-1, "q"}, {v1::DTYPE_F32, {1}, "n"}, 100).ok());
  for (int i = 0; i < 100000; ++i) tensor.add_shape(1);
  const auto many = CheckTensor(tensor, {-1, "q"}, {v1::DTYPE_F32, {1}, "n"}, 100);
  EXPECT_LT(many.status().message().size(), 300u);
}

}  // namespace
}  // namespace attnd
