// SPDX-License-Identifier: Apache-2.0
//
// The example model server against the real daemon: its tokens are those of the same model with an
// attention of ten lines, without attnd, whatever happens to the server in between.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cpp/client.h"
#include "client/cpp/examples/tiny_llama.h"
#include "tests/fakes/built_files.h"
#include "tests/unit/client/daemon_process.h"
extern char** environ;

namespace attnd::client {
namespace {

using testing::HasSubstr;
using Tokens = std::vector<int32_t>;

constexpr uint64_t kWeights = 3;

// Softmax attention of one row over all keys so far, in fp64.
std::vector<float> NaiveAttention(const TinyLlama::Config& c, std::span<const float> q,
                                  const std::vector<float>& keys,
                                  const std::vector<float>& values) {
  const auto dim = static_cast<size_t>(c.head_dim), kv_heads = static_cast<size_t>(c.num_kv_heads);
  const size_t group = static_cast<size_t>(c.num_query_heads) / kv_heads;
  const size_t length = keys.size() / (kv_heads * dim);
  std::vector<float> out(q.size());
  for (size_t head = 0; head < group * kv_heads; ++head) {
    std::vector<double> weights(length);
    double sum = 0;
    for (size_t j = 0; j < length; ++j) {
      const size_t key = (j * kv_heads + head / group) * dim;
      double score = 0;
      for (size_t i = 0; i < dim; ++i) score += double{q[head * dim + i]} * keys[key + i];
      sum += weights[j] = std::exp(score / std::sqrt(static_cast<double>(dim)));
    }
    for (size_t i = 0; i < dim; ++i) {
      double mean = 0;
      for (size_t j = 0; j < length; ++j) {
        mean += weights[j] / sum * values[(j * kv_heads + head / group) * dim + i];
      }
      out[head * dim + i] = static_cast<float>(mean);
    }
  }
  return out;
}

// What the model generates after a prompt, token by token, one row at a time.
Tokens Generate(const TinyLlama& model, Tokens tokens, size_t count) {
  const TinyLlama::Config& c = model.config();
  struct LayerKv {
    std::vector<float> keys, values;
  };
  std::vector<LayerKv> layers(static_cast<size_t>(c.num_layers));
  const size_t prompt_length = tokens.size();
  for (size_t i = 0; tokens.size() < prompt_length + count; ++i) {
    std::vector<float> hidden = model.Embed(std::span(tokens).subspan(i, 1));
    const std::vector<int64_t> position = {static_cast<int64_t>(i)};
    for (int layer = 0; layer < c.num_layers; ++layer) {
      const TinyLlama::Qkv qkv = model.Project(layer, hidden, position);
      LayerKv& kv = layers[static_cast<size_t>(layer)];
      kv.keys.insert(kv.keys.end(), qkv.k.begin(), qkv.k.end());
      kv.values.insert(kv.values.end(), qkv.v.begin(), qkv.v.end());
      model.Finish(layer, NaiveAttention(c, qkv.q, kv.keys, kv.values), hidden);
    }
    if (i + 1 >= tokens.size()) tokens.push_back(model.Greedy(hidden));
  }
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(prompt_length));
  return tokens;
}

// The server as a child process, spoken to through two pipes.
class Server {
 public:
  Server(const std::string& address, const std::vector<std::string>& more) {
    std::vector<std::string> words = {BuiltProgram("attnd_model_server"), "--address", address,
                                      "--seed", std::to_string(kWeights)};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> argv;
    argv.reserve(words.size() + 1);
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    int in[2], out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
    // So small that the server cannot be done before the test has read what it says.
    fcntl(out[0], F_SETPIPE_SZ, 4096);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
  }
  ~Server() {
    Kill();
    CloseInput();
    (void)fclose(from_);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void Send(const std::string& line) {
    (void)fputs((line + "\n").c_str(), to_);
    (void)fflush(to_);
  }
  void CloseInput() {
    if (to_ != nullptr) (void)fclose(to_);
    to_ = nullptr;
  }
  // The next line, or nothing once the server has ended.
  std::optional<std::string> Read() {
    char line[512];
    if (fgets(line, sizeof(line), from_) == nullptr) return std::nullopt;
    std::string text = line;
    text.erase(text.find_last_not_of('\n') + 1);
    return text;
  }
  void Kill() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    Wait();
  }
  int Wait() {
    int status = -1;
    if (pid_ > 0) waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

// What the clients of a server have been told, over all its lives.
struct Told {
  std::map<std::string, std::map<size_t, int32_t>> tokens;
  std::set<std::string> done;
  std::map<std::string, std::string> errors;
  size_t lines = 0;

  // Reads until `lines` token lines were seen, or all of `ids` are settled, or the server has
  // ended.
  void Read(Server& server, size_t up_to_lines, const std::set<std::string>& ids) {
    while (lines < up_to_lines) {
      const auto line = server.Read();
      if (!line) return;
      std::istringstream words(*line);
      std::string word, id;
      words >> word >> id;
      if (word == "done") done.insert(id);
      if (word == "error") std::getline(words, errors[id]);
      if (word == "token") {
        size_t index = 0;
        int32_t token = 0;
        words >> index >> token;
        const auto [entry, fresh] = tokens[id].emplace(index, token);
        EXPECT_EQ(entry->second, token) << *line << ": was told otherwise before";
        lines += fresh ? 1 : 0;
      }
      if (std::all_of(ids.begin(), ids.end(), [this](const std::string& wanted) {
            return done.contains(wanted) || errors.contains(wanted);
          })) {
        return;
      }
    }
  }
  Tokens Of(const std::string& id) const {
    Tokens result;
    const auto found = tokens.find(id);
    if (found == tokens.end()) return result;
    for (const auto& [index, token] : found->second) {
      EXPECT_EQ(index, result.size()) << id << ": a token is missing";
      result.push_back(token);
    }
    return result;
  }
};

class ModelServerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared_daemon = new DaemonProcess; }
  static void TearDownTestSuite() {
    delete shared_daemon;
    shared_daemon = nullptr;
  }
  void SetUp() override {
    ASSERT_EQ(shared_daemon->error(), "");
    char folder[] = "/tmp/attnd-model-server-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
  }
  void TearDown() override {
    std::filesystem::remove_all(folder_);
    auto client = Client::Connect({.address = shared_daemon->address()});
    ASSERT_TRUE(client.ok()) << client.status();
    EXPECT_TRUE((*client)->CheckIntegrity().ok());
    const auto caches = (*client)->ListCaches();
    ASSERT_TRUE(caches.ok()) << caches.status();
    for (const CacheInfo& cache : *caches) {
      EXPECT_EQ(cache.pages_used, 0) << cache.name << ": the server freed what it had";
    }
  }
  Tokens Prompt(size_t length) {
    Tokens tokens(length);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % 512);
    return tokens;
  }
  static std::string Line(const std::string& id, size_t count, const Tokens& prompt) {
    return absl::StrCat(id, " ", count, " ", absl::StrJoin(prompt, " "));
  }

