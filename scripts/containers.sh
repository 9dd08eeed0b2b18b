#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the images of deploy/docker and runs the tests of tests/containers on them, with a docker
# daemon of its own: its socket is private, its images and the builder's cache lie under
# ~/.cache/attnd/docker and are kept for the next run. Nothing but the Debian mirror is asked for
# anything: base images are made here, under their usual names.
#
#   scripts/containers.sh [TEST...]      all, or those that unittest finds by name: compose_test
#   scripts/containers.sh run COMMAND... a command with that docker: docker images
#
# Exit code 0: all passed; 1: not. Where docker cannot run at all that is a failure too, unless
# ATTND_CONTAINERS=optional. ATTND_DOCKER_ROOT moves the images elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/debian_mirror.sh
source scripts/debian_mirror.sh

readonly cache="${HOME:?}/.cache/attnd"
readonly data="${ATTND_DOCKER_ROOT:-$cache/docker}"
# One GPU is enough to see that the image is built and starts.
readonly amd_targets=gfx1100

say() { printf 'containers: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

cannot_run() {
  if [[ "${ATTND_CONTAINERS:-}" == optional ]]; then
    say "SKIPPED, as ATTND_CONTAINERS=optional allows: $*"
    exit 0
  fi
  die "docker cannot run here: $* (ATTND_CONTAINERS=optional makes that no failure)"
}

[[ "$(id -u)" -eq 0 ]] || cannot_run "its daemon needs root"
unshare --mount --pid --net --fork true 2>/dev/null ||
  cannot_run "this machine allows no namespaces (a container without CAP_SYS_ADMIN?)"
scripts/install_deps.sh containers || die "docker is not installed (see above)"

run_dir="$(mktemp -d)"
dockerd_pid=
# shellcheck disable=SC2317  # The trap calls it.
stop_docker() {
  if [[ -n $dockerd_pid ]]; then
    kill "$dockerd_pid" 2>/dev/null || true
    wait "$dockerd_pid" 2>/dev/null || true
  fi
  rm -rf "$run_dir"
}
trap stop_docker EXIT

# Debian's own program: one in /usr/local may want a builder that isn't here.
mkdir "$run_dir/bin"
ln -s /usr/bin/docker "$run_dir/bin/docker"
export PATH="$run_dir/bin:$PATH:/usr/sbin"
export DOCKER_HOST="unix://$run_dir/docker.sock" DOCKER_CONFIG="$cache/docker-config"
export DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain
unset DOCKER_CONTEXT

start_docker() {
  mkdir -p "$data"
  # Two daemons would ruin each other's images.
  exec 9>>"$data.lock"
  flock --nonblock 9 || {
    say "another run is using $data; waiting for it"
    flock 9
  }
  local options=(--host "$DOCKER_HOST" --data-root "$data" --exec-root "$run_dir/exec"
    --pidfile "$run_dir/dockerd.pid" --storage-driver overlay2
    # No network is made: containers have none, or the host's, or share one.
    --bridge=none --iptables=false --ip6tables=false)
  dockerd "${options[@]}" >"$run_dir/dockerd.log" 2>&1 9>&- </dev/null &
  dockerd_pid=$!
  until docker version >/dev/null 2>&1; do
    kill -0 "$dockerd_pid" 2>/dev/null || {
      tail -n 20 "$run_dir/dockerd.log" >&2
      dockerd_pid=
      cannot_run "its daemon ended (its last words are above)"
    }
    sleep 0.1
  done
  # What a run that was killed left behind.
  local -a left
  mapfile -t left < <(docker ps --all --quiet)
  [[ ${#left[@]} -eq 0 ]] || docker rm --force --volumes "${left[@]}" >/dev/null
  docker volume prune --force >/dev/null
  # Layers of former builds, failed ones too, beyond what the next one is likely to need.
  docker image prune --force >/dev/null
  docker builder prune --force --keep-storage 8GB >/dev/null
}

# make_base NAME SUITE [SECURITY_SUITE]: what a registry would have under that name, apt set up for
# the mirror of this machine.
make_base() {
  local name=$1 suite=$2 line option options=() sources=()
  docker image inspect "$name" >/dev/null 2>&1 && return
  say "making $name"
  while read -r option; do
    options+=(--aptopt="$option")
  done < <(apt_options)
  for option in doc info locale man; do
    options+=(--dpkgopt="path-exclude=/usr/share/$option/*")
  done
  line="$(debian_source "$suite")" ||
    die "apt knows no source with Debian's main component: run apt-get update"
  sources+=("$line")
  if [[ $# -gt 2 ]] && line="$(debian_source "$3" Debian-Security)"; then
    sources+=("$line")
  fi
  mmdebstrap --quiet --variant=minbase "${options[@]}" "$suite" "$run_dir/base.tar" \
    "${sources[@]}" </dev/null >&2 || die "mmdebstrap could not make $name from: ${sources[*]}"
  docker import "$run_dir/base.tar" "$name" >/dev/null
  rm "$run_dir/base.tar"
}

# make_ccache NAME FOLDER MOST_NEW: what this machine compiled in the last day, for the builder to
# begin with. It has a cache of its own from then on, and begins anew only where MOST_NEW objects
# have come to the folder since: to compile those takes longer than this.
make_ccache() {
  local name=$1 folder=$2 most_new=$3 listed
  listed="$data/${name//[^a-z]/-}.list"
  mkdir -p "$folder"
  (cd "$folder" && find . -type f -mmin -1440 ! -path './tmp/*' | LC_ALL=C sort) >"$run_dir/objects"
  if docker image inspect "$name" >/dev/null 2>&1 && [[ -f $listed ]] &&
    [[ $(LC_ALL=C comm -13 "$listed" "$run_dir/objects" | wc -l) -lt $most_new ]]; then
    return
  fi
  # One may vanish meanwhile: other builds tidy up.
  tar --create --ignore-failed-read --directory="$folder" --files-from="$run_dir/objects" \
    2>/dev/null | docker import - "$name" >/dev/null
  mv "$run_dir/objects" "$listed"
}

# build TARGET ARGUMENT...: attnd:TARGET.
build() {
  local target=$1 start=$SECONDS log
  shift
  log="$run_dir/build-$target.log"
  if ! docker build --network=host --file deploy/docker/Dockerfile --target "$target" \
    --tag "attnd:$target" "$@" . >"$log" 2>&1 </dev/null; then
    tail -n 60 "$log" >&2
    die "attnd:$target was not built (its log's end is above)"
  fi
  say "built attnd:$target in $((SECONDS - start)) s$(
    sed -nE 's/^#[0-9]+ [0-9.]+ +(Hits|Misses): +([0-9]+) .*/, \1 \2/p' "$log" | head -n 2 |
      tr -d '\n' | tr 'HM' 'hm'
  )"
}

start_docker
if [[ "${1:-}" == run ]]; then
  shift
  "$@"
  exit
fi
make_base debian:bookworm-slim bookworm bookworm-security
make_base debian:forky-slim forky
make_ccache attnd-ccache:cpu "$(ccache --get-config cache_dir)" 50
# The preset hip-amd's, which compiles for other GPUs: it has the host's code only.
make_ccache attnd-ccache:rocm "$cache/rocm-ccache" 100000
revision="$(git rev-parse HEAD)"
common=(--build-arg REVISION="$revision")
build cpu "${common[@]}" --build-arg CCACHE_IMAGE=attnd-ccache:cpu
build example "${common[@]}" --build-arg CCACHE_IMAGE=attnd-ccache:cpu
build rocm "${common[@]}" --build-arg CCACHE_IMAGE=attnd-ccache:rocm \
  --build-arg AMD_TARGETS="$amd_targets"
export ATTND_TEST_REVISION="$revision"
start=$SECONDS status=0
if [[ $# -gt 0 ]]; then
  (cd tests/containers && python3 -B -m unittest --verbose "$@") || status=$?
else
  python3 -B -m unittest discover --verbose --start-directory tests/containers \
    --pattern '*_test.py' || status=$?
fi
say "the tests took $((SECONDS - start)) s"
exit "$status"
