// SPDX-License-Identifier: Apache-2.0
//
// attnctl demo: a model server's loop whose every attention call is the daemon's.
//
// The model is toy_model.h, of SmolLM2-135M's geometry, on generated tensors. First the same
// prompts are generated in this process with the fp64 reference; then through the daemon: the
// prompts as one ragged batch, then token by token, layer by layer. Half way, in the middle of a
// token, the client is dropped without a word, and a new one goes on with the address and the
// session token alone.
//
// The last line:
//   tokens_identical  the daemon's tokens are those of the reference run, for every prompt
//   resumed           the new client found every token that had been acknowledged, in the
//   sequences'
//                     client_state and in their pages, and sent none of their keys again
//   verified          every attention output of one sequence of each batch, in turn, was within the
//                     fp32 bound (relative L2 1e-6 over the run) of the fp64 reference
//   attention_ms      spent waiting for attention, as the client sees it
//   pages_peak        most pages that the sequences held at once
#include <algorithm>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/reference.h"
#include "client/cli/table.h"
#include "client/cli/terminal.h"
#include "client/cli/toy_model.h"
#include "kernels/base/status_macros.h"

namespace attnd::cli {
namespace {

using client::AttendItem;
using client::AttentionOptions;
using std::chrono::steady_clock;

struct DemoOptions {
  int tokens = 64;  // to generate for each prompt
  uint64_t seed = 2;
};

constexpr int64_t kPromptLengths[] = {11, 37, 70};

using Tokens = std::vector<int32_t>;

AttentionOptions Causal() {
  AttentionOptions options;
  options.causal = true;
  return options;
}

// What is kept with a sequence on the daemon: the prompt's length, then all token ids.
std::string PackState(int32_t prompt_length, const Tokens& tokens) {
  std::string state(sizeof(int32_t) * (1 + tokens.size()), '\0');
  std::memcpy(state.data(), &prompt_length, sizeof(int32_t));
  std::memcpy(state.data() + sizeof(int32_t), tokens.data(), sizeof(int32_t) * tokens.size());
  return state;
}

std::pair<int32_t, Tokens> UnpackState(const std::string& state) {
  std::vector<int32_t> values(state.size() / sizeof(int32_t));
  std::memcpy(values.data(), state.data(), values.size() * sizeof(int32_t));
  if (values.empty()) return {0, {}};
  return {values[0], Tokens(values.begin() + 1, values.end())};
}

// The reference's layers of one sequence.
std::vector<HostKv> HostLayers(const ToyModel& model) {
  return {static_cast<size_t>(model.geometry().num_layers), HostKv(model.geometry())};
}

// Generates with the fp64 reference alone.
Tokens GenerateLocally(const ToyModel& model, Tokens tokens, int count, Progress& progress,
                       int64_t& done) {
  std::vector<HostKv> layers = HostLayers(model);
  int64_t start = 0;
  for (int i = 0; i < count; ++i) {
    std::vector<float> hidden =
        model.Embed(std::span(tokens).subspan(static_cast<size_t>(start)), start);
    for (int32_t layer = 0; layer < model.geometry().num_layers; ++layer) {
      const ToyModel::Projections p = model.Project(layer, hidden);
      HostKv& kv = layers[static_cast<size_t>(layer)];
      kv.Write(start, p.k, p.v);
      const std::vector<double> out =
          kv.Attend({.q = p.q, .start_position = start, .options = Causal()}).out;
      model.AddAttention(layer, std::vector<float>(out.begin(), out.end()), hidden);
    }
    start = static_cast<int64_t>(tokens.size());
    tokens.push_back(model.NextToken(hidden));
    progress.Update(++done);
  }
  return tokens;
}

// One prompt on the daemon.
struct Prompt {
  client::Sequence sequence;
  Tokens tokens;
  int32_t prompt_length = 0;
  int64_t cached = 0;  // tokens whose keys and values are complete on the daemon
  uint64_t state_version = 0;
  std::vector<HostKv> host;  // what the daemon should hold; survives the client, as a witness

