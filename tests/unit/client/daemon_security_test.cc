// SPDX-License-Identifier: Apache-2.0
//
// The client library and attnctl against a real daemon that speaks mutual TLS and knows tenants.
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "client/cpp/attend_stream.h"
#include "client/cpp/client.h"
#include "client/cpp/error_detail.h"
#include "tests/fakes/temp_folder.h"
#include "tests/fakes/test_certificates.h"
#include "tests/unit/client/daemon_process.h"

namespace attnd::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr CacheGeometry kGeometry{
    .num_layers = 1, .num_query_heads = 2, .num_kv_heads = 1, .head_dim_k = 64};

class DaemonSecurityTest : public testing::Test {
 protected:
  using Words = std::vector<std::string>;

  static void SetUpTestSuite() { shared = new Shared; }
  static void TearDownTestSuite() {
    delete shared;
    shared = nullptr;
  }
  void SetUp() override { ASSERT_EQ(shared->daemon->error(), ""); }

  // The daemon, the files of all, and a token for each of three tenants.
  struct Shared {
    Shared() {
      const TestCertificate server =
          MakeCertificate({.ip_addresses = {"127.0.0.1"}, .issuer = &ca});
      const TestCertificate client = MakeCertificate({.common_name = "client", .issuer = &ca});
      const TestCertificate stranger_ca = MakeCa("another CA");
      const TestCertificate stranger = MakeCertificate({.issuer = &stranger_ca});
      for (const auto& [name, made] :
           {std::pair("server", server), std::pair("client", client), std::pair("ca", ca),
            std::pair("stranger", stranger), std::pair("stranger_ca", stranger_ca)}) {
        WritePem(folder.File(name + std::string(".pem")), made.cert_pem, 0644);
        WritePem(folder.File(name + std::string(".key")), made.key_pem);
      }
      WritePem(folder.File("tenants.yaml"), "tenants:\n" + Tenant("chat", "tenant") +
                                                Tenant("batch", "tenant") +
                                                Tenant("root", "admin"));
      daemon = std::make_unique<DaemonProcess>(Words{
          "--tls_cert", folder.File("server.pem"), "--tls_key", folder.File("server.key"),
          "--tls_client_ca", folder.File("ca.pem"), "--tenants_file", folder.File("tenants.yaml")});
    }
    // Its token comes from attnctl, which writes it to a file and tells its digest.
    std::string Tenant(const std::string& name, const std::string& role) const {
      const ProgramResult made =
          RunProgram("attnctl", {"--json", "new-token", "--out", folder.File(name + ".token")});
      const auto json = nlohmann::json::parse(made.output, nullptr, false);
      return "  - {name: " + name + ", role: " + role + ", token_sha256: [" +
             json.value("token_sha256", "") + "]}\n";
    }

    const TempFolder folder;
    const TestCertificate ca = MakeCa();
    std::unique_ptr<DaemonProcess> daemon;
  };

  static std::string File(const std::string& name) { return shared->folder.File(name); }
  static Credentials Of(const std::string& tenant) {
    return {.tls_ca = File("ca.pem"),
            .tls_cert = File("client.pem"),
            .tls_key = File("client.key"),
            .token_file = tenant.empty() ? "" : File(tenant + ".token")};
  }
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const Credentials& credentials) {
    return Client::Connect({.address = shared->daemon->address(), .credentials = credentials});
  }
  // attnctl at the TLS port, with the client's certificate.
  static ProgramResult Attnctl(const Words& more) {
    Words words = {"--address",  shared->daemon->address(), "--tls_ca",  File("ca.pem"),
                   "--tls_cert", File("client.pem"),        "--tls_key", File("client.key")};
    words.insert(words.end(), more.begin(), more.end());
    return RunProgram("attnctl", words);
  }

  static inline Shared* shared = nullptr;
};

TEST_F(DaemonSecurityTest, MutualTlsAndATokenGetIn) {
  const auto client = Connect(Of("chat"));
  ASSERT_TRUE(client.ok()) << client.status();
  const auto session = (*client)->OpenSession();
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_TRUE((*session)->OpenStream()->Finish().ok());
  EXPECT_TRUE((*session)->Close().ok());
}

TEST_F(DaemonSecurityTest, OthersAreNotLetInByTls) {
  Credentials credentials = Of("chat");
  credentials.tls_ca = File("stranger_ca.pem");
  EXPECT_THAT(std::string(Connect(credentials).status().message()),
              HasSubstr("not signed by tls_ca " + File("stranger_ca.pem")));
  credentials = Of("chat");
  credentials.tls_cert = File("stranger.pem");
  credentials.tls_key = File("stranger.key");
  EXPECT_TRUE(absl::IsUnavailable(Connect(credentials).status()));
  credentials.tls_cert = credentials.tls_key = "";
  EXPECT_TRUE(absl::IsUnavailable(Connect(credentials).status()));
  EXPECT_TRUE(absl::IsUnavailable(Connect({}).status()));
}

