#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs every test of a preset that is built:   scripts/test.sh PRESET JOBS [CTEST_ARGUMENT...]
# The Python tests run against the Release daemon, and so with that preset only.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

preset=$1 jobs=$2
if [[ $preset == hip-amd && -z "${ATTND_ROCM_ROOT:-}" ]]; then
  exec scripts/rocm_root.sh run scripts/test.sh "$@"
fi
shift 2

failed=()
ctest --preset "$preset" --parallel "$jobs" "$@" </dev/null || failed+=(ctest)

if [[ $preset == release ]]; then
  scripts/python_env.sh
  case $? in
  0)
    ATTND_BIN_DIR="$PWD/build/$preset/bin" PYTHONDONTWRITEBYTECODE=1 \
      .venv/bin/python -m pytest </dev/null || failed+=(pytest)
    ;;
  3)
    # A developer without a network gets the C++ results; a CI that tests half is a failure.
    echo "test: the Python tests did NOT run: their packages cannot be had here" >&2
    [[ "${CI:-}" != true ]] || failed+=(python_env)
    ;;
  *) failed+=(python_env) ;;
  esac
fi

if [[ ${#failed[@]} -gt 0 ]]; then
  echo "test: FAILED: ${failed[*]}" >&2
  exit 1
fi
