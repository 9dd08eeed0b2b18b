// SPDX-License-Identifier: Apache-2.0
//
// attnctl new-token: a bearer token of 256 random bits, and the SHA-256 by which a tenants file
// knows it. With --out the token goes into a file of mode 0600 and is never shown.
#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <iostream>

#include <openssl/sha.h>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/cli/command.h"

namespace attnd::cli {
namespace {

constexpr size_t kTokenBytes = 32;

std::string RandomHex() {
  std::array<char, kTokenBytes> bytes;
  // Up to 256 bytes come whole once the kernel has its entropy.
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return "";
  return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size()));
}

std::string Sha256Hex(const std::string& text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

// A new file: what is there already may be in use.
absl::Status WriteSecret(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--out: cannot create ", path, ": ", std::strerror(errno)));
  }
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  if (close(fd) == 0 && written) return absl::OkStatus();
  (void)unlink(path.c_str());
  return absl::InternalError(
      absl::StrCat("--out: cannot write ", path, ": ", std::strerror(error)));
}

int RunNewToken(const Globals& globals, const std::string& out) {
  const std::string token = RandomHex();
  if (token.empty()) return Fail(globals, absl::InternalError("the kernel gave no random bytes"));
  const std::string sha256 = Sha256Hex(token);
  if (!out.empty()) {
    const absl::Status status = WriteSecret(out, token + "\n");
    if (!status.ok()) return Fail(globals, status);
  }
  if (globals.json) {
    nlohmann::json json = {{"token_sha256", sha256}};
    if (out.empty()) json["token"] = token;
    if (!out.empty()) json["token_file"] = out;
    std::cout << json.dump(2) << "\n";
  } else {
    std::cout << (out.empty() ? "token         " + token : "token_file    " + out)
              << "\ntoken_sha256  " << sha256 << "\n";
  }
  return kSuccess;
}

}  // namespace

void AddNewTokenCommand(CLI::App& app, Globals& globals) {
  auto out = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "new-token", "A random bearer token, and its SHA-256 for attnd's tenants file");
  command->add_option("--out", *out,
                      "Write the token into this new file, mode 0600, and do not show it");
  command->callback([&globals, out] { globals.exit_code = RunNewToken(globals, *out); });
}

}  // namespace attnd::cli
