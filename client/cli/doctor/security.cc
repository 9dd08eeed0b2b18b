// SPDX-License-Identifier: Apache-2.0
//
// Certificates, keys and tokens: can they work, and for how much longer?
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/doctor/checks.h"
#include "client/cpp/secret_file.h"
#include "client/cpp/tls_files.h"

namespace attnd::cli {
namespace {

// Of a certificate's life: what is left of it when it should have been renewed.
constexpr double kLateFraction = 0.1;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

std::string Left(absl::Duration left) {
  return left >= absl::Hours(48)
             ? absl::StrFormat("%d days", static_cast<int>(absl::ToDoubleHours(left) / 24))
             : absl::StrFormat("%.1f hours", absl::ToDoubleHours(left));
}

// The file's text, and one finding about its certificates. `one_will_do`: of a bundle of CAs.
std::string CheckCertificates(const std::string& what, const std::string& path, bool one_will_do,
                              absl::Time now, Report& report) {
  const auto pem = client::ReadSmallFile(what, path);
  if (!pem.ok()) {
    report.Fail(what, MessageOf(pem.status()));
    return "";
  }
  const auto all = client::ParseCertificates(what, path, *pem);
  if (!all.ok()) {
    report.Fail(what, MessageOf(all.status()));
    return "";
  }
  // Of a chain its first, of a bundle the one that is valid longest.
  const client::CertificateInfo& info =
      one_will_do ? *std::max_element(
                        all->begin(), all->end(),
                        [](const auto& a, const auto& b) { return a.not_after < b.not_after; })
                  : all->front();
  if (const absl::Status dates = client::CheckDates(what, path, info, now); !dates.ok()) {
    report.Fail(what, MessageOf(dates), "renew it");
    return *pem;
  }
  const absl::Duration left = info.not_after - now, life = info.not_after - info.not_before;
  const std::string found =
      absl::StrCat(path, ": ", info.subject, ", by ", info.issuer, ", valid for ", Left(left));
  if (absl::FDivDuration(left, life) < kLateFraction) {
    report.Warn(what, found, "renew it: less than a tenth of its life is left");
  } else {
    report.Ok(what, found);
  }
  return *pem;
}

void CheckPrivateKey(const std::string& what, const std::string& path, const std::string& cert_path,
                     const std::string& cert_pem, Report& report) {
  const auto pem = client::ReadSecretFile(what, path);
  if (!pem.ok()) return report.Fail(what, MessageOf(pem.status()));
  if (cert_pem.empty()) return report.Unknown(what, "there is no certificate to compare it with");
  const absl::Status match = client::CheckKey(what, path, *pem, cert_path, cert_pem);
  if (!match.ok()) return report.Fail(what, MessageOf(match));
  report.Ok(what, absl::StrCat(path, ": the key of ", cert_path, ", closed to others"));
}

void CheckSecret(const std::string& what, const std::string& path, Report& report) {
  const auto content = client::ReadSecretFile(what, path);
  if (!content.ok()) return report.Fail(what, MessageOf(content.status()));
  if (content->empty()) return report.Fail(what, path + " is empty");
  report.Ok(what, path + ": closed to others");
}

}  // namespace

void CheckCredentials(const client::Credentials& credentials, absl::Time now, Report& report) {
  if (!credentials.tls_ca.empty()) {
    CheckCertificates("tls_ca", credentials.tls_ca, /*one_will_do=*/true, now, report);
  }
  std::string cert_pem;
  if (!credentials.tls_cert.empty()) {
    cert_pem = CheckCertificates("tls_cert", credentials.tls_cert, false, now, report);
  }
  if (!credentials.tls_key.empty()) {
    CheckPrivateKey("tls_key", credentials.tls_key, credentials.tls_cert, cert_pem, report);
  }
  if (!credentials.token_file.empty()) CheckSecret("token_file", credentials.token_file, report);
}

void CheckDaemonFiles(const DaemonFiles& files, absl::Time now, Report& report) {
  std::string cert_pem;
  if (!files.cert.empty()) {
    cert_pem = CheckCertificates("daemon_cert", files.cert, false, now, report);
  }
  if (!files.key.empty()) {
    CheckPrivateKey("daemon_key", files.key, files.cert, cert_pem, report);
  }
  if (!files.client_ca.empty()) {
    CheckCertificates("daemon_client_ca", files.client_ca, /*one_will_do=*/true, now, report);
  }
  // What is in it, `attnd --check_config` reads as the daemon does.
  if (!files.tenants.empty()) CheckSecret("tenants_file", files.tenants, report);
}

}  // namespace attnd::cli
