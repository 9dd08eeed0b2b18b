// SPDX-License-Identifier: Apache-2.0
//
// Who gets in by TLS, mutual TLS and tokens, and what the others are told, against a fake daemon.
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cpp/attend_stream.h"
#include "client/cpp/client.h"
#include "client/cpp/error_detail.h"
#include "client/cpp/health.h"
#include "tests/fakes/temp_folder.h"
#include "tests/fakes/test_certificates.h"
#include "tests/unit/client/fake_daemon.h"

namespace attnd::client {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

class SecurityTest : public testing::Test {
 protected:
  SecurityTest() {
    WritePem(ca_file_, ca_.cert_pem, 0644);
    WritePem(cert_file_, client_.cert_pem, 0644);
    WritePem(key_file_, client_.key_pem);
  }

  // Speaks TLS with this certificate; `mutual`: and wants one that the CA signed.
  std::unique_ptr<FakeDaemon> Serve(const TestCertificate& certificate, bool mutual = false) {
    grpc::SslServerCredentialsOptions options(
        mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
               : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
    options.pem_root_certs = ca_.cert_pem;
    options.pem_key_cert_pairs.push_back({certificate.key_pem, certificate.cert_pem});
    return std::make_unique<FakeDaemon>(grpc::SslServerCredentials(options));
  }
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const FakeDaemon& daemon,
                                                         const Credentials& credentials) {
    return Client::Connect({.address = daemon.address(), .credentials = credentials});
  }
  // What Connect says without asking anybody.
  static std::string ErrorOf(const Credentials& credentials,
                             const std::string& address = "127.0.0.1:1") {
    const auto client = Client::Connect({.address = address, .credentials = credentials});
    EXPECT_TRUE(absl::IsInvalidArgument(client.status())) << client.status();
    return MessageOf(client.status());
  }

