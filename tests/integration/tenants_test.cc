// SPDX-License-Identifier: Apache-2.0
//
// Tenants over the wire: nobody calls without a token, nobody finds, names or uses up what is
// another's, and a change of the file counts at once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "tests/fakes/test_certificates.h"
#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

constexpr char kChat[] = "token-of-chat-00", kCode[] = "token-of-code-00";
constexpr char kWatch[] = "token-of-watch-0", kRoot[] = "token-of-root-00";

std::string TenantsFile(const std::string& chat_limits = "") {
  return absl::StrCat("tenants:\n- {name: chat, tokens: [", kChat, "]", chat_limits,
                      "}\n- {name: code, tokens: [", kCode, "]}\n- {name: watch, role: monitor, ",
                      "tokens: [", kWatch, "]}\n- {name: root, role: admin, tokens: [", kRoot,
                      "]}\n");
}

class TenantsTest : public testing::Test {
 protected:
  explicit TenantsTest(const std::string& text = TenantsFile()) {
    WritePem(path_, text);
    daemon_.emplace([this](Options& options) { options.tenants_file = path_; });
  }
  TestClient Client(const std::string& token) {
    return TestClient(daemon_->address(), {.token = token});
  }
  // Waits until the daemon has read the file again: `token` is known then, or not.
  void WaitUntilKnown(const std::string& token, bool known) {
    TestClient client = Client(token);
    for (;;) {
      grpc::ClientContext context;
      v1::GetCapabilitiesResponse response;
      const grpc::Status status =
          client.attention->GetCapabilities(&context, v1::GetCapabilitiesRequest(), &response);
      if (status.ok() == known) return;
      ASSERT_TRUE(status.ok() || status.error_code() == Code::UNAUTHENTICATED);
    }
  }

  // What a stranger's calls must leave as it was, and proof that the cache is sound.
  std::string StateOf(TestClient& client, const TestSession& session) {
    grpc::ClientContext list_context, check_context;
    v1::ListSequencesRequest request;
    *request.mutable_session() = session.id;
    request.set_epoch(session.epoch);
    v1::ListSequencesResponse sequences;
    EXPECT_TRUE(client.sequences->ListSequences(&list_context, request, &sequences).ok());
    v1::CheckIntegrityResponse report;
    EXPECT_TRUE(Client(kRoot).admin->CheckIntegrity(&check_context, {}, &report).ok());
    return sequences.DebugString();
  }

  TempDir dir_;
  const std::string path_ = dir_.path("tenants.yaml");
  std::optional<InProcessDaemon> daemon_;
};

// Every method there is, by name, with an empty message: who has no good token learns nothing.
TEST_F(TenantsTest, NoMethodServesWithoutAGoodToken) {
  int methods = 0;
  for (const char* token : {"", "token-of-nobody-"}) {
    TestClient client = Client(token);
    const auto* pool = google::protobuf::DescriptorPool::generated_pool();
    for (const char* service : {"Admin", "Attention", "Cache", "Sequence", "Session"}) {
      const auto* descriptor =
          pool->FindServiceByName(absl::StrCat("attnd.v1.", service, "Service"));
      ASSERT_NE(descriptor, nullptr) << service;
      for (int i = 0; i < descriptor->method_count(); ++i) {
        const auto* method = descriptor->method(i);
        const grpc::Status status =
            CallByName(client, absl::StrCat("/", descriptor->full_name(), "/", method->name()));
        EXPECT_EQ(status.error_code(), Code::UNAUTHENTICATED)
            << method->full_name() << ": " << status.error_message();
        ++methods;
      }
    }
  }
  EXPECT_GE(methods, 2 * 20);
  // But for the health service, which says nothing of anybody.
  std::string answer;
  ASSERT_TRUE(CallByName(Client(""), "/grpc.health.v1.Health/Check", &answer).ok());
  EXPECT_EQ(answer, "\x08\x01");  // SERVING
}

