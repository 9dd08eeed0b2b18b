// SPDX-License-Identifier: Apache-2.0
//
// The CPU backend's attention, on its own:
//
//   build/release/bench/bin/attention_bench --json build/bench/attention_bench.json
//
// Workloads: fp32 and bf16 prefill (batch 8, 8 heads) and decode from shuffled 16-token pages (32
// query and 8 KV heads, head_dim 128), on one thread and on all. Every output is checked against
// the fp64 reference first. FLOPs and bytes are those that the result needs (attention_case.h);
// each launch is timed beside a sample of its ceiling, and the share of it is the median of the
// ratios. That of fp32 and fp16 is the peak of fp32 multiply-adds, which AMX goes beyond. One item
// of 32k tokens among 63 of 128 is timed beside its parts. tests/bench/attention_vs_torch_bench.py
// sets the same workloads beside PyTorch and drives this program as its worker:
//
//   attention_bench --worker   reads lines: "case THREADS PHASE DTYPE BATCH QUERY_HEADS KV_HEADS
//   HEAD_DIM TOKENS CAUSAL", then "run" or "ceiling" (FLOP/s, in decode bytes/s); answers each with
//   one line.
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

// A case, the threads it runs on, and what bounds it.
class Measured {
 public:
  Measured(const CaseSpec& spec, int threads)
      : spec_(spec), pool_(threads), ceilings_(pool_), attention_(spec, threads) {}

  // Exits where the output is wrong: a fast wrong answer is not a measurement.
  double VerifyOrDie() {
    attention_.Run();
    const double error = attention_.RelativeError();
    if (!(error <= ErrorBound(spec_.dtype))) {
      std::cerr << Describe(spec_) << ": relative L2 error " << error << "\n";
      std::exit(1);
    }
    return error;
  }
  double Run() { return attention_.Run(); }
  // So that no launch finds its keys in a cache.
  void EvictCaches() { ceilings_.SampleRead(); }
  double SampleCeiling() {
    if (spec_.decode) return ceilings_.SampleRead();
    const double bf16 = spec_.dtype == DType::kBF16 ? ceilings_.SampleBf16() : 0;
    return bf16 > 0 ? bf16 : ceilings_.SampleFma();
  }

 private:
  const CaseSpec spec_;
  ThreadPool pool_;
  Ceilings ceilings_;
  AttentionCase attention_;
};

int RunWorker() {
  std::unique_ptr<Measured> measured;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "case") {
      int threads = 1, causal = 0;
      std::string phase, dtype;
      CaseSpec spec;
      words >> threads >> phase >> dtype >> spec.batch >> spec.query_heads >> spec.kv_heads >>
          spec.head_dim >> spec.tokens >> causal;
      if (!words || !ParseDType(dtype)) return 1;
      spec.decode = phase == "decode";
      spec.dtype = *ParseDType(dtype);
      spec.causal = causal != 0;
      measured.reset();  // its memory first
      measured = std::make_unique<Measured>(spec, threads);
      std::cout << measured->VerifyOrDie() << " " << NeededFlops(spec) << " " << NeededKvBytes(spec)
                << " " << Describe(spec) << std::endl;
    } else if (verb == "run" && measured != nullptr) {
      std::cout << measured->Run() << std::endl;
    } else if (verb == "ceiling" && measured != nullptr) {
      std::cout << measured->SampleCeiling() << std::endl;
    } else {
      std::cerr << "attention_bench: what is '" << line << "'?\n";
      return 1;
    }
  }
  return 0;
}

double Quantile(std::vector<double>& values, size_t percent) {
  std::ranges::sort(values);
  return values[(values.size() - 1) * percent / 100];
}

struct Timing {
  double median = 0, p99 = 0;          // seconds
  double ceiling = 0, of_ceiling = 0;  // medians; the second, of the ratios
};

