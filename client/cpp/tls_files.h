// SPDX-License-Identifier: Apache-2.0
//
// What is wrong with certificates and keys, found before a handshake fails without saying why.
//
// Messages begin with the option and the file that the text came from, and never have a part of a
// key in them. INVALID_ARGUMENT throughout. Pure functions, safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(auto chain, ParseCertificates("tls_cert", path, pem));
//   ATTND_RETURN_IF_ERROR(CheckDates("tls_cert", path, chain.front(), absl::Now()));
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace attnd::client {

struct CertificateInfo {
  std::string subject{};  // "CN=attnd.example"
  std::string issuer{};
  absl::Time not_before{};
  absl::Time not_after{};
};

// All certificates of a PEM text, at least one, in their order.
absl::StatusOr<std::vector<CertificateInfo>> ParseCertificates(std::string_view what,
                                                               const std::string& path,
                                                               const std::string& pem);
// Whether it is valid at `now`.
absl::Status CheckDates(std::string_view what, const std::string& path,
                        const CertificateInfo& certificate, absl::Time now);
// Whether `key_pem` has a private key, not encrypted, of the first certificate of `cert_pem`.
absl::Status CheckKey(std::string_view what, const std::string& path, const std::string& key_pem,
                      const std::string& cert_path, const std::string& cert_pem);

}  // namespace attnd::client
