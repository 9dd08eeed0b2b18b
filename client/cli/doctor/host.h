// SPDX-License-Identifier: Apache-2.0
//
// The machine that `attnctl doctor` looks at: its files, its environment, who asks.
//
// Every path of /proc, /sys, /dev and /etc that a check reads goes through a Host, so that a test
// can put a tree of its own in their place. A question that the machine does not answer gives
// nullopt, false or nothing, never an error: the check says "unknown" and why. Thread-safe.
//
//   const Host host = Host::This();
//   std::optional<std::string> level = host.Read("/sys/class/drm/card0/device/pp_dpm_sclk");
#pragma once

#include <sys/types.h>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace attnd::cli {

using Environment = std::map<std::string, std::string>;

class Host {
 public:
  struct User {
    uid_t uid = 0;
    std::vector<gid_t> groups{};  // of the process: what it may open now
  };

  // This machine, with this process's environment and rights.
  static Host This();
  // The files under `root` as if they were the machine's. `user`'s rights follow from owners and
  // mode bits alone.
  Host(std::string root, User user, Environment environment);

  // A file's text without trailing white space; nothing where it cannot be read.
  std::optional<std::string> Read(std::string_view path) const;
  // A file that holds one decimal or 0x number.
  std::optional<uint64_t> ReadNumber(std::string_view path) const;
  bool Exists(std::string_view path) const;
  // The names in a folder, sorted; none where it cannot be read.
  std::vector<std::string> List(std::string_view folder) const;
  // Where symbolic links lead, as a path of the machine.
  std::optional<std::string> Resolve(std::string_view path) const;

  // Whether the user may read and write it.
  bool MayOpen(std::string_view path) const;
  struct Owner {
    uid_t uid = 0;
    gid_t gid = 0;
    mode_t mode = 0;  // the nine permission bits
  };
  std::optional<Owner> OwnerOf(std::string_view path) const;
  std::string GroupName(gid_t group) const;  // "render", or "group 109"
  std::string UserName() const;              // "ann", or "user 1000"
  bool InGroup(gid_t group) const;
  // Listed in /etc/group, whether or not the process was started since.
  bool EnrolledInGroup(gid_t group) const;

  std::optional<std::string> Env(const std::string& name) const;
  const Environment& environment() const { return environment_; }
  bool in_container() const;

 private:
  std::string Path(std::string_view path) const { return root_ + std::string(path); }
  // The fields of the line of /etc/passwd or /etc/group whose third field is `id`.
  std::vector<std::string> Account(std::string_view file, uint64_t id) const;

  std::string root_;  // "" for the machine itself
  User user_;
  Environment environment_;
};

}  // namespace attnd::cli