// Each role, each method: what it may not do is refused before anything is looked at.
TEST_F(TenantsTest, RolesMayDoWhatTheyAreFor) {
  const std::pair<const char*, const char*> denied[] = {
      {kChat, "/attnd.v1.AdminService/Drain"},
      {kChat, "/attnd.v1.AdminService/CheckIntegrity"},
      {kChat, "/attnd.v1.AdminService/SetLogLevel"},
      {kWatch, "/attnd.v1.AdminService/Drain"},
      {kWatch, "/attnd.v1.AdminService/SetLogLevel"},
      {kWatch, "/attnd.v1.CacheService/OpenCache"},
      {kWatch, "/attnd.v1.SessionService/OpenSession"},
      {kWatch, "/attnd.v1.AttentionService/Attend"},
      {kWatch, "/attnd.v1.AttentionService/AttendStream"},
      {kWatch, "/attnd.v1.AttentionService/FlashAttention"},
      {kRoot, "/attnd.v1.SessionService/OpenSession"},
      {kRoot, "/attnd.v1.AttentionService/Attend"},
  };
  for (const auto& [token, method] : denied) {
    const grpc::Status status = CallByName(Client(token), method);
    EXPECT_EQ(status.error_code(), Code::PERMISSION_DENIED) << token << " " << method;
  }
  const std::pair<const char*, const char*> allowed[] = {
      {kChat, "/attnd.v1.AdminService/GetStats"},
      {kChat, "/attnd.v1.AdminService/ListSessions"},
      {kChat, "/attnd.v1.SessionService/OpenSession"},
      {kWatch, "/attnd.v1.AdminService/GetStats"},
      {kWatch, "/attnd.v1.AdminService/ListSessions"},
      {kWatch, "/attnd.v1.CacheService/ListCaches"},
      {kRoot, "/attnd.v1.AdminService/CheckIntegrity"},
      {kRoot, "/attnd.v1.AdminService/SetLogLevel"},
  };
  for (const auto& [token, method] : allowed) {
    const grpc::Status status = CallByName(Client(token), method);
    EXPECT_TRUE(status.ok()) << token << " " << method << ": " << status.error_message();
  }
}

TEST_F(TenantsTest, AnotherTenantsObjectsDoNotExist) {
  TestClient chat = Client(kChat), code = Client(kCode);
  const v1::Id cache = chat.OpenCache("model");
  const TestSession session = chat.NewSession();
  const v1::Id sequence = chat.NewSequence(session, cache);
  Batch batch(session);
  batch.Add({.sequence = sequence, .rows = 4});
  ASSERT_EQ(chat.Attend(batch.request()).response.results(0).status().code(), Code::OK);
  const std::string before = StateOf(chat, session);

  // By the ids, with the owner's session as with its own.
  const TestSession own = code.NewSession();
  EXPECT_EQ(code.Attend(batch.request()).status.error_code(), Code::NOT_FOUND);
  Batch own_batch(own);
  own_batch.Add({.sequence = sequence, .rows = 4, .start = 4});
  const AttendReply by_own = code.Attend(own_batch.request());
  EXPECT_EQ(by_own.response.results(0).status().code(), Code::NOT_FOUND);
  EXPECT_EQ(code.Free(session, sequence).error_code(), Code::NOT_FOUND);
  EXPECT_EQ(code.Free(own, sequence).error_code(), Code::NOT_FOUND);
  EXPECT_EQ(code.Truncate(session, sequence, 0).error_code(), Code::NOT_FOUND);
  {
    grpc::ClientContext context;
    v1::ResumeSessionRequest request;
    v1::ResumeSessionResponse response;
    request.set_token(session.token);
    EXPECT_EQ(code.sessions->ResumeSession(&context, request, &response).error_code(),
              Code::NOT_FOUND);
  }
  {
    grpc::ClientContext context;
    v1::CloseCacheRequest request;
    v1::CloseCacheResponse response;
    *request.mutable_cache() = cache;
    EXPECT_EQ(code.caches->CloseCache(&context, request, &response).error_code(), Code::NOT_FOUND);
  }
  // A stream is no way round.
  {
    grpc::ClientContext context;
    const auto stream = code.attention->AttendStream(&context);
    ASSERT_TRUE(stream->Write(batch.request()));
    v1::AttendResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.status().code(), Code::NOT_FOUND);
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
  }
  // Nor is the name: it is free, and names another cache.
  EXPECT_NE(code.OpenCache("model").SerializeAsString(), cache.SerializeAsString());
  EXPECT_EQ(StateOf(chat, session), before);
}

