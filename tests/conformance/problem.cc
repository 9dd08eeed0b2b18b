// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>
#include <sstream>

#include "kernels/attention/kv_address.h"
#include "kernels/base/dtype.h"
#include "kernels/cpu/attention_reference.h"

namespace attnd::conformance {
namespace {

// NaN in every dtype, whatever two bytes of it are looked at.
constexpr std::byte kPoison{0x7f};
constexpr std::byte kPoisonLow{0xff};

void PoisonAll(std::span<std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i % 2 == 0 ? kPoisonLow : kPoison;
}

int64_t KvLen(const ItemSpec& item) {
  return item.kv_len >= 0 ? item.kv_len : item.start + item.query_len;
}

}  // namespace

std::string ToString(const ProblemSpec& spec) {
  std::ostringstream text;
  text << ToString(KernelKey{spec.q_dtype, spec.kv_dtype, spec.head_dim_k, spec.head_dim_v,
                             spec.features})
       << " heads=" << spec.query_heads << "/" << spec.kv_heads << " page=" << spec.page_size;
  for (const ItemSpec& item : spec.items) {
    text << " [" << item.start << "+" << item.query_len << " of " << KvLen(item) << "]";
  }
  return text.str();
}

Problem::Problem(const ProblemSpec& spec, uint64_t seed, const ProblemMemory& memory)
    : spec_(spec),
      row_alignment_bytes_(memory.row_alignment_bytes),
      random_(seed),
      pool_(memory.resource) {
  params_.key = {spec.q_dtype, spec.kv_dtype, spec.head_dim_k, spec.head_dim_v, spec.features};
  params_.num_query_heads = spec.query_heads;
  params_.num_kv_heads = spec.kv_heads;
  std::uniform_real_distribution<float> slope(0.01f, 0.5f), sink(-1.0f, 2.0f);
  for (int32_t h = 0; h < spec.query_heads; ++h) {
    slopes_.push_back(slope(random_));
    sinks_.push_back(sink(random_));
  }
  items_.resize(spec.items.size());
  for (size_t i = 0; i < items_.size(); ++i) {
    memory_.push_back(std::make_unique<ItemMemory>(memory.resource));
  }
  LayOutPages();
  for (size_t i = 0; i < items_.size(); ++i) MakeItem(i);
  initial_pool_.assign(pool_.begin(), pool_.end());
  params_.items = items_;
}

// Chunks [page][K, V][kv_head][token][dim] in random order, a quarter of them free. Dense: K and V
// of an item are tensors of their own. An odd number of elements in front keeps rows off any
// alignment beyond their element's, where the backend asks for none.
void Problem::LayOutPages() {
  const auto size = static_cast<int64_t>(SizeOf(spec_.kv_dtype));
  const int64_t dims = spec_.head_dim_k + spec_.head_dim_v;
  const bool dense = spec_.page_size == 0;
  std::vector<int64_t> page_tokens;  // of every page, items in order
  for (const ItemSpec& item : spec_.items) {
    const int64_t tokens = std::max<int64_t>(1, KvLen(item));
    const int64_t pages = dense ? 1 : (tokens + spec_.page_size - 1) / spec_.page_size;
    page_tokens.insert(page_tokens.end(), static_cast<size_t>(pages),
                       dense ? tokens : spec_.page_size);
  }
  const size_t used = page_tokens.size();
  page_tokens.insert(page_tokens.end(), used / 4 + 1, dense ? 1 : spec_.page_size);
  std::vector<size_t> order(page_tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), random_);
  std::vector<uint64_t> offsets(page_tokens.size());
  auto next = static_cast<uint64_t>(row_alignment_bytes_ > 1 ? row_alignment_bytes_ : 3 * size);
  for (size_t page : order) {
    offsets[page] = next;
    next += static_cast<uint64_t>(page_tokens[page] * spec_.kv_heads * dims * size);
  }
  pool_.resize(next + 64);
  PoisonAll(pool_);

