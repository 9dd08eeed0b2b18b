#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the GPU tests of a bundle (bundle.sh) on the machine at hand, and writes what they found.
#
#   tests/run_on_gpu.sh [--out DIR] [PART[=SECONDS] ...]
#
# The parts, in their order, with their time limits; without a PART all but bench-quick:
#   conformance=240   the conformance suite, on all of it
#   daemon=120        the daemon from outside: its own test, attnctl verify, attnctl bench
#   memcheck=150      compute-sanitizer's memcheck on the tests that $memcheck_tests names
#   racecheck=90      and its racecheck on $racecheck_tests
#   bench=300         tests/bench/hip/gpu_bench.py beside PyTorch
#   bench-quick=90    a part of it
#   pybench=240       python -m attnd.bench: calls through the daemon beside PyTorch's, where Python
#                     has torch, numpy, grpcio and protobuf (any from 4.25)
# Into DIR (./results): results.json and results.md with every part's outcome, below hardware,
# command, date and commit; the benchmarks' rows; a log a part.
# Exit code 1: a part failed or ran out of time.
set -uo pipefail

bundle="$(cd "$(dirname "$0")/.." && pwd)"
readonly bundle
readonly suite=$bundle/tests/gpu_conformance_test

# filter PATTERN ...: gtest's own form.
filter() { local IFS=: && echo "$*"; }
memcheck_tests="$(filter '*/ShapesTest.*' '*/NonFiniteTest.*' '*/InvarianceTest.DecodeAgrees*' \
  '*/MatrixTest.*q_bf16_kv_bf16*' '*/MatrixTest.*q_f32_kv_f32*' \
  '*/MatrixTest.OddHeadDims*q_f16_kv_f32*')"
racecheck_tests="$(filter '*/ShapesTest.*' '*/InvarianceTest.DecodeAgrees*' \
  '*/MatrixTest.OddHeadDims*q_bf16_kv_bf16*' '*/MatrixTest.OddHeadDims*q_f32_kv_f32*')"