TEST_F(DaemonSecurityTest, AWrongTokenAndNoneAreRefusedOverTlsAndOverTheSocket) {
  Credentials credentials = Of("");
  EXPECT_THAT(std::string(Connect(credentials).status().message()),
              AllOf(HasSubstr("has no token"), HasSubstr("this client sent no token")));
  credentials.token = "a-guess-of-enough-bytes";
  const absl::Status wrong = Connect(credentials).status();
  EXPECT_TRUE(absl::IsUnauthenticated(wrong));
  EXPECT_THAT(std::string(wrong.message()), Not(HasSubstr("a-guess")));
  for (const char* token : {"", "a-guess-of-enough-bytes"}) {
    const auto client = Client::Connect(
        {.address = shared->daemon->unix_address(), .credentials = {.token = token}});
    EXPECT_TRUE(absl::IsUnauthenticated(client.status())) << client.status();
  }
  EXPECT_TRUE(
      Client::Connect({.address = shared->daemon->unix_address(), .credentials = Of("chat")}).ok());
}

TEST_F(DaemonSecurityTest, TwoTenantsDoNotSeeEachOther) {
  const auto chat = *Connect(Of("chat")), batch = *Connect(Of("batch"));
  const auto cache = chat->OpenCache("model", kGeometry);
  ASSERT_TRUE(cache.ok()) << cache.status();
  const auto session = *chat->OpenSession();
  EXPECT_THAT(*batch->ListCaches(), IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(batch->CloseCache(cache->info.id)));
  const auto other = *batch->OpenSession();
  EXPECT_TRUE(absl::IsNotFound(other->CreateSequence(*cache).status()));
  EXPECT_TRUE(absl::IsNotFound(batch->ResumeSession(session->token()).status()));
  EXPECT_TRUE(session->CreateSequence(*cache).ok());
  EXPECT_TRUE(session->Close().ok());
  EXPECT_TRUE(chat->CloseCache(cache->info.id).ok());
}

TEST_F(DaemonSecurityTest, ATenantMayNotDrainAndAnAdminMayCheck) {
  const auto chat = *Connect(Of("chat")), root = *Connect(Of("root"));
  EXPECT_TRUE(absl::IsPermissionDenied(chat->Drain().status()));
  EXPECT_TRUE(absl::IsPermissionDenied(chat->CheckIntegrity().status()));
  EXPECT_TRUE(root->CheckIntegrity().ok());
}

TEST_F(DaemonSecurityTest, HealthNeedsNoToken) {
  const ProgramResult serving = Attnctl({"health"});
  EXPECT_EQ(serving.exit_code, 0) << serving.output;
  EXPECT_EQ(serving.output, "SERVING\n");
  EXPECT_EQ(Attnctl({"health", "--service", "attnd.v1.AttentionService"}).exit_code, 0);
  EXPECT_EQ(Attnctl({"health", "--service", "no.such.Service"}).exit_code, 1);
  const ProgramResult plain =
      RunProgram("attnctl", {"--address", shared->daemon->address(), "health"});
  EXPECT_EQ(plain.exit_code, 1);
  EXPECT_THAT(plain.output, HasSubstr("name its CA with tls_ca"));
  EXPECT_EQ(
      RunProgram("attnctl", {"--address", shared->daemon->unix_address(), "health"}).exit_code, 0);
}

TEST_F(DaemonSecurityTest, AttnctlTakesATokenFileAndSaysWhereItIsMissing) {
  const ProgramResult status = Attnctl({"--token_file", File("root.token"), "status"});
  EXPECT_EQ(status.exit_code, 0) << status.output;
  const ProgramResult missing = Attnctl({"status"});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.output,
              AllOf(HasSubstr("UNAUTHENTICATED"), HasSubstr("--token_file or ATTND_TOKEN_FILE")));
  WritePem(File("open.token"), "a-token-that-is-open-to-all", 0644);
  const ProgramResult open = Attnctl({"--token_file", File("open.token"), "status"});
  EXPECT_EQ(open.exit_code, 1);
  EXPECT_THAT(open.output, AllOf(HasSubstr("has mode 0644"), Not(HasSubstr("a-token"))));
}

TEST_F(DaemonSecurityTest, ATokenIsShownOnceOrNotAtAll) {
  const ProgramResult shown = RunProgram("attnctl", {"--json", "new-token"});
  const auto json = nlohmann::json::parse(shown.output, nullptr, false);
  EXPECT_EQ(json.value("token", "").size(), 64U) << shown.output;
  EXPECT_EQ(json.value("token_sha256", "").size(), 64U);
  const ProgramResult again = RunProgram("attnctl", {"new-token", "--out", File("chat.token")});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.output, HasSubstr("File exists"));
  const ProgramResult hidden = RunProgram("attnctl", {"new-token", "--out", File("new.token")});
  EXPECT_EQ(hidden.exit_code, 0);
  EXPECT_THAT(hidden.output, AllOf(HasSubstr(File("new.token")), HasSubstr("token_sha256")));
}

}  // namespace
}  // namespace attnd::client
