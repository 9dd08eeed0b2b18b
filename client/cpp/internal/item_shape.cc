// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/item_shape.h"

#include <string>

#include "client/cpp/internal/concat.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

// What a tensor's size is made of, by the names the user knows.
struct Dims {
  int64_t heads;
  std::string_view heads_name;
  int64_t dim;
  std::string_view dim_name;

  int64_t row_elems() const { return heads * dim; }
};

// The number of rows that the tensor's size gives.
absl::StatusOr<int64_t> RowsOf(int64_t num_elems, const Dims& dims, std::string_view name,
                               std::string_view field) {
  if (num_elems > 0 && num_elems % dims.row_elems() == 0) return num_elems / dims.row_elems();
  return absl::InvalidArgumentError(Concat(
      name, ".", field, " has ", num_elems, " elements; expected a multiple of ", dims.row_elems(),
      " = ", dims.heads, " ", dims.heads_name, " x ", dims.dim, " ", dims.dim_name));
}

template <typename Tensor>
absl::Status CheckTensor(const Tensor& tensor, int64_t rows, const Dims& dims, DType dtype,
                         std::string_view name, std::string_view field) {
  if (tensor.dtype != dtype) {
    return absl::InvalidArgumentError(Concat(name, ".", field, " is ", Name(tensor.dtype),
                                             "; expected ", Name(dtype), ", the type of ",
                                             field == "lse" ? "every lse" : "q or k"));
  }
  if (tensor.num_elems != rows * dims.row_elems()) {
    return absl::InvalidArgumentError(Concat(name, ".", field, " has ", tensor.num_elems,
                                             " elements; expected ", rows * dims.row_elems(), " = ",
                                             rows, " rows x ", dims.heads, " ", dims.heads_name,
                                             " x ", dims.dim, " ", dims.dim_name));
  }
  return absl::OkStatus();
}

absl::Status CheckCount(size_t count, int64_t expected, std::string_view name,
                        std::string_view field, std::string_view meaning) {
  if (count == 0 || static_cast<int64_t>(count) == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(Concat(name, ".options.", field, " has ", count,
                                           " elements; expected ", expected, " = ", meaning));
}

absl::Status CheckOptions(const AttentionOptions& options, int64_t rows, int32_t query_heads,
                          std::string_view name) {
  ATTND_RETURN_IF_ERROR(CheckCount(options.alibi_slopes.size(), query_heads, name, "alibi_slopes",
                                   "num_query_heads"));
  ATTND_RETURN_IF_ERROR(
      CheckCount(options.sinks.size(), query_heads, name, "sinks", "num_query_heads"));
  return CheckCount(options.tree_mask.size(), rows * ((rows + 7) / 8), name, "tree_mask",
                    "rows x ceil(rows / 8) bytes");
}

absl::Status Invalid(std::string_view name, std::string_view what) {
  return absl::InvalidArgumentError(Concat(name, what));
}

// The rows of a ragged tensor, or nothing where the offsets are malformed.
absl::StatusOr<int64_t> RaggedRows(std::span<const int64_t> cu_seqlens, std::string_view name) {
  if (cu_seqlens.size() < 2) return Invalid(name, " needs at least 2 entries: [B + 1]");
  if (cu_seqlens.front() != 0) return Invalid(name, " must start with 0");
  for (size_t i = 1; i < cu_seqlens.size(); ++i) {
    if (cu_seqlens[i] < cu_seqlens[i - 1]) {
      return Invalid(name, Concat("[", i, "] is ", cu_seqlens[i], ", below the entry before"));
    }
  }
  return cu_seqlens.back();
}

}  // namespace

