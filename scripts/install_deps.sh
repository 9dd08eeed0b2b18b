#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that attnd is built with. Does nothing, in milliseconds, where all
# are there. Exit code 0: all present; 1: something is missing and could not be installed.
#
#   scripts/install_deps.sh           what `make build`, `make test` and `make demo` need
#   scripts/install_deps.sh neon      what the preset `neon` needs on top: the cross compiler, the
#                                     emulator, and the arm64 libraries of arm64_sysroot.sh
#   scripts/install_deps.sh hip-amd   what the preset `hip-amd` needs on top: the Debian root with
#                                     ROCm of rocm_root.sh, and what makes it
#   scripts/install_deps.sh containers   what `make test-containers` needs on top: docker, and
#                                     mmdebstrap for base images; the plugins of docker_plugins.sh
#   scripts/install_deps.sh monitoring   what `make test-monitoring` needs on top: Prometheus, whose
#                                     service stays off, and npm
#   scripts/install_deps.sh page      what `make test-page` needs on top: a browser
#   scripts/install_deps.sh --check [GROUP...]   only say what is missing
#   scripts/install_deps.sh --list    print the packages that the C++ is built and tested with
set -euo pipefail

check=() neon='' hip_amd='' containers='' monitoring='' page='' list=''
for argument in "$@"; do
  case "$argument" in
  --check) check=(--check) ;;
  --list) list=1 ;;
  neon) neon=1 ;;
  hip-amd) hip_amd=1 ;;
  containers) containers=1 ;;
  monitoring) monitoring=1 ;;
  page) page=1 ;;
  *)
    echo "usage: scripts/install_deps.sh [--check | --list]" \
      "[neon] [hip-amd] [containers] [monitoring] [page]" >&2
    exit 1
    ;;
  esac
done

# In the root of rocm_root.sh, too.
build_packages=(
  # Toolchain.
  build-essential cmake ninja-build ccache pkg-config git
  # gRPC, protobuf and what they are used with.
  protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libgrpc++-dev libgrpc-dev libabsl-dev
  # Metrics: prometheus-cpp's pull library, with the HTTP server inside it.
  prometheus-cpp-dev libcivetweb-dev libssl-dev zlib1g-dev libcurl4-openssl-dev
  # Kernels, logs, options.
  libhwy-dev libspdlog-dev libcli11-dev nlohmann-json3-dev libyaml-cpp-dev
  # Tests and benchmarks.
  libgtest-dev libgmock-dev libbenchmark-dev python3
)
if [[ -n $list ]]; then
  printf '%s\n' "${build_packages[@]}"
  exit
fi
packages=(
  "${build_packages[@]}"
  # Static checks, and the Python client's virtual environment.
  clang clang-tidy clang-format shellcheck python3-venv
  # systemd-analyze, which judges deploy/systemd.
  systemd
)
[[ -z $neon ]] || packages+=(g++-aarch64-linux-gnu qemu-user)
[[ -z $hip_amd ]] || packages+=(mmdebstrap)
[[ -z $containers ]] || packages+=(docker.io mmdebstrap)
if [[ -n $monitoring ]]; then
  packages+=(prometheus)
  # Another Node than Debian's, with its own npm, conflicts with Debian's npm and does as well.
  command -v npm >/dev/null || packages+=(nodejs npm)
fi
[[ -z $page ]] || packages+=(chromium)
readonly packages

say() { printf 'install_deps: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    # One dpkg-query for all would stop at the first name it has never heard of.
    grep -qxF "$package" <<<"$installed" || printf '%s\n' "$package"
  done
}

# ${Package} has no architecture suffix. "ii " is installed and configured, hold or not.
list_installed() {
  dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' 2>/dev/null |
    sed -n 's/^installed //p'
}

# The last step: what lies under ~/.cache instead of being installed.
finish() {
  [[ -z $neon ]] || "$(dirname "$0")/arm64_sysroot.sh" "${check[@]}"
  [[ -z $hip_amd ]] || "$(dirname "$0")/rocm_root.sh" "${check[@]}"
  [[ -z $containers ]] || "$(dirname "$0")/docker_plugins.sh" "${check[@]}"
  exit
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  die "this is not Debian (no apt-get). attnd is built on Debian 12 or later; elsewhere install" \
    "the equivalents of: ${packages[*]}"
fi

installed="$(list_installed)"
mapfile -t missing < <(missing_packages)
if [[ ${#missing[@]} -eq 0 ]]; then
  finish
fi
if [[ ${#check[@]} -gt 0 ]]; then
  die "missing: ${missing[*]}"
fi

as_root=()
if [[ "$(id -u)" -ne 0 ]]; then
  command -v sudo >/dev/null ||
    die "not root, and no sudo. Run as root: apt-get install ${missing[*]}"
  as_root=(sudo)
fi

say "installing: ${missing[*]}"
# stdin is not ours to read: neither apt nor dpkg may ask anything.
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" \
    </dev/null
}
# The tests start Prometheus themselves. Its package would start a service, now and at each boot:
# policy-rc.d refuses the first, the unit's mask the second. Either is left alone where it is there.
keep_service_off() {
  local policy=/usr/sbin/policy-rc.d unit=/etc/systemd/system/prometheus.service
  if [[ ! -e $policy ]]; then
    # shellcheck disable=SC2064  # its value now
    trap "${as_root[*]} rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
  fi
  if [[ ! -e $unit && ! -L $unit ]]; then
    "${as_root[@]}" mkdir -p "$(dirname "$unit")"
    "${as_root[@]}" ln -s /dev/null "$unit"
  fi
}
[[ " ${missing[*]} " != *' prometheus '* ]] || keep_service_off

# With stale lists an installation may still work; if it doesn't, apt's own words are above ours.
apt update -qq || true
if ! apt install -y -qq --no-install-recommends "${missing[@]}" >&2; then
  for package in "${missing[@]}"; do
    if [[ "$(apt-cache policy "$package" 2>/dev/null)" != *'Candidate: '[^\(]* ]]; then
      say "no package '$package' in the configured sources: attnd needs Debian 12 or later, main"
    fi
  done
  die "could not install: ${missing[*]} (is the package mirror within reach? See apt's words above)"
fi

installed="$(list_installed)"
mapfile -t missing < <(missing_packages)
[[ ${#missing[@]} -eq 0 ]] || die "still missing after installation: ${missing[*]}"
say "done"
finish
