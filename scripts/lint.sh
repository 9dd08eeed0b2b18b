#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The static checks, all or those named:
#   scripts/lint.sh [format] [tidy] [shell] [python] [clang] [headers] [clang-tidy]
# LINT_BUDGET_S bounds clang-tidy, the slow one (see clang_tidy.py).
set -uo pipefail
cd "$(dirname "$0")/.." || exit

jobs=${JOBS:-$(nproc)}
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}

check_format() { scripts/format.sh --check; }
check_tidy() { tests/tidy/tidy.py; }
check_shell() { shellcheck -x scripts/*.sh deploy/docker/*.sh tests/hip/*.sh .ci/run; }
# Formats, ruff's rules and, for what is installed at users', types; settings: pyproject.toml.
check_python() {
  local status=0 tools=$PWD/.venv-tools/bin
  local python=(client/python docs deploy tests/monitoring tests/page)
  scripts/tools_env.sh || status=$?
  if [[ $status -eq 3 && "${CI:-}" != true ]]; then
    echo "lint: the Python sources were NOT checked: the tools cannot be had here" >&2
    return 0
  fi
  [[ $status -eq 0 ]] || return "$status"
  export RUFF_CACHE_DIR=$PWD/build/ruff_cache MYPY_CACHE_DIR=$PWD/build/mypy_cache
  "$tools/ruff" format --check --quiet "${python[@]}" &&
    "$tools/ruff" check --quiet "${python[@]}" &&
    (cd client/python && "$tools/mypy" --python-executable "$tools/python" src)
}
# All targets with clang: -Wthread-safety is an error there (cmake/Attnd.cmake).
check_clang() { scripts/build.sh clang "$jobs"; }
check_headers() { scripts/build.sh clang "$jobs" header_selfcheck; }
check_clang-tidy() {
  scripts/clang_tidy.py --build build/clang --jobs "$jobs" --budget_s "${LINT_BUDGET_S:-0}"
}

[[ $# -gt 0 ]] || set -- format tidy shell python clang headers clang-tidy
failed=()
for check in "$@"; do
  start=$SECONDS
  if "check_$check" </dev/null; then
    echo "lint: $check ok ($((SECONDS - start)) s)"
  else
    echo "lint: $check FAILED ($((SECONDS - start)) s)"
    failed+=("$check")
  fi
done
[[ ${#failed[@]} -eq 0 ]] || {
  echo "lint: FAILED: ${failed[*]}" >&2
  exit 1
}
