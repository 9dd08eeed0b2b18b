// SPDX-License-Identifier: Apache-2.0
//
// How a channel is made for an address: plain or TLS, with which certificates and gRPC arguments;
// and what a failed handshake means.
//
// Pure functions but for the files that they read; safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(auto channel, MakeChannel(options.address, options.credentials));
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <grpcpp/channel.h>

#include "absl/status/statusor.h"
#include "client/cpp/credentials.h"

namespace attnd::client {

// Does not connect yet. INVALID_ARGUMENT: the address is malformed, a certificate or key cannot
// work, or a token would cross a network in plain text.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const Credentials& credentials);

struct Advice {
  std::string text{};  // what to check
  bool final = false;  // it would fail the same way again
};
// Where gRPC's message is about a TLS handshake that failed, or looks like it.
std::optional<Advice> HandshakeAdvice(std::string_view message, const std::string& address,
                                      const Credentials& credentials);

}  // namespace attnd::client