readonly memcheck_tests racecheck_tests
declare -A limits=(
  [conformance]=240 [daemon]=120 [memcheck]=150 [racecheck]=90 [bench]=300 [bench-quick]=90
  [pybench]=240
)
out=$PWD/results only='' work=''
parts=()
while [[ $# -gt 0 ]]; do
  case "$1" in
  --out)
    out="$(realpath -m "$2")"
    shift
    ;;
  # How it starts itself for each part.
  --only)
    only=$2
    shift
    ;;
  --work)
    work=$2
    shift
    ;;
  *)
    part=${1%%=*}
    [[ -n ${limits[$part]:-} ]] || {
      sed -n 's/^# \{0,1\}//; 3,19p' "$0" >&2
      exit 2
    }
    parts+=("$part")
    [[ $1 != *=* ]] || limits[$part]=${1#*=}
    ;;
  esac
  shift
done
[[ ${#parts[@]} -gt 0 ]] || parts=(conformance daemon memcheck racecheck bench pybench)
mkdir -p "$out"
jobs=$(($(nproc) > 16 ? 8 : ($(nproc) + 1) / 2))
export ATTND_BIN_DIR=$bundle/bin

# suite_under FILTER [PROGRAM ARG ...]: the conformance tests of FILTER, shared between $jobs
# processes, each under PROGRAM.
suite_under() {
  local filter=$1 shard pids=() status=0
  shift
  for ((shard = 0; shard < jobs; shard++)); do
    GTEST_TOTAL_SHARDS=$jobs GTEST_SHARD_INDEX=$shard "$@" "$suite" --gtest_filter="$filter" \
      --gtest_brief=0 >"$work/shard$shard" 2>&1 &
    pids+=($!)
  done
  for ((shard = 0; shard < jobs; shard++)); do
    wait "${pids[shard]}" || status=1
    cat "$work/shard$shard"
  done
  return "$status"
}

part_conformance() { suite_under '*'; }

part_memcheck() {
  suite_under "$memcheck_tests" compute-sanitizer --tool memcheck --error-exitcode 86
}

part_racecheck() {
  suite_under "$racecheck_tests" compute-sanitizer --tool racecheck --error-exitcode 86
}

part_daemon() {
  local status=0 daemon address=unix:$work/attnd.sock
  "$bundle/tests/gpu_daemon_test" || status=1
  "$bundle/bin/attnd" --backend=hip --listen "$address" --metrics_listen "" --pool_bytes=4GiB \
    --ready_file "$work/ready" &
  daemon=$!
  until [[ -s $work/ready ]]; do
    kill -0 "$daemon" || return 1
    sleep 0.1
  done
  "$bundle/bin/attnctl" --address "$address" capabilities || status=1
  "$bundle/bin/attnctl" --address "$address" verify || status=1
  "$bundle/bin/attnctl" --address "$address" bench --dtype bf16 --kv_dtype bf16 --query_heads 32 \
    --kv_heads 8 --head_dim 128 --context 4096 --json "$out/attnctl_bench.json" || status=1
  "$bundle/bin/attnctl" --address "$address" integrity || status=1
  kill -TERM "$daemon"
  wait "$daemon" || status=1
  return "$status"
}

part_bench() {
  PYTHONUNBUFFERED=1 python3 "$bundle/bench/gpu_bench.py" --json "$out/gpu_bench.json" "$@"
}

part_bench-quick() { part_bench --quick; }

# Writes its rows after every case: one that fails, or the limit, loses no other.
part_pybench() {
  PYTHONUNBUFFERED=1 PYTHONPATH=$bundle/python ATTND_BINARY=$bundle/bin/attnd \
    python3 -m attnd.bench --device cuda --budget_s 1 --json "$out/pybench.json"
}

if [[ -n $only ]]; then
  "part_$only"
  exit
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# What a part's log says of its tests: passed, failed, skipped.
passed() { grep -c '^\[       OK \] ' "$1"; }
failed() { grep -c '^\[  FAILED  \] .* (.* ms)$' "$1"; }
skipped() { grep -c '^\[  SKIPPED \] .* (.* ms)$' "$1"; }

command="tests/hip/run_on_gpu.sh ${parts[*]}"
hardware="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)"
model="$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)"
hardware="${hardware:-no NVIDIA GPU}, $model, $(nproc) CPUs"
date="$(date -u +%Y-%m-%dT%H:%M:%SZ)"
commit="$(cat "$bundle/commit")"

rows=() lines=() failures=0
for part in "${parts[@]}"; do
  log=$out/$part.log limit=${limits[$part]} start=$SECONDS result=ok
  printf '=== %s (limit %d s)\n' "$part" "$limit"
  # A command of its own, so that the limit ends all that the part started.
  timeout --signal=KILL "$limit" "$0" --only "$part" --work "$work" --out "$out" \
    </dev/null >"$log" 2>&1
  status=$?
  seconds=$((SECONDS - start))
  [[ $status -eq 0 ]] || result=FAILED
  [[ $status -ne 137 ]] || result="stopped at its limit"
  # A shard that the limit killed had no time to hand its log on.
  [[ $status -ne 137 ]] || cat "$work"/shard* >>"$log" 2>/dev/null
  [[ $status -eq 0 ]] || failures=$((failures + 1))
  counts="$(passed "$log") $(failed "$log") $(skipped "$log")"
  read -r ok bad skip <<<"$counts"
  [[ $status -eq 0 ]] || {
    grep -E '^\[  FAILED  \]|ERROR SUMMARY: [1-9]|=========     ?[A-Z]|rror:|Failure' "$log" |
      sort -u | head -20
    tail -n 25 "$log"
  }
  [[ $status -ne 0 || $part != *bench* ]] || cat "$log"
  printf '=== %s: %s, %d s; %d tests passed, %d failed, %d skipped\n' "$part" "$result" \
    "$seconds" "$ok" "$bad" "$skip"
  numbers="$(printf '"seconds": %d, "limit": %d, "passed": %d, "failed": %d, "skipped": %d' \
    "$seconds" "$limit" "$ok" "$bad" "$skip")"
  rows+=("{\"part\": \"$part\", \"result\": \"$result\", $numbers}")
  lines+=("| $part | $result | $seconds | $ok | $bad | $skip |")
done

{
  printf '{"head": {"hardware": "%s", "command": "%s", ' "$hardware" "$command"
  printf '"date": "%s", "commit": "%s"},\n "rows": [\n' "$date" "$commit"
  printf '  %s' "${rows[0]}"
  [[ ${#rows[@]} -eq 1 ]] || printf ',\n  %s' "${rows[@]:1}"
  printf '\n]}\n'
} >"$out/results.json"
{
  # shellcheck disable=SC2016  # backquotes of Markdown
  printf '%s; `%s`; %s; commit %s\n\n' "$hardware" "$command" "$date" "$commit"
  printf '| part | result | seconds | tests passed | failed | skipped |\n'
  printf '| --- | --- | --- | --- | --- | --- |\n'
  printf '%s\n' "${lines[@]}"
  # shellcheck disable=SC2016
  printf '\nmemcheck: `%s`\n\nracecheck: `%s`\n' "$memcheck_tests" "$racecheck_tests"
} >"$out/results.md"
cat "$out/results.md"
[[ $failures -eq 0 ]]