// What a tenant is shown is its own; who watches is shown all.
TEST_F(TenantsTest, FiguresAreOnesOwn) {
  TestClient chat = Client(kChat), code = Client(kCode), watch = Client(kWatch);
  chat.OpenCache("secret-plans");
  const TestSession session = chat.NewSession();
  code.OpenCache("model");
  const v1::GetStatsResponse of_code = code.Stats(), of_all = watch.Stats();
  EXPECT_THAT(of_code.DebugString(), testing::Not(HasSubstr("secret-plans")));
  EXPECT_THAT(of_code.DebugString(), testing::Not(HasSubstr("chat")));
  EXPECT_EQ(of_code.caches_size(), 1);
  EXPECT_EQ(of_code.sessions(), 0);
  ASSERT_EQ(of_code.tenants_size(), 1);
  EXPECT_EQ(of_code.tenants(0).name(), "code");
  EXPECT_EQ(of_code.pool_bytes(), 32u << 20);  // half of 64 MiB
  EXPECT_THAT(of_all.DebugString(), HasSubstr("secret-plans"));
  EXPECT_EQ(of_all.caches_size(), 2);
  EXPECT_EQ(of_all.sessions(), 1);
  EXPECT_EQ(of_all.pool_bytes(), 64u << 20);
  EXPECT_EQ(of_all.tenants_size(), 2);

  grpc::ClientContext context, all_context;
  v1::ListSessionsResponse sessions, all_sessions;
  ASSERT_TRUE(code.admin->ListSessions(&context, {}, &sessions).ok());
  EXPECT_EQ(sessions.sessions_size(), 0);
  ASSERT_TRUE(watch.admin->ListSessions(&all_context, {}, &all_sessions).ok());
  ASSERT_EQ(all_sessions.sessions_size(), 1);
  EXPECT_EQ(all_sessions.sessions(0).tenant(), "chat");
}

TEST_F(TenantsTest, NobodySpeaksForAnotherTenant) {
  TestClient chat = Client(kChat);
  v1::OpenSessionRequest request;
  v1::OpenSessionResponse response;
  grpc::ClientContext denied, own;
  request.set_tenant("code");
  const grpc::Status status = chat.sessions->OpenSession(&denied, request, &response);
  EXPECT_EQ(status.error_code(), Code::PERMISSION_DENIED);
  EXPECT_THAT(status.error_message(), HasSubstr("the token is of \"chat\""));
  request.set_tenant("chat");
  EXPECT_TRUE(chat.sessions->OpenSession(&own, request, &response).ok());
}

class LimitedTenantsTest : public TenantsTest {
 protected:
  LimitedTenantsTest() : TenantsTest(TenantsFile(", max_kv_bytes: 2MiB, max_sessions: 2")) {}
};

TEST_F(LimitedTenantsTest, NobodyUsesUpWhatIsAnothers) {
  TestClient chat = Client(kChat), code = Client(kCode);
  const v1::Id cache = chat.OpenCache();
  const TestSession session = chat.NewSession();
  chat.NewSession();
  grpc::ClientContext context;
  v1::OpenSessionResponse response;
  const grpc::Status status =
      chat.sessions->OpenSession(&context, v1::OpenSessionRequest(), &response);
  EXPECT_EQ(status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf(status)->reason(), v1::ErrorDetail::TENANT_LIMIT);

  // One superblock of pages and no more, while the other has the pool.
  const v1::Id sequence = chat.NewSequence(session, cache);
  v1::ItemStatus last;
  int64_t start = 0;
  for (uint64_t step = 1; step < 100 && last.code() == Code::OK; ++step) {
    Batch batch(session, step);
    batch.Add({.sequence = sequence, .rows = 256, .step = step, .start = start});
    last = chat.Attend(batch.request()).response.results(0).status();
    if (last.code() == Code::OK) start += 256;
  }
  EXPECT_EQ(last.code(), Code::RESOURCE_EXHAUSTED) << last.message();
  EXPECT_EQ(last.detail().reason(), v1::ErrorDetail::TENANT_LIMIT);
  EXPECT_THAT(last.message(), HasSubstr("within the 2 MiB of tenant 'chat'"));
  EXPECT_EQ(Client(kWatch).Stats().tenants(0).kv_bytes(), 2u << 20);
  EXPECT_EQ(Client(kWatch).Stats().tenants(0).refused_total(), 2u);
  const TestSession other = code.NewSession();
  Batch batch(other);
  batch.Add({.sequence = code.NewSequence(other, code.OpenCache()), .rows = 1024});
  EXPECT_EQ(code.Attend(batch.request()).response.results(0).status().code(), Code::OK);
}

