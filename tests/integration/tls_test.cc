// SPDX-License-Identifier: Apache-2.0
//
// TLS: who may connect, with which certificates, and what a change of the files does.
#include <gmock/gmock.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "tests/fakes/test_certificates.h"
#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using Code = grpc::StatusCode;

class TlsTest : public testing::Test {
 protected:
  void Start(const InProcessDaemon::Change& change = {}) {
    WritePem(cert_, server_.cert_pem);
    WritePem(key_, server_.key_pem);
    daemon_.emplace([&](Options& options) {
      options.listen = {"127.0.0.1:0"};
      options.tls_cert = cert_;
      options.tls_key = key_;
      if (change) change(options);
    });
  }
  static TestCertificate Sign(const TestCertificate& ca, const std::string& name) {
    return MakeCertificate({.common_name = name, .ip_addresses = {"127.0.0.1"}, .issuer = &ca});
  }
  // A client that trusts `ca`, and shows `own` where there is one.
  TestClient Client(const TestCertificate& ca, const TestCertificate* own = nullptr,
                    const std::string& token = "") {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = ca.cert_pem;
    if (own != nullptr) {
      options.pem_private_key = own->key_pem;
      options.pem_cert_chain = own->cert_pem;
    }
    return TestClient(daemon_->address(),
                      {.token = token, .channel = grpc::SslCredentials(options)});
  }
  static grpc::Status Ask(TestClient& client) {
    grpc::ClientContext context;
    v1::GetCapabilitiesResponse response;
    return client.attention->GetCapabilities(&context, v1::GetCapabilitiesRequest(), &response);
  }

  TempDir dir_;
  const std::string cert_ = dir_.path("cert.pem"), key_ = dir_.path("key.pem");
  const std::string client_ca_ = dir_.path("client-ca.pem");
  const TestCertificate ca_ = MakeCa("servers"), clients_ = MakeCa("clients");
  const TestCertificate server_ = Sign(ca_, "attnd"), client_ = Sign(clients_, "client");
  std::optional<InProcessDaemon> daemon_;
};

TEST_F(TlsTest, ServesWhoTrustsItsCertificateAndNobodyInPlainText) {
  Start();
  TestClient good = Client(ca_);
  EXPECT_TRUE(Ask(good).ok());
  const v1::Id cache = good.OpenCache();
  const TestSession session = good.NewSession();
  Batch batch(session);
  batch.Add({.sequence = good.NewSequence(session, cache), .rows = 300});
  EXPECT_EQ(good.Attend(batch.request()).response.results(0).status().code(), Code::OK);

  TestClient plain(daemon_->address());
  EXPECT_EQ(Ask(plain).error_code(), Code::UNAVAILABLE);
  TestClient distrustful = Client(clients_);
  EXPECT_EQ(Ask(distrustful).error_code(), Code::UNAVAILABLE);
}

TEST_F(TlsTest, AUnixSocketStaysAsItIs) {
  TempDir dir;
  const std::string path = "unix:" + dir.path("s");
  Start([&](Options& options) { options.listen.push_back(path); });
  TestClient local(path);
  EXPECT_TRUE(Ask(local).ok());
}

TEST_F(TlsTest, WithAClientCaOnlyItsClientsGetIn) {
  WritePem(client_ca_, clients_.cert_pem);
  Start([&](Options& options) { options.tls_client_ca = client_ca_; });
  TestClient good = Client(ca_, &client_);
  EXPECT_TRUE(Ask(good).ok());
  TestClient none = Client(ca_);
  EXPECT_EQ(Ask(none).error_code(), Code::UNAVAILABLE);
  const TestCertificate stranger = Sign(ca_, "stranger");
  TestClient strange = Client(ca_, &stranger);
  EXPECT_EQ(Ask(strange).error_code(), Code::UNAVAILABLE);
  const TestCertificate expired = MakeCertificate({.common_name = "late",
                                                   .not_before_offset = std::chrono::hours(-2),
                                                   .not_after_offset = std::chrono::hours(-1),
                                                   .issuer = &clients_});
  TestClient late = Client(ca_, &expired);
  EXPECT_EQ(Ask(late).error_code(), Code::UNAVAILABLE);
}

