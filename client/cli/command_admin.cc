// SPDX-License-Identifier: Apache-2.0
//
// attnctl sequences, drain, integrity and log-level: the operator's calls.
#include <iostream>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/table.h"

namespace attnd::cli {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

int RunSequences(const Globals& globals) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const auto sessions = (*client)->ListSessions();
  if (!sessions.ok()) return Fail(globals, sessions.status());
  if (globals.json) {
    nlohmann::json json = nlohmann::json::array();
    for (const client::SessionInfo& session : *sessions) {
      json.push_back({{"session", session.id.ToString()},
                      {"label", session.label},
                      {"tenant", session.tenant},
                      {"epoch", session.epoch},
                      {"sequences", session.sequences},
                      {"lease_seconds", Seconds(session.lease)},
                      {"lease_remaining_seconds", Seconds(session.lease_remaining)}});
    }
    std::cout << json.dump(2) << "\n";
    return kSuccess;
  }
  Table table({"session", "<label", "sequences", "epoch", "lease", "ends in"});
  for (const client::SessionInfo& session : *sessions) {
    table.Add({session.id.ToString(), session.label, std::to_string(session.sequences),
               std::to_string(session.epoch), HumanSeconds(Seconds(session.lease)),
               HumanSeconds(Seconds(session.lease_remaining))});
  }
  if (table.empty()) {
    std::cout << "No session is open.\n";
    return kSuccess;
  }
  std::cout << table.ToString()
            << "\nSingle sequences are their session's own: only its client can list them.\n";
  return kSuccess;
}

int RunDrain(const Globals& globals, double wait_s) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const Duration wait(static_cast<int64_t>(wait_s * 1e9));
  // The daemon answers when it is done or its time is up: give it that time and a little more.
  const auto result = (*client)->Drain(
      wait,
      {.timeout = std::max<Duration>(wait, std::chrono::minutes(1)) + std::chrono::seconds(5)});
  if (!result.ok()) return Fail(globals, result.status());
  if (result->complete) {
    std::cout << "Drained: nothing is queued or running. The daemon refuses new work until it is "
                 "restarted.\n";
    return kSuccess;
  }
  std::cout << "Draining, but " << result->remaining_items
            << " items are left. New work is refused; run `attnctl drain` again to wait longer.\n";
  return kFailure;
}

int RunIntegrity(const Globals& globals) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const auto report = (*client)->CheckIntegrity();
  if (!report.ok()) return Fail(globals, report.status());
  std::cout << "integrity: ok, " << report->pages_checked << " pages and "
            << report->sequences_checked << " sequences checked\n";
  return kSuccess;
}

int RunLogLevel(const Globals& globals, const std::string& level) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const auto levels = (*client)->SetLogLevel(level);
  if (!levels.ok()) return Fail(globals, levels.status());
  std::cout << "log level: " << levels->level;
  if (!level.empty()) std::cout << " (was " << levels->former << ")";
  std::cout << "\n";
  return kSuccess;
}

}  // namespace

void AddSequencesCommand(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand(
      "sequences", "The sessions, their leases and how many sequences they hold");
  command->callback([&globals] { globals.exit_code = RunSequences(globals); });
}

void AddDrainCommand(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand("drain", "Refuse new work and wait for what is admitted");
  auto wait_s = std::make_shared<double>(0.0);
  command->add_option("--wait", *wait_s, "Seconds to wait; 0: the daemon's default")
      ->check(CLI::NonNegativeNumber);
  command->callback([&globals, wait_s] { globals.exit_code = RunDrain(globals, *wait_s); });
}

void AddIntegrityCommand(CLI::App& app, Globals& globals) {
  CLI::App* command =
      app.add_subcommand("integrity", "Check reference counts, free lists and block tables");
  command->callback([&globals] { globals.exit_code = RunIntegrity(globals); });
}

void AddLogLevelCommand(CLI::App& app, Globals& globals) {
  CLI::App* command =
      app.add_subcommand("log-level", "Show what the daemon logs, or change it while it runs");
  auto level = std::make_shared<std::string>();
  command->add_option("LEVEL", *level, "trace, debug, info, warning or error");
  command->callback([&globals, level] { globals.exit_code = RunLogLevel(globals, *level); });
}

}  // namespace attnd::cli