  size_t page = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    const int64_t tokens = page_tokens[page];
    const int64_t item_tokens = std::max<int64_t>(1, KvLen(spec_.items[i]));
    for (int64_t done = 0; done < item_tokens; done += tokens) {
      memory_[i]->page_offsets.push_back(offsets[page++]);
    }
    KvView& kv = items_[i].kv;
    kv.k = pool_.data();
    kv.v = pool_.data() + tokens * spec_.kv_heads * spec_.head_dim_k * size;
    kv.page_offsets = memory_[i]->page_offsets.data();
    kv.page_size_tokens = tokens;
    kv.k_token_stride_elems = dense ? spec_.kv_heads * spec_.head_dim_k : spec_.head_dim_k;
    kv.v_token_stride_elems = dense ? spec_.kv_heads * spec_.head_dim_v : spec_.head_dim_v;
    kv.k_head_stride_elems = dense ? spec_.head_dim_k : tokens * spec_.head_dim_k;
    kv.v_head_stride_elems = dense ? spec_.head_dim_v : tokens * spec_.head_dim_v;
  }
}

void Problem::FillRandom(Tensor& tensor, int64_t elems, float magnitude) {
  std::normal_distribution<float> normal(0.0f, magnitude);
  tensor.resize(static_cast<size_t>(elems) * SizeOf(spec_.q_dtype));
  for (int64_t i = 0; i < elems; ++i) {
    StoreFromFloat(spec_.q_dtype, tensor.data(), i, normal(random_));
  }
}

void Problem::MakeItem(size_t i) {
  const ItemSpec& spec = spec_.items[i];
  AttentionItem& item = items_[i];
  ItemMemory& memory = *memory_[i];
  item.query_len = spec.query_len;
  item.start_position = spec.start;
  item.kv_len = KvLen(spec);
  const int64_t hq = spec_.query_heads, hkv = spec_.kv_heads;
  const int64_t dk = spec_.head_dim_k, dv = spec_.head_dim_v;
  if (!spec.write_only) {
    FillRandom(memory.q, spec.query_len * hq * dk, spec_.q_magnitude);
    memory.out.resize(static_cast<size_t>(spec.query_len * hq * dv) * SizeOf(spec_.q_dtype));
    item.q = {memory.q.data(), hq * dk, dk};
    item.out = {memory.out.data(), hq * dv, dv};
    if (spec_.features.Has(Feature::kLse)) {
      memory.lse.resize(static_cast<size_t>(spec.query_len * hq));
      item.lse = {memory.lse.data(), hq, 1};
    }
  }
  if (spec.append) {
    FillRandom(memory.new_k, spec.query_len * hkv * dk, 1.0f);
    FillRandom(memory.new_v, spec.query_len * hkv * dv, 1.0f);
    item.new_k = {memory.new_k.data(), hkv * dk, dk};
    item.new_v = {memory.new_v.data(), hkv * dv, dv};
  }
  FillOptions(item, memory);
  FillTokens(item, item.kv_len);
  Reset();
}

void Problem::FillOptions(AttentionItem& item, ItemMemory& memory) {
  const FeatureSet& features = spec_.features;
  ScoreOptions& options = item.options;
  options.softmax_scale =
      spec_.scale >= 0.0f ? spec_.scale : 1.0f / std::sqrt(static_cast<float>(spec_.head_dim_k));
  options.causal = features.Has(Feature::kCausal);
  if (features.Has(Feature::kWindow)) {
    options.window_left = spec_.window_left;
    options.window_right = spec_.window_right;
  }
  if (features.Has(Feature::kSoftcap)) options.softcap = 1.5f;
  if (features.Has(Feature::kAlibi)) options.alibi_slopes = slopes_.data();
  if (features.Has(Feature::kSinks)) options.sinks = sinks_.data();
  if (features.Has(Feature::kDropout)) {
    options.dropout = {.probability = 0.3f, .seed = random_(), .subsequence = 5};
  }
  if (features.Has(Feature::kTreeMask)) {
    const int64_t row_bytes = (item.query_len + 7) / 8;
    memory.tree_mask.resize(static_cast<size_t>(item.query_len * row_bytes));
    for (uint8_t& byte : memory.tree_mask) byte = static_cast<uint8_t>(random_());
    options.tree_mask = memory.tree_mask.data();
  }
}

