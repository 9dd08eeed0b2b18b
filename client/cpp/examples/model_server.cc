// SPDX-License-Identifier: Apache-2.0
//
// A model server whose attention is attnd's: what one in any language has to do, in one file.
//
//   model_server --address 127.0.0.1:7450 --token_file /run/model_server.token
//
// It has the model (tiny_llama.h) and the requests; attnd has the keys and values and computes the
// attention. Requests come as lines on stdin and are answered as lines on stdout:
//
//   > a 3 17 4 250          request `a`: generate 3 tokens after the prompt 17 4 250
//   < accepted a            from here on a crash does not lose it
//   < token a 0 91          its first token; the index makes a repetition harmless
//   < token a 1 8
//   < token a 2 333
//   < done a
//
// or `error a RESOURCE_EXHAUSTED: ...`. It ends when stdin does and all is answered. Killed and
// started again with the same token file, it takes its session up again and goes on: no prompt is
// computed twice. After a resume each request's tokens are sent again from index 0.
//
// Where to read: Step() is one decode step; Start() is the resume; Evict() is what to do when the
// pages run out.
#include <poll.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "client/cpp/client.h"
#include "client/cpp/error_detail.h"
#include "client/cpp/examples/tiny_llama.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

constexpr size_t kMaxTokens = 65536;  // that one request may ask for

struct ServerOptions {
  std::string address = "127.0.0.1:7450";
  std::string token_file{};  // where the session's token is kept; empty: nowhere
  std::string cache = "model-server";
  int64_t page_quota = 0;  // most pages of the cache; 0: no limit but the pool's
  uint64_t seed = 1;       // of the weights
  size_t max_batch = 8;    // sequences that are computed together
  size_t max_rows = 256;   // tokens of a step, at least max_batch; longer prompts take several
};

// One request, and the sequence that holds its keys and values.
struct Request {
  std::string id;
  size_t max_tokens = 0;
  size_t prompt_length = 0;
  std::vector<int32_t> tokens;  // the prompt, then what was generated
  Sequence sequence;
  int64_t cached = 0;          // tokens whose keys and values are complete in every layer
  uint64_t state_version = 0;  // of the client state, for its compare-and-set
  size_t rows = 0;             // in this step
  bool evicted = false;        // in this step, for want of pages
  bool failed = false;         // for good

  bool finished() const { return tokens.size() >= prompt_length + max_tokens; }

  // What attnd keeps with the sequence: all that another process needs to go on.
  std::string Pack() const {
    std::ostringstream text;
    text << id << ' ' << max_tokens << ' ' << prompt_length;
    for (const int32_t token : tokens) text << ' ' << token;
    return text.str();
  }
  static Request Unpack(const std::string& state) {
    Request request;
    std::istringstream text(state);
    text >> request.id >> request.max_tokens >> request.prompt_length;
    request.tokens.assign(std::istream_iterator<int32_t>(text), {});
    return request;
  }
};

class ModelServer {
 public:
  explicit ModelServer(const ServerOptions& options) : options_(options), model_(options.seed) {}

  absl::Status Start();
  absl::Status Submit(const std::string& line);
  // Computes the next token of every running request. An error ends the server, not the session.
  absl::Status Step();
  bool idle() const { return running_.empty() && waiting_.empty(); }
  // Ends the session and frees its sequences.
  absl::Status Stop() { return session_->Close(); }

 private:
  using Batch = std::vector<Request*>;
  absl::Status AttendLayer(int layer, const Batch& batch, const TinyLlama::Qkv& qkv,
                           std::vector<float>& attention, std::vector<absl::Status>& failures);
  absl::Status Accept(Request& request, int32_t token);
  absl::Status Evict(Request& request, const absl::Status& why);
  absl::Status SaveToken() const;
  void Say(const std::string& line) const { std::cout << line << std::endl; }
  void SayToken(const Request& request, size_t i) const {
    Say("token " + request.id + " " + std::to_string(i) + " " +
        std::to_string(request.tokens[request.prompt_length + i]));
  }

