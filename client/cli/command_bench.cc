// SPDX-License-Identifier: Apache-2.0
//
// attnctl bench: a load generator that checks its answers first.
//
//   attnctl bench --workload decode --sequences 16 --context 2048 --concurrency 2
//
// Workloads, each request being one layer of a batch of sequences, as a model server sends them:
//   decode   one token for each sequence, over `context` keys; layers in turn, then the next token
//   prefill  `prompt` tokens for each sequence, from position 0
// Counted: tokens are query tokens once a layer; bytes are the keys and values that decode reads,
// context x kv_heads x (dim_k + dim_v) x the KV type's size; FLOPs are 2 x query_heads x
// (dim_k + dim_v) for each pair that a causal mask keeps, N (N + 1) / 2.
#include <atomic>
#include <functional>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/cli/bench_report.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/reference.h"
#include "client/cli/table.h"
#include "kernels/base/status_macros.h"

namespace attnd::cli {
namespace {

using client::AttendItem;
using client::CacheGeometry;
using std::chrono::steady_clock;

struct BenchOptions {
  std::string workload = "both";
  int sequences = 8;
  int64_t context = 1024;
  int64_t prompt = 512;
  int concurrency = 1;
  double seconds = 3.0;
  std::string dtype = "f32";
  std::string kv_dtype = "f32";
  CacheGeometry geometry{.num_layers = 4,
                         .num_query_heads = 9,
                         .num_kv_heads = 3,
                         .head_dim_k = 64,
                         .head_dim_v = 0,
                         .kv_dtype = DType::kF32,
                         .page_size_tokens = 16};
  std::string json_file;
};

const std::map<std::string, DType> kDTypes = {
    {"f32", DType::kF32}, {"f16", DType::kF16}, {"bf16", DType::kBF16}};

// What one client measured.
struct Samples {
  std::vector<double> latency_s;  // of a request, as the client sees it
  std::vector<double> inside_s;   // of it, inside the daemon
  std::vector<double> kernel_s;   // of that, in the kernel
  absl::Status status;
};

// One client: a connection, a session, its sequences, and the tensors that it sends.
class Worker {
 public:
  Worker(const BenchOptions& options, DType dtype, uint64_t seed)
      : options_(options), dtype_(dtype), random_(seed), host_(options.geometry) {}

  absl::Status SetUp(const Globals& globals, const client::Cache& cache);
  // Fills every sequence and layer to the context length, without attending.
  absl::Status FillContext();
  // One request, checked: the last row of the first sequence against the reference.
  absl::Status Verify(bool decode, ErrorStats& errors);
  void RunUntil(bool decode, steady_clock::time_point end, Samples& samples);
  absl::Status TearDown() { return session_->Close(); }

 private:
  absl::StatusOr<client::AttendResult> Request(bool decode, int32_t layer, int64_t start);
  client::ConstTensor Rows(const HostTensor& tensor, int64_t rows, int64_t row_elems) const {
    return tensor.view(0, rows * row_elems);
  }

