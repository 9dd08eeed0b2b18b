// SPDX-License-Identifier: Apache-2.0
//
// attnctl verify: random shapes, types and options through the daemon, against the fp64 reference.
//
// A cell is a pair of types and an option. Each of its rounds opens a cache of a random geometry
// and takes sequences through a ragged prompt batch, appended chunks, decode steps and reads;
// without a tree mask also through FlashAttention, dense and ragged. Every row of every answer is
// compared.
#include <unistd.h>
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/reference.h"
#include "client/cli/table.h"
#include "kernels/base/status_macros.h"

namespace attnd::cli {
namespace {

using client::AttendItem;
using client::AttentionOptions;
using client::CacheGeometry;
using client::Client;
using client::Session;

constexpr const char* kOptions[] = {"none",  "causal",    "window",  "softcap", "alibi",
                                    "sinks", "tree_mask", "dropout", "all"};

struct VerifyOptions {
  uint64_t seed = 0;  // 0: a random one
  int rounds = 3;
};

struct Cell {
  ErrorStats out;
  ErrorStats lse;
  double worst = 0;  // relative L2 of the worst round
  int cases = 0;
  bool unsupported = false;
};

// Options with the memory that they borrow.
struct DrawnOptions {
  AttentionOptions options;
  std::vector<float> slopes;
  std::vector<float> sinks;
  std::vector<uint8_t> tree_mask;
};

class Verifier {
 public:
  Verifier(Client& client, Session& session, uint64_t seed)
      : client_(client), session_(session), random_(seed) {}

  absl::Status Round(DType q_dtype, DType kv_dtype, const std::string& option, Cell& cell);

