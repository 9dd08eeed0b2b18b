#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The stages of CI, each with its budget; a stage that is over it is stopped and has failed.
#   scripts/ci.sh          what .ci/run does
#   scripts/ci.sh --full   no budgets; the sanitized slow tests and the demo too
set -uo pipefail
cd "$(dirname "$0")/.." || exit

full=
[[ "${1:-}" != --full ]] || full=1
jobs=$(nproc)
# clang-tidy ends itself in time, and says what it did not get to.
[[ -n $full ]] || export LINT_BUDGET_S=180
export JOBS=$jobs CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

names=() budgets=() times=() results=()

# stage NAME BUDGET_SECONDS COMMAND...: runs all of them, so that one run shows all that is wrong.
stage() {
  local name=$1 budget=$2 start=$SECONDS status=0 result=ok
  shift 2
  printf '\n=== %s (budget %d s)\n' "$name" "$budget"
  if [[ -n $full ]]; then
    "$@" </dev/null || status=$?
  else
    timeout --kill-after=10 "$budget" "$@" </dev/null || status=$?
  fi
  [[ $status -eq 0 ]] || result="FAILED ($status)"
  [[ $status -ne 124 && $status -ne 137 ]] || result="FAILED (over its budget)"
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
export -f sanitized neon hip_nvidia
export jobs full

stage test 1200 make --no-print-directory test
stage lint 120 scripts/lint.sh format tidy shell
stage clang 600 scripts/lint.sh clang headers
stage clang-tidy 240 scripts/lint.sh clang-tidy
stage asan-ubsan 1500 bash -c 'sanitized asan-ubsan'
stage tsan 800 bash -c 'sanitized tsan'
stage neon 400 bash -c neon
if [[ -n $full ]]; then
  stage hip-amd 1800 make --no-print-directory hip-amd
  stage hip-nvidia 1800 bash -c hip_nvidia
  stage demo 600 make --no-print-directory demo
fi

printf '\n%-12s %8s %8s  %s\n' stage budget took result
total=0 failures=0
for i in "${!names[@]}"; do
  printf '%-12s %6d s %6d s  %s\n' "${names[i]}" "${budgets[i]}" "${times[i]}" "${results[i]}"
  total=$((total + times[i]))
  [[ ${results[i]} == ok ]] || failures=$((failures + 1))
done
printf '%-12s %8s %6d s\n' total '' "$total"
printf 'ci: %d of %d stages failed\n' "$failures" "${#names[@]}"
[[ $failures -eq 0 ]]