  const TempFolder folder_;
  const TestCertificate ca_ = MakeCa();
  const TestCertificate server_ = MakeCertificate(
      {.dns_names = {"attnd.example"}, .ip_addresses = {"127.0.0.1"}, .issuer = &ca_});
  const TestCertificate client_ = MakeCertificate({.common_name = "client", .issuer = &ca_});
  const std::string ca_file_ = folder_.File("ca.pem");
  const std::string cert_file_ = folder_.File("client.pem");
  const std::string key_file_ = folder_.File("client.key");
};

TEST_F(SecurityTest, TlsWithTheDaemonsCa) {
  const auto daemon = Serve(server_);
  EXPECT_TRUE(Connect(*daemon, {.tls_ca = ca_file_}).ok());
  EXPECT_TRUE(Connect(*daemon, {.tls_ca = ca_file_, .tls_server_name = "attnd.example"}).ok());
  EXPECT_TRUE(
      CheckHealth({.address = daemon->address(), .credentials = {.tls_ca = ca_file_}}).ok());
}

TEST_F(SecurityTest, MutualTlsWantsTheClientsCertificate) {
  const auto daemon = Serve(server_, /*mutual=*/true);
  EXPECT_TRUE(
      Connect(*daemon, {.tls_ca = ca_file_, .tls_cert = cert_file_, .tls_key = key_file_}).ok());
  const auto none = Connect(*daemon, {.tls_ca = ca_file_});
  EXPECT_TRUE(absl::IsUnavailable(none.status())) << none.status();
}

TEST_F(SecurityTest, AHandshakeThatFailsSaysWhatToCheckAndIsNoLostDaemon) {
  const TestCertificate other_ca = MakeCa("another CA");
  WritePem(folder_.File("other.pem"), other_ca.cert_pem);
  const TestCertificate expired = MakeCertificate({.ip_addresses = {"127.0.0.1"},
                                                   .not_before_offset = -std::chrono::hours(2),
                                                   .not_after_offset = -std::chrono::hours(1),
                                                   .issuer = &ca_});
  const auto refused = [](const FakeDaemon& daemon, const Credentials& credentials) {
    const absl::Status status = Connect(daemon, credentials).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_FALSE(IsChannelError(status)) << status;
    EXPECT_THAT(MessageOf(status),
                HasSubstr("TLS handshake with the daemon at " + daemon.address() + " failed: "));
    return MessageOf(status);
  };
  const auto daemon = Serve(server_);
  EXPECT_THAT(refused(*daemon, {.tls_ca = folder_.File("other.pem")}),
              HasSubstr("not signed by tls_ca " + folder_.File("other.pem")));
  EXPECT_THAT(refused(*daemon, {.tls = true}), HasSubstr("not signed by a CA of the system"));
  EXPECT_THAT(refused(*daemon, {.tls_ca = ca_file_, .tls_server_name = "other.example"}),
              HasSubstr("not for tls_server_name other.example"));
  EXPECT_THAT(refused(*Serve(expired), {.tls_ca = ca_file_}), HasSubstr("not valid now"));
  EXPECT_THAT(refused(FakeDaemon(), {.tls_ca = ca_file_}), HasSubstr("speaks no TLS"));
}

TEST_F(SecurityTest, PlainTextToATlsPortSaysThatItMayBeOne) {
  const auto daemon = Serve(server_);
  EXPECT_THAT(MessageOf(Connect(*daemon, {}).status()),
              HasSubstr("if the daemon speaks TLS, name its CA with tls_ca"));
}

TEST_F(SecurityTest, FilesThatCannotWorkAreNamedBeforeConnecting) {
  const TestCertificate expired = MakeCertificate({.not_before_offset = -std::chrono::hours(2),
                                                   .not_after_offset = -std::chrono::hours(1),
                                                   .issuer = &ca_});
  const std::string expired_file = folder_.File("expired.pem"),
                    expired_key = folder_.File("expired.key");
  WritePem(expired_file, expired.cert_pem);
  WritePem(expired_key, expired.key_pem);
  EXPECT_THAT(ErrorOf({.tls_ca = folder_.File("none")}), HasSubstr("No such file"));
  EXPECT_THAT(ErrorOf({.tls_ca = key_file_}), HasSubstr("no certificate in it"));
  EXPECT_THAT(ErrorOf({.tls_ca = expired_file}), HasSubstr("tls_ca: " + expired_file));
  EXPECT_THAT(ErrorOf({.tls_cert = expired_file, .tls_key = expired_key}),
              AllOf(HasSubstr("tls_cert: " + expired_file), HasSubstr("expired on")));
  EXPECT_THAT(ErrorOf({.tls_cert = cert_file_, .tls_key = expired_key}),
              HasSubstr("not that of the certificate in " + cert_file_));
  EXPECT_THAT(ErrorOf({.tls_cert = cert_file_}), HasSubstr("given without tls_key"));
  EXPECT_THAT(ErrorOf({.tls_key = key_file_}), HasSubstr("given without tls_cert"));
  WritePem(key_file_, client_.key_pem, 0604);
  EXPECT_THAT(ErrorOf({.tls_cert = cert_file_, .tls_key = key_file_}), HasSubstr("has mode 0604"));
}

TEST_F(SecurityTest, ABundleOfCasMayHaveOldOnesInIt) {
  const TestCertificate old = MakeCertificate({.not_before_offset = -std::chrono::hours(2),
                                               .not_after_offset = -std::chrono::hours(1),
                                               .is_ca = true});
  WritePem(folder_.File("bundle.pem"), old.cert_pem + ca_.cert_pem);
  EXPECT_TRUE(Connect(*Serve(server_), {.tls_ca = folder_.File("bundle.pem")}).ok());
}

// Tokens in the order in which the daemon saw them; one of them is good.
class Tokens {
 public:
  // `on_refusal` runs for each that is not, before the daemon answers.
  explicit Tokens(FakeDaemon& daemon, std::string good,
                  std::function<void(const std::string&)> on_refusal = nullptr)
      : good_(std::move(good)) {
    daemon.on_token = [this, on_refusal = std::move(on_refusal)](const std::string& token) {
      const std::lock_guard lock(mu_);
      seen_.push_back(token);
      if (token == good_) return grpc::Status::OK;
      if (on_refusal != nullptr) on_refusal(token);
      return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "no such token");
    };
  }
  void Change(const std::string& good) {
    const std::lock_guard lock(mu_);
    good_ = good;
  }
  std::vector<std::string> seen() {
    const std::lock_guard lock(mu_);
    return seen_;
  }

