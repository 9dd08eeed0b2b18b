#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Unpacks the arm64 libraries that the preset `neon` links, and those that they run with, where
# cmake/aarch64.cmake looks for them. Does nothing where they are. Needs no root and leaves dpkg's
# architectures as they are: apt works on a state of its own, that of an empty arm64 machine.
# Exit code 0: all there; 1: they cannot be had.
#
#   scripts/arm64_sysroot.sh [--check]   --check: only say whether they are there
set -euo pipefail

readonly packages=(libabsl-dev libhwy-dev libgtest-dev libgmock-dev)
readonly sysroot="${HOME:?}/.cache/attnd/arm64-sysroot"

say() { printf 'arm64_sysroot: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# Another release of Debian has other libraries.
want="$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release) ${packages[*]}"
is_there() { [[ -f $sysroot/.stamp && "$(<"$sysroot/.stamp")" == "$want" ]]; }
if is_there; then
  exit 0
fi
if [[ "${1:-}" == --check ]]; then
  die "no arm64 libraries in $sysroot"
fi

# Of two clones, one unpacks.
mkdir -p "$(dirname "$sysroot")"
exec 9>"$sysroot.lock"
flock 9
if is_there; then
  exit 0
fi
say "unpacking into $sysroot: ${packages[*]}"
rm -rf "$sysroot"
mkdir "$sysroot"

state="$(mktemp -d)"
trap 'rm -rf "$state"' EXIT
# apt run by root downloads as the user _apt.
chmod 755 "$state"
mkdir -p "$state"/{lists,cache/archives}/partial
touch "$state/status"
apt_arm64() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$state" \
    -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state/cache" "$@" </dev/null >&2
}
# A source without arm64 is no harm as long as another one has the packages.
apt_arm64 update || true
apt_arm64 install --yes --no-install-recommends --download-only "${packages[@]}" ||
  die "apt cannot get ${packages[*]} for arm64. Its sources must be within reach and offer arm64:" \
    "Debian's mirrors do, unless /etc/apt restricts them to another architecture"

for package in "$state"/cache/archives/*.deb; do
  dpkg-deb --extract "$package" "$sysroot"
done
# From Debian 13 on packages only know /usr/lib, but programs ask for /lib/ld-linux-aarch64.so.1.
[[ -e $sysroot/lib ]] || ln -s usr/lib "$sysroot/lib"
printf '%s\n' "$want" >"$sysroot/.stamp"
say "done"
