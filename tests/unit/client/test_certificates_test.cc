// SPDX-License-Identifier: Apache-2.0
//
// The tests' certificates are what they say, by OpenSSL's own verification.
#include "tests/fakes/test_certificates.h"

#include <sys/stat.h>
#include <memory>

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "tests/fakes/temp_folder.h"

namespace attnd {
namespace {

using X509Pointer = std::unique_ptr<X509, decltype(&X509_free)>;

X509Pointer Parse(const std::string& pem) {
  std::unique_ptr<BIO, decltype(&BIO_free_all)> bio(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free_all);
  return {PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free};
}

// The verification's X509_V_... code.
int Verify(const TestCertificate& certificate, const std::string& ca_pem) {
  X509Pointer leaf = Parse(certificate.cert_pem), ca = Parse(ca_pem);
  std::unique_ptr<X509_STORE, decltype(&X509_STORE_free)> store(X509_STORE_new(), X509_STORE_free);
  X509_STORE_add_cert(store.get(), ca.get());
  std::unique_ptr<X509_STORE_CTX, decltype(&X509_STORE_CTX_free)> context(X509_STORE_CTX_new(),
                                                                          X509_STORE_CTX_free);
  X509_STORE_CTX_init(context.get(), store.get(), leaf.get(), nullptr);
  X509_verify_cert(context.get());
  return X509_STORE_CTX_get_error(context.get());
}

TEST(TestCertificatesTest, ChainsToItsIssuerAndToNoOther) {
  const TestCertificate ca = MakeCa(), other = MakeCa("another CA");
  const TestCertificate leaf = MakeCertificate({.issuer = &ca});
  EXPECT_EQ(leaf.ca_pem, ca.cert_pem);
  EXPECT_EQ(Verify(leaf, ca.cert_pem), X509_V_OK);
  EXPECT_NE(Verify(leaf, other.cert_pem), X509_V_OK);
}

TEST(TestCertificatesTest, HoldsTheNamesThatItWasGiven) {
  const TestCertificate certificate =
      MakeCertificate({.dns_names = {"attnd.example"}, .ip_addresses = {"127.0.0.1", "::1"}});
  const X509Pointer x509 = Parse(certificate.cert_pem);
  EXPECT_EQ(X509_check_host(x509.get(), "attnd.example", 0, 0, nullptr), 1);
  EXPECT_EQ(X509_check_host(x509.get(), "other.example", 0, 0, nullptr), 0);
  EXPECT_EQ(X509_check_ip_asc(x509.get(), "127.0.0.1", 0), 1);
  EXPECT_EQ(X509_check_ip_asc(x509.get(), "::1", 0), 1);
  EXPECT_EQ(X509_check_ip_asc(x509.get(), "127.0.0.2", 0), 0);
}

TEST(TestCertificatesTest, IsValidOnlyBetweenItsDates) {
  using std::chrono::hours;
  const TestCertificate ca = MakeCa();
  const TestCertificate expired = MakeCertificate(
      {.not_before_offset = hours(-2), .not_after_offset = hours(-1), .issuer = &ca});
  EXPECT_EQ(Verify(expired, ca.cert_pem), X509_V_ERR_CERT_HAS_EXPIRED);
  const TestCertificate early =
      MakeCertificate({.not_before_offset = hours(1), .not_after_offset = hours(2), .issuer = &ca});
  EXPECT_EQ(Verify(early, ca.cert_pem), X509_V_ERR_CERT_NOT_YET_VALID);
}

TEST(TestCertificatesTest, WritesAFileOfTheModeAsked) {
  const TempFolder folder;
  WritePem(folder.File("key.pem"), "first");
  WritePem(folder.File("key.pem"), MakeCa().key_pem, 0640);
  struct stat info {};
  ASSERT_EQ(stat(folder.File("key.pem").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640U);
  EXPECT_GT(info.st_size, 100);
}

}  // namespace
}  // namespace attnd
