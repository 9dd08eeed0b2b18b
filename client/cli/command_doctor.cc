// SPDX-License-Identifier: Apache-2.0
//
// attnctl doctor: why it does not work, or not as fast as it could. One line a check: ok, warn,
// FAIL, or ? where the machine does not say; what was found, and what to do. The checks are in
// doctor/, by subject. Those of the machine mean the daemon's machine where both are one. Exit code
// 1 where anything failed; warnings and unknowns do not count.
#include <iostream>

#include <nlohmann/json.hpp>

#include "client/cli/command.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/terminal.h"

namespace attnd::cli {
namespace {

int RunDoctor(const Globals& globals) {
  const bool colors = StdoutIsTerminal();
  Report report(globals.json
                    ? nullptr
                    : std::function<void(const Finding&)>([colors](const Finding& finding) {
                        std::cout << ToText(finding, colors) << std::flush;
                      }));
  const Host host = Host::This();
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
  command->callback([&globals] { globals.exit_code = RunDoctor(globals); });
}

}  // namespace attnd::cli
