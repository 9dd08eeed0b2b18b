// SPDX-License-Identifier: Apache-2.0
//
// The CPU backend's attention, on its own:
//
//   build/release/bench/bin/attention_bench --json build/bench/attention_bench.json
//
// Workloads: fp32 and bf16 prefill (batch 8, 8 heads) and decode from shuffled 16-token pages (32
// query and 8 KV heads, head_dim 128), on one thread and on all. Every output is checked against
// the fp64 reference first. FLOPs and bytes are those that the result needs (attention_case.h);
// ceilings are measured in the same run. tests/bench/attention_vs_torch_bench.py sets the same
// workloads beside PyTorch and drives this program as its worker:
//
//   attention_bench --worker   reads lines: "ceilings THREADS", "case THREADS PHASE DTYPE BATCH
//   QUERY_HEADS KV_HEADS HEAD_DIM TOKENS CAUSAL", "run"; answers each with one line.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/cpu_topology.h"
#include "tests/bench/attention_case.h"
#include "tests/bench/ceilings.h"
#include "tests/bench/report.h"

namespace attnd::bench {
namespace {

std::optional<DType> ParseDType(const std::string& name) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (name == Name(dtype)) return dtype;
  }
  return std::nullopt;
}

// PyTorch's flash kernel has about these errors on N(0,1) inputs; a wrong kernel has far more.
double ErrorBound(DType dtype) {
  return dtype == DType::kF32 ? 1e-6 : dtype == DType::kF16 ? 4e-4 : 3e-3;
}

// Exits where the output is wrong: a fast wrong answer is not a measurement.
double VerifyOrDie(AttentionCase& attention, const CaseSpec& spec) {
  attention.Run();
  const double error = attention.RelativeError();
  if (!(error <= ErrorBound(spec.dtype))) {
    std::cerr << Describe(spec) << ": relative L2 error " << error << "\n";
    std::exit(1);
  }
  return error;
}

int RunWorker() {
  std::unique_ptr<AttentionCase> attention;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "ceilings") {
      int threads = 1;
      words >> threads;
      ThreadPool pool(threads);
      std::cout << MeasureFmaPeak(pool) << " " << MeasureReadBandwidth(pool) << std::endl;
    } else if (verb == "case") {
      int threads = 1, causal = 0;
      std::string phase, dtype;
      CaseSpec spec;
      words >> threads >> phase >> dtype >> spec.batch >> spec.query_heads >> spec.kv_heads >>
          spec.head_dim >> spec.tokens >> causal;
      if (!words || !ParseDType(dtype)) return 1;
      spec.decode = phase == "decode";
      spec.dtype = *ParseDType(dtype);
      spec.causal = causal != 0;
      attention.reset();  // its memory first
      attention = std::make_unique<AttentionCase>(spec, threads);
      std::cout << VerifyOrDie(*attention, spec) << " " << NeededFlops(spec) << " "
                << NeededKvBytes(spec) << " " << Describe(spec) << std::endl;
    } else if (verb == "run" && attention != nullptr) {
      std::cout << attention->Run() << std::endl;
    } else {
      std::cerr << "attention_bench: what is '" << line << "'?\n";
      return 1;
    }
  }
  return 0;
}

struct Timing {
  double median = 0, p99 = 0;
};

Timing Measure(AttentionCase& attention) {
  std::vector<double> seconds;
  double total = 0;
  // A second or so, and no fewer than five launches.
  while (seconds.size() < 5 || (total < 1.0 && seconds.size() < 300)) {
    seconds.push_back(attention.Run());
    total += seconds.back();
  }
  std::ranges::sort(seconds);
  return {seconds[seconds.size() / 2], seconds[(seconds.size() - 1) * 99 / 100]};
}

std::vector<CaseSpec> Workloads() {
  std::vector<CaseSpec> specs;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int32_t dim : {64, 128}) {
      for (int64_t tokens : {128, 512, 2048}) {
        for (bool causal : {false, true}) {
          specs.push_back({.dtype = dtype, .head_dim = dim, .tokens = tokens, .causal = causal});
        }
      }
    }
  }
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    for (const auto& [batch, tokens] :
         {std::pair<int64_t, int64_t>{1, 128}, {1, 4096}, {8, 4096}, {1, 32768}}) {
      specs.push_back({.dtype = dtype,
                       .batch = batch,
                       .query_heads = 32,
                       .kv_heads = 8,
                       .head_dim = 128,
                       .tokens = tokens,
                       .decode = true});
    }
  }
  return specs;
}

int RunTable(int argc, const char* const* argv) {
  Report report("attention_bench", argc, argv);
  report.SetDevice(MakeCpuDevice({.num_threads = 1})->info().name);
  std::vector<int> thread_counts = {1};
  if (UsableCpus() > 1) thread_counts.push_back(UsableCpus());
  for (int threads : thread_counts) {
    ThreadPool pool(threads);
    const double peak = MeasureFmaPeak(pool), bandwidth = MeasureReadBandwidth(pool);
    std::printf("\n%d thread(s): fp32 FMA peak %.1f GFLOP/s, DRAM read %.1f GB/s\n", threads,
                peak / 1e9, bandwidth / 1e9);
    std::printf("%-44s %10s %10s %10s %8s %9s\n", "case", "median ms", "p99 ms", "rate", "ceiling",
                "error");
    for (const CaseSpec& spec : Workloads()) {
      AttentionCase attention(spec, threads);
      const double error = VerifyOrDie(attention, spec);
      const Timing timing = Measure(attention);
      const double work = spec.decode ? NeededKvBytes(spec) : NeededFlops(spec);
      const double rate = work / timing.median, ceiling = spec.decode ? bandwidth : peak;
      std::printf("%-44s %10.3f %10.3f %6.1f %s %7.2f %9.1e\n", Describe(spec).c_str(),
                  timing.median * 1e3, timing.p99 * 1e3, rate / 1e9, spec.decode ? "GB/s" : "GF/s",
                  rate / ceiling, error);
      std::fflush(stdout);
      const std::string name = Describe(spec) + " threads=" + std::to_string(threads);
      report.Keep({.name = name,
                   .metric = spec.decode ? "kv_read_rate" : "flop_rate",
                   .unit = spec.decode ? "GB/s" : "GFLOP/s",
                   .ours = rate / 1e9,
                   .ceiling = ceiling / 1e9});
      report.Keep({.name = name,
                   .metric = "latency_p99",
                   .unit = "ms",
                   .ours = timing.p99 * 1e3,
                   .ceiling = 0});
    }
  }
  return report.Finish();
}

}  // namespace
}  // namespace attnd::bench

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--worker") == 0) return attnd::bench::RunWorker();
  return attnd::bench::RunTable(argc, argv);
}