  const ServerOptions options_;
  const TinyLlama model_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Session> session_;
  Cache cache_;
  // In the order in which they came. Unique pointers: the batch points at them.
  std::vector<std::unique_ptr<Request>> running_;
  std::deque<std::unique_ptr<Request>> waiting_;
  bool pages_are_short_ = false;  // an eviction happened and nothing has finished since
};

// Connects, opens the cache of the model's geometry, and takes the session of the last process up
// again where there is one.
absl::Status ModelServer::Start() {
  ATTND_ASSIGN_OR_RETURN(client_, Client::Connect({.address = options_.address}));
  // The name and the geometry go together: a second server of the same model shares the cache, one
  // of another model is refused with the field that differs.
  const TinyLlama::Config& c = model_.config();
  ATTND_ASSIGN_OR_RETURN(cache_, client_->OpenCache(options_.cache,
                                                    {.num_layers = c.num_layers,
                                                     .num_query_heads = c.num_query_heads,
                                                     .num_kv_heads = c.num_kv_heads,
                                                     .head_dim_k = c.head_dim},
                                                    options_.page_quota));
  // The lease is how long attnd waits for a server that died. The library renews it meanwhile.
  const OpenSessionOptions lease{.lease = std::chrono::minutes(5), .label = "model_server"};
  std::ifstream file(options_.token_file, std::ios::binary);
  const std::string token((std::istreambuf_iterator<char>(file)), {});
  if (token.empty()) {
    ATTND_ASSIGN_OR_RETURN(session_, client_->OpenSession(lease));
    return SaveToken();
  }
  absl::StatusOr<ResumedSession> resumed = client_->ResumeSession(token, lease);
  if (absl::IsNotFound(resumed.status())) {
    // The lease ended, or attnd was restarted: the clients have to ask again.
    ATTND_ASSIGN_OR_RETURN(session_, client_->OpenSession(lease));
    return SaveToken();
  }
  ATTND_RETURN_IF_ERROR(resumed.status());
  session_ = std::move(resumed->session);
  // The former process can do nothing more, and its token ends with the new one's first use: keep
  // the new one before that.
  ATTND_RETURN_IF_ERROR(SaveToken());
  for (ResumedSession::Entry& entry : resumed->sequences) {
    auto request = std::make_unique<Request>(Request::Unpack(entry.info.client_state));
    request->sequence = entry.sequence;
    request->state_version = entry.info.client_state_version;
    // Killed in the middle of a step, some layers have a token more than others; killed behind its
    // last layer, all have a token whose successor nobody has heard of. Going on from the shortest
    // layer, and from the last known token at the latest, writes those rows again, bit for bit.
    request->cached =
        std::min(entry.info.min_length(), static_cast<int64_t>(request->tokens.size()) - 1);
    Say("accepted " + request->id);
    for (size_t i = 0; i + request->prompt_length < request->tokens.size(); ++i) {
      SayToken(*request, i);
    }
    waiting_.push_back(std::move(request));
  }
  return absl::OkStatus();
}