 private:
  int64_t Draw(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  CacheGeometry DrawGeometry(DType kv_dtype);
  std::unique_ptr<DrawnOptions> DrawOptions(const std::string& option,
                                            const CacheGeometry& geometry, int64_t rows);
  absl::Status Sequences(const CacheGeometry& geometry, DType q_dtype, const std::string& option,
                         Cell& cell);
  absl::Status Flash(const CacheGeometry& geometry, const std::string& option, bool ragged,
                     Cell& cell);

  Client& client_;
  Session& session_;
  std::mt19937_64 random_;
  int64_t next_cache_ = 0;
};

CacheGeometry Verifier::DrawGeometry(DType kv_dtype) {
  const auto& dims = client_.capabilities().head_dims;
  const auto [dim_k, dim_v] =
      dims[static_cast<size_t>(Draw(0, static_cast<int64_t>(dims.size()) - 1))];
  const auto kv_heads = static_cast<int32_t>(Draw(1, 3));
  return {.num_layers = static_cast<int32_t>(Draw(1, 3)),
          .num_query_heads = kv_heads * static_cast<int32_t>(Draw(1, 4)),
          .num_kv_heads = kv_heads,
          .head_dim_k = dim_k,
          .head_dim_v = dim_v,
          .kv_dtype = kv_dtype,
          .page_size_tokens = static_cast<int32_t>(1 << Draw(0, 6))};
}

std::unique_ptr<DrawnOptions> Verifier::DrawOptions(const std::string& option,
                                                    const CacheGeometry& geometry, int64_t rows) {
  auto drawn = std::make_unique<DrawnOptions>();
  AttentionOptions& options = drawn->options;
  const bool all = option == "all";
  const auto draw_heads = [&] {
    std::vector<float> values(static_cast<size_t>(geometry.num_query_heads));
    for (float& value : values) value = std::uniform_real_distribution<float>(0.05f, 1.0f)(random_);
    return values;
  };
  options.return_lse = Draw(0, 1) == 1;
  if (Draw(0, 2) == 0) options.softmax_scale = 0.1f;
  options.causal = all || option != "none";
  if (all || option == "window") {
    options.window_left = Draw(0, 40);
    options.causal = all || Draw(0, 1) == 0;
    if (!options.causal) options.window_right = Draw(0, 10);
  }
  if (all || option == "softcap") options.softcap = 5.0f;
  if (all || option == "alibi") options.alibi_slopes = drawn->slopes = draw_heads();
  if (all || option == "sinks") options.sinks = drawn->sinks = draw_heads();
  if (all || option == "dropout") {
    options.dropout = {.probability = 0.3f,
                       .seed = random_(),
                       .subsequence = static_cast<uint32_t>(Draw(0, 1000))};
  }
  if (option == "tree_mask") {
    const int64_t row_bytes = (rows + 7) / 8;
    options.causal = Draw(0, 1) == 0;
    drawn->tree_mask.resize(static_cast<size_t>(rows * row_bytes));
    for (uint8_t& byte : drawn->tree_mask) byte = static_cast<uint8_t>(Draw(0, 255));
    options.tree_mask = drawn->tree_mask;
  }
  return drawn;
}

absl::Status Verifier::Sequences(const CacheGeometry& geometry, DType q_dtype,
                                 const std::string& option, Cell& cell) {
  const std::string name = absl::StrFormat("verify-%d-%d", getpid(), next_cache_++);
  ATTND_ASSIGN_OR_RETURN(const client::Cache cache, client_.OpenCache(name, geometry));
  const auto layer = static_cast<int32_t>(Draw(0, geometry.num_layers - 1));
  constexpr int kSequences = 3;
  std::vector<client::Sequence> sequences;
  std::vector<HostKv> host(kSequences, HostKv(geometry));
  for (int i = 0; i < kSequences; ++i) {
    ATTND_ASSIGN_OR_RETURN(client::Sequence sequence, session_.CreateSequence(cache));
    sequences.push_back(std::move(sequence));
  }

  const int64_t q_row = geometry.num_query_heads * geometry.head_dim_k;
  // Prompts, chunks with a cut-off in between, single tokens, and a read of what is there.
  for (const char* phase : {"prompt", "chunk", "rewind", "decode", "decode", "read"}) {
    const bool read = phase == std::string("read");
    std::vector<AttendItem> items(kSequences);
    std::vector<HostTensor> tensors;
    std::vector<std::unique_ptr<DrawnOptions>> options;
    tensors.reserve(3 * kSequences);
    for (size_t i = 0; i < kSequences; ++i) {
      const int64_t rows = phase == std::string("prompt")  ? Draw(1, 70)
                           : phase == std::string("chunk") ? Draw(1, 20)
                                                           : 1;
      const int64_t length = host[i].length();
      const int64_t start = phase == std::string("rewind") || read ? Draw(0, length - 1) : length;
      options.push_back(DrawOptions(option, geometry, rows));
      AttendItem& item = items[i];
      item = {.sequence = &sequences[i], .layer = layer, .start_position = start};
      item.options = options.back()->options;
      tensors.push_back(HostTensor::Normal(q_dtype, rows * q_row, random_));
      item.q = tensors.back().view();
      if (read) continue;
      tensors.push_back(
          HostTensor::Normal(q_dtype, rows * geometry.num_kv_heads * geometry.head_dim_k, random_));
      item.k = tensors.back().view();
      tensors.push_back(HostTensor::Normal(
          q_dtype, rows * geometry.num_kv_heads * geometry.value_dim(), random_));
      item.v = tensors.back().view();
      host[i].Write(start, item.k, item.v);
    }
    ATTND_ASSIGN_OR_RETURN(const client::AttendResult result, session_.Attend(items));
    ATTND_RETURN_IF_ERROR(result.first_error());
    for (size_t i = 0; i < kSequences; ++i) {
      host[i].Compare({.q = items[i].q,
                       .start_position = items[i].start_position,
                       .kv_length = read ? items[i].start_position + 1 : -1,
                       .options = items[i].options},
                      result.items()[i].out, result.items()[i].lse, cell.out, cell.lse);
      ++cell.cases;
    }
  }
  for (client::Sequence& sequence : sequences) ATTND_RETURN_IF_ERROR(sequence.Free());
  return client_.CloseCache(cache.info.id);
}

absl::Status Verifier::Flash(const CacheGeometry& geometry, const std::string& option, bool ragged,
                             Cell& cell) {
  const DType dtype = geometry.kv_dtype;
  const int64_t batch = Draw(1, 3);
  const int64_t dense_q = Draw(1, 40), dense_k = Draw(1, 60);
  std::vector<int64_t> cu_q = {0}, cu_k = {0};
  for (int64_t b = 0; b < batch; ++b) {
    cu_q.push_back(cu_q.back() + (ragged ? Draw(1, 40) : dense_q));
    cu_k.push_back(cu_k.back() + (ragged ? Draw(1, 60) : dense_k));
  }
  const int64_t q_row = geometry.num_query_heads * geometry.head_dim_k;
  const int64_t k_row = geometry.num_kv_heads * geometry.head_dim_k;
  const int64_t v_row = geometry.num_kv_heads * geometry.value_dim();
  const int64_t out_row = geometry.num_query_heads * geometry.value_dim();
  const HostTensor q = HostTensor::Normal(dtype, cu_q.back() * q_row, random_);
  const HostTensor k = HostTensor::Normal(dtype, cu_k.back() * k_row, random_);
  const HostTensor v = HostTensor::Normal(dtype, cu_k.back() * v_row, random_);
  const auto drawn = DrawOptions(option, geometry, 0);
  drawn->options.return_lse = false;  // its layout differs between dense and ragged
  client::FlashAttentionArgs args{.batch = batch,
                                  .query_len = dense_q,
                                  .key_len = dense_k,
                                  .num_query_heads = geometry.num_query_heads,
                                  .num_kv_heads = geometry.num_kv_heads,
                                  .head_dim_k = geometry.head_dim_k,
                                  .head_dim_v = geometry.head_dim_v,
                                  .q = q.view(),
                                  .k = k.view(),
                                  .v = v.view(),
                                  .options = drawn->options};
  if (ragged) {
    args.cu_seqlens_q = cu_q;
    args.cu_seqlens_k = cu_k;
  }
  ATTND_ASSIGN_OR_RETURN(const client::FlashAttentionResult result, client_.FlashAttention(args));
  for (int64_t b = 0; b < batch; ++b) {
    const auto index = static_cast<size_t>(b);
    const int64_t q_len = cu_q[index + 1] - cu_q[index], k_len = cu_k[index + 1] - cu_k[index];
    HostKv host(geometry);
    host.Write(0, k.view(cu_k[index] * k_row, k_len * k_row),
               v.view(cu_k[index] * v_row, k_len * v_row));
    ReferenceQuery query{.q = q.view(cu_q[index] * q_row, q_len * q_row),
                         .start_position = k_len - q_len,
                         .options = drawn->options};
    query.options.dropout.subsequence += static_cast<uint32_t>(b);
    const client::TensorView out{.dtype = dtype,
                                 .data = static_cast<const char*>(result.out().data) +
                                         static_cast<size_t>(cu_q[index] * out_row) * SizeOf(dtype),
                                 .shape = {q_len, geometry.num_query_heads, geometry.value_dim()}};
    host.Compare(query, out, {}, cell.out, cell.lse);
    ++cell.cases;
  }
  return absl::OkStatus();
}

absl::Status Verifier::Round(DType q_dtype, DType kv_dtype, const std::string& option, Cell& cell) {
  Cell round;
  const CacheGeometry geometry = DrawGeometry(kv_dtype);
  ATTND_RETURN_IF_ERROR(Sequences(geometry, q_dtype, option, round));
  if (q_dtype == kv_dtype && option != "tree_mask") {
    for (const bool ragged : {false, true}) {
      ATTND_RETURN_IF_ERROR(Flash(geometry, option, ragged, round));
    }
  }
  cell.worst = std::max(cell.worst, round.out.relative_l2());
  cell.out.Merge(round.out);
  cell.lse.Merge(round.lse);
  cell.cases += round.cases;
  return absl::OkStatus();
}

int Run(const Globals& globals, VerifyOptions options) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const auto session =
      (*client)->OpenSession({.lease = std::chrono::seconds(30), .label = "attnctl verify"});
  if (!session.ok()) return Fail(globals, session.status());
  if (options.seed == 0) options.seed = std::random_device{}();
  const client::Capabilities& capabilities = (*client)->capabilities();
  if (capabilities.head_dims.empty()) {
    return Fail(globals, absl::UnimplementedError("the daemon names no head dim that it supports"));
  }
  std::cout << "verify: " << capabilities.backend << " (" << capabilities.isa << ") on "
            << capabilities.device << ", seed " << options.seed << ", " << options.rounds
            << " rounds a cell\n\n";

