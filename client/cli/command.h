// SPDX-License-Identifier: Apache-2.0
//
// What every command of attnctl has: the options before it, a connection, one way to fail.
//
// A command is one file with one Add...Command function, which main.cc calls: it declares its flags
// and, in its callback, runs and sets the exit code.
//
//   void AddStatusCommand(CLI::App& app, Globals& globals) {
//     CLI::App* command = app.add_subcommand("status", "One look at the daemon");
//     command->callback([&globals] { globals.exit_code = RunStatus(globals); });
//   }
#pragma once

#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/client.h"

namespace attnd::cli {

// Exit codes. CLI11 exits with codes of its own, above 100, for a bad command line.
inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;   // the command ran and found something wrong, or was refused
inline constexpr int kNoDaemon = 2;  // nobody answers at the address

struct Globals {
  std::string address = "127.0.0.1:7450";
  client::Credentials credentials;
  std::string metrics_address = "127.0.0.1:7451";
  double timeout_s = 60.0;
  bool json = false;
  std::string command_line;  // as typed, for the records of measurements
  int exit_code = kSuccess;
};

// --tls_ca, --token_file and the like, which all commands take.
void AddCredentialOptions(CLI::App& app, client::Credentials& credentials);

absl::StatusOr<std::unique_ptr<client::Client>> Connect(const Globals& globals);

// Prints the error with what to do about it, on stderr, and returns the exit code for it.
int Fail(const Globals& globals, const absl::Status& status);

nlohmann::json ToJson(const client::CacheInfo& cache);

void AddCapabilitiesCommand(CLI::App& app, Globals& globals);
void AddStatusCommand(CLI::App& app, Globals& globals);
void AddTopCommand(CLI::App& app, Globals& globals);
void AddCachesCommand(CLI::App& app, Globals& globals);
void AddSequencesCommand(CLI::App& app, Globals& globals);
void AddBenchCommand(CLI::App& app, Globals& globals);
void AddVerifyCommand(CLI::App& app, Globals& globals);
void AddDoctorCommand(CLI::App& app, Globals& globals);
void AddDrainCommand(CLI::App& app, Globals& globals);
void AddIntegrityCommand(CLI::App& app, Globals& globals);
void AddLogLevelCommand(CLI::App& app, Globals& globals);
void AddHealthCommand(CLI::App& app, Globals& globals);
void AddNewTokenCommand(CLI::App& app, Globals& globals);
void AddDemoCommand(CLI::App& app, Globals& globals);

}  // namespace attnd::cli
