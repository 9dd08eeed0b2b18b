// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/test_certificates.h"

#include <sys/stat.h>
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

namespace attnd {
namespace {

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* value) const {
    kFree(value);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Extension = std::unique_ptr<X509_EXTENSION, Free<X509_EXTENSION_free>>;

void Require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "test certificate: %s failed\n", what);
  ERR_print_errors_fp(stderr);
  std::abort();
}

Bio Reading(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

std::string Written(const Bio& bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(size)};
}

void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  Require(extension != nullptr, "X509V3_EXT_conf_nid");
  Require(X509_add_ext(certificate, extension.get(), -1) == 1, "X509_add_ext");
}

std::string SubjectAltName(const TestCertificateOptions& options) {
  std::string names;
  auto add = [&names](const char* kind, const std::string& name) {
    if (!names.empty()) names += ',';
    names.append(kind).append(":").append(name);
  };
  for (const std::string& name : options.dns_names) add("DNS", name);
  for (const std::string& address : options.ip_addresses) add("IP", address);
  return names;
}

void SetSerial(X509* certificate) {
  unsigned char bytes[8];
  Require(RAND_bytes(bytes, sizeof(bytes)) == 1, "RAND_bytes");
  uint64_t serial = 0;
  for (const unsigned char byte : bytes) serial = serial << 8 | byte;
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial >> 1);
}

}  // namespace

TestCertificate MakeCertificate(const TestCertificateOptions& options) {
  const Key key(EVP_EC_gen("P-256"));
  Require(key != nullptr, "EVP_EC_gen");
  const Certificate certificate(X509_new());
  X509* x509 = certificate.get();
  X509_set_version(x509, X509_VERSION_3);
  SetSerial(x509);
  X509_gmtime_adj(X509_getm_notBefore(x509), options.not_before_offset.count());
  X509_gmtime_adj(X509_getm_notAfter(x509), options.not_after_offset.count());
  X509_set_pubkey(x509, key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(options.common_name.c_str()),
                             -1, -1, 0);

  // Its own issuer unless there is another.
  Key issuer_key;
  Certificate issuer;
  if (options.issuer != nullptr) {
    issuer.reset(
        PEM_read_bio_X509(Reading(options.issuer->cert_pem).get(), nullptr, nullptr, nullptr));
    issuer_key.reset(
        PEM_read_bio_PrivateKey(Reading(options.issuer->key_pem).get(), nullptr, nullptr, nullptr));
    Require(issuer != nullptr && issuer_key != nullptr, "reading the issuer");
  }
  X509* signer = issuer == nullptr ? x509 : issuer.get();
  X509_set_issuer_name(x509, X509_get_subject_name(signer));
  AddExtension(x509, signer, NID_basic_constraints,
               options.is_ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
  AddExtension(x509, signer, NID_key_usage,
               options.is_ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
  AddExtension(x509, signer, NID_subject_key_identifier, "hash");
  if (const std::string names = SubjectAltName(options); !names.empty()) {
    AddExtension(x509, signer, NID_subject_alt_name, names);
  }
  if (!options.is_ca) AddExtension(x509, signer, NID_ext_key_usage, "serverAuth,clientAuth");
  Require(X509_sign(x509, issuer == nullptr ? key.get() : issuer_key.get(), EVP_sha256()) > 0,
          "X509_sign");

  TestCertificate result;
  const Bio cert_pem(BIO_new(BIO_s_mem())), key_pem(BIO_new(BIO_s_mem()));
  Require(PEM_write_bio_X509(cert_pem.get(), x509) == 1, "PEM_write_bio_X509");
  Require(PEM_write_bio_PKCS8PrivateKey(key_pem.get(), key.get(), nullptr, nullptr, 0, nullptr,
                                        nullptr) == 1,
          "PEM_write_bio_PKCS8PrivateKey");
  result.cert_pem = Written(cert_pem);
  result.key_pem = Written(key_pem);
  result.ca_pem = options.issuer == nullptr ? result.cert_pem : options.issuer->cert_pem;
  return result;
}

TestCertificate MakeCa(std::string_view common_name) {
  return MakeCertificate({.common_name = std::string(common_name), .is_ca = true});
}

void WritePem(const std::string& path, std::string_view pem, unsigned mode) {
  const std::string part = path + ".part";
  {
    std::ofstream out(part, std::ios::binary | std::ios::trunc);
    out << pem;
    Require(out.flush().good(), "writing a file");
  }
  Require(chmod(part.c_str(), mode) == 0 && rename(part.c_str(), path.c_str()) == 0,
          "giving a file its place");
}

}  // namespace attnd