  std::vector<std::string> headings = {"worst relative L2"};
  for (const auto& [q, kv] : capabilities.dtypes) {
    headings.push_back(std::string(Name(q)) + "/" + std::string(Name(kv)));
  }
  Table table(headings);
  Verifier verifier(**client, **session, options.seed);
  int cells = 0, cases = 0, failed = 0, unsupported = 0;
  double worst_lse = 0;
  std::map<DType, double> worst;
  for (const char* option : kOptions) {
    std::vector<std::string> row = {option};
    for (const auto& [q, kv] : capabilities.dtypes) {
      Cell cell;
      for (int round = 0; round < options.rounds && !cell.unsupported; ++round) {
        const absl::Status status = verifier.Round(q, kv, option, cell);
        cell.unsupported = absl::IsUnimplemented(status);
        if (status.ok() || cell.unsupported) continue;
        (void)(*session)->Close();  // the failed round's cache stays behind, empty
        return Fail(globals, status);
      }
      ++cells;
      cases += cell.cases;
      if (cell.unsupported) {
        ++unsupported;
        row.emplace_back("unsupported");
        continue;
      }
      worst[q] = std::max(worst[q], cell.worst);
      worst_lse = std::max(worst_lse, cell.lse.max_abs);
      const bool ok =
          cell.worst <= ErrorBound(q) && cell.lse.not_finite == 0 && cell.lse.max_abs <= 1e-4;
      if (!ok) ++failed;
      row.push_back(Scientific(cell.worst) + (ok ? "" : " FAIL"));
    }
    table.Add(row);
  }
  std::vector<std::string> bounds = {"bound"};
  for (const auto& [q, kv] : capabilities.dtypes) bounds.push_back(Scientific(ErrorBound(q)));
  table.Add(bounds);
  std::cout << table.ToString() << "\nverify: ok=" << (failed == 0 ? "yes" : "no")
            << " cells=" << cells << " failed=" << failed << " unsupported=" << unsupported
            << " cases=" << cases;
  for (const auto& [dtype, error] : worst) {
    std::cout << " worst_" << Name(dtype) << "=" << Scientific(error);
  }
  std::cout << " lse_max_abs=" << Scientific(worst_lse) << " seed=" << options.seed << "\n";
  if (const absl::Status status = (*session)->Close(); !status.ok()) return Fail(globals, status);
  return failed == 0 ? kSuccess : kFailure;
}

}  // namespace

void AddVerifyCommand(CLI::App& app, Globals& globals) {
  CLI::App* command =
      app.add_subcommand("verify", "Compare the daemon's attention with the fp64 reference");
  auto options = std::make_shared<VerifyOptions>();
  command->add_option("--seed", options->seed, "Of the random shapes and tensors; 0: a random one");
  command->add_option("--rounds", options->rounds, "Random geometries for each cell")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->callback([&globals, options] { globals.exit_code = Run(globals, *options); });
}

}  // namespace attnd::cli
