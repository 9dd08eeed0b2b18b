// SPDX-License-Identifier: Apache-2.0
//
// X.509 certificates for tests, made when they run: no key is ever committed.
//
// P-256 keys. Failures to make one end the program: they are the test's, not the code's. Pure
// functions, safe from any thread. WritePem gives a file the mode that the code under test wants
// of keys, 0600, unless told otherwise.
//
//   const TestCertificate ca = MakeCa("test CA");
//   const TestCertificate server =
//       MakeCertificate({.common_name = "attnd", .ip_addresses = {"127.0.0.1"}, .issuer = &ca});
//   WritePem(folder + "/server.key", server.key_pem);
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace attnd {

// A value: the certificate, its private key, and the certificate of who signed it.
struct TestCertificate {
  std::string cert_pem;
  std::string key_pem;  // PKCS #8
  std::string ca_pem;   // of the issuer; of itself where it signed itself
};

struct TestCertificateOptions {
  std::string common_name = "attnd test";
  std::vector<std::string> dns_names{};
  std::vector<std::string> ip_addresses{};
  // From now on: {-2h, -1h} is expired, {1h, 2h} not yet valid.
  std::chrono::seconds not_before_offset = std::chrono::minutes(-5);
  std::chrono::seconds not_after_offset = std::chrono::hours(24);
  const TestCertificate* issuer = nullptr;  // null: it signs itself
  bool is_ca = false;
};

TestCertificate MakeCertificate(const TestCertificateOptions& options);
// One that may sign others.
TestCertificate MakeCa(std::string_view common_name = "attnd test CA");

// Writes `pem` to a file of this mode, in one step: the file is replaced, never seen half-written.
void WritePem(const std::string& path, std::string_view pem, unsigned mode = 0600);

}  // namespace attnd
