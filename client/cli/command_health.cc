// SPDX-License-Identifier: Apache-2.0
//
// attnctl health: the standard gRPC health check, for a container's HEALTHCHECK and for scripts.
// Exit code 0 where the daemon says SERVING, else 1, with the reason on stderr.
#include <iostream>

#include "client/cli/command.h"
#include "client/cpp/health.h"

namespace attnd::cli {
namespace {

int RunHealth(const Globals& globals, const std::string& service, double timeout_s) {
  const absl::Status status =
      client::CheckHealth({.address = globals.address,
                           .credentials = globals.credentials,
                           .service = service,
                           .timeout = Duration(static_cast<int64_t>(timeout_s * 1e9))});
  if (status.ok()) {
    std::cout << "SERVING\n";
    return kSuccess;
  }
  std::cerr << "attnctl: " << status.message() << "\n";
  return kFailure;
}

}  // namespace

void AddHealthCommand(CLI::App& app, Globals& globals) {
  struct Flags {
    std::string service;
    double timeout_s = 3;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("health", "Exit 0 where the daemon serves, 1 with the reason else");
  command->add_option("--service", flags->service,
                      "One gRPC service, as attnd.v1.AttentionService, not the whole daemon");
  command->add_option("--timeout", flags->timeout_s, "Seconds that it may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->callback([&globals, flags] {
    globals.exit_code = RunHealth(globals, flags->service, flags->timeout_s);
  });
}

}  // namespace attnd::cli