  static inline DaemonProcess* shared_daemon = nullptr;
  const TinyLlama model_{kWeights};
  std::mt19937_64 random_{29};
  std::string folder_;
};

constexpr size_t kAll = SIZE_MAX;

TEST_F(ModelServerTest, KilledAndResumedItGeneratesWhatTheModelDoesWithoutIt) {
  constexpr size_t kCount = 300;
  const std::map<std::string, Tokens> prompts = {
      {"short", Prompt(1)}, {"long", Prompt(70)}, {"late", Prompt(17)}};
  const std::set<std::string> ids = {"short", "long", "late"};
  const std::vector<std::string> options = {"--token_file", folder_ + "/token", "--max_rows", "32"};
  Told told;
  {
    Server server(shared_daemon->address(), options);
    server.Send(Line("short", kCount, prompts.at("short")));
    server.Send(Line("long", kCount, prompts.at("long")));
    told.Read(server, 40, ids);
    server.Send(Line("late", kCount, prompts.at("late")));  // joins a batch that is under way
    told.Read(server, 200, ids);
    server.Kill();
    told.Read(server, kAll, ids);  // what was in the pipe was told too
  }
  ASSERT_TRUE(told.done.empty()) << "it was killed in the middle";
  ASSERT_TRUE(told.tokens.contains("late")) << "it had the third request";
  Server server(shared_daemon->address(), options);
  server.CloseInput();
  told.Read(server, kAll, ids);
  EXPECT_EQ(told.done, ids);
  EXPECT_EQ(server.Wait(), 0);
  for (const auto& [id, prompt] : prompts) {
    EXPECT_EQ(told.Of(id), Generate(model_, prompt, kCount)) << id;
  }
}

TEST_F(ModelServerTest, ShortOfPagesItEvictsAndComputesAgain) {
  // 16 pages of 16 tokens. Each of three needs 100 / 16 = 7 at its end, and one to spare: two fit.
  Server server(shared_daemon->address(), {"--cache", "few-pages", "--page_quota", "16"});
  std::map<std::string, Tokens> prompts;
  for (const char* id : {"a", "b", "c"}) {
    prompts[id] = Prompt(40);
    server.Send(Line(id, 60, prompts[id]));
  }
  server.Send(Line("huge", 1, Prompt(16 * 20)));  // 20 pages; the first 256 tokens fit
  server.CloseInput();
  Told told;
  told.Read(server, kAll, {"a", "b", "c", "huge"});
  EXPECT_EQ(server.Wait(), 0);
  for (const auto& [id, prompt] : prompts) {
    EXPECT_EQ(told.Of(id), Generate(model_, prompt, 60)) << id;
  }
  EXPECT_THAT(told.errors["huge"], HasSubstr("RESOURCE_EXHAUSTED: needs 4 pages, 0 are free"));
}

TEST_F(ModelServerTest, AnswersABadRequestAndGoesOn) {
  Server server(shared_daemon->address(), {});
  server.Send("bad 3");
  server.Send("worse 3 1 two");
  server.Send("good 2 5");
  server.CloseInput();
  Told told;
  told.Read(server, kAll, {"bad", "worse", "good"});
  EXPECT_EQ(server.Wait(), 0);
  EXPECT_THAT(told.errors["bad"], HasSubstr("INVALID_ARGUMENT: expected ID MAX_TOKENS TOKEN..."));
  EXPECT_THAT(told.errors["worse"], HasSubstr("got \"worse 3 1 two\""));
  EXPECT_EQ(told.Of("good"), Generate(model_, {5}, 2));
}

}  // namespace
}  // namespace attnd::client
