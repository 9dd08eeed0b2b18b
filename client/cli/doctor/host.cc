// SPDX-License-Identifier: Apache-2.0
#include "client/cli/doctor/host.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/doctor/text.h"

extern char** environ;

namespace attnd::cli {

namespace fs = std::filesystem;

Host Host::This() {
  User user{.uid = geteuid()};
  user.groups.resize(static_cast<size_t>(std::max(0, getgroups(0, nullptr))));
  if (!user.groups.empty()) {
    const int count = getgroups(static_cast<int>(user.groups.size()), user.groups.data());
    user.groups.resize(static_cast<size_t>(std::max(0, count)));
  }
  user.groups.push_back(getegid());
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = std::min(text.find('='), text.size());
    environment.emplace(text.substr(0, equals), text.substr(std::min(equals + 1, text.size())));
  }
  return {"", std::move(user), std::move(environment)};
}

Host::Host(std::string root, User user, Environment environment)
    : root_(std::move(root)), user_(std::move(user)), environment_(std::move(environment)) {}

std::optional<std::string> Host::Read(std::string_view path) const {
  // Not a stream: sysfs refuses some reads (EPERM, EINVAL) of files that open, and libstdc++'s
  // buffers throw then.
  const int fd = open(Path(path).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::string text;
  char chunk[4096];
  ssize_t size = 0;
  while ((size = read(fd, chunk, sizeof(chunk))) > 0) text.append(chunk, static_cast<size_t>(size));
  close(fd);
  if (size < 0) return std::nullopt;
  text.erase(text.find_last_not_of(" \n\t") + 1);
  return text;
}

std::optional<uint64_t> Host::ReadNumber(std::string_view path) const {
  const auto text = Read(path);
  if (!text) return std::nullopt;
  return ToNumber(*text);
}

bool Host::Exists(std::string_view path) const {
  std::error_code error;
  return fs::exists(Path(path), error) && !error;
}

std::vector<std::string> Host::List(std::string_view folder) const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(Path(folder), error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> Host::Resolve(std::string_view path) const {
  std::error_code error;
  const std::string resolved = fs::canonical(Path(path), error);
  if (error) return std::nullopt;
  if (root_.empty()) return resolved;
  const std::string root = fs::canonical(root_, error);
  if (error || resolved.rfind(root, 0) != 0) return std::nullopt;
  return resolved.substr(root.size());
}

bool Host::MayOpen(std::string_view path) const {
  // On the machine itself the kernel answers: it knows access control lists too.
  if (root_.empty()) return access(Path(path).c_str(), R_OK | W_OK) == 0;
  const auto owner = OwnerOf(path);
  if (!owner) return false;
  if (user_.uid == 0) return true;
  const mode_t bits = user_.uid == owner->uid ? owner->mode >> 6
                      : InGroup(owner->gid)   ? owner->mode >> 3
                                              : owner->mode;
  return (bits & 6) == 6;
}

std::optional<Host::Owner> Host::OwnerOf(std::string_view path) const {
  struct stat info {};
  if (stat(Path(path).c_str(), &info) != 0) return std::nullopt;
  return Owner{.uid = info.st_uid, .gid = info.st_gid, .mode = info.st_mode & 0777};
}

std::vector<std::string> Host::Account(std::string_view file, uint64_t id) const {
  const std::string text = Read(file).value_or("");
  for (const std::string_view line : Split(text, '\n')) {
    const std::vector<std::string_view> fields = Split(line, ':');
    if (fields.size() >= 3 && ToNumber(fields[2]) == id) return {fields.begin(), fields.end()};
  }
  return {};
}

std::string Host::GroupName(gid_t group) const {
  const std::vector<std::string> fields = Account("/etc/group", group);
  return fields.empty() ? absl::StrCat("group ", group) : fields[0];
}

std::string Host::UserName() const {
  const std::vector<std::string> fields = Account("/etc/passwd", user_.uid);
  return fields.empty() ? absl::StrCat("user ", user_.uid) : fields[0];
}

bool Host::InGroup(gid_t group) const {
  return std::find(user_.groups.begin(), user_.groups.end(), group) != user_.groups.end();
}

bool Host::EnrolledInGroup(gid_t group) const {
  const std::vector<std::string> fields = Account("/etc/group", group);
  if (fields.size() < 4) return false;
  const std::vector<std::string_view> members = Split(fields[3], ',');
  return std::find(members.begin(), members.end(), UserName()) != members.end();
}

std::optional<std::string> Host::Env(const std::string& name) const {
  const auto found = environment_.find(name);
  if (found == environment_.end()) return std::nullopt;
  return found->second;
}

bool Host::in_container() const {
  // Docker and Podman leave these; systemd names the kind of container to process 1.
  return Exists("/.dockerenv") || Exists("/run/.containerenv") || Exists("/run/systemd/container");
}

}  // namespace attnd::cli
