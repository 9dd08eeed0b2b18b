// SPDX-License-Identifier: Apache-2.0
#include "server/security/certificates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "tests/fakes/test_certificates.h"

namespace attnd {
namespace {

using std::chrono::hours;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CertificatesTest : public testing::Test {
 protected:
  CertificatesTest() {
    WritePem(files_.cert, good_.cert_pem);
    WritePem(files_.key, good_.key_pem);
    WritePem(files_.client_ca, ca_.cert_pem);
  }
  std::string ErrorOf(const TlsFiles& files) {
    const auto material = ReadTls(files, std::chrono::system_clock::now());
    EXPECT_EQ(material.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(material.status().message());
  }

  const std::string dir_ = testing::TempDir() + "/";
  const TlsFiles files_{
      .cert = dir_ + "cert.pem", .key = dir_ + "key.pem", .client_ca = dir_ + "ca.pem"};
  const TestCertificate ca_ = MakeCa("the CA");
  const TestCertificate good_ = MakeCertificate({.common_name = "attnd.example", .issuer = &ca_});
};

TEST_F(CertificatesTest, AGoodOneIsTakenWhole) {
  const auto now = std::chrono::system_clock::now();
  const auto material = ReadTls(files_, now);
  ASSERT_TRUE(material.ok()) << material.status();
  EXPECT_EQ(material->subject, "CN=attnd.example");
  EXPECT_THAT(material->identity_pem, AllOf(HasSubstr(good_.cert_pem), HasSubstr(good_.key_pem)));
  EXPECT_EQ(material->client_ca_pem, ca_.cert_pem);
  EXPECT_GT(material->expires, now + hours(23));
  EXPECT_LT(material->expires, now + hours(25));
}

TEST_F(CertificatesTest, Dates) {
  const TestCertificate expired = MakeCertificate({.common_name = "old",
                                                   .not_before_offset = hours(-2),
                                                   .not_after_offset = hours(-1),
                                                   .issuer = &ca_});
  WritePem(files_.cert, expired.cert_pem);
  WritePem(files_.key, expired.key_pem);
  EXPECT_THAT(ErrorOf(files_),
              AllOf(HasSubstr("--tls_cert \"" + files_.cert),
                    HasSubstr("certificate of CN=old expired at 20"), HasSubstr("now is 20")));
  const TestCertificate early = MakeCertificate({.common_name = "new",
                                                 .not_before_offset = hours(1),
                                                 .not_after_offset = hours(2),
                                                 .issuer = &ca_});
  WritePem(files_.cert, early.cert_pem);
  WritePem(files_.key, early.key_pem);
  EXPECT_THAT(ErrorOf(files_), HasSubstr("certificate of CN=new is valid from 20"));
}

TEST_F(CertificatesTest, AnExpiredClientCa) {
  const TestCertificate expired = MakeCertificate({.common_name = "old CA",
                                                   .not_before_offset = hours(-2),
                                                   .not_after_offset = hours(-1),
                                                   .is_ca = true});
  WritePem(files_.client_ca, expired.cert_pem);
  EXPECT_THAT(ErrorOf(files_), AllOf(HasSubstr("--tls_client_ca"), HasSubstr("CN=old CA expired")));
}

TEST_F(CertificatesTest, AnotherCertificatesKey) {
  WritePem(files_.key, ca_.key_pem);
  EXPECT_THAT(ErrorOf(files_), AllOf(HasSubstr("--tls_key \"" + files_.key),
                                     HasSubstr("is not the key of the certificate of CN=attnd")));
}

TEST_F(CertificatesTest, FilesThatAreNone) {
  TlsFiles missing = files_;
  missing.cert = "/nowhere/cert.pem";
  EXPECT_THAT(ErrorOf(missing), HasSubstr("--tls_cert \"/nowhere/cert.pem\": No such file"));
  missing = files_;
  missing.key = "/nowhere/key.pem";
  EXPECT_THAT(ErrorOf(missing), HasSubstr("--tls_key \"/nowhere/key.pem\": No such file"));
  missing = files_;
  missing.client_ca = "/nowhere/ca.pem";
  EXPECT_THAT(ErrorOf(missing), HasSubstr("--tls_client_ca \"/nowhere/ca.pem\": No such file"));
  missing.client_ca = dir_;
  EXPECT_THAT(ErrorOf(missing), HasSubstr("--tls_client_ca"));
}

TEST_F(CertificatesTest, ContentThatIsNone) {
  WritePem(files_.cert, "hello");
  EXPECT_THAT(ErrorOf(files_), HasSubstr("has no certificate; expected PEM"));
  WritePem(files_.cert, good_.key_pem);
  EXPECT_THAT(ErrorOf(files_), HasSubstr("has no certificate; expected PEM"));
  std::string cut = good_.cert_pem;
  WritePem(files_.cert, good_.cert_pem + cut.substr(0, cut.size() / 2));
  EXPECT_THAT(ErrorOf(files_), HasSubstr("certificate 2 in it is malformed"));
  WritePem(files_.cert, good_.cert_pem);
  WritePem(files_.key, good_.cert_pem);
  EXPECT_THAT(ErrorOf(files_), HasSubstr("has no private key; expected PEM"));
  WritePem(files_.key, "");
  EXPECT_THAT(ErrorOf(files_), HasSubstr("has no private key"));
}

TEST_F(CertificatesTest, AKeyThatEverybodyCanRead) {
  WritePem(files_.key, good_.key_pem, 0644);
  EXPECT_THAT(ErrorOf(files_), AllOf(HasSubstr("--tls_key"), HasSubstr("mode 0644")));
}

}  // namespace
}  // namespace attnd
