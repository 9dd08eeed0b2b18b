// SPDX-License-Identifier: Apache-2.0
//
// What a client shows a daemon, and what it wants to see of it: TLS, mutual TLS, a bearer token.
//
// A value; the files are read by Client::Connect, which refuses what cannot work (an expired
// certificate, a key of another certificate, a secret that others may read) before it connects, and
// names the file. Over a Unix socket TLS is not used: nobody but the kernel sees those bytes. A
// token over plain TCP to another machine is refused unless `insecure` says that it is meant.
//
//   Client::Connect({.address = "attnd.example:7450",
//                    .credentials = {.tls_ca = "/etc/attnd/ca.pem",
//                                    .token_file = "/run/secrets/attnd-token"}});
#pragma once

#include <string>

namespace attnd::client {

struct Credentials {
  bool tls = false;        // a tls_... below implies it
  std::string tls_ca{};    // PEM: who signs the daemon's certificate; empty: the system's CAs
  std::string tls_cert{};  // PEM: this client's own certificate, for mutual TLS
  std::string tls_key{};   // PEM: its key, closed to others
  std::string tls_server_name{};  // that the daemon's certificate is for, where not its address
  std::string token{};            // the tenant's, or
  std::string token_file{};  // a file that has it, closed to others; read again when it changes
  bool insecure = false;     // the token may cross a network in plain text

  bool UsesTls() const {
    return tls || !tls_ca.empty() || !tls_cert.empty() || !tls_key.empty() ||
           !tls_server_name.empty();
  }
  bool HasToken() const { return !token.empty() || !token_file.empty(); }
};

}  // namespace attnd::client
