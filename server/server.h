// SPDX-License-Identifier: Apache-2.0
//
// The daemon in one object: builds every part, serves, drains, and takes it all down again.
//
// Order of destruction, the reverse of construction: listeners and the metrics port stop first, so
// that nothing new comes in; then the gRPC services, admission, the scheduler (which waits for what
// is launched), the engines, the KV cache, the pools' memory, the backends and devices, and last
// the metrics that all of them write to.
//
//   absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options, std::move(platform));
//   (*server)->Drain(std::chrono::seconds(10));
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend/plugin.h"
#include "server/options.h"

namespace attnd {

class Server {
 public:
  // `platform` is what ChoosePlatform found (platform.h), or a fake in tests.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options, Platform platform);
  ~Server();

  // Bound addresses, as clients dial them: "unix:/run/attnd.sock", "127.0.0.1:43211".
  const std::vector<std::string>& listen_addresses() const;
  const std::string& metrics_address() const;  // "127.0.0.1:43212", or empty where off

  // Refuses new work and waits for the admitted. DEADLINE_EXCEEDED says how many items remain.
  absl::Status Drain(Duration timeout);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace attnd
