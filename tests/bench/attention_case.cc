// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/attention_case.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>
#include <random>
#include <sstream>

#include "kernels/base/dtype.h"
#include "kernels/cpu/attention_reference.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/bench/stopwatch.h"

namespace attnd::bench {
namespace {

constexpr int64_t kPageTokens = 16;

[[noreturn]] void Die(const absl::Status& status) {
  std::cerr << "attention_bench: " << status << "\n";
  std::exit(1);
}

Buffer AllocateOrDie(CpuDevice& device, int64_t bytes) {
  absl::StatusOr<Buffer> buffer = device.Allocate(Bytes(static_cast<uint64_t>(bytes)));
  if (!buffer.ok()) Die(buffer.status());
  return *std::move(buffer);
}

// N(0,1) from a table with a long period: a gigabyte of true draws takes longer than the benchmark.
// A table of its own for each tensor: queries that repeat keys would attend to little else.
void FillNormal(DType dtype, std::byte* data, int64_t elems, uint64_t seed) {
  constexpr int64_t kTable = 65521;  // prime: no row length divides it
  std::vector<float> table(kTable);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (float& value : table) value = normal(random);
  size_t at = 0;
  for (int64_t i = 0; i < elems; ++i) {
    StoreFromFloat(dtype, data, i, table[at]);
    if (++at == table.size()) at = 0;
  }
}

int64_t PagesOf(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

int64_t AllPages(const CaseSpec& spec) {
  int64_t pages = 0;
  for (int64_t item = 0; item < spec.batch; ++item) pages += PagesOf(spec.TokensOf(item));
  return pages;
}

}  // namespace

std::string Describe(const CaseSpec& spec) {
  std::ostringstream text;
  text << (spec.decode ? "decode " : "prefill ") << Name(spec.dtype) << " b=" << spec.batch
       << " h=" << spec.query_heads << "/" << spec.kv_heads << " d=" << spec.head_dim
       << " n=" << spec.tokens << (spec.causal ? " causal" : "");
  if (spec.first_tokens > 0) text << " first=" << spec.first_tokens;
  return text.str();
}

double NeededFlops(const CaseSpec& spec) {
  double pairs = 0;
  for (int64_t item = 0; item < spec.batch; ++item) {
    const auto n = static_cast<double>(spec.TokensOf(item));
    pairs += spec.decode ? n : spec.causal ? n * (n + 1) / 2 : n * n;
  }
  return 4.0 * spec.query_heads * spec.head_dim * pairs;
}

double NeededKvBytes(const CaseSpec& spec) {
  double tokens = 0;
  for (int64_t item = 0; item < spec.batch; ++item) {
    tokens += static_cast<double>(spec.TokensOf(item));
  }
  return 2.0 * spec.kv_heads * spec.head_dim * tokens * static_cast<double>(SizeOf(spec.dtype));
}

AttentionCase::AttentionCase(const CaseSpec& spec, int num_threads)
    : spec_(spec),
      device_(MakeCpuDevice({.num_threads = num_threads})),
      stream_(*device_->NewStream()),
      backend_(MakeCpuBackend(*device_)),
      plan_(backend_->NewPlan()) {
  MakeTensors();
  MakeItems();
  params_.key = {spec.dtype, spec.dtype, spec.head_dim, spec.head_dim, {}};
  params_.num_query_heads = spec.query_heads;
  params_.num_kv_heads = spec.kv_heads;
  params_.items = items_;
}

void AttentionCase::MakeTensors() {
  const auto size = static_cast<int64_t>(SizeOf(spec_.dtype));
  int64_t queries = 0;
  for (int64_t b = 0; b < spec_.batch; ++b) queries += spec_.decode ? 1 : spec_.TokensOf(b);
  const int64_t q_elems = spec_.query_heads * queries * spec_.head_dim;
  const int64_t kv_elems = 2 * spec_.kv_heads * AllPages(spec_) * kPageTokens * spec_.head_dim;
  q_ = AllocateOrDie(*device_, q_elems * size);
  out_ = AllocateOrDie(*device_, q_elems * size);
  kv_ = AllocateOrDie(*device_, kv_elems * size);
  FillNormal(spec_.dtype, q_.data(), q_elems, 1);
  FillNormal(spec_.dtype, kv_.data(), kv_elems, 2);
  std::fill_n(out_.data(), q_elems * size, std::byte{0x7f});
}

void AttentionCase::MakeItems() {
  const auto size = static_cast<int64_t>(SizeOf(spec_.dtype));
  const int64_t d = spec_.head_dim;
  std::vector<uint64_t> order(static_cast<size_t>(AllPages(spec_)));
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(3));
  const int64_t half_page = spec_.kv_heads * kPageTokens * d;  // K or V of a page, elements
  page_offsets_.resize(static_cast<size_t>(spec_.batch));
  int64_t q_offset = 0, first_page = 0;
  for (int64_t b = 0; b < spec_.batch; ++b) {
    const int64_t tokens = spec_.TokensOf(b), queries = spec_.decode ? 1 : tokens;
    const int64_t pages = PagesOf(tokens);
    AttentionItem item;
    item.query_len = queries;
    item.kv_len = tokens;
    item.start_position = tokens - queries;
    item.q = {q_.data() + q_offset, d, queries * d};
    item.out = {out_.data() + q_offset, d, queries * d};
    item.options.softmax_scale = 1.0f / std::sqrt(static_cast<float>(d));
    item.options.causal = spec_.causal || spec_.decode;
    std::vector<uint64_t>& offsets = page_offsets_[static_cast<size_t>(b)];
    if (spec_.decode) {
      for (int64_t page = 0; page < pages; ++page) {
        offsets.push_back(order[static_cast<size_t>(first_page + page)] *
                          static_cast<uint64_t>(2 * half_page * size));
      }
      item.kv = {kv_.data(),      kv_.data() + half_page * size,
                 offsets.data(),  kPageTokens,
                 kPageTokens * d, d,
                 kPageTokens * d, d};
    } else {
      const int64_t tensor = spec_.kv_heads * tokens * d * size;
      offsets.push_back(static_cast<uint64_t>(first_page * 2 * half_page * size));
      item.kv = {kv_.data(), kv_.data() + tensor, offsets.data(), tokens, tokens * d, d, tokens * d,
                 d};
    }
    items_.push_back(item);
    q_offset += spec_.query_heads * queries * d * size;
    first_page += pages;
  }
}

double AttentionCase::Run() {
  const Stopwatch watch;
  if (absl::Status status = backend_->Plan(params_, *plan_); !status.ok()) Die(status);
  if (absl::Status status = backend_->Launch(*stream_, *plan_, params_); !status.ok()) Die(status);
  return watch.Seconds();
}

double AttentionCase::RelativeError() {
  std::mt19937_64 random(4);
  const int64_t heads = spec_.query_heads, d = spec_.head_dim;
  std::vector<double> want(static_cast<size_t>(heads * d));
  double squares = 0, error_squares = 0;
  for (int sample = 0; sample < 4; ++sample) {
    const AttentionItem& item = items_[random() % items_.size()];
    const auto query = static_cast<int64_t>(random() % static_cast<uint64_t>(item.query_len));
    AttentionItem row = item;
    row.query_len = 1;
    row.start_position += query;
    row.q.data = static_cast<const std::byte*>(item.q.data) +
                 query * item.q.token_stride_elems * static_cast<int64_t>(SizeOf(spec_.dtype));
    ReferenceAttention(params_, row, want.data(), nullptr);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < d; ++i) {
        const int64_t o = query * item.out.token_stride_elems + h * item.out.head_stride_elems + i;
        const double expected = want[static_cast<size_t>(h * d + i)];
        const double error = LoadAsFloat(spec_.dtype, item.out.data, o) - expected;
        squares += expected * expected;
        error_squares += error * error;
      }
    }
  }
  return std::sqrt(error_squares / squares);
}

}  // namespace attnd::bench
