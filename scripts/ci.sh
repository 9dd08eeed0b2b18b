#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The stages of CI, each with its budget, and a deadline for all of them: a stage may take its
# budget or what is left until the deadline, whichever is less. One that takes longer is stopped and
# has failed.
#   scripts/ci.sh          what .ci/run does
#   scripts/ci.sh --full   no budgets and no deadline; also the sanitized slow tests, the release
#                          build's conformance suite on every simulated matrix core, the demo,
#                          and the containers
set -uo pipefail
cd "$(dirname "$0")/.." || exit

full=
[[ "${1:-}" != --full ]] || full=1
jobs=$(nproc)
# clang-tidy ends itself in time, and says what it did not get to.
[[ -n $full ]] || export LINT_BUDGET_S=180
export JOBS=$jobs CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

# In seconds of this shell; CI itself ends after 90 minutes.
deadline=$((86 * 60))
# Less than this starts no stage that may be skipped: not even its warm run would end.
least_s=120
names=() budgets=() times=() results=()

# stage NAME BUDGET_SECONDS COMMAND...: runs all of them, so that one run shows all that is wrong.
stage() { run_stage "FAILED (no time left)" "$@"; }

# The same for what comes last: where the stages before left it less time than its budget, and that
# was too little, it counts as skipped, not as failed. ccache has what it compiled for the next run.
stage_if_time() { run_stage "SKIPPED (no time left)" "$@"; }

run_stage() {
  local no_time=$1 name=$2 budget=$3 start=$SECONDS status=0 result=ok limit=$3
  shift 3
  if [[ -z $full && $limit -gt $((deadline - SECONDS)) ]]; then
    limit=$((deadline - SECONDS))
  fi
  printf '\n=== %s (budget %d s, may take %d s)\n' "$name" "$budget" $((limit > 0 ? limit : 0))
  if [[ -n $full ]]; then
    "$@" </dev/null || status=$?
  elif [[ $limit -lt $budget && $limit -lt $least_s ]]; then
    status=124
  else
    timeout --kill-after=10 "$limit" "$@" </dev/null || status=$?
  fi
  [[ $status -eq 0 ]] || result="FAILED ($status)"
  # timeout's own; 137 before the time is up is a program that was killed for something else.
  if [[ -z $full && ($status -eq 124 ||
    ($status -eq 137 && $((SECONDS - start)) -ge $limit)) ]]; then
    result="FAILED (over its budget)"
    [[ $limit -ge $budget ]] || result=$no_time
  fi
  printf '=== %s: %s, %d s of %d s\n' "$name" "$result" $((SECONDS - start)) "$budget"
  names+=("$name") budgets+=("$budget") times+=($((SECONDS - start))) results+=("$result")
}

# What does not fit the sanitizers' budgets, --full runs: slow tests, and under TSan the conformance
# suite, which adds arithmetic to the threads that the other tests exercise.
sanitized() {
  local skip='slow|tidy'
  [[ $1 != tsan ]] || skip+='|conformance'
  scripts/build.sh "$1" "$jobs" && {
    if [[ -n $full ]]; then
      scripts/test.sh "$1" "$jobs"
    else
      scripts/test.sh "$1" "$jobs" --label-exclude "$skip"
    fi
  }
}

# Emulated, the kernels' tests take over six minutes of CPU time. Left to --full: every cell of the
# capability matrix where queries and cache differ in dtype. A sample of those cells stays in, on
# CpuTinyCaches, and no other test is left out.
neon() {
  local cells='*.EverySupportedCellMatchesTheReference/Cpu_q' mixed
  mixed="${cells}_f32_kv_*16:${cells}_f16_kv_f32:${cells}_f16_kv_bf16:${cells}_bf16_kv_f*"
  [[ -n $full ]] || export GTEST_FILTER="-$mixed"
  make --no-print-directory neon
}

# Needs a CUDA compiler, and no GPU: what it makes is tried where there is one (run_on_gpu.sh).
hip_nvidia() {
  command -v nvcc >/dev/null || {
    echo 'hip-nvidia: SKIPPED: no nvcc here, so the kernels were not compiled for NVIDIA'
    return
  }
  # One architecture says what two do, in half the time.
  cmake --preset hip-nvidia -DATTND_CUDA_ARCHS=90 >/dev/null
  make --no-print-directory hip-nvidia
}

# Under sanitizers the suite runs fewer of its cases, on every simulated matrix core; in `make test`
# all of them, on gfx1100's only. This runs all of them on every core.
simt() {
  cmake --preset release -B build/simt -DATTND_SIMT_CORES='0;1;2;3;4' >/dev/null &&
    cmake --build build/simt --parallel "$jobs" --target simt_conformance_test &&
    ctest --test-dir build/simt --parallel "$jobs" --output-on-failure -R '^simt_conformance_test'
}
export -f sanitized neon hip_nvidia simt
export jobs full

stage test 1500 make --no-print-directory test
stage lint 400 scripts/lint.sh format tidy shell python
stage docs 240 scripts/docs.sh
stage monitoring 500 scripts/monitoring.sh
stage page 400 scripts/test_page.sh
stage clang 600 scripts/lint.sh clang headers
stage clang-tidy 240 scripts/lint.sh clang-tidy
stage asan-ubsan 1800 bash -c 'sanitized asan-ubsan'
stage tsan 800 bash -c 'sanitized tsan'
stage neon 600 bash -c neon
stage_if_time hip-amd 3600 make --no-print-directory hip-amd
stage_if_time hip-nvidia 1800 bash -c hip_nvidia
if [[ -n $full ]]; then
  stage simt 1800 bash -c simt
  stage demo 600 make --no-print-directory demo
  stage containers 3600 make --no-print-directory test-containers
fi

printf '\n%-12s %8s %8s  %s\n' stage budget took result
total=0 failures=0 skipped=0
for i in "${!names[@]}"; do
  printf '%-12s %6d s %6d s  %s\n' "${names[i]}" "${budgets[i]}" "${times[i]}" "${results[i]}"
  total=$((total + times[i]))
  case ${results[i]} in
  ok) ;;
  SKIPPED*) skipped=$((skipped + 1)) ;;
  *) failures=$((failures + 1)) ;;
  esac
done
printf '%-12s %8s %6d s\n' total '' "$total"
printf 'ci: %d of %d stages failed' "$failures" "${#names[@]}"
[[ $skipped -eq 0 ]] || printf ', %d SKIPPED for lack of time' "$skipped"
printf '\n'
[[ $failures -eq 0 ]]
