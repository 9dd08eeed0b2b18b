// SPDX-License-Identifier: Apache-2.0
//
// One address that the daemon serves on: a gRPC server with its own services, health, and a bound
// on the memory that its messages take.
//
// A Unix socket that a dead daemon left is replaced, one that somebody listens on is an error; it
// is made with mode 0600.
//
// Thread-safe. The destructor ends every call and waits for them.
//
//   auto listener = *Listener::Start("127.0.0.1:0", options, context);
//   listener->SetServing(true);
//   listener->Shutdown(grace);
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "server/rpc/service_context.h"
#include "server/rpc/tls_credentials.h"

namespace attnd {

struct ListenerOptions {
  Bytes max_message_bytes;
  // Of messages that gRPC holds before anyone can look at them, all connections together.
  Bytes buffer_limit;
  // Of TCP listeners; null: plain text, which other addresses than loopback ones need `insecure`
  // for.
  const TlsCredentials* tls = nullptr;
  bool insecure = false;
  bool reflection = true;  // on loopback and Unix sockets; elsewhere there is none
};

class Listener {
 public:
  // FAILED_PRECONDITION for an address in use, INVALID_ARGUMENT for one that may not be served on.
  static absl::StatusOr<std::unique_ptr<Listener>> Start(const std::string& address,
                                                         const ListenerOptions& options,
                                                         const ServiceContext& context);
  ~Listener();

  // As clients dial it, the port that was bound included.
  const std::string& address() const { return address_; }
  // What the standard health service answers, for the server and for each of its services.
  void SetServing(bool serving);
  // No new calls; those that run have until `grace` to end, then they are cancelled.
  void Shutdown(Duration grace);

 private:
  Listener() = default;

  std::string address_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace attnd