absl::StatusOr<int64_t> CheckItem(const AttendItem& item, const CacheGeometry& geometry,
                                  std::string_view name) {
  const Dims q{geometry.num_query_heads, "num_query_heads", geometry.head_dim_k, "head_dim_k"};
  const Dims k{geometry.num_kv_heads, "num_kv_heads", geometry.head_dim_k, "head_dim_k"};
  const Dims v{geometry.num_kv_heads, "num_kv_heads", geometry.value_dim(), "head_dim_v"};
  const Dims out{geometry.num_query_heads, "num_query_heads", geometry.value_dim(), "head_dim_v"};
  const Dims lse{geometry.num_query_heads, "num_query_heads", 1, ""};

  if (!item.q.given() && !item.k.given()) return Invalid(name, " has neither q nor k and v");
  if (item.k.given() != item.v.given())
    return Invalid(name, " has one of k and v without the other");
  if (item.layer < 0 || item.layer >= geometry.num_layers) {
    return Invalid(name,
                   Concat(".layer is ", item.layer, "; expected 0 to ", geometry.num_layers - 1));
  }
  if (item.start_position < 0) {
    return Invalid(name, Concat(".start_position is ", item.start_position, ", below 0"));
  }
  if (item.kv_length && item.k.given()) return Invalid(name, ".kv_length is for reads, without k");

  ATTND_ASSIGN_OR_RETURN(const int64_t rows, item.q.given()
                                                 ? RowsOf(item.q.num_elems, q, name, "q")
                                                 : RowsOf(item.k.num_elems, k, name, "k"));
  const DType dtype = item.q.given() ? item.q.dtype : item.k.dtype;
  if (item.k.given()) {
    ATTND_RETURN_IF_ERROR(CheckTensor(item.k, rows, k, dtype, name, "k"));
    ATTND_RETURN_IF_ERROR(CheckTensor(item.v, rows, v, dtype, name, "v"));
  }
  if (item.out.given()) {
    ATTND_RETURN_IF_ERROR(CheckTensor(item.out, rows, out, dtype, name, "out"));
  }
  if (item.lse.given()) {
    if (!item.options.return_lse) return Invalid(name, ".lse is given without options.return_lse");
    ATTND_RETURN_IF_ERROR(CheckTensor(item.lse, rows, lse, DType::kF32, name, "lse"));
  }
  ATTND_RETURN_IF_ERROR(CheckOptions(item.options, rows, geometry.num_query_heads, name));
  return rows;
}

absl::StatusOr<FlashRows> CheckFlash(const FlashAttentionArgs& args) {
  constexpr std::string_view kName = "args";
  const int32_t value_dim = args.head_dim_v == 0 ? args.head_dim_k : args.head_dim_v;
  if (args.num_query_heads < 1 || args.num_kv_heads < 1 || args.head_dim_k < 1 || value_dim < 1) {
    return Invalid(kName, ": num_query_heads, num_kv_heads and head_dim_k must be at least 1");
  }
  FlashRows rows;
  if (args.ragged()) {
    ATTND_ASSIGN_OR_RETURN(rows.query_rows, RaggedRows(args.cu_seqlens_q, "cu_seqlens_q"));
    ATTND_ASSIGN_OR_RETURN(rows.key_rows, RaggedRows(args.cu_seqlens_k, "cu_seqlens_k"));
    if (args.cu_seqlens_q.size() != args.cu_seqlens_k.size()) {
      return Invalid(kName, Concat(": cu_seqlens_q has ", args.cu_seqlens_q.size(),
                                   " entries and cu_seqlens_k ", args.cu_seqlens_k.size()));
    }
  } else {
    if (args.batch < 1 || args.query_len < 1 || args.key_len < 1) {
      return Invalid(kName, ": batch, query_len and key_len must be at least 1");
    }
    rows = {.query_rows = args.batch * args.query_len, .key_rows = args.batch * args.key_len};
  }
  const Dims q{args.num_query_heads, "num_query_heads", args.head_dim_k, "head_dim_k"};
  const Dims k{args.num_kv_heads, "num_kv_heads", args.head_dim_k, "head_dim_k"};
  const Dims v{args.num_kv_heads, "num_kv_heads", value_dim, "head_dim_v"};
  const Dims out{args.num_query_heads, "num_query_heads", value_dim, "head_dim_v"};
  const Dims lse{args.num_query_heads, "num_query_heads", 1, ""};
  const DType dtype = args.q.dtype;
  ATTND_RETURN_IF_ERROR(CheckTensor(args.q, rows.query_rows, q, dtype, kName, "q"));
  ATTND_RETURN_IF_ERROR(CheckTensor(args.k, rows.key_rows, k, dtype, kName, "k"));
  ATTND_RETURN_IF_ERROR(CheckTensor(args.v, rows.key_rows, v, dtype, kName, "v"));
  if (args.out.given()) {
    ATTND_RETURN_IF_ERROR(CheckTensor(args.out, rows.query_rows, out, dtype, kName, "out"));
  }
  if (args.lse.given()) {
    ATTND_RETURN_IF_ERROR(CheckTensor(args.lse, rows.query_rows, lse, DType::kF32, kName, "lse"));
  }
  ATTND_RETURN_IF_ERROR(CheckOptions(args.options, args.query_len, args.num_query_heads, kName));
  return rows;
}

}  // namespace attnd::client
