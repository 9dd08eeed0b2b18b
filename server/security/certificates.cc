// SPDX-License-Identifier: Apache-2.0
#include "server/security/certificates.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "server/security/tenants_file.h"

namespace attnd {
namespace {

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using X509Ptr = std::unique_ptr<X509, Freer<X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using BioPtr = std::unique_ptr<BIO, Freer<BIO_free>>;

// A file that a flag names.
struct Source {
  absl::string_view flag;
  const std::string& path;

  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " \"", path, "\": ", what));
  }
};

BioPtr Open(absl::string_view pem) {
  return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

absl::StatusOr<std::string> ReadFile(const Source& source) {
  errno = 0;
  std::ifstream file(source.path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return source.Error(errno != 0 ? strerror(errno) : "cannot be read, or is empty");
  }
  return std::move(text).str();
}

absl::StatusOr<std::vector<X509Ptr>> ParseCertificates(const Source& source,
                                                       absl::string_view pem) {
  std::vector<X509Ptr> certificates;
  const BioPtr bio = Open(pem);
  while (X509* one = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(one);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (certificates.empty()) {
    return source.Error("has no certificate; expected PEM with \"-----BEGIN CERTIFICATE-----\"");
  }
  if (!at_end) {
    return source.Error(
        absl::StrCat("certificate ", certificates.size() + 1, " in it is malformed"));
  }
  return certificates;
}

absl::StatusOr<WallTime> ToWallTime(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InvalidArgumentError("a malformed date");
  return std::chrono::system_clock::from_time_t(timegm(&parts));
}

std::string Format(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string SubjectOf(const X509& certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), X509_get_subject_name(&certificate), 0, XN_FLAG_RFC2253);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<size_t>(size));
}

// The end of its validity.
absl::StatusOr<WallTime> CheckDates(const Source& source, const X509& certificate, WallTime now) {
  ATTND_ASSIGN_OR_RETURN(const WallTime begin, ToWallTime(X509_get0_notBefore(&certificate)));
  ATTND_ASSIGN_OR_RETURN(const WallTime end, ToWallTime(X509_get0_notAfter(&certificate)));
  const std::string subject = absl::StrCat("the certificate of ", SubjectOf(certificate));
  if (now >= end) {
    return source.Error(
        absl::StrCat(subject, " expired at ", Format(end), "; now is ", Format(now)));
  }
  if (now < begin) {
    return source.Error(
        absl::StrCat(subject, " is valid from ", Format(begin), " on; now is ", Format(now)));
  }
  return end;
}

absl::StatusOr<KeyPtr> ParseKey(const Source& source, absl::string_view pem) {
  bool encrypted = false;
  const auto no_passphrase = [](char*, int, int, void* asked) {
    *static_cast<bool*>(asked) = true;
    return -1;
  };
  KeyPtr key(PEM_read_bio_PrivateKey(Open(pem).get(), nullptr, no_passphrase, &encrypted));
  ERR_clear_error();
  if (key != nullptr) return key;
  return source.Error(encrypted ? "the key is encrypted, and nobody is there to be asked for the "
                                  "passphrase: decrypt it"
                                : "has no private key; expected PEM with \"-----BEGIN PRIVATE "
                                  "KEY-----\"");
}

}  // namespace

absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files, WallTime now) {
  const Source cert{"tls_cert", files.cert};
  ATTND_ASSIGN_OR_RETURN(const std::string chain_pem, ReadFile(cert));
  ATTND_ASSIGN_OR_RETURN(const std::vector<X509Ptr> chain, ParseCertificates(cert, chain_pem));
  TlsMaterial material{
      .identity_pem = {}, .client_ca_pem = {}, .subject = SubjectOf(*chain.front()), .expires = {}};
  ATTND_ASSIGN_OR_RETURN(material.expires, CheckDates(cert, *chain.front(), now));

  const Source key_source{"tls_key", files.key};
  absl::StatusOr<std::string> key_pem = ReadSecretFile(files.key);
  if (!key_pem.ok()) {
    return absl::Status(key_pem.status().code(),
                        absl::StrCat("--tls_key ", key_pem.status().message()));
  }
  ATTND_ASSIGN_OR_RETURN(const KeyPtr key, ParseKey(key_source, *key_pem));
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    ERR_clear_error();
    return key_source.Error(absl::StrCat("is not the key of the certificate of ", material.subject,
                                         " in --tls_cert \"", files.cert, "\""));
  }
  material.identity_pem = absl::StrCat(*key_pem, "\n", chain_pem);
  OPENSSL_cleanse(key_pem->data(), key_pem->size());

  if (files.client_ca.empty()) return material;
  const Source ca{"tls_client_ca", files.client_ca};
  ATTND_ASSIGN_OR_RETURN(material.client_ca_pem, ReadFile(ca));
  ATTND_ASSIGN_OR_RETURN(const std::vector<X509Ptr> authorities,
                         ParseCertificates(ca, material.client_ca_pem));
  for (const X509Ptr& authority : authorities) {
    ATTND_RETURN_IF_ERROR(CheckDates(ca, *authority, now).status());
  }
  return material;
}

}  // namespace attnd
