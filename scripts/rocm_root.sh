#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A Debian root with ROCm, for the preset `hip-amd`: Debian 12's own hipcc knows no current GPU, and
# forky has ROCm 6.4 beside gRPC and all else that attnd is built with.
#
#   scripts/rocm_root.sh [--check]         make the root where it is not there; --check: only say so
#   scripts/rocm_root.sh run COMMAND...    run a command in it, from the top of this repository
#
# Making it takes a minute and 1.7 GB under ~/.cache/attnd. A command sees the root's programs, this
# repository at its own path, /proc and /dev, an empty /tmp, and a ccache that all clones share; its
# mounts are in a mount namespace of its own and end with it. Both need root, or sudo.
# Exit code 0: there, or the command's own; 1: the root cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/debian_mirror.sh
source scripts/debian_mirror.sh

readonly suite=forky
readonly cache="${HOME:?}/.cache/attnd"
readonly root="$cache/rocm-root" ccache_dir="$cache/rocm-ccache"

say() { printf 'rocm_root: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# hipcc brings its clang, llvm-readobj and llvm-objdump.
rocm_packages=(hipcc libamdhip64-dev)
mapfile -t build_packages < <(scripts/install_deps.sh --list)
packages=("${rocm_packages[@]}" "${build_packages[@]}")
readonly packages

as_root=()
if [[ "$(id -u)" -ne 0 ]]; then
  command -v sudo >/dev/null || die "not root, and no sudo: run it as root"
  as_root=(sudo)
fi

is_there() { [[ -f $root/.stamp && "$(<"$root/.stamp")" == "$suite ${packages[*]}" ]]; }

# Of two clones, one makes it; and nobody removes it while a command runs in it.
mkdir -p "$cache"
exec 9>>"$root.lock"

make_root() {
  command -v mmdebstrap >/dev/null ||
    die "no mmdebstrap, which makes the root with ROCm: run scripts/install_deps.sh hip-amd"
  say "making $root (Debian $suite: ${packages[*]})"
  # Under another name until it is whole.
  local new="$root.new" option options=() line
  "${as_root[@]}" rm -rf --one-file-system "$new" "$root"
  while read -r option; do
    options+=(--aptopt="$option")
  done < <(apt_options)
  # Nobody reads there.
  for option in path-exclude=/usr/share/{doc,info,locale,man}/'*'; do
    options+=(--dpkgopt="$option")
  done
  line="$(debian_source "$suite")" ||
    die "apt knows no source with Debian's main component: run apt-get update"
  "${as_root[@]}" mmdebstrap --quiet --variant=minbase "${options[@]}" \
    --include="$(IFS=,; printf '%s' "${packages[*]}")" "$suite" "$new" "$line" </dev/null >&2 ||
    die "mmdebstrap could not make it from '$line'. That mirror must be within reach and offer" \
      "$suite: Debian's own mirrors do"
  printf '%s\n' "$suite ${packages[*]}" | "${as_root[@]}" tee "$new/.stamp" >/dev/null
  "${as_root[@]}" mv "$new" "$root"
  say "done"
}

# Leaves the lock on file descriptor 9 shared, with the root there.
ensure_root() {
  flock -s 9
  until is_there; do
    flock 9
    is_there || make_root
    # To turn an exclusive lock into a shared one is to let go of it for a moment.
    flock -s 9
  done
}

# What runs as root in the new mount namespace: root, ccache directory, repository, user:group,
# command.
# shellcheck disable=SC2016  # The expansions are the inner shell's.
readonly enter='
  set -euo pipefail
  root=$1 ccache_dir=$2 repository=$3 owner=$4
  shift 4
  mount --rbind /proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mkdir -p "$root/ccache" "$root$repository"
  mount --bind "$ccache_dir" "$root/ccache"
  mount --bind "$repository" "$root$repository"
  exec chroot --userspec="$owner" "$root" /usr/bin/env -i --chdir="$repository" \
    PATH=/usr/sbin:/usr/bin HOME=/tmp LANG=C.UTF-8 TERM="${TERM:-dumb}" CI="${CI:-}" \
    GTEST_FILTER="${GTEST_FILTER:-*}" ATTND_ROCM_ROOT=1 \
    CCACHE_DIR=/ccache CCACHE_BASEDIR="$repository" CCACHE_NOHASHDIR=1 "$@"'

run() {
  local repository
  repository="$(pwd -P)"
  mkdir -p "$ccache_dir"
  "${as_root[@]}" unshare --mount --propagation private true ||
    die "this machine allows no mount namespaces (a container without CAP_SYS_ADMIN?)"
  exec "${as_root[@]}" unshare --mount --propagation private bash -c "$enter" bash \
    "$root" "$ccache_dir" "$repository" "$(id -u):$(id -g)" "$@"
}

case "${1:-}" in
'') ensure_root ;;
--check) is_there || die "no root with ROCm in $root" ;;
run)
  shift
  ensure_root
  run "$@"
  ;;
*) die "usage: scripts/rocm_root.sh [--check | run COMMAND...]" ;;
esac
