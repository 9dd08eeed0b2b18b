// SPDX-License-Identifier: Apache-2.0
//
// What the KV cache costs one item of a decode step: Reserve, Pin and the release of the lease.
//
//   build/release/bench/bin/kv_cache_bench [--json FILE]
//
// Workloads: a cache of the geometry of SmolLM2-135M (30 layers, pages of 16 tokens) with sequences
// of 1,024 and 131,072 tokens.
//   decode     one token in each layer in turn, over all positions of a page: one item in 480 takes
//   a page page       every item starts a page: one token in a geometry of one-token pages fork
//   fork of a sequence, its first write (copy-on-write of one page, bytes not copied), free
// One thread. Each sample is the mean of 480 items; median and p99 are over samples. The lengths,
// the number of pages and CheckIntegrity are verified before anything is reported.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"
#include "nlohmann/json.hpp"

namespace attnd {
namespace {

constexpr int kItemsPerSample = 480;  // 30 layers x 16 tokens
constexpr int kSamples = 2000;

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

struct Result {
  std::string name;
  double median_ns = 0, p99_ns = 0;
};

// `sample` runs `items` items; `reset` is not timed.
Result Measure(const std::string& name, int items, const std::function<void()>& sample,
               const std::function<void()>& reset) {
  std::vector<double> ns;
  for (int i = 0; i < kSamples + 50; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    sample();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    reset();
    if (i >= 50) ns.push_back(took.count() / items);
  }
  std::sort(ns.begin(), ns.end());
  const Result result{name, ns[ns.size() / 2], ns[ns.size() * 99 / 100]};
  std::printf("%-28s %10.0f %10.0f\n", name.c_str(), result.median_ns, result.p99_ns);
  return result;
}

std::vector<Result> RunAll() {
  std::vector<Result> results;
  std::printf("%-28s %10s %10s\n", "ns per item", "median", "p99");
  for (int64_t length : {int64_t{1024}, int64_t{131072}}) {
    const std::string suffix = "/" + std::to_string(length) + " tokens";
    Bench bench(16);
    const SequenceId id = bench.NewSequence(length);
    bench.Decode(id, length, kItemsPerSample);
    Require(bench.Pages(id) == length / 16 + 1, "pages after a decoded page");
    bench.Truncate(id, length);
    Require(bench.Pages(id) == length / 16, "pages after truncation");
    results.push_back(Measure(
        "decode" + suffix, kItemsPerSample, [&] { bench.Decode(id, length, kItemsPerSample); },
        [&] { bench.Truncate(id, length); }));
    const SequenceId odd = bench.NewSequence(length / 8 - 1);
    results.push_back(Measure(
        "fork" + suffix + "/8", 1, [&] { bench.ForkWriteFree(odd, length / 8 - 1); }, [] {}));
  }
  Bench bench(1);
  const SequenceId id = bench.NewSequence(1024);
  const auto sample = [&] {
    for (int i = 0; i < kItemsPerSample; ++i) bench.Write(id, 0, 1024 + i, 1);
  };
  sample();
  Require(bench.Pages(id) == 1024 + kItemsPerSample, "one page a token");
  bench.Truncate(id, 1024);
  results.push_back(
      Measure("page/1024 tokens", kItemsPerSample, sample, [&] { bench.Truncate(id, 1024); }));
  return results;
}

std::string Output(const char* command) {
  std::string text;
  if (FILE* pipe = popen(command, "r")) {
    char buffer[256];
    while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
    pclose(pipe);
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

void WriteJson(const std::string& path, const std::vector<Result>& results) {
  nlohmann::json rows = nlohmann::json::array();
  for (const Result& result : results) {
    for (const auto& [metric, value] :
         {std::pair{"median", result.median_ns}, std::pair{"p99", result.p99_ns}}) {
      rows.push_back({{"bench", "kv_cache"},
                      {"case", result.name},
                      {"metric", metric},
                      {"unit", "ns/item"},
                      {"ours", value},
                      {"peer", nullptr},
                      {"peer_name", nullptr},
                      {"ratio", nullptr},
                      {"ceiling", nullptr},
                      {"of_ceiling", nullptr}});
    }
  }
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
  const nlohmann::json document = {
      {"hardware", Output("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1")},
      {"command", "kv_cache_bench --json " + path},
      {"date", date},
      {"commit", Output("git rev-parse --short HEAD 2>/dev/null")},
      {"rows", rows}};
  std::ofstream(path) << document.dump(2) << "\n";
}

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) {
  std::string json;
  if (argc == 3 && std::string(argv[1]) == "--json") {
    json = argv[2];
  } else if (argc != 1) {
    std::fprintf(stderr, "usage: kv_cache_bench [--json FILE]\n");
    return 2;
  }
  const std::vector<attnd::Result> results = attnd::RunAll();
  if (!json.empty()) attnd::WriteJson(json, results);
  return 0;
}
