// SPDX-License-Identifier: Apache-2.0
//
// A random attention problem with its memory: pages in random order, NaN wherever no token lies,
// outputs poisoned; and the fp64 reference's answer to it.
//
// One thread at a time.
//
//   Problem problem(ProblemSpec{.query_heads = 4, .kv_heads = 2, .items = {{.query_len = 7}}},
//   seed); ASSERT_TRUE(Launch(backend, problem.params()).ok()); ExpectMatchesReference(problem);
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/params.h"

namespace attnd::conformance {

// One item. Unset start and kv_len mean a sequence that is only this item's tokens.
struct ItemSpec {
  int64_t query_len = 1;
  int64_t start = 0;
  int64_t kv_len = -1;  // -1: start + query_len
  bool append = true;   // false: all kv_len keys are there already
  bool write_only = false;
};

struct ProblemSpec {
  DType q_dtype = DType::kF32;
  DType kv_dtype = DType::kF32;
  int32_t head_dim_k = 64;
  int32_t head_dim_v = 64;
  int32_t query_heads = 2;
  int32_t kv_heads = 1;
  int64_t page_size = 16;  // 0: dense tensors [tokens, kv_heads, dim], one page an item
  FeatureSet features = {};
  std::vector<ItemSpec> items = {};

  float scale = -1.0f;       // softmax_scale; negative: 1 / sqrt(head_dim_k)
  float q_magnitude = 1.0f;  // standard deviation of the queries
  int64_t window_left = 19;  // where features has kWindow
  int64_t window_right = 3;
};

std::string ToString(const ProblemSpec& spec);

// Where the tensors of a problem lie: memory that the backend reaches, rows aligned as it needs.
struct ProblemMemory {
  std::pmr::memory_resource* resource = std::pmr::new_delete_resource();
  int64_t row_alignment_bytes = 1;  // beyond the element's own
};

class Problem {
 public:
  Problem(const ProblemSpec& spec, uint64_t seed, const ProblemMemory& memory = {});

  const ProblemSpec& spec() const { return spec_; }
  const AttentionParams& params() const { return params_; }
  std::vector<AttentionItem>& items() { return items_; }

  using Tensor = std::pmr::vector<std::byte>;

  // Fills outputs with poison and takes appended tokens back.
  void Reset();

  // The reference's results for item i and its pages afterwards; computed once, on first use.
  struct Expected {
    std::vector<double> out;  // [query_len, query_heads, head_dim_v]
    std::vector<double> lse;  // [query_len, query_heads]
  };
  const Expected& expected(size_t i);
  // Bytes of the KV pool after the appends, by the reference.
  const std::vector<std::byte>& expected_pool();
  const Tensor& pool() const { return pool_; }

  // The backend's results for item i, as fp32.
  std::vector<float> Out(size_t i) const;
  std::vector<float> Lse(size_t i) const;  // empty where the problem asks for none

  // One element of the KV pool as it is before the launch, to plant special values.
  void SetKey(size_t item, int64_t head, int64_t token, int64_t dim, float value);
  void SetValue(size_t item, int64_t head, int64_t token, int64_t dim, float value);
  void SetQuery(size_t item, int64_t query, int64_t head, int64_t dim, float value);

 private:
  struct ItemMemory {
    explicit ItemMemory(std::pmr::memory_resource* resource)
        : q(resource), new_k(resource), new_v(resource), out(resource), lse(resource) {}

    Tensor q, new_k, new_v, out;
    std::pmr::vector<float> lse;
    std::vector<uint64_t> page_offsets;
    std::vector<uint8_t> tree_mask;
  };

  void Plant(std::byte* row, int64_t dim, float value);
  void LayOutPages();
  void MakeItem(size_t i);
  void FillOptions(AttentionItem& item, ItemMemory& memory);
  void FillTokens(const AttentionItem& item, int64_t tokens);
  void FillRandom(Tensor& tensor, int64_t elems, float magnitude);

  const ProblemSpec spec_;
  const int64_t row_alignment_bytes_;
  std::mt19937_64 random_;
  AttentionParams params_;
  std::vector<AttentionItem> items_;
  std::vector<std::unique_ptr<ItemMemory>> memory_;
  Tensor pool_;                          // what the backend works on
  std::vector<std::byte> initial_pool_;  // as it was made
  std::vector<std::byte> expected_pool_;
  std::vector<Expected> expected_;
  std::vector<float> slopes_, sinks_;  // [query_heads]
};

}  // namespace attnd::conformance
