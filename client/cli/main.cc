// SPDX-License-Identifier: Apache-2.0
//
// attnctl: the command-line tool of the attention backend daemon. `attnctl --help` lists the
// commands; each is a file of its own, command_<name>.cc.
#include <cstdlib>
#include <iostream>
#include <string>

#include <CLI/CLI.hpp>

#include "client/cli/command.h"

int main(int argc, char** argv) {
  // gRPC's own log repeats what the statuses say.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  CLI::App app("Looks after attnd, the attention backend daemon.", "attnctl");
  attnd::cli::Globals globals;
  globals.command_line = "attnctl";
  for (int i = 1; i < argc; ++i) globals.command_line += std::string(" ") + argv[i];
  app.add_option("--address", globals.address, "Where the daemon serves: host:port or unix:/path")
      ->envname("ATTND_ADDRESS")
      ->capture_default_str();
  app.add_option("--metrics", globals.metrics_address, "Where it serves metrics: host:port")
      ->envname("ATTND_METRICS_ADDRESS")
      ->capture_default_str();
  app.add_option("--timeout", globals.timeout_s, "Seconds that one call may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--json", globals.json,
               "JSON for scripts (capabilities, status, caches, sequences, doctor)");
  attnd::cli::AddCredentialOptions(app, globals.credentials);
  app.set_version_flag("--version", ATTND_VERSION);
  app.require_subcommand(0, 1);  // none: the help, below, and an unknown one is named as unexpected
  app.fallthrough();

  attnd::cli::AddHealthCommand(app, globals);
  attnd::cli::AddStatusCommand(app, globals);
  attnd::cli::AddTopCommand(app, globals);
  attnd::cli::AddCapabilitiesCommand(app, globals);
  attnd::cli::AddCachesCommand(app, globals);
  attnd::cli::AddSequencesCommand(app, globals);
  attnd::cli::AddDoctorCommand(app, globals);
  attnd::cli::AddVerifyCommand(app, globals);
  attnd::cli::AddBenchCommand(app, globals);
  attnd::cli::AddDemoCommand(app, globals);
  attnd::cli::AddDrainCommand(app, globals);
  attnd::cli::AddIntegrityCommand(app, globals);
  attnd::cli::AddLogLevelCommand(app, globals);
  attnd::cli::AddNewTokenCommand(app, globals);
  CLI11_PARSE(app, argc, argv);
  if (app.get_subcommands().empty()) {
    std::cerr << app.help();
    return attnd::cli::kFailure;
  }
  return globals.exit_code;
}
