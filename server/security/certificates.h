// SPDX-License-Identifier: Apache-2.0
//
// The certificates that the daemon's TLS listeners show and ask for, read from PEM files and looked
// into before anyone uses them: what a library would only say in a failed handshake is said at the
// start, with the file's name.
//
// Pure functions of the files and the time, safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(TlsMaterial tls, ReadTls({.cert = ..., .key = ...}, now));
#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"

namespace attnd {

using WallTime = std::chrono::system_clock::time_point;

struct TlsFiles {
  std::string cert;       // the chain, leaf first
  std::string key;        // of the leaf, unencrypted
  std::string client_ca;  // empty: clients show no certificate
};

struct TlsMaterial {
  std::string identity_pem;  // the key, then the chain
  std::string client_ca_pem;
  std::string subject;  // of the leaf, for the log
  WallTime expires;     // the leaf's
};

// INVALID_ARGUMENT names the flag and the file: unreadable, no PEM, no certificate in it, expired
// or not valid yet (with the dates), a key that everybody can read, is encrypted or is another
// certificate's.
absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files, WallTime now);

}  // namespace attnd
