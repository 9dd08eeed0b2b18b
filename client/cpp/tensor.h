// SPDX-License-Identifier: Apache-2.0
//
// Tensors as the client sees them: where the elements are, of what type, how many.
//
// All of them are dense, row-major and in the machine's (little-endian) byte order. A ConstTensor
// or MutableTensor borrows the caller's memory: it must stay valid and unchanged until the call
// that was given it has returned, or its callback has run. Shapes are not repeated here: the
// cache's geometry, or the dimensions of a FlashAttention call, fix them, and the client checks the
// number of elements against them before it sends anything. Plain values; no locking.
//
//   std::vector<float> q(1 * 9 * 64);
//   AttendItem item{.sequence = &sequence, .q = q};           // float memory is f32
//   item.k = ConstTensor(DType::kBF16, k_data, 1 * 3 * 64);   // anything else says what it is
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "kernels/base/dtype.h"

namespace attnd::client {

// Elements to read. Null data means "not given".
struct ConstTensor {
  DType dtype = DType::kF32;
  const void* data = nullptr;
  int64_t num_elems = 0;

  ConstTensor() = default;
  ConstTensor(DType type, const void* elements, int64_t count)
      : dtype(type), data(elements), num_elems(count) {}
  // Implicit, so that float memory is an argument as it is.
  ConstTensor(std::span<const float> f32)  // NOLINT(google-explicit-constructor)
      : ConstTensor(DType::kF32, f32.data(), static_cast<int64_t>(f32.size())) {}
  ConstTensor(const std::vector<float>& f32)  // NOLINT(google-explicit-constructor)
      : ConstTensor(std::span<const float>(f32)) {}

  bool given() const { return data != nullptr; }
  uint64_t size_bytes() const { return static_cast<uint64_t>(num_elems) * SizeOf(dtype); }
};

// Memory that a result is written into. Null data means "not given".
struct MutableTensor {
  DType dtype = DType::kF32;
  void* data = nullptr;
  int64_t num_elems = 0;

  MutableTensor() = default;
  MutableTensor(DType type, void* elements, int64_t count)
      : dtype(type), data(elements), num_elems(count) {}
  MutableTensor(std::span<float> f32)  // NOLINT(google-explicit-constructor)
      : MutableTensor(DType::kF32, f32.data(), static_cast<int64_t>(f32.size())) {}
  MutableTensor(std::vector<float>& f32)  // NOLINT(google-explicit-constructor)
      : MutableTensor(std::span<float>(f32)) {}

  bool given() const { return data != nullptr; }
  uint64_t size_bytes() const { return static_cast<uint64_t>(num_elems) * SizeOf(dtype); }
};

// A tensor of a result, with its shape. Views the received message or the caller's memory; valid as
// long as the result object (and that memory) is. Aligned to its element's size.
struct TensorView {
  DType dtype = DType::kF32;
  const void* data = nullptr;
  absl::InlinedVector<int64_t, 4> shape;  // elements, outermost first; empty where absent

  bool present() const { return data != nullptr; }
  int64_t num_elems() const {
    int64_t count = shape.empty() ? 0 : 1;
    for (int64_t size : shape) count *= size;
    return count;
  }
  // Element i in row-major order, whatever its type. For tests and printing, not for loops that
  // must be quick.
  float At(int64_t i) const { return LoadAsFloat(dtype, data, i); }
  // The elements of an f32 tensor; empty for another type.
  std::span<const float> f32() const {
    if (dtype != DType::kF32 || data == nullptr) return {};
    return {static_cast<const float*>(data), static_cast<size_t>(num_elems())};
  }
};

}  // namespace attnd::client