  const BenchOptions& options_;
  const DType dtype_;
  std::mt19937_64 random_;
  HostKv host_;  // of the first sequence in layer 0
  std::unique_ptr<client::Client> client_;
  std::unique_ptr<client::Session> session_;
  std::vector<client::Sequence> sequences_;
  HostTensor q_, k_, v_;  // shared by all sequences: the daemon copies them anyway
  int64_t q_row_ = 0, k_row_ = 0, v_row_ = 0;
};

absl::Status Worker::SetUp(const Globals& globals, const client::Cache& cache) {
  ATTND_ASSIGN_OR_RETURN(client_, Connect(globals));
  ATTND_ASSIGN_OR_RETURN(session_, client_->OpenSession({.lease = std::chrono::seconds(30),
                                                         .label = "attnctl bench"}));
  for (int i = 0; i < options_.sequences; ++i) {
    ATTND_ASSIGN_OR_RETURN(client::Sequence sequence, session_->CreateSequence(cache));
    sequences_.push_back(std::move(sequence));
  }
  const CacheGeometry& geometry = options_.geometry;
  q_row_ = geometry.num_query_heads * geometry.head_dim_k;
  k_row_ = geometry.num_kv_heads * geometry.head_dim_k;
  v_row_ = geometry.num_kv_heads * geometry.value_dim();
  const int64_t rows = std::max(options_.prompt, options_.context);
  q_ = HostTensor::Normal(dtype_, rows * q_row_, random_);
  k_ = HostTensor::Normal(dtype_, rows * k_row_, random_);
  v_ = HostTensor::Normal(dtype_, rows * v_row_, random_);
  return absl::OkStatus();
}

absl::Status Worker::FillContext() {
  for (int32_t layer = 0; layer < options_.geometry.num_layers; ++layer) {
    for (const client::Sequence& sequence : sequences_) {
      const AttendItem item{.sequence = &sequence,
                            .layer = layer,
                            .k = Rows(k_, options_.context, k_row_),
                            .v = Rows(v_, options_.context, v_row_)};
      ATTND_ASSIGN_OR_RETURN(const client::AttendResult result, session_->Attend({&item, 1}));
      ATTND_RETURN_IF_ERROR(result.first_error());
    }
  }
  host_.Write(0, Rows(k_, options_.context, k_row_), Rows(v_, options_.context, v_row_));
  return absl::OkStatus();
}

absl::StatusOr<client::AttendResult> Worker::Request(bool decode, int32_t layer, int64_t start) {
  const int64_t rows = decode ? 1 : options_.prompt;
  std::vector<AttendItem> items;
  items.reserve(sequences_.size());
  for (const client::Sequence& sequence : sequences_) {
    AttendItem& item = items.emplace_back();
    item.sequence = &sequence;
    item.layer = layer;
    item.start_position = start;
    item.q = Rows(q_, rows, q_row_);
    item.k = Rows(k_, rows, k_row_);
    item.v = Rows(v_, rows, v_row_);
    item.options.causal = true;
  }
  ATTND_ASSIGN_OR_RETURN(client::AttendResult result, session_->Attend(items));
  ATTND_RETURN_IF_ERROR(result.first_error());
  return result;
}

absl::Status Worker::Verify(bool decode, ErrorStats& errors) {
  const int64_t rows = decode ? 1 : options_.prompt;
  const int64_t start = decode ? options_.context : 0;
  ATTND_ASSIGN_OR_RETURN(const client::AttendResult result, Request(decode, 0, start));
  host_.Write(start, Rows(k_, rows, k_row_), Rows(v_, rows, v_row_));
  client::AttentionOptions causal;
  causal.causal = true;
  ErrorStats lse_errors;
  host_.Compare({.q = Rows(q_, rows, q_row_),
                 .start_position = start,
                 .options = causal,
                 .first_row = rows - 1},
                result.items()[0].out, {}, errors, lse_errors);
  return absl::OkStatus();
}

void Worker::RunUntil(bool decode, steady_clock::time_point end, Samples& samples) {
  constexpr int64_t kTokensBeforeRewind = 64;
  const auto seconds = [](auto duration) {
    return std::chrono::duration<double>(duration).count();
  };
  for (int64_t token = 0; steady_clock::now() < end; ++token) {
    const int64_t start = decode ? options_.context + token % kTokensBeforeRewind : 0;
    for (int32_t layer = 0; layer < options_.geometry.num_layers; ++layer) {
      const auto begin = steady_clock::now();
      const auto result = Request(decode, layer, start);
      if (!result.ok()) {
        samples.status = result.status();
        return;
      }
      samples.latency_s.push_back(seconds(steady_clock::now() - begin));
      samples.inside_s.push_back(seconds(result->timing().total()));
      samples.kernel_s.push_back(seconds(result->timing().kernel));
    }
  }
}

// Runs one workload on all workers and reports it. Returns whether the verification passed.
absl::StatusOr<bool> RunWorkload(const BenchOptions& options, DType dtype, bool decode,
                                 std::vector<std::unique_ptr<Worker>>& workers, double bandwidth,
                                 Table& table, BenchReport& report) {
  if (decode) {
    for (auto& worker : workers) ATTND_RETURN_IF_ERROR(worker->FillContext());
  }
  ErrorStats errors;
  ATTND_RETURN_IF_ERROR(workers[0]->Verify(decode, errors));
  const bool verified = errors.relative_l2() <= ErrorBound(dtype);

  std::vector<Samples> samples(workers.size());
  const auto begin = steady_clock::now();
  const auto end = begin + std::chrono::duration_cast<steady_clock::duration>(
                               std::chrono::duration<double>(options.seconds));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < workers.size(); ++i) {
    threads.emplace_back([&, i] { workers[i]->RunUntil(decode, end, samples[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  const double elapsed = std::chrono::duration<double>(steady_clock::now() - begin).count();
  Samples all;
  for (const Samples& part : samples) {
    ATTND_RETURN_IF_ERROR(part.status);
    all.latency_s.insert(all.latency_s.end(), part.latency_s.begin(), part.latency_s.end());
    all.inside_s.insert(all.inside_s.end(), part.inside_s.begin(), part.inside_s.end());
    all.kernel_s.insert(all.kernel_s.end(), part.kernel_s.begin(), part.kernel_s.end());
  }

  const CacheGeometry& geometry = options.geometry;
  const auto requests = static_cast<double>(all.latency_s.size());
  const auto rows = static_cast<double>(decode ? 1 : options.prompt);
  const double tokens = requests * options.sequences * rows;
  const double dims = geometry.head_dim_k + geometry.value_dim();
  const double bytes = requests * options.sequences * static_cast<double>(options.context + 1) *
                       geometry.num_kv_heads * dims *
                       static_cast<double>(SizeOf(geometry.kv_dtype));
  const double flops =
      requests * options.sequences * rows * (rows + 1) / 2 * 2 * geometry.num_query_heads * dims;
  const std::string name =
      absl::StrFormat("%s %s/%s n=%d %s=%d c=%d", decode ? "decode" : "prefill", options.dtype,
                      options.kv_dtype, options.sequences, decode ? "context" : "prompt",
                      decode ? options.context : options.prompt, options.concurrency);
  const double median = Percentile(all.latency_s, 0.5), p99 = Percentile(all.latency_s, 0.99);
  const double inside = Percentile(all.inside_s, 0.5), kernel = Percentile(all.kernel_s, 0.5);
  table.Add({decode ? "decode" : "prefill", HumanCount(requests), HumanSeconds(median),
             HumanSeconds(p99), HumanSeconds(inside), HumanSeconds(kernel),
             HumanCount(tokens / elapsed), HumanCount(tokens / elapsed / geometry.num_layers),
             decode ? absl::StrFormat("%.2f GB/s", bytes / elapsed / 1e9)
                    : absl::StrFormat("%.1f GFLOP/s", flops / elapsed / 1e9),
             Scientific(errors.relative_l2()) + (verified ? "" : " FAIL")});
  report.Add({name, "latency_median", "s", median});
  report.Add({name, "latency_p99", "s", p99});
  report.Add({name, "daemon_latency_median", "s", inside});
  report.Add({name, "kernel_latency_median", "s", kernel});
  report.Add({name, "layer_tokens_per_second", "1/s", tokens / elapsed});
  if (decode) {
    // Faster than memory means out of a cache: then memory was no ceiling.
    const double rate = bytes / elapsed;
    report.Add({name, "kv_read", "GB/s", rate / 1e9, rate < bandwidth ? bandwidth / 1e9 : 0.0});
  } else {
    report.Add({name, "compute", "GFLOP/s", flops / elapsed / 1e9});
  }
  report.Add({name, "relative_l2_error", "1", errors.relative_l2()});
  return verified;
}

// One for each geometry, so that a bench that was killed leaves nothing that the next one does not
// take up again.
std::string CacheName(const CacheGeometry& geometry) {
  return absl::StrFormat("attnctl-bench-%dx%dx%dx%d-%s-%d", geometry.num_layers,
                         geometry.num_query_heads, geometry.num_kv_heads, geometry.head_dim_k,
                         Name(geometry.kv_dtype), geometry.page_size_tokens);
}

absl::StatusOr<bool> RunAll(const Globals& globals, const BenchOptions& options) {
  const DType dtype = kDTypes.at(options.dtype);
  ATTND_ASSIGN_OR_RETURN(const std::unique_ptr<client::Client> client, Connect(globals));
  const client::Capabilities& daemon = client->capabilities();
  const std::string about =
      daemon.version + ", " + daemon.backend + " (" + daemon.isa + ") on " + daemon.device;
  ATTND_ASSIGN_OR_RETURN(const client::Cache cache,
                         client->OpenCache(CacheName(options.geometry), options.geometry));
  std::cout << "bench: attnd " << about << "\n       " << options.geometry.ToString() << ", q "
            << options.dtype << ", " << options.sequences << " sequences a request, "
            << options.concurrency << " clients, " << options.seconds << " s each\n";
  const double bandwidth = MeasureReadBandwidth();
  const int64_t pages =
      (options.context + options.geometry.page_size_tokens) / options.geometry.page_size_tokens;
  const double working_set = static_cast<double>(cache.info.page_bytes) *
                             static_cast<double>(pages) * options.sequences * options.concurrency;
  std::cout << absl::StrFormat(
      "       this machine reads %.1f GB/s from memory; decode's keys and values are %s\n\n",
      bandwidth / 1e9, HumanBytes(working_set));

  Table table({"workload", "requests", "median", "p99", "in daemon", "in kernel", "layer tok/s",
               "tok/s", "throughput", "rel L2"});
  BenchReport report("attnctl_bench", globals.command_line);
  bool verified = true;
  absl::Status status;
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < options.concurrency && status.ok(); ++i) {
    workers.push_back(std::make_unique<Worker>(options, dtype, static_cast<uint64_t>(i) + 1));
    status = workers.back()->SetUp(globals, cache);
  }
  for (const bool decode : {false, true}) {
    if (!status.ok() || options.workload == (decode ? "prefill" : "decode")) continue;
    const auto passed = RunWorkload(options, dtype, decode, workers, bandwidth, table, report);
    status = passed.status();
    verified = verified && passed.ok() && *passed;
  }
  for (auto& worker : workers) (void)worker->TearDown();
  // FAILED_PRECONDITION: another bench is at work in it and closes it.
  const absl::Status closed = client->CloseCache(cache.info.id);
  if (status.ok() && !absl::IsFailedPrecondition(closed)) status = closed;
  ATTND_RETURN_IF_ERROR(status);
  std::cout << table.ToString() << "\nOutputs verified against the fp64 reference first: "
            << (verified ? "ok" : "FAILED") << "\n";
  if (!options.json_file.empty()) {
    ATTND_RETURN_IF_ERROR(report.WriteJson(options.json_file, about));
  }
  return verified;
}

int Run(const Globals& globals, BenchOptions& options) {
  options.geometry.kv_dtype = kDTypes.at(options.kv_dtype);
  const auto verified = RunAll(globals, options);
  if (!verified.ok()) return Fail(globals, verified.status());
  return *verified ? kSuccess : kFailure;
}

}  // namespace

void AddBenchCommand(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand("bench", "Measure decode and prefill, verified first");
  auto options = std::make_shared<BenchOptions>();
  const auto add = [command](const char* flag, auto& value, const char* help) {
    return command->add_option(flag, value, help)->capture_default_str();
  };
  add("--workload", options->workload, "decode, prefill or both")
      ->check(CLI::IsMember({"decode", "prefill", "both"}));
  add("--sequences", options->sequences, "In each request")->check(CLI::PositiveNumber);
  add("--context", options->context, "Keys that decode attends over")->check(CLI::PositiveNumber);
  add("--prompt", options->prompt, "Tokens of each prompt")->check(CLI::PositiveNumber);
  add("--layers", options->geometry.num_layers, "Of the cache")->check(CLI::PositiveNumber);
  add("--query_heads", options->geometry.num_query_heads, "Query heads")
      ->check(CLI::PositiveNumber);
  add("--kv_heads", options->geometry.num_kv_heads, "KV heads")->check(CLI::PositiveNumber);
  add("--head_dim", options->geometry.head_dim_k, "Of keys and values")->check(CLI::PositiveNumber);
  add("--page_size", options->geometry.page_size_tokens, "Tokens")->check(CLI::PositiveNumber);
  add("--concurrency", options->concurrency, "Clients, each with its own sequences")
      ->check(CLI::PositiveNumber);
  add("--seconds", options->seconds, "To measure each workload")->check(CLI::PositiveNumber);
  add("--dtype", options->dtype, "Of q, k, v and the output")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  add("--kv_dtype", options->kv_dtype, "Of the cache")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  command->add_option("--json", options->json_file, "Write the evidence rows to this file");
  command->callback([&globals, options] { globals.exit_code = Run(globals, *options); });
}

}  // namespace attnd::cli
