// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/staged_launch.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/base/dtype.h"

namespace attnd::conformance {
namespace {

constexpr size_t kAlignment = 256;

// What a page of `kv` spans behind its offset, from the first element to the last.
size_t PageSpan(const KvView& kv, int64_t heads, int64_t dim_k, int64_t dim_v, DType dtype) {
  const auto last = [&](int64_t head_stride, int64_t token_stride, int64_t dim) {
    return (heads - 1) * head_stride + (kv.page_size_tokens - 1) * token_stride + dim;
  };
  const auto size = static_cast<int64_t>(SizeOf(dtype));
  return static_cast<size_t>(std::max(
      last(kv.k_head_stride_elems, kv.k_token_stride_elems, dim_k) * size,
      last(kv.v_head_stride_elems, kv.v_token_stride_elems, dim_v) * size + (kv.v - kv.k)));
}

}  // namespace

StagedLaunch::StagedLaunch(TestMemory& memory, const AttentionParams& params)
    : memory_(memory), params_(params), items_(params.items.begin(), params.items.end()) {
  const int64_t heads = params.num_query_heads, kv_heads = params.num_kv_heads;
  const KernelKey& key = params.key;
  for (AttentionItem& item : items_) {
    StageRows(item.q, item.query_len, heads, key.head_dim_k, /*written=*/false);
    StageRows(item.new_k, item.query_len, kv_heads, key.head_dim_k, /*written=*/false);
    StageRows(item.new_v, item.query_len, kv_heads, key.head_dim_v, /*written=*/false);
    StageRows(item.out, item.query_len, heads, key.head_dim_v, /*written=*/true);
    if (item.lse.data != nullptr && item.query_len > 0) {
      const int64_t last = (item.query_len - 1) * item.lse.token_stride_elems +
                           (heads - 1) * item.lse.head_stride_elems;
      item.lse.data = reinterpret_cast<float*>(
          Stage(item.lse.data, static_cast<size_t>(last + 1) * sizeof(float), /*written=*/true));
    }
  }
  StagePages();
  params_.items = items_;
}

StagedLaunch::~StagedLaunch() {
  for (const Copy& copy : copies_) memory_.Free(copy.allocation);
}

void StagedLaunch::CopyBack() {
  for (const Copy& copy : copies_) {
    if (copy.written) memory_.Copy(copy.host, copy.device, copy.bytes);
  }
}

std::byte* StagedLaunch::Stage(const void* host, size_t bytes, bool written) {
  auto* from = static_cast<std::byte*>(const_cast<void*>(host));
  const size_t lead = reinterpret_cast<uintptr_t>(from) % kAlignment;
  std::byte* allocation = memory_.Allocate(lead + bytes);
  copies_.push_back({from, allocation + lead, allocation, bytes, written});
  memory_.Copy(allocation + lead, from, bytes);
  return allocation + lead;
}

template <typename T>
void StagedLaunch::StageRows(HeadsView<T>& view, int64_t rows, int64_t heads, int64_t dim,
                             bool written) {
  if (view.data == nullptr || rows == 0) return;
  const int64_t last =
      (rows - 1) * view.token_stride_elems + (heads - 1) * view.head_stride_elems + dim;
  view.data = Stage(view.data, static_cast<size_t>(last) * SizeOf(params_.key.q_dtype), written);
}

// All items' pages lie in one pool: from the first byte that any may touch to the last.
void StagedLaunch::StagePages() {
  uintptr_t begin = UINTPTR_MAX, end = 0;
  const auto each_page = [&](const auto& visit) {
    for (const AttentionItem& item : items_) {
      if (item.kv_len == 0) continue;
      const int64_t pages = (item.kv_len + item.kv.page_size_tokens - 1) / item.kv.page_size_tokens;
      const size_t span = PageSpan(item.kv, params_.num_kv_heads, params_.key.head_dim_k,
                                   params_.key.head_dim_v, params_.key.kv_dtype);
      for (int64_t page = 0; page < pages; ++page) {
        visit(reinterpret_cast<uintptr_t>(item.kv.k) + item.kv.page_offsets[page], span);
      }
    }
  };
  each_page([&](uintptr_t page, size_t span) {
    begin = std::min(begin, page);
    end = std::max(end, page + span);
  });
  if (end == 0) return;
  std::byte* device = Stage(reinterpret_cast<const void*>(begin), end - begin, /*written=*/true);
  const ptrdiff_t moved = device - reinterpret_cast<std::byte*>(begin);
  for (AttentionItem& item : items_) {
    item.kv.k += moved;
    item.kv.v += moved;
  }
}

}  // namespace attnd::conformance
