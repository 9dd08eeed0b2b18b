// SPDX-License-Identifier: Apache-2.0
//
// attnctl doctor: why it does not work, or not as fast as it could. One line a check: ok, warn,
// FAIL, or ? where the machine does not say; what was found, and what to do. The checks are in
// doctor/, by subject. Those of the machine mean the daemon's machine where both are one. Exit code
// 1 where anything failed; warnings and unknowns do not count.
#include <iostream>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/time/clock.h"
#include "client/cli/command.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/terminal.h"

namespace attnd::cli {
namespace {

int RunDoctor(const Globals& globals, const DaemonFiles& files) {
  const bool colors = StdoutIsTerminal();
  Report report(globals.json
                    ? nullptr
                    : std::function<void(const Finding&)>([colors](const Finding& finding) {
                        std::cout << ToText(finding, colors) << std::flush;
                      }));
  const Host host = Host::This();
  CheckCredentials(globals.credentials, absl::Now(), report);
  CheckDaemonFiles(files, absl::Now(), report);
  const DaemonFacts daemon = CheckConnection(globals, report);
  CheckMetrics(globals, report);
  CheckDistance(globals, daemon, report);
  CheckMemory(host, daemon, report);
  CheckHugePages(host, report);
  CheckCpu(host, daemon, report);
  CheckGovernor(host, report);
  CheckClock(host, report);
  CheckGpus(host, daemon, report);
  if (globals.json) {
    std::cout << report.ToJson().dump(2) << "\n";
  } else {
    std::cout << "\ndoctor: " << report.Summary() << "\n";
  }
  return report.Count(Verdict::kFail) == 0 ? kSuccess : kFailure;
}

}  // namespace

void AddDoctorCommand(CLI::App& app, Globals& globals) {
  CLI::App* command =
      app.add_subcommand("doctor", "Check this machine, its GPUs and the daemon, with advice");
  auto files = std::make_shared<DaemonFiles>();
  const auto file = [command](const char* name, std::string& path, const char* help) {
    command->add_option(name, path, help)->type_name("FILE")->group("The daemon's own files");
  };
  file("--daemon_cert", files->cert, "What attnd's --tls_cert names");
  file("--daemon_key", files->key, "What attnd's --tls_key names");
  file("--daemon_client_ca", files->client_ca, "What attnd's --tls_client_ca names");
  file("--tenants_file", files->tenants, "What attnd's --tenants_file names");
  command->callback([&globals, files] { globals.exit_code = RunDoctor(globals, *files); });
}

}  // namespace attnd::cli
