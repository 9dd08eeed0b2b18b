// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/tensors.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/attention/check_params.h"
#include "kernels/base/checked_math.h"
#include "server/engine/staging.h"

namespace attnd {
namespace {

absl::string_view DTypeName(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_F32:
      return "f32";
    case v1::DTYPE_F16:
      return "f16";
    case v1::DTYPE_BF16:
      return "bf16";
    case v1::DTYPE_U8:
      return "u8";
    case v1::DTYPE_UNSPECIFIED:
      return "unspecified";
    default:
      return "unknown";
  }
}

uint64_t ElementBytes(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_F32:
      return 4;
    case v1::DTYPE_U8:
      return 1;
    default:
      return 2;
  }
}

template <typename Shape>
std::string ShapeString(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// A client can send a shape of millions of dimensions: a message of error shows the first few.
std::string ShapeString(const v1::Tensor& tensor) {
  constexpr int kShown = 8;
  if (tensor.shape_size() <= kShown) return ShapeString(tensor.shape());
  return absl::StrCat("[",
                      absl::StrJoin(tensor.shape().begin(), tensor.shape().begin() + kShown, ", "),
                      ", ... (", tensor.shape_size(), " dimensions)]");
}

constexpr uint64_t AlignUp(uint64_t value) {
  return (value + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment;
}

}  // namespace

std::string ToString(const FieldName& name) {
  return name.item < 0
             ? std::string(name.field)
             : absl::StrCat("items[", name.item, "]", name.field.empty() ? "" : ".", name.field);
}

absl::Status InvalidField(const FieldName& name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(ToString(name), ": ", what));
}

absl::StatusOr<DType> CheckFloatDType(const v1::Tensor& tensor, const FieldName& name) {
  switch (tensor.dtype()) {
    case v1::DTYPE_F32:
      return DType::kF32;
    case v1::DTYPE_F16:
      return DType::kF16;
    case v1::DTYPE_BF16:
      return DType::kBF16;
    default:
      return InvalidField(
          name, absl::StrCat("dtype ", DTypeName(tensor.dtype()), " (",
                             static_cast<int>(tensor.dtype()), "), expected f32, f16 or bf16"));
  }
}

absl::StatusOr<int64_t> CheckRows(const v1::Tensor& tensor, const FieldName& name, int rank,
                                  absl::string_view dims) {
  if (tensor.shape_size() != rank) {
    return InvalidField(name,
                        absl::StrCat("shape ", ShapeString(tensor), " has ", tensor.shape_size(),
                                     " dimensions, expected ", rank, " (", dims, ")"));
  }
  if (tensor.shape(0) < 1) {
    return InvalidField(name, absl::StrCat("shape ", ShapeString(tensor), " has a size of ",
                                           tensor.shape(0), "; sizes are at least 1"));
  }
  return tensor.shape(0);
}

absl::StatusOr<TensorRange> CheckTensor(const v1::Tensor& tensor, const FieldName& name,
                                        const ExpectedTensor& expected, uint64_t tensor_bytes) {
  if (tensor.dtype() != expected.dtype) {
    return InvalidField(name, absl::StrCat("dtype ", DTypeName(tensor.dtype()), " (",
                                           static_cast<int>(tensor.dtype()), "), expected ",
                                           DTypeName(expected.dtype)));
  }
  for (int64_t size : tensor.shape()) {
    if (size < 1) {
      return InvalidField(name, absl::StrCat("shape ", ShapeString(tensor), " has a size of ", size,
                                             "; sizes are at least 1"));
    }
  }
  std::optional<uint64_t> bytes = ElementBytes(tensor.dtype());
  for (int64_t size : tensor.shape()) {
    bytes = CheckedProduct({*bytes, static_cast<uint64_t>(size)});
    if (!bytes) {
      return InvalidField(
          name, absl::StrCat("shape ", ShapeString(tensor), ": its size in bytes exceeds 64 bits"));
    }
  }
  bool same = static_cast<size_t>(tensor.shape_size()) == expected.shape.size();
  for (int i = 0; same && i < tensor.shape_size(); ++i) same = tensor.shape(i) == expected.shape[i];
  if (!same) {
    return InvalidField(name, absl::StrCat("shape ", ShapeString(tensor), ", expected ",
                                           ShapeString(expected.shape), " (", expected.dims, ")"));
  }
  const std::optional<uint64_t> end = CheckedSum({tensor.offset_bytes(), *bytes});
  if (!end || *end > tensor_bytes) {
    return InvalidField(
        name, absl::StrCat(*bytes, " bytes at offset ", tensor.offset_bytes(),
                           " do not lie inside tensor_data, which has ", tensor_bytes, " bytes"));
  }
  return TensorRange{.offset = tensor.offset_bytes(), .bytes = *bytes};
}

uint64_t InputLayout::Place(const TensorRange& range, size_t alignment) {
  if (range.offset % alignment == 0) return range.offset;
  const uint64_t destination = AlignUp(end_);
  moved_bytes_ += range.bytes;
  if (moved_bytes_ > tensor_bytes_) return 0;  // Check() refuses the request
  moved_.push_back({.source = range, .destination = destination});
  end_ = destination + range.bytes;
  return destination;
}

absl::Status InputLayout::Check() const {
  if (moved_bytes_ <= tensor_bytes_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensors that are not aligned to ", kOperandAlignmentBytes, " bytes overlap: they have ",
      moved_bytes_, " bytes, tensor_data has ", tensor_bytes_));
}

void InputLayout::CopyTo(std::span<const ByteRange> tensor_data, std::byte* staging) const {
  CopyBytes(tensor_data, 0, tensor_bytes_, staging);
  for (const Moved& moved : moved_) {
    CopyBytes(tensor_data, moved.source.offset, moved.source.bytes, staging + moved.destination);
  }
}

uint64_t OutputLayout::Place(uint64_t bytes) {
  const uint64_t offset = end_;
  const std::optional<uint64_t> end = CheckedSum({offset, bytes, kStagingAlignment - 1});
  end_ = end && offset != kOverflow ? *end / kStagingAlignment * kStagingAlignment : kOverflow;
  return offset;
}

}  // namespace attnd