TEST_F(TenantsTest, AChangeOfTheFileCountsAtOnce) {
  TestClient chat = Client(kChat);
  const TestSession session = chat.NewSession();
  const v1::Id sequence = chat.NewSequence(session, chat.OpenCache());
  grpc::ClientContext context;
  const auto stream = chat.attention->AttendStream(&context);
  Batch batch(session);
  batch.Add({.sequence = sequence, .rows = 4});
  v1::AttendResponse response;
  ASSERT_TRUE(stream->Write(batch.request()) && stream->Read(&response));
  EXPECT_FALSE(response.has_status());

  // A bad file changes nothing.
  WritePem(path_, "tenants: [");
  // A new token beside the old, for a change without a gap.
  WritePem(path_,
           absl::StrCat("tenants:\n- {name: chat, tokens: [", kChat, ", token-of-chat-01]}\n"));
  WaitUntilKnown("token-of-chat-01", true);
  ASSERT_TRUE(stream->Write(batch.request()) && stream->Read(&response));
  EXPECT_FALSE(response.has_status());
  // Then the old goes, for calls that last as well.
  WritePem(path_, "tenants:\n- {name: chat, tokens: [token-of-chat-01]}\n");
  WaitUntilKnown(kChat, false);
  ASSERT_TRUE(stream->Write(batch.request()) && stream->Read(&response));
  EXPECT_EQ(response.status().code(), Code::UNAUTHENTICATED);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  // The tenant is who it was.
  EXPECT_EQ(Client("token-of-chat-01").Describe(session, sequence).layer_lengths(0), 4);
}

// Everybody's figures are for a monitor or an admin, unless the port is loopback's.
TEST(MetricsPortTest, ElsewhereThanOnLoopbackItWantsAToken) {
  TempDir dir;
  const std::string path = dir.path("tenants.yaml");
  WritePem(path, TenantsFile());
  for (const bool loopback : {false, true}) {
    InProcessDaemon daemon([&](Options& options) {
      options.tenants_file = path;
      options.metrics_listen = loopback ? "127.0.0.1:0" : "0.0.0.0:0";
      options.insecure_metrics = !loopback;
    });
    std::string address = daemon.metrics_address();
    address.replace(0, address.rfind(':'), "127.0.0.1");
    const auto bearer = [](const char* token) { return absl::StrCat("Bearer ", token); };
    for (const char* page : {"/metrics", "/api/status", "/"}) {
      HttpGet(address, page, loopback ? 200 : 401);
      HttpGet(address, page, loopback ? 200 : 401, bearer("token-of-nobody-"));
      HttpGet(address, page, loopback ? 200 : 403, bearer(kChat));
      HttpGet(address, page, 200, bearer(kWatch));
      HttpGet(address, page, 200, bearer(kRoot));
      const std::string basic =
          absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat("anybody:", kWatch)));
      HttpGet(address, page, 200, basic);
    }
    HttpGet(address, "/healthz");
    HttpGet(address, "/readyz");
  }
}

// The whole log of a daemon that says all it can, with tokens good and bad, and sessions resumed.
TEST(SecretsTest, AreNeverLogged) {
  TempDir dir;
  const std::string path = dir.path("tenants.yaml");
  WritePem(path, TenantsFile());
  ChildDaemon daemon({"--tenants_file=" + path, "--log_level=trace"});
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  TestClient chat(daemon.address(), {.token = kChat});
  const TestSession session = chat.NewSession();
  TestClient stranger(daemon.address(), {.token = "token-of-nobody-"});
  EXPECT_EQ(CallByName(stranger, "/attnd.v1.AdminService/GetStats").error_code(),
            Code::UNAUTHENTICATED);
  WritePem(path, absl::StrCat("tenants:\n- {name: chat, tokens: [", kChat, "]\n  nonsense"));
  v1::ResumeSessionRequest request;
  v1::ResumeSessionResponse response;
  grpc::ClientContext context, again;
  request.set_token(session.token);
  EXPECT_TRUE(chat.sessions->ResumeSession(&context, request, &response).ok());
  request.set_token("0123456789abcdef");
  EXPECT_FALSE(chat.sessions->ResumeSession(&again, request, &response).ok());
  while (daemon.log().find("not read again") == std::string::npos) {
    CallByName(chat, "/attnd.v1.AdminService/GetStats");
  }
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 0);
  const std::string log = daemon.log();
  EXPECT_THAT(log, HasSubstr("ResumeSession"));
  const std::string hex = absl::BytesToHexString(session.token);
  for (const std::string& secret :
       {std::string(kChat), std::string(kRoot), std::string("token-of-nobody-"), session.token, hex,
        std::string("0123456789abcdef")}) {
    EXPECT_THAT(log, testing::Not(HasSubstr(secret)));
  }
}

}  // namespace
}  // namespace attnd
