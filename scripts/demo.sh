#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Starts the Release daemon on a private socket, runs the demo against it, and stops it again.
# Arguments go to the demo. Without a Python package index: `attnctl demo`, which needs none.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly bin=$PWD/build/release/bin
work="$(mktemp -d "${TMPDIR:-/tmp}/attnd-demo.XXXXXX")"
daemon=

stop() {
  local status=$?
  trap - EXIT INT TERM
  if [[ -n $daemon ]] && kill -TERM "$daemon" 2>/dev/null; then
    # A daemon that does not drain within its own timeout is stopped the hard way.
    for _ in {1..400}; do
      kill -0 "$daemon" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  if [[ $status -ne 0 && -s $work/attnd.log ]]; then
    echo "demo: the last lines of the daemon's log:" >&2
    tail -n 20 "$work/attnd.log" >&2
  fi
  rm -rf "$work"
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

python_ready=0
scripts/python_env.sh || python_ready=$?

"$bin/attnd" --listen "unix:$work/attnd.sock" --metrics_listen 127.0.0.1:0 \
  --ready_file "$work/ready.json" </dev/null >"$work/attnd.log" 2>&1 &
daemon=$!
for _ in {1..300}; do
  [[ ! -s $work/ready.json ]] || break
  kill -0 "$daemon" 2>/dev/null || {
    echo "demo: attnd did not start" >&2
    exit 1
  }
  sleep 0.1
done
[[ -s $work/ready.json ]] || {
  echo "demo: attnd was not ready after 30 s" >&2
  exit 1
}
address="unix:$work/attnd.sock"
metrics="$(sed -nE 's/.*"metrics": *"([^"]*)".*/\1/p' "$work/ready.json")"
echo "demo: attnd serves at $address, metrics at http://$metrics/metrics"

if [[ $python_ready -eq 0 ]]; then
  .venv/bin/python -m attnd.demo --address "$address" --metrics "$metrics" "$@"
elif [[ $python_ready -eq 3 ]]; then
  echo "demo: no language model here (its Python packages are out of reach); attnctl's own loop" \
    "of the same geometry instead, on generated tensors, checked against the reference"
  "$bin/attnctl" demo --address "$address" "$@"
else
  exit 1
fi