// Tokens that the item is going to write stay poisoned.
void Problem::FillTokens(const AttentionItem& item, int64_t tokens) {
  std::normal_distribution<float> normal(0.0f, 1.0f);
  const bool appends = item.new_k.data != nullptr;
  for (int64_t t = 0; t < tokens; ++t) {
    if (appends && t >= item.start_position && t < item.start_position + item.query_len) continue;
    for (int64_t h = 0; h < spec_.kv_heads; ++h) {
      std::byte* k = KeyAddress(item.kv, spec_.kv_dtype, h, t);
      std::byte* v = ValueAddress(item.kv, spec_.kv_dtype, h, t);
      for (int64_t d = 0; d < spec_.head_dim_k; ++d) {
        StoreFromFloat(spec_.kv_dtype, k, d, normal(random_));
      }
      for (int64_t d = 0; d < spec_.head_dim_v; ++d) {
        StoreFromFloat(spec_.kv_dtype, v, d, normal(random_));
      }
    }
  }
}

void Problem::Reset() {
  if (!initial_pool_.empty()) std::ranges::copy(initial_pool_, pool_.begin());
  for (auto& memory : memory_) {
    PoisonAll(memory->out);
    std::ranges::fill(memory->lse, std::nanf(""));
  }
}

const std::vector<std::byte>& Problem::expected_pool() {
  if (!expected_.empty()) return expected_pool_;
  expected_pool_ = initial_pool_;
  // The same views, over the reference's own copy of the pool.
  std::vector<AttentionItem> items = items_;
  for (AttentionItem& item : items) {
    item.kv.k = expected_pool_.data() + (item.kv.k - pool_.data());
    item.kv.v = expected_pool_.data() + (item.kv.v - pool_.data());
    ReferenceAppend(params_, item);
  }
  for (const AttentionItem& item : items) {
    Expected& expected = expected_.emplace_back();
    if (item.q.data == nullptr) continue;
    const int64_t rows = item.query_len * spec_.query_heads;
    expected.out.resize(static_cast<size_t>(rows * spec_.head_dim_v));
    expected.lse.resize(static_cast<size_t>(rows));
    ReferenceAttention(params_, item, expected.out.data(), expected.lse.data());
  }
  return expected_pool_;
}

const Problem::Expected& Problem::expected(size_t i) {
  expected_pool();
  return expected_[i];
}

std::vector<float> Problem::Out(size_t i) const {
  const int64_t elems = static_cast<int64_t>(memory_[i]->out.size() / SizeOf(spec_.q_dtype));
  std::vector<float> out;
  for (int64_t e = 0; e < elems; ++e) {
    out.push_back(LoadAsFloat(spec_.q_dtype, memory_[i]->out.data(), e));
  }
  return out;
}

std::vector<float> Problem::Lse(size_t i) const {
  return {memory_[i]->lse.begin(), memory_[i]->lse.end()};
}

void Problem::Plant(std::byte* row, int64_t dim, float value) {
  StoreFromFloat(spec_.kv_dtype, row, dim, value);
  StoreFromFloat(spec_.kv_dtype, initial_pool_.data() + (row - pool_.data()), dim, value);
}

void Problem::SetKey(size_t item, int64_t head, int64_t token, int64_t dim, float value) {
  Plant(KeyAddress(items_[item].kv, spec_.kv_dtype, head, token), dim, value);
}

void Problem::SetValue(size_t item, int64_t head, int64_t token, int64_t dim, float value) {
  Plant(ValueAddress(items_[item].kv, spec_.kv_dtype, head, token), dim, value);
}

void Problem::SetQuery(size_t item, int64_t query, int64_t head, int64_t dim, float value) {
  const int64_t row = query * spec_.query_heads + head;
  StoreFromFloat(spec_.q_dtype, memory_[item]->q.data(), row * spec_.head_dim_k + dim, value);
}

}  // namespace attnd::conformance
