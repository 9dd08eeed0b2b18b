// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/tls_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/fakes/test_certificates.h"

namespace attnd::client {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(TlsFilesTest, ReadsEachCertificateOfABundle) {
  const TestCertificate ca = MakeCa("the CA");
  const TestCertificate leaf = MakeCertificate({.common_name = "leaf", .issuer = &ca});
  const auto found = ParseCertificates("tls_ca", "/ca.pem", leaf.cert_pem + "\n" + ca.cert_pem);
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 2U);
  EXPECT_EQ((*found)[0].subject, "CN=leaf");
  EXPECT_EQ((*found)[0].issuer, "CN=the CA");
  EXPECT_NEAR(absl::ToDoubleHours((*found)[0].not_after - absl::Now()), 24, 0.1);
  EXPECT_NEAR(absl::ToDoubleMinutes(absl::Now() - (*found)[0].not_before), 5, 0.1);
}

TEST(TlsFilesTest, SaysWhatIsNoCertificate) {
  const TestCertificate ca = MakeCa();
  for (const std::string& text : {std::string(), std::string("hello"), ca.key_pem}) {
    EXPECT_THAT(MessageOf(ParseCertificates("tls_ca", "/ca.pem", text).status()),
                StartsWith("tls_ca: /ca.pem: no certificate in it"));
  }
  std::string torn = ca.cert_pem;
  torn.replace(torn.find("MII"), 3, "AAA");
  EXPECT_THAT(MessageOf(ParseCertificates("tls_ca", "/ca.pem", ca.cert_pem + torn).status()),
              StartsWith("tls_ca: /ca.pem: certificate 2 is malformed"));
}

TEST(TlsFilesTest, IsValidBetweenItsDates) {
  const absl::Time begin = absl::FromUnixSeconds(1'700'000'000), end = begin + absl::Hours(1);
  const CertificateInfo info{.subject = "CN=x", .not_before = begin, .not_after = end};
  EXPECT_TRUE(CheckDates("tls_cert", "/c", info, begin).ok());
  EXPECT_TRUE(CheckDates("tls_cert", "/c", info, end).ok());
  EXPECT_EQ(MessageOf(CheckDates("tls_cert", "/c", info, end + absl::Seconds(1))),
            "tls_cert: /c: the certificate of CN=x expired on 2023-11-14 23:13:20 UTC, and now is "
            "2023-11-14 23:13:21 UTC");
  EXPECT_THAT(MessageOf(CheckDates("tls_cert", "/c", info, begin - absl::Seconds(1))),
              HasSubstr("is valid from 2023-11-14 22:13:20 UTC on"));
}

// A key under a passphrase, made by `openssl pkey -aes128`: of no certificate anywhere.
constexpr char kEncryptedHead[] =
    "-----BEGIN RSA PRIVATE KEY-----\n"
    "Proc-Type: 4,ENCRYPTED\n"
    "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    "-----END RSA PRIVATE KEY-----\n";

TEST(TlsFilesTest, AKeyIsItsCertificatesOwn) {
  const TestCertificate one = MakeCa("one"), two = MakeCa("two");
  const auto check = [&one](const std::string& key_pem) {
    return CheckKey("tls_key", "/k", key_pem, "/c", one.cert_pem);
  };
  EXPECT_TRUE(check(one.key_pem).ok());
  EXPECT_EQ(MessageOf(check(two.key_pem)),
            "tls_key: /k: the key is not that of the certificate in /c");
  EXPECT_THAT(MessageOf(check(one.cert_pem)), StartsWith("tls_key: /k: no private key in it"));
  EXPECT_EQ(MessageOf(check(kEncryptedHead)),
            "tls_key: /k: the key is encrypted, expected one without a passphrase");
  // Nothing of a failure is left behind for the next one.
  EXPECT_TRUE(check(one.key_pem).ok());
}

}  // namespace
}  // namespace attnd::client
