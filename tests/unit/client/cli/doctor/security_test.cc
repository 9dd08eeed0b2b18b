// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "client/cli/doctor/checks.h"
#include "tests/fakes/temp_folder.h"
#include "tests/fakes/test_certificates.h"

namespace attnd::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;

auto Is(Verdict verdict, const std::string& check, const std::string& found) {
  return AllOf(Field(&Finding::verdict, verdict), Field(&Finding::check, check),
               Field(&Finding::found, HasSubstr(found)));
}

class SecurityChecksTest : public testing::Test {
 protected:
  SecurityChecksTest() {
    WritePem(cert_, made_.cert_pem, 0644);
    WritePem(key_, made_.key_pem);
    WritePem(ca_file_, ca_.cert_pem, 0644);
  }

  const TempFolder folder_;
  const TestCertificate ca_ = MakeCa("the CA");
  const TestCertificate made_ = MakeCertificate({.common_name = "attnd", .issuer = &ca_});
  const std::string cert_ = folder_.File("cert.pem"), key_ = folder_.File("key.pem"),
                    ca_file_ = folder_.File("ca.pem");
  const absl::Time now_ = absl::Now();
  Report report_;
};

TEST_F(SecurityChecksTest, WithoutFilesThereIsNothingToSay) {
  CheckCredentials({}, now_, report_);
  CheckDaemonFiles({}, now_, report_);
  EXPECT_THAT(report_.findings(), IsEmpty());
}

TEST_F(SecurityChecksTest, GoodFilesAreOk) {
  WritePem(folder_.File("token"), "secret");
  CheckCredentials(
      {.tls_ca = ca_file_, .tls_cert = cert_, .tls_key = key_, .token_file = folder_.File("token")},
      now_, report_);
  EXPECT_THAT(report_.findings(),
              ElementsAre(Is(Verdict::kOk, "tls_ca", "CN=the CA"),
                          Is(Verdict::kOk, "tls_cert", "CN=attnd, by CN=the CA, valid for 24.0 ho"),
                          Is(Verdict::kOk, "tls_key", "the key of " + cert_),
                          Is(Verdict::kOk, "token_file", "closed to others")));
}

TEST_F(SecurityChecksTest, ACertificateNearItsEndIsAWarningAndOneBeyondItFails) {
  CheckDaemonFiles({.cert = cert_}, now_ + absl::Hours(22), report_);
  CheckDaemonFiles({.cert = cert_}, now_ + absl::Hours(25), report_);
  CheckDaemonFiles({.cert = cert_}, now_ - absl::Hours(1), report_);
  EXPECT_THAT(report_.findings(),
              ElementsAre(Is(Verdict::kWarn, "daemon_cert", "valid for 2.0 hours"),
                          Is(Verdict::kFail, "daemon_cert", "expired on"),
                          Is(Verdict::kFail, "daemon_cert", "is the clock right?")));
}

TEST_F(SecurityChecksTest, WhatDoesNotBelongTogetherFails) {
  const TestCertificate other = MakeCa();
  WritePem(folder_.File("other.key"), other.key_pem);
  WritePem(folder_.File("open.key"), made_.key_pem, 0644);
  WritePem(folder_.File("tenants.yaml"), "tenants: []", 0644);
  CheckDaemonFiles({.cert = cert_,
                    .key = folder_.File("other.key"),
                    .client_ca = folder_.File("none"),
                    .tenants = folder_.File("tenants.yaml")},
                   now_, report_);
  CheckDaemonFiles({.cert = key_, .key = folder_.File("open.key")}, now_, report_);
  EXPECT_THAT(report_.findings(),
              ElementsAre(Is(Verdict::kOk, "daemon_cert", "CN=attnd"),
                          Is(Verdict::kFail, "daemon_key", "not that of the certificate"),
                          Is(Verdict::kFail, "daemon_client_ca", "No such file"),
                          Is(Verdict::kFail, "tenants_file", "every user may read it"),
                          Is(Verdict::kFail, "daemon_cert", "no certificate in it"),
                          Is(Verdict::kFail, "daemon_key", "has mode 0644")));
}

}  // namespace
}  // namespace attnd::cli