 private:
  std::mutex mu_;
  std::string good_;
  std::vector<std::string> seen_;
};

TEST_F(SecurityTest, CallsAndStreamsCarryTheToken) {
  FakeDaemon daemon;
  Tokens tokens(daemon, "secret");
  daemon.on_stream = [](grpc::ServerContext&, FakeDaemon::Stream*) { return grpc::Status::OK; };
  const auto client = Connect(daemon, {.token = "secret"});
  ASSERT_TRUE(client.ok()) << client.status();
  const auto session = (*client)->OpenSession();
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_TRUE((*session)->OpenStream()->Finish().ok());
  EXPECT_THAT(tokens.seen(), ElementsAre("secret", "secret", "secret"));
}

TEST_F(SecurityTest, AWrongTokenIsNotRepeatedAndNotShown) {
  FakeDaemon daemon;
  Tokens tokens(daemon, "secret");
  const absl::Status wrong = Connect(daemon, {.token = "guess"}).status();
  EXPECT_TRUE(absl::IsUnauthenticated(wrong));
  EXPECT_THAT(MessageOf(wrong),
              AllOf(HasSubstr("no such token (this client sent the token that it was given)"),
                    Not(HasSubstr("guess"))));
  EXPECT_THAT(MessageOf(Connect(daemon, {}).status()), HasSubstr("this client sent no token"));
  EXPECT_THAT(tokens.seen(), ElementsAre("guess", ""));
}

TEST_F(SecurityTest, ATokenThatIsRotatedWhileItIsSentIsReadAgainOnce) {
  FakeDaemon daemon;
  const std::string path = folder_.File("token");
  WritePem(path, "1");
  // The file has another token each time that one is refused.
  Tokens tokens(daemon, "1", [&path](const std::string& token) { WritePem(path, token + "1"); });
  const auto client = Connect(daemon, {.token_file = path});
  ASSERT_TRUE(client.ok()) << client.status();
  tokens.Change("11");
  EXPECT_TRUE((*client)->OpenSession({.renew_lease = false}).ok());
  EXPECT_THAT(tokens.seen(), ElementsAre("1", "1", "11"));
  tokens.Change("1111");
  EXPECT_TRUE(absl::IsUnauthenticated((*client)->OpenSession().status()));
  EXPECT_THAT(tokens.seen(), ElementsAre("1", "1", "11", "11", "111"));
}

TEST_F(SecurityTest, ATokenDoesNotCrossANetworkInPlainText) {
  for (const std::string address : {"10.0.0.1:7450", "attnd.example:7450", "127.example.com:1"}) {
    EXPECT_THAT(ErrorOf({.token = "secret"}, address),
                AllOf(HasSubstr(address), HasSubstr("in plain text"), Not(HasSubstr("secret"))));
  }
  // Meant, and local: refused by nobody but the network.
  for (const Credentials& credentials :
       {Credentials{.token = "secret"}, Credentials{.token = "secret", .insecure = true}}) {
    const auto client = Client::Connect({.address = "127.0.0.1:1", .credentials = credentials});
    EXPECT_TRUE(IsChannelError(client.status())) << client.status();
  }
}

TEST_F(SecurityTest, OverAUnixSocketTlsIsNotUsed) {
  const auto client = Client::Connect({.address = "unix:" + folder_.File("nobody"),
                                       .credentials = {.tls_ca = "/nowhere", .token = "secret"}});
  EXPECT_TRUE(IsChannelError(client.status())) << client.status();
}

}  // namespace
}  // namespace attnd::client
