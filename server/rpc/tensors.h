// SPDX-License-Identifier: Apache-2.0
//
// Tensors of a request: checked against what is expected of them, and laid out in staging memory.
//
// Checks come first and touch no tensor; then the input and output layouts know how much memory the
// request needs; only then is memory allocated and the tensors copied into it. Not thread-safe; one
// request's, on one thread.
//
//   ATTND_ASSIGN_OR_RETURN(TensorRange k, CheckTensor(item.k(), {3, "k"}, expected, tensor_bytes));
//   offsets.k = input.Place(k, SizeOf(dtype));
//   input.CopyTo(message.tensor_data, staging.data());
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attnd/v1/types.pb.h"
#include "kernels/base/dtype.h"
#include "server/rpc/wire.h"

namespace attnd {

// Names a field in a message of error: "items[3].k", or "k" outside a batch.
struct FieldName {
  int64_t item = -1;
  absl::string_view field;
};
std::string ToString(const FieldName& name);

// INVALID_ARGUMENT, "items[3].k: " and what is wrong.
absl::Status InvalidField(const FieldName& name, absl::string_view what);

struct ExpectedTensor {
  v1::DType dtype = v1::DTYPE_UNSPECIFIED;
  absl::InlinedVector<int64_t, 4> shape;  // each at least 1
  absl::string_view dims;                 // their names: "n, num_kv_heads, head_dim_k"
};

// A tensor's bytes within tensor_data.
struct TensorRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// The dtype of q, k and v: f32, f16 or bf16.
absl::StatusOr<DType> CheckFloatDType(const v1::Tensor& tensor, const FieldName& name);

// The number of rows, dimension 0 of a tensor of `rank` whose other sizes CheckTensor will check.
absl::StatusOr<int64_t> CheckRows(const v1::Tensor& tensor, const FieldName& name, int rank,
                                  absl::string_view dims);

// INVALID_ARGUMENT where the dtype or shape differs, a size is below 1, the product of the sizes
// exceeds 64 bits, or the bytes do not lie inside `tensor_bytes`.
absl::StatusOr<TensorRange> CheckTensor(const v1::Tensor& tensor, const FieldName& name,
                                        const ExpectedTensor& expected, uint64_t tensor_bytes);

// Where the tensors of a request will lie in its input staging buffer: as they lie in tensor_data,
// which is copied whole; only those that are not aligned as a kernel needs them get a copy of their
// own behind it.
class InputLayout {
 public:
  explicit InputLayout(uint64_t tensor_bytes) : tensor_bytes_(tensor_bytes), end_(tensor_bytes) {}

  // The offset in staging.
  uint64_t Place(const TensorRange& range, size_t alignment);

  // INVALID_ARGUMENT where the copies of misaligned tensors exceed the data itself, which only
  // overlapping ones can do.
  absl::Status Check() const;
  uint64_t total_bytes() const { return end_; }
  void CopyTo(std::span<const ByteRange> tensor_data, std::byte* staging) const;

 private:
  struct Moved {
    TensorRange source;
    uint64_t destination;
  };
  uint64_t tensor_bytes_;
  uint64_t end_;
  uint64_t moved_bytes_ = 0;
  std::vector<Moved> moved_;
};

// Where results will lie in the output staging buffer, which becomes the response's tensor_data.
class OutputLayout {
 public:
  static constexpr uint64_t kOverflow = UINT64_MAX;

  // A 64-byte aligned offset for `bytes` more.
  uint64_t Place(uint64_t bytes);
  uint64_t total_bytes() const { return end_; }  // kOverflow where it exceeds 64 bits

 private:
  uint64_t end_ = 0;
};

}  // namespace attnd