// Over TLS a call without a good token is refused before gRPC receives its message.
TEST_F(TlsTest, TokensCountOverTlsToo) {
  const std::string tenants = dir_.path("tenants.yaml");
  WritePem(tenants, "tenants:\n- {name: chat, tokens: [token-of-chat-00]}\n");
  Start([&](Options& options) { options.tenants_file = tenants; });
  TestClient good = Client(ca_, nullptr, "token-of-chat-00");
  EXPECT_TRUE(Ask(good).ok());
  TestClient none = Client(ca_), wrong = Client(ca_, nullptr, "token-of-nobody-");
  EXPECT_EQ(Ask(none).error_code(), Code::UNAUTHENTICATED);
  EXPECT_THAT(Ask(none).error_message(), HasSubstr("has no token"));
  EXPECT_EQ(Ask(wrong).error_code(), Code::UNAUTHENTICATED);
  EXPECT_TRUE(CallByName(none, "/grpc.health.v1.Health/Check").ok()) << "health is everybody's";
  Batch batch(TestSession{});
  batch.Add({.sequence = v1::Id(), .rows = 1024});
  EXPECT_EQ(wrong.Attend(batch.request()).status.error_code(), Code::UNAUTHENTICATED);
}

// New connections are shown the new certificate; one that is bad is not taken, and those that stand
// go on.
TEST_F(TlsTest, AChangedCertificateIsTakenAndABadOneIsNot) {
  Start();
  TestClient old = Client(ca_);
  ASSERT_TRUE(Ask(old).ok());
  const TestCertificate new_ca = MakeCa("new servers");
  const TestCertificate renewed = Sign(new_ca, "renewed");
  WritePem(cert_, renewed.cert_pem);  // whose key is not there yet
  WritePem(key_, renewed.key_pem);
  for (;;) {
    TestClient fresh = Client(new_ca);
    if (Ask(fresh).ok()) break;
  }
  EXPECT_TRUE(Ask(old).ok());
  TestClient trusts_old = Client(ca_);
  EXPECT_EQ(Ask(trusts_old).error_code(), Code::UNAVAILABLE);

  const TestCertificate expired = MakeCertificate({.common_name = "expired",
                                                   .ip_addresses = {"127.0.0.1"},
                                                   .not_before_offset = std::chrono::hours(-2),
                                                   .not_after_offset = std::chrono::hours(-1),
                                                   .issuer = &new_ca});
  WritePem(key_, expired.key_pem);
  WritePem(cert_, expired.cert_pem);
  // Through the time in which the daemon has looked at it twice.
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(2500);
  while (std::chrono::steady_clock::now() < end) {
    TestClient fresh = Client(new_ca);
    ASSERT_TRUE(Ask(fresh).ok());
  }
}

TEST_F(TlsTest, ReflectionIsForLoopbackOnly) {
  Start([](Options& options) {
    options.listen = {"127.0.0.1:0", "0.0.0.0:0"};
    options.reflection = true;
  });
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  EXPECT_TRUE(CallByName(Client(ca_), method).ok());
  std::string address = daemon_->server().listen_addresses()[1];
  ASSERT_EQ(address.rfind("0.0.0.0:", 0), 0u) << address;
  address.replace(0, 7, "127.0.0.1");
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = ca_.cert_pem;
  TestClient public_one(address, {.channel = grpc::SslCredentials(options)});
  EXPECT_EQ(CallByName(public_one, method).error_code(), Code::UNIMPLEMENTED);
  EXPECT_TRUE(Ask(public_one).ok());
}

TEST_F(TlsTest, AnotherAddressThanLoopbackNeedsIt) {
  Options options;
  options.listen = {"0.0.0.0:0"};
  EXPECT_THAT(std::string(options.Validate().message()),
              HasSubstr("not a loopback address: it needs TLS (--tls_cert, --tls_key), or "
                        "--insecure"));
  options.tls_cert = cert_;
  options.tls_key = key_;
  EXPECT_TRUE(options.Validate().ok());
}

}  // namespace
}  // namespace attnd