absl::Status ModelServer::SaveToken() const {
  if (options_.token_file.empty()) return absl::OkStatus();
  // Beside it first, then renamed: a crash leaves the old token or the new one, never half of one.
  const std::string beside = options_.token_file + ".new";
  std::ofstream(beside, std::ios::binary) << session_->token();
  if (rename(beside.c_str(), options_.token_file.c_str()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "cannot write " + options_.token_file);
}

absl::Status ModelServer::Submit(const std::string& line) {
  auto request = std::make_unique<Request>();
  std::istringstream words(line);
  words >> request->id >> request->max_tokens;
  request->tokens.assign(std::istream_iterator<int32_t>(words), {});
  request->prompt_length = request->tokens.size();
  if (request->tokens.empty() || !words.eof() || request->max_tokens > kMaxTokens) {
    Say("error " + (request->id.empty() ? "?" : request->id) +
        " INVALID_ARGUMENT: expected ID MAX_TOKENS TOKEN..., at most 65536 of them, got \"" + line +
        "\"");
    return absl::OkStatus();
  }
  // The state goes in with the sequence: there is no moment at which one exists without the other.
  ATTND_ASSIGN_OR_RETURN(request->sequence, session_->CreateSequence(cache_, request->Pack()));
  request->state_version = 1;
  Say("accepted " + request->id);
  waiting_.push_back(std::move(request));
  return absl::OkStatus();
}

// One decode step of the whole batch.
absl::Status ModelServer::Step() {
  // 1. Continuous batching: whoever waits joins at any step, whoever is done has left. While pages
  //    are short, nobody joins until somebody is done, or alone.
  while (!waiting_.empty() && running_.size() < options_.max_batch &&
         (!pages_are_short_ || running_.empty())) {
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }

  // 2. The rows: of each request the tokens that have no keys and values yet. That is the whole
  //    prompt at first, in pieces where it is long, so that others do not wait for it; and one
  //    token from then on. One ragged batch, without padding.
  Batch batch;
  std::vector<int32_t> tokens;
  std::vector<int64_t> positions;
  for (const auto& request : running_) {
    if (request->finished()) continue;  // a resumed one that had only to be told so
    const auto first = static_cast<size_t>(request->cached);
    request->rows = std::min(request->tokens.size() - first, options_.max_rows - tokens.size());
    if (request->rows == 0) continue;  // the next step has room
    batch.push_back(request.get());
    for (size_t i = first; i < first + request->rows; ++i) {
      tokens.push_back(request->tokens[i]);
      positions.push_back(static_cast<int64_t>(i));
    }
  }

  // 3. The layers. All that is row by row runs on the rows of everybody at once; attention, where
  //    rows meet others of their sequence, is one call to attnd a layer.
  std::vector<float> hidden = model_.Embed(tokens);
  std::vector<float> attention(hidden.size());
  std::vector<absl::Status> failures(batch.size());
  for (int layer = 0; layer < model_.config().num_layers && !batch.empty(); ++layer) {
    const TinyLlama::Qkv qkv = model_.Project(layer, hidden, positions);
    ATTND_RETURN_IF_ERROR(AttendLayer(layer, batch, qkv, attention, failures));
    model_.Finish(layer, attention, hidden);
  }

  // 4. The last row of each request says its next token, where it was the last of its tokens.
  const auto width = static_cast<size_t>(model_.config().hidden());
  size_t end = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    Request& request = *batch[i];
    end += request.rows;
    if (!failures[i].ok()) {
      ATTND_RETURN_IF_ERROR(Evict(request, failures[i]));
      continue;
    }
    request.cached += static_cast<int64_t>(request.rows);
    if (request.cached < static_cast<int64_t>(request.tokens.size())) continue;
    const auto last_row = std::span(hidden).subspan((end - 1) * width, width);
    ATTND_RETURN_IF_ERROR(Accept(request, model_.Greedy(last_row)));
  }

  // 5. Who is done gives its pages back; who was evicted waits for them, ahead of those who came
  //    later.
  for (size_t i = running_.size(); i-- > 0;) {
    Request& request = *running_[i];
    if (request.finished()) {
      Say("done " + request.id);
      ATTND_RETURN_IF_ERROR(request.sequence.Free());
      pages_are_short_ = false;
    } else if (request.evicted) {
      request.evicted = false;
      waiting_.push_front(std::move(running_[i]));
    } else if (!request.failed) {
      continue;
    }
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return absl::OkStatus();
}

// One layer's attention for everybody: an item a sequence. Writes the rows' keys and values behind
// those that attnd has, then attends to all of them.
absl::Status ModelServer::AttendLayer(int layer, const Batch& batch, const TinyLlama::Qkv& qkv,
                                      std::vector<float>& attention,
                                      std::vector<absl::Status>& failures) {
  const TinyLlama::Config& c = model_.config();
  const auto q_width = static_cast<size_t>(c.hidden());
  const auto kv_width = static_cast<size_t>(c.num_kv_heads) * static_cast<size_t>(c.head_dim);
  std::vector<AttendItem> items;
  std::vector<size_t> of;  // the item's place in the batch
  size_t row = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    const size_t rows = batch[i]->rows;
    if (failures[i].ok()) {
      AttendItem& item = items.emplace_back();
      item.sequence = &batch[i]->sequence;
      item.layer = layer;
      item.start_position = batch[i]->cached;
      // Views into the batch's own tensors, and the result back into them: nothing is copied here.
      item.q = std::span(qkv.q).subspan(row * q_width, rows * q_width);
      item.k = std::span(qkv.k).subspan(row * kv_width, rows * kv_width);
      item.v = std::span(qkv.v).subspan(row * kv_width, rows * kv_width);
      item.out = std::span(attention).subspan(row * q_width, rows * q_width);
      item.options.causal = true;
      of.push_back(i);
    }
    row += rows;
  }
  if (items.empty()) return absl::OkStatus();
  // A full queue and a broken connection are the library's business: it waits and repeats the call
  // with the same steps, which is harmless if the first one did arrive. What comes through to here
  // is for an operator (draining, UNAVAILABLE for longer, another process has the session).
  ATTND_ASSIGN_OR_RETURN(const AttendResult result, session_->Attend(items));
  for (size_t i = 0; i < items.size(); ++i) {
    const absl::Status& status = result.items()[i].status;
    if (absl::IsResourceExhausted(status)) {
      failures[of[i]] = status;  // the others' results stand
    } else if (!status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

// Takes a token into the request: kept first, told then. Killed in between, it is told again.
absl::Status ModelServer::Accept(Request& request, int32_t token) {
  request.tokens.push_back(token);
  ATTND_ASSIGN_OR_RETURN(request.state_version,
                         request.sequence.SetClientState(request.state_version, request.Pack()));
  SayToken(request, request.tokens.size() - request.prompt_length - 1);
  return absl::OkStatus();
}

// No pages for this request's rows: it gives back those that it has and is computed again from its
// tokens, which its client state keeps, when somebody has finished.
absl::Status ModelServer::Evict(Request& request, const absl::Status& why) {
  pages_are_short_ = true;
  bool others_gave = running_.size() > 1;
  for (const auto& other : waiting_) {  // those of a resume may still hold some
    if (other->cached == 0) continue;
    other->cached = 0;
    others_gave = true;
    ATTND_RETURN_IF_ERROR(other->sequence.Truncate(0));
  }
  if (others_gave) {
    request.evicted = true;
    request.cached = 0;
    return request.sequence.Truncate(0);
  }
  // Alone, and still too large. The detail says by how much.
  const auto detail = GetErrorDetail(why);
  Say("error " + request.id + " RESOURCE_EXHAUSTED: needs " +
      std::to_string(detail ? detail->needed_pages : 0) + " pages, " +
      std::to_string(detail ? detail->free_pages : 0) + " are free");
  request.failed = true;
  pages_are_short_ = false;
  return request.sequence.Free();
}

ServerOptions ParseOptions(int argc, char** argv) {
  ServerOptions options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--address") options.address = value;
    if (name == "--token_file") options.token_file = value;
    if (name == "--cache") options.cache = value;
    if (name == "--page_quota") options.page_quota = std::atoll(value.c_str());
    if (name == "--max_rows") options.max_rows = std::strtoull(value.c_str(), nullptr, 10);
    if (name == "--seed") options.seed = std::strtoull(value.c_str(), nullptr, 10);
  }
  options.max_rows = std::max(options.max_rows, options.max_batch);
  return options;
}

absl::Status Serve(const ServerOptions& options) {
  ModelServer server(options);
  ATTND_RETURN_IF_ERROR(server.Start());
  std::string input;
  bool open = true;
  while (open || !server.idle()) {
    // With work to do, only a look at stdin; without, a wait for it.
    pollfd descriptor{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (open && poll(&descriptor, 1, server.idle() ? -1 : 0) > 0) {
      char chunk[4096];
      const ssize_t size = read(STDIN_FILENO, chunk, sizeof(chunk));
      open = size > 0;
      if (open) input.append(chunk, static_cast<size_t>(size));
    }
    for (size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) {
      ATTND_RETURN_IF_ERROR(server.Submit(input.substr(0, end)));
    }
    if (!server.idle()) ATTND_RETURN_IF_ERROR(server.Step());
  }
  return server.Stop();
}

}  // namespace
}  // namespace attnd::client

int main(int argc, char** argv) {
  const absl::Status status = attnd::client::Serve(attnd::client::ParseOptions(argc, argv));
  if (!status.ok()) std::cerr << "model_server: " << status << "\n";
  return status.ok() ? 0 : 1;
}
