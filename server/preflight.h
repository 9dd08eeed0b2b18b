// SPDX-License-Identifier: Apache-2.0
//
// What can be known to be wrong before anything is opened: files that are not there, folders that
// cannot be written, ports that somebody has. `--check_config` and the daemon's start look here, so
// that a mistake is one clear line and not what a library makes of it.
//
// A look only: nothing is created, and what is true now may change until it is used. Safe from any
// thread.
//
//   const Preflight found = CheckFiles(options);
//   if (!found.errors.empty()) return Fail(found.errors.front());
//   ATTND_RETURN_IF_ERROR(CheckPorts(options));
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/options.h"

namespace attnd {

struct Preflight {
  std::vector<std::string> errors;    // the daemon would not start
  std::vector<std::string> warnings;  // it would, but differently from what was asked for
};

// Files that are read, and the folders of the Unix sockets and of the ready file.
Preflight CheckFiles(const Options& options);

// Whether each TCP address can be bound just now: FAILED_PRECONDITION names the address and why
// not, such as that it is in use.
absl::Status CheckPorts(const Options& options);

}  // namespace attnd
