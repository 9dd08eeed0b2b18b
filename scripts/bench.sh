#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the benchmarks, all or those named, and writes their rows to build/bench/NAME.json.
#   scripts/bench.sh [NAME...]
# A benchmark is a program of attnd_benchmark(), a script tests/bench/NAME_bench.py, or pybench,
# which is `python -m attnd.bench` with its pictures; each checks its output before it measures, and
# takes --json FILE.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

readonly programs=build/release/bench/bin
mkdir -p build/bench
export ATTND_BIN_DIR="$PWD/build/release/bin" ATTND_BENCH_BIN_DIR="$PWD/$programs"
export PYTHONDONTWRITEBYTECODE=1

if [[ $# -eq 0 ]]; then
  shopt -s nullglob
  for file in "$programs"/* tests/bench/*_bench.py; do
    set -- "$@" "$(basename "$file" .py)"
  done
  set -- "$@" pybench
  [[ -d $programs ]] || {
    echo "bench: no benchmark is built" >&2
    exit 1
  }
fi
failed=()
for name in "$@"; do
  json=build/bench/$name.json
  rm -f "$json"
  echo "== $name"
  if [[ -x $programs/$name ]]; then
    "$programs/$name" --json "$json" </dev/null || failed+=("$name")
  elif scripts/python_env.sh; then
    command=("tests/bench/$name.py")
    [[ $name != pybench ]] || command=(-m attnd.bench --plots build/bench)
    .venv/bin/python "${command[@]}" --json "$json" </dev/null || failed+=("$name")
  else
    echo "bench: $name did NOT run: it needs Python packages that cannot be had here" >&2
  fi
done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "bench: FAILED: ${failed[*]}" >&2
  exit 1
fi
echo "bench: rows in build/bench/"
