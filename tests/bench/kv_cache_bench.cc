// SPDX-License-Identifier: Apache-2.0
//
// What the KV cache costs one item of a decode step: Reserve, Pin and the release of the lease.
//
//   build/release/bench/bin/kv_cache_bench [--json FILE]
//
// Workloads: a cache of the geometry of SmolLM2-135M (30 layers, pages of 16 tokens) with sequences
// of 1,024 and 131,072 tokens.
//
// - decode: one token in each layer in turn, over all positions of a page, so that one item in 480
//   takes a page.
// - fork, write, free: a fork of all but the last token, its first write (copy-on-write of one
//   page, whose bytes are not copied), and its end.
// - new page: every item starts a page (one layer, pages of one token).
//
// One thread. A sample is the mean of 480 items, of one for forks; median and p99 are over samples.
// The lengths, the number of pages and CheckIntegrity are verified.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"
#include "tests/bench/report.h"

namespace attnd {
namespace {

constexpr int kItemsPerSample = 480;  // 30 layers x 16 tokens
constexpr int kSamples = 2000;
constexpr int kWarmUp = 50;

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "kv_cache_bench: verification failed: %s\n", what);
  std::exit(1);
}

CacheGeometry SmolLm2(int32_t page_size_tokens) {
  return {.num_layers = 30,
          .num_query_heads = 9,
          .num_kv_heads = 3,
          .head_dim_k = 64,
          .head_dim_v = 64,
          .kv_dtype = DType::kF16,
          .page_size_tokens = page_size_tokens};
}

// The pool is never touched, so its size costs nothing.
class Bench {
 public:
  explicit Bench(int32_t page_size_tokens)
      : memory_(static_cast<std::byte*>(std::aligned_alloc(kSuperblockBytes.value(), kPoolBytes))),
        kv_({memory_, kPoolBytes}, KvCache::Options{.boot = 1}, Clock::Real()) {
    cache_ = kv_.OpenCache("bench", SmolLm2(page_size_tokens), PageCount(0)).value().info.cache;
    by_ = kv_.OpenSession(Duration::zero(), "bench").value().ref;
  }
  ~Bench() {
    Require(kv_.CheckIntegrity().ok(), "integrity");
    std::free(memory_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  SequenceId NewSequence(int64_t length) {
    const SequenceId id = kv_.CreateSequence(by_, cache_, "").value();
    for (uint32_t layer = 0; layer < 30; ++layer) Write(id, layer, 0, length);
    return id;
  }
  void Write(SequenceId id, uint32_t layer, int64_t start, int64_t count) {
    const LayerAccess access{.by = by_,
                             .sequence = id,
                             .layer = LayerIndex(layer),
                             .write = true,
                             .step = ++step_,
                             .start_position = TokenCount(start),
                             .num_tokens = TokenCount(count)};
    auto reservation = kv_.Reserve(access);
    Require(reservation.ok(), "Reserve");
    const auto lease = kv_.Pin(access, *std::move(reservation));
    Require(lease.ok(), "Pin");
    Require(lease->view().kv_len == TokenCount(start + count), "kv_len");
  }
  // Each layer in turn, token by token.
  void Decode(SequenceId id, int64_t start, int items) {
    for (int i = 0; i < items; ++i) {
      Write(id, static_cast<uint32_t>(i % 30), start + i / 30, 1);
    }
  }
  void ForkWriteFree(SequenceId parent, int64_t length) {
    const SequenceId child = kv_.Fork(by_, parent, TokenCount(length)).value();
    Write(child, 0, length, 1);
    Require(kv_.Free(by_, child).ok(), "Free");
  }
  void Truncate(SequenceId id, int64_t length) {
    Require(kv_.Truncate(by_, id, TokenCount(length)).ok(), "Truncate");
  }
  int64_t Pages(SequenceId id) { return kv_.Describe(by_, id).value().pages.value(); }

 private:
  static constexpr size_t kPoolBytes = size_t{8} << 30;
  std::byte* memory_;
  KvCache kv_;
  CacheId cache_;
  SessionRef by_;
  uint64_t step_ = 0;
};

// `sample` runs `items` items; `reset` is not timed.
void Measure(bench::Report& report, const std::string& name, int items,
             const std::function<void()>& sample, const std::function<void()>& reset) {
  std::vector<double> ns;
  for (int i = 0; i < kWarmUp + kSamples; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    sample();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    reset();
    if (i >= kWarmUp) ns.push_back(took.count() / items);
  }
  report.AddSamples(name, "ns/item", ns);
}

void MeasureDecodeAndFork(bench::Report& report, int64_t length) {
  Bench bench(16);
  const SequenceId id = bench.NewSequence(length);
  bench.Decode(id, length, kItemsPerSample);
  Require(bench.Pages(id) == length / 16 + 1, "pages after a decoded page");
  bench.Truncate(id, length);
  Require(bench.Pages(id) == length / 16, "pages after truncation");
  const std::string tokens = std::to_string(length) + " tokens";
  Measure(
      report, "decode, " + tokens, kItemsPerSample,
      [&] { bench.Decode(id, length, kItemsPerSample); }, [&] { bench.Truncate(id, length); });
  const SequenceId parent = bench.NewSequence(length - 1);
  Measure(
      report, "fork, write, free, " + tokens, 1, [&] { bench.ForkWriteFree(parent, length - 1); },
      [] {});
}

void MeasureNewPages(bench::Report& report) {
  Bench bench(1);
  const SequenceId id = bench.NewSequence(1024);
  const auto sample = [&] {
    for (int i = 0; i < kItemsPerSample; ++i) bench.Write(id, 0, 1024 + i, 1);
  };
  sample();
  Require(bench.Pages(id) == 1024 + kItemsPerSample, "one page a token");
  bench.Truncate(id, 1024);
  Measure(report, "new page, 1024 tokens", kItemsPerSample, sample,
          [&] { bench.Truncate(id, 1024); });
}

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) {
  attnd::bench::Report report("kv_cache", argc, argv);
  attnd::MeasureDecodeAndFork(report, 1024);
  attnd::MeasureDecodeAndFork(report, 131072);
  attnd::MeasureNewPages(report);
  return report.Finish();
}
