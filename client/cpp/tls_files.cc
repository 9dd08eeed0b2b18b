// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/tls_files.h"

#include <ctime>
#include <memory>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "client/cpp/internal/concat.h"

namespace attnd::client {
namespace {

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* value) const {
    kFree(value);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

Bio Reading(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Instead of OpenSSL's own, which asks the terminal.
int NoPassphrase(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

Certificate NextCertificate(BIO* bio) {
  return Certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr));
}

// OpenSSL's reason for the last failure, and none left behind in this thread.
std::string Reason() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return reason == nullptr ? "malformed" : reason;
}

std::string NameOf(const X509_NAME* name) {
  const Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return {text, static_cast<size_t>(size)};
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTimeT(timegm(&parts));
}

std::string Utc(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

absl::Status Wrong(std::string_view what, const std::string& path, std::string_view why) {
  return absl::InvalidArgumentError(Concat(what, ": ", path, ": ", why));
}

}  // namespace

absl::StatusOr<std::vector<CertificateInfo>> ParseCertificates(std::string_view what,
                                                               const std::string& path,
                                                               const std::string& pem) {
  std::vector<CertificateInfo> certificates;
  const Bio bio = Reading(pem);
  while (const Certificate certificate = NextCertificate(bio.get())) {
    certificates.push_back({.subject = NameOf(X509_get_subject_name(certificate.get())),
                            .issuer = NameOf(X509_get_issuer_name(certificate.get())),
                            .not_before = TimeOf(X509_get0_notBefore(certificate.get())),
                            .not_after = TimeOf(X509_get0_notAfter(certificate.get()))});
  }
  // The end of the text is an error too, this one.
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = Reason();
  if (!at_end) {
    return Wrong(what, path,
                 Concat("certificate ", certificates.size() + 1, " is malformed: ", reason));
  }
  if (certificates.empty()) {
    return Wrong(what, path, "no certificate in it, expected PEM (-----BEGIN CERTIFICATE-----)");
  }
  return certificates;
}

absl::Status CheckDates(std::string_view what, const std::string& path,
                        const CertificateInfo& certificate, absl::Time now) {
  if (now > certificate.not_after) {
    return Wrong(what, path,
                 Concat("the certificate of ", certificate.subject, " expired on ",
                        Utc(certificate.not_after), ", and now is ", Utc(now)));
  }
  if (now < certificate.not_before) {
    return Wrong(
        what, path,
        Concat("the certificate of ", certificate.subject, " is valid from ",
               Utc(certificate.not_before), " on, and now is ", Utc(now), ": is the clock right?"));
  }
  return absl::OkStatus();
}

absl::Status CheckKey(std::string_view what, const std::string& path, const std::string& key_pem,
                      const std::string& cert_path, const std::string& cert_pem) {
  bool encrypted = false;
  const Key key(PEM_read_bio_PrivateKey(Reading(key_pem).get(), nullptr, NoPassphrase, &encrypted));
  const std::string reason = Reason();
  if (encrypted) {
    return Wrong(what, path, "the key is encrypted, expected one without a passphrase");
  }
  if (key == nullptr) {
    return Wrong(
        what, path,
        Concat("no private key in it (", reason, "), expected PEM (-----BEGIN PRIVATE KEY-----)"));
  }
  const Certificate certificate = NextCertificate(Reading(cert_pem).get());
  const bool match =
      certificate != nullptr && X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (match) return absl::OkStatus();
  return Wrong(what, path, Concat("the key is not that of the certificate in ", cert_path));
}

}  // namespace attnd::client
