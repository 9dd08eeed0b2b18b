#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Unpacks docker's plugins compose and buildx into ~/.cache/attnd/docker-config, for DOCKER_CONFIG:
# Debian 12 has neither, and trixie's run on it. Does nothing where they are; needs no root.
# Exit code 0: there; 1: they cannot be had.
#
#   scripts/docker_plugins.sh [--check]   --check: only say whether they are there
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/debian_mirror.sh
source scripts/debian_mirror.sh

readonly suite=trixie packages=(docker-compose docker-buildx)
readonly config="${HOME:?}/.cache/attnd/docker-config"

die() {
  printf 'docker_plugins: %s\n' "$*" >&2
  exit 1
}

is_there() { [[ -f $config/.stamp && "$(<"$config/.stamp")" == "$suite ${packages[*]}" ]]; }
if is_there; then
  exit 0
fi
[[ "${1:-}" != --check ]] || die "no docker compose in $config"

# Of two clones, one unpacks.
mkdir -p "$config"
exec 9>"$config.lock"
flock 9
if is_there; then
  exit 0
fi

# An apt of its own, which knows that suite only.
state="$(mktemp -d)"
trap 'rm -rf "$state"' EXIT
chmod 755 "$state"
mkdir -p "$state"/{lists,cache/archives}/partial "$state/debs" "$state/unpacked"
debian_source "$suite" >"$state/sources.list" ||
  die "apt knows no source with Debian's main component: run apt-get update"
{
  apt_options
  printf 'Dir::Etc::SourceList "%s";\nDir::Etc::SourceParts "/dev/null";\n' "$state/sources.list"
  printf 'Dir::State::Lists "%s";\nDir::Cache "%s";\n' "$state/lists" "$state/cache"
  # Downloaded by root into a folder of root's, it would only warn.
  printf 'APT::Sandbox::User "root";\n'
} >"$state/apt.conf"
export APT_CONFIG="$state/apt.conf"
apt-get update -qq
(cd "$state/debs" && apt-get download -qq "${packages[@]}") ||
  die "apt cannot get ${packages[*]} from $(<"$state/sources.list"): Debian's mirrors have them"
for deb in "$state"/debs/*.deb; do
  dpkg-deb --extract "$deb" "$state/unpacked"
done
mkdir -p "$config/cli-plugins"
install "$state"/unpacked/usr/libexec/docker/cli-plugins/docker-* "$config/cli-plugins/"
printf '%s\n' "$suite ${packages[*]}" >"$config/.stamp"