Timing Measure(Measured& measured, double work) {
  std::vector<double> seconds, ceilings, shares;
  double total = 0;
  // A second or so, and no fewer than five launches.
  while (seconds.size() < 5 || (total < 1.0 && seconds.size() < 300)) {
    ceilings.push_back(measured.SampleCeiling());
    seconds.push_back(measured.Run());
    shares.push_back(work / seconds.back() / ceilings.back());
    total += seconds.back();
  }
  return {Quantile(seconds, 50), Quantile(seconds, 99), Quantile(ceilings, 50),
          Quantile(shares, 50)};
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

double MedianSeconds(Measured& measured) {
  std::vector<double> seconds;
  double total = 0;
  while (seconds.size() < 5 || (total < 0.5 && seconds.size() < 100)) {
    measured.EvictCaches();
    seconds.push_back(measured.Run());
    total += seconds.back();
  }
  return Quantile(seconds, 50);
}

// One item of 32k tokens among 63 of 128, beside the long one and the short ones on their own.
void MeasureUneven(int threads, Report& report) {
  const CaseSpec base = {.dtype = DType::kBF16, .tokens = 128};
  for (bool decode : {true, false}) {
    CaseSpec whole = base, one = base, rest = base;
    for (CaseSpec* spec : {&whole, &one, &rest}) {
      spec->decode = decode;
      spec->causal = !decode;
      if (decode) {
        spec->query_heads = 32;
        spec->head_dim = 128;
      }
    }
    whole.batch = 64;
    whole.first_tokens = 32768;
    one.batch = 1;
    one.tokens = 32768;
    rest.batch = 63;
    double seconds[3];
    for (const auto& [spec, at] : {std::pair(whole, 0), std::pair(one, 1), std::pair(rest, 2)}) {
      Measured measured(spec, threads);
      measured.VerifyOrDie();
      seconds[at] = MedianSeconds(measured);
    }
    const double ratio = seconds[0] / (seconds[1] + seconds[2]);
    std::printf("%-58s %9.3f ms, alone %9.3f and %7.3f ms: %.2f of their sum\n",
                Describe(whole).c_str(), seconds[0] * 1e3, seconds[1] * 1e3, seconds[2] * 1e3,
                ratio);
    report.Keep({.name = Describe(whole) + " threads=" + std::to_string(threads),
                 .metric = "of_sum_of_parts",
                 .unit = "ratio",
                 .ours = ratio});
  }
}

int RunTable(int argc, const char* const* argv) {
  Report report("attention_bench", argc, argv);
  report.SetDevice(MakeCpuDevice({.num_threads = 1})->info().name);
  std::vector<int> thread_counts = {1};
  if (UsableCpus() > 1) thread_counts.push_back(UsableCpus());
  for (int threads : thread_counts) {
    std::printf("\n%-44s %10s %10s %11s %8s %8s %9s\n", "case", "median ms", "p99 ms", "rate",
                "ceiling", "of it", "error");
    for (const CaseSpec& spec : Workloads()) {
      Measured measured(spec, threads);
      const double error = measured.VerifyOrDie();
      const double work = spec.decode ? NeededKvBytes(spec) : NeededFlops(spec);
      const Timing timing = Measure(measured, work);
      const double rate = work / timing.median;
      std::printf("%-44s %10.3f %10.3f %6.1f %s %8.1f %8.2f %9.1e\n", Describe(spec).c_str(),
                  timing.median * 1e3, timing.p99 * 1e3, rate / 1e9, spec.decode ? "GB/s" : "GF/s",
                  timing.ceiling / 1e9, timing.of_ceiling, error);
      std::fflush(stdout);
      const std::string name = Describe(spec) + " threads=" + std::to_string(threads);
      report.Keep({.name = name,
                   .metric = spec.decode ? "kv_read_rate" : "flop_rate",
                   .unit = spec.decode ? "GB/s" : "GFLOP/s",
                   .ours = rate / 1e9,
                   .ceiling = timing.ceiling / 1e9,
                   .of_ceiling = timing.of_ceiling});
      report.Keep({.name = name,
                   .metric = "latency_p99",
                   .unit = "ms",
                   .ours = timing.p99 * 1e3,
                   .ceiling = 0,
                   .of_ceiling = 0});
    }
    MeasureUneven(threads, report);
  }
  return report.Finish();
}

}  // namespace
}  // namespace attnd::bench

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--worker") == 0) return attnd::bench::RunWorker();
  return attnd::bench::RunTable(argc, argv);
}
