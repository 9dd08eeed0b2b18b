// SPDX-License-Identifier: Apache-2.0
//
// What the daemon's answers are compared with: the fp64 reference kernels, over keys and values
// that were kept on this side. Not thread-safe, but for const methods.
//
//   HostKv kv(geometry);
//   kv.Write(/*start=*/0, k, v, rows);
//   ErrorStats errors;
//   kv.Compare({.q = q, .start_position = 0}, result.items()[0].out, errors);
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "client/cpp/tensor.h"
#include "client/cpp/types.h"

namespace attnd::cli {

// Elements of any type, owned.
class HostTensor {
 public:
  HostTensor() = default;
  HostTensor(DType dtype, int64_t num_elems);
  // N(0, 1), rounded to the type.
  static HostTensor Normal(DType dtype, int64_t num_elems, std::mt19937_64& random);

  DType dtype() const { return dtype_; }
  int64_t num_elems() const { return num_elems_; }
  const void* data() const { return bytes_.data(); }
  void* data() { return bytes_.data(); }
  client::ConstTensor view() const { return {dtype_, data(), num_elems_}; }
  // `count` elements from `first` on.
  client::ConstTensor view(int64_t first, int64_t count) const;

 private:
  DType dtype_ = DType::kF32;
  int64_t num_elems_ = 0;
  std::vector<std::byte> bytes_;
};

// How far results are from the reference.
struct ErrorStats {
  double squared_difference = 0;
  double squared_reference = 0;
  double max_abs = 0;
  int64_t elems = 0;
  int64_t not_finite = 0;  // NaN or infinity where the reference is finite, or the other way round

  void Add(double got, double want);
  void Merge(const ErrorStats& other);
  double relative_l2() const;  // infinity where anything was not finite
};

// The bound on relative_l2 that the daemon promises for outputs of this type and N(0, 1) inputs.
double ErrorBound(DType dtype);

struct ReferenceQuery {
  client::ConstTensor q{};  // [rows, num_query_heads, head_dim_k]
  int64_t start_position = 0;
  int64_t kv_length = -1;  // -1: all that was written
  client::AttentionOptions options{};
  // Compare only these rows: a long prompt is affordable so. Not with a tree mask.
  int64_t first_row = 0;
  int64_t num_rows = -1;  // -1: to the end
};

struct ReferenceOutput {
  std::vector<double> out;  // [rows, num_query_heads, head_dim_v]
  std::vector<double> lse;  // [rows, num_query_heads]
};

// The keys and values of one sequence in one layer, in the KV type.
class HostKv {
 public:
  explicit HostKv(const client::CacheGeometry& geometry);

  // Writes rows at `start`, at most the length, and cuts what was beyond.
  void Write(int64_t start, const client::ConstTensor& k, const client::ConstTensor& v);
  int64_t length() const { return length_; }

  ReferenceOutput Attend(const ReferenceQuery& query) const;
  // Adds the differences of `out` [rows, num_query_heads, head_dim_v] and, where present, of `lse`
  // [num_query_heads, rows] from the reference.
  void Compare(const ReferenceQuery& query, const client::TensorView& out,
               const client::TensorView& lse, ErrorStats& out_errors, ErrorStats& lse_errors) const;

 private:
  client::CacheGeometry geometry_;
  int64_t length_ = 0;
  std::vector<std::byte> k_;  // [length, num_kv_heads, head_dim_k]
  std::vector<std::byte> v_;  // [length, num_kv_heads, head_dim_v]
};

}  // namespace attnd::cli
