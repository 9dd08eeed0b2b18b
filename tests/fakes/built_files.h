// SPDX-License-Identifier: Apache-2.0
//
// Where tests find the programs and plugins that the build made for them.
#pragma once

#include <cstdlib>
#include <string>

namespace attnd {

// A program of the build, by name. ctest sets $ATTND_BIN_DIR; without it, ./bin of the build
// folder.
inline std::string BuiltProgram(const std::string& name) {
  const char* folder = std::getenv("ATTND_BIN_DIR");
  return std::string(folder == nullptr ? "bin" : folder) + "/" + name;
}

// A library that only tests load.
inline std::string BuiltTestPlugin(const std::string& name) {
  return BuiltProgram("../tests/bin/lib" + name + ".so");
}

}  // namespace attnd