  bool finished(int count) const {
    return static_cast<int64_t>(tokens.size()) >= prompt_length + count;
  }
};

// The model server.
class Server {
 public:
  Server(const ToyModel& model, const Globals& globals) : model_(model), globals_(globals) {}

  absl::Status Start(const std::string& cache_name, const std::vector<Tokens>& prompts);
  // Computes the next token of every prompt, at most `count` each. Stops after `stop_after_layer`
  // layers, as if killed, where that is not negative.
  absl::Status Step(int count, int32_t stop_after_layer = -1);
  // Drops everything, as a crash would, and starts again from the session token. Returns whether
  // all acknowledged tokens were found.
  absl::StatusOr<bool> CrashAndResume();
  absl::Status Stop();

  const std::vector<Prompt>& prompts() const { return prompts_; }
  double attention_s = 0;
  double daemon_s = 0;
  double kernel_s = 0;
  int64_t requests = 0;
  int64_t pages_peak = 0;
  ErrorStats errors;

 private:
  absl::Status AttendLayer(int32_t layer, std::vector<std::vector<float>>& hidden,
                           const std::vector<Prompt*>& active);

  const ToyModel& model_;
  const Globals& globals_;
  std::unique_ptr<client::Client> client_;
  std::unique_ptr<client::Session> session_;
  client::Id cache_;
  std::vector<Prompt> prompts_;
};

absl::Status Server::Start(const std::string& cache_name, const std::vector<Tokens>& prompts) {
  ATTND_ASSIGN_OR_RETURN(client_, Connect(globals_));
  ATTND_ASSIGN_OR_RETURN(const client::Cache cache,
                         client_->OpenCache(cache_name, model_.geometry()));
  cache_ = cache.info.id;
  ATTND_ASSIGN_OR_RETURN(
      session_, client_->OpenSession({.lease = std::chrono::seconds(30), .label = "attnctl demo"}));
  for (const Tokens& tokens : prompts) {
    Prompt& prompt = prompts_.emplace_back();
    prompt.tokens = tokens;
    prompt.prompt_length = static_cast<int32_t>(tokens.size());
    prompt.host = HostLayers(model_);
    ATTND_ASSIGN_OR_RETURN(
        prompt.sequence,
        session_->CreateSequence(cache, PackState(prompt.prompt_length, prompt.tokens)));
    prompt.state_version = 1;
  }
  return absl::OkStatus();
}

absl::Status Server::AttendLayer(int32_t layer, std::vector<std::vector<float>>& hidden,
                                 const std::vector<Prompt*>& active) {
  std::vector<ToyModel::Projections> projections;
  std::vector<AttendItem> items(active.size());
  projections.reserve(active.size());
  for (size_t i = 0; i < active.size(); ++i) {
    const ToyModel::Projections& p = projections.emplace_back(model_.Project(layer, hidden[i]));
    items[i].sequence = &active[i]->sequence;
    items[i].layer = layer;
    items[i].start_position = active[i]->cached;
    items[i].q = p.q;
    items[i].k = p.k;
    items[i].v = p.v;
    items[i].options.causal = true;
    active[i]->host[static_cast<size_t>(layer)].Write(active[i]->cached, p.k, p.v);
  }
  const auto begin = steady_clock::now();
  ATTND_ASSIGN_OR_RETURN(const client::AttendResult result, session_->Attend(items));
  attention_s += std::chrono::duration<double>(steady_clock::now() - begin).count();
  daemon_s += std::chrono::duration<double>(result.timing().total()).count();
  kernel_s += std::chrono::duration<double>(result.timing().kernel).count();
  ATTND_RETURN_IF_ERROR(result.first_error());
  for (size_t i = 0; i < active.size(); ++i) {
    model_.AddAttention(layer, result.items()[i].out.f32(), hidden[i]);
  }
  // One sequence of each batch, in turn: a third of the reference's work, and no layer is left out.
  const size_t checked = static_cast<size_t>(requests++) % active.size();
  ErrorStats no_lse;
  active[checked]->host[static_cast<size_t>(layer)].Compare(
      {.q = items[checked].q, .start_position = active[checked]->cached, .options = Causal()},
      result.items()[checked].out, {}, errors, no_lse);
  return absl::OkStatus();
}

absl::Status Server::Step(int count, int32_t stop_after_layer) {
  std::vector<Prompt*> active;
  std::vector<std::vector<float>> hidden;
  for (Prompt& prompt : prompts_) {
    if (prompt.finished(count)) continue;
    active.push_back(&prompt);
    hidden.push_back(model_.Embed(
        std::span<const int32_t>(prompt.tokens).subspan(static_cast<size_t>(prompt.cached)),
        prompt.cached));
  }
  for (int32_t layer = 0; layer < model_.geometry().num_layers && !active.empty(); ++layer) {
    ATTND_RETURN_IF_ERROR(AttendLayer(layer, hidden, active));
    if (layer == stop_after_layer) return absl::OkStatus();
  }
  for (size_t i = 0; i < active.size(); ++i) {
    Prompt& prompt = *active[i];
    prompt.cached = static_cast<int64_t>(prompt.tokens.size());
    prompt.tokens.push_back(model_.NextToken(hidden[i]));
    // From here on, a new client would go on behind this token.
    ATTND_ASSIGN_OR_RETURN(
        prompt.state_version,
        prompt.sequence.SetClientState(prompt.state_version,
                                       PackState(prompt.prompt_length, prompt.tokens)));
  }
  ATTND_ASSIGN_OR_RETURN(const std::vector<client::CacheInfo> caches, client_->ListCaches());
  for (const client::CacheInfo& cache : caches) {
    if (cache.id == cache_) pages_peak = std::max(pages_peak, cache.pages_used);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Server::CrashAndResume() {
  const std::vector<Prompt> before = std::move(prompts_);
  const std::string token = session_->token();
  prompts_.clear();
  session_ = nullptr;
  client_ = nullptr;

  ATTND_ASSIGN_OR_RETURN(client_, Connect(globals_));
  ATTND_ASSIGN_OR_RETURN(client::ResumedSession resumed, client_->ResumeSession(token));
  session_ = std::move(resumed.session);
  bool complete = resumed.sequences.size() == before.size();
  for (auto& [sequence, info] : resumed.sequences) {
    Prompt& prompt = prompts_.emplace_back();
    std::tie(prompt.prompt_length, prompt.tokens) = UnpackState(info.client_state);
    prompt.sequence = std::move(sequence);
    prompt.state_version = info.client_state_version;
    // Layers that the old client had reached with its last token hold one token more: those are
    // written again, at the same position.
    prompt.cached = info.min_length();
    bool found = false;
    for (const Prompt& old : before) {
      if (old.prompt_length != prompt.prompt_length) continue;
      prompt.host = old.host;
      found = old.tokens == prompt.tokens && old.cached == prompt.cached;
    }
    complete = complete && found;
  }
  return complete;
}

absl::Status Server::Stop() {
  if (session_ == nullptr) return absl::OkStatus();
  ATTND_RETURN_IF_ERROR(session_->Close());
  const absl::Status closed = client_->CloseCache(cache_);
  // Another demo is at work in it, and closes it.
  return absl::IsFailedPrecondition(closed) ? absl::OkStatus() : closed;
}

std::vector<Tokens> MakePrompts(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Tokens> prompts;
  for (const int64_t length : kPromptLengths) {
    Tokens& tokens = prompts.emplace_back();
    for (int64_t i = 0; i < length; ++i) {
      tokens.push_back(static_cast<int32_t>(random() % ToyModel::kVocabulary));
    }
  }
  return prompts;
}

absl::Status Generate(Server& server, const DemoOptions& options, bool& resumed) {
  const int crash_at = options.tokens / 2;
  Progress progress("attnd: decode", options.tokens);
  for (int token = 0; token < options.tokens; ++token) {
    if (token == crash_at) {
      // Half the layers of this token are on the daemon when the client goes.
      ATTND_RETURN_IF_ERROR(server.Step(options.tokens, /*stop_after_layer=*/14));
      ATTND_ASSIGN_OR_RETURN(resumed, server.CrashAndResume());
      progress.Finish(absl::StrFormat(
          "client dropped at token %d, after layer 15 of 30; a new one resumed with address and "
          "token: state %s",
          token, resumed ? "complete" : "INCOMPLETE"));
    }
    ATTND_RETURN_IF_ERROR(server.Step(options.tokens));
    progress.Update(token + 1);
  }
  progress.Finish(
      absl::StrFormat("%d tokens for each of %d prompts", options.tokens, server.prompts().size()));
  return absl::OkStatus();
}

std::string FirstTokens(const Tokens& tokens, int64_t from) {
  std::string text;
  for (size_t i = static_cast<size_t>(from); i < tokens.size() && i < static_cast<size_t>(from) + 8;
       ++i) {
    text += std::to_string(tokens[i]) + " ";
  }
  return text + "...";
}

int Run(const Globals& globals, const DemoOptions& options) {
  const ToyModel model(options.seed);
  Server server(model, globals);
  const std::vector<Tokens> prompts = MakePrompts(options.seed);
  if (const auto client = Connect(globals); !client.ok()) return Fail(globals, client.status());
  std::cout << "demo: generated tensors in SmolLM2-135M's geometry (" << model.geometry().ToString()
            << ")\n";

  Progress progress("reference: generate", options.tokens * static_cast<int64_t>(prompts.size()));
  std::vector<Tokens> expected;
  expected.reserve(prompts.size());
  int64_t done = 0;
  for (const Tokens& prompt : prompts) {
    expected.push_back(GenerateLocally(model, prompt, options.tokens, progress, done));
  }
  progress.Finish("the fp64 reference generated the expected tokens");

  bool resumed = false;
  absl::Status status = server.Start("attnctl-demo", prompts);
  if (status.ok()) status = Generate(server, options, resumed);
  bool identical = status.ok();
  Table table({"prompt", "tokens in", "<generated", "<same as the reference"});
  for (size_t i = 0; status.ok() && i < expected.size(); ++i) {
    bool same = false;
    for (const Prompt& prompt : server.prompts()) same = same || prompt.tokens == expected[i];
    identical = identical && same;
    const auto length = static_cast<int64_t>(prompts[i].size());
    table.Add({std::to_string(i), std::to_string(length), FirstTokens(expected[i], length),
               same ? "yes" : "NO"});
  }
  const absl::Status stopped = server.Stop();
  if (!status.ok()) return Fail(globals, status);
  if (!stopped.ok()) return Fail(globals, stopped);

  const bool verified = server.errors.relative_l2() <= ErrorBound(DType::kF32);
  std::cout << "\n" << table.ToString() << "\n";
  Fields fields;
  fields.Add("attention",
             absl::StrFormat("%d requests, %s; %s of it in the daemon, %s in kernels",
                             server.requests, HumanSeconds(server.attention_s),
                             HumanSeconds(server.daemon_s), HumanSeconds(server.kernel_s)));
  fields.Add("error", "relative L2 " + Scientific(server.errors.relative_l2()) + ", largest " +
                          Scientific(server.errors.max_abs) + ", over " +
                          HumanCount(static_cast<double>(server.errors.elems)) + " outputs");
  std::cout << fields.ToString() << "\ndemo: tokens_identical=" << (identical ? "yes" : "no")
            << " resumed=" << (resumed ? "yes" : "no") << " verified=" << (verified ? "yes" : "no")
            << " prompts=" << prompts.size()
            << " tokens=" << prompts.size() * static_cast<size_t>(options.tokens)
            << absl::StrFormat(" attention_ms=%.1f", server.attention_s * 1e3)
            << " pages_peak=" << server.pages_peak << "\n";
  return identical && resumed && verified ? kSuccess : kFailure;
}

}  // namespace

void AddDemoCommand(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand(
      "demo", "A model server's loop on the daemon, dropped and resumed half way");
  auto options = std::make_shared<DemoOptions>();
  command->add_option("--tokens", options->tokens, "To generate for each prompt")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Of the model and the prompts")
      ->capture_default_str();
  command->callback([&globals, options] { globals.exit_code = Run(globals, *options); });
}

}  // namespace attnd::cli
