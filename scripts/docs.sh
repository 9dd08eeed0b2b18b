#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds docs/ into build/docs/html; a warning is an error.   scripts/docs.sh [SPHINX_ARGUMENT...]
# All of it each time: Sphinx does not see that an extension, or a docstring of a page, has changed.
# The reference of the daemon's flags is what `attnd --help` prints, so build/release (or
# $ATTND_BIN_DIR) must have the program. Exit code 3: the Python packages cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${ATTND_BIN_DIR:-build/release/bin}
if [[ ! -x $bin/attnd ]]; then
  echo "docs: no $bin/attnd, whose --help is part of the documentation: make build" >&2
  exit 1
fi
if [[ -z "${DOCS_PYTHON:-}" ]]; then
  status=0
  scripts/tools_env.sh || status=$?
  if [[ $status -ne 0 ]]; then
    echo "docs: NOT built: the Python packages of docs/ are not there" >&2
    exit "$status"
  fi
fi
ATTND_BIN_DIR=$(realpath "$bin") "${DOCS_PYTHON:-.venv-tools/bin/python}" -m sphinx \
  --builder html --fail-on-warning --keep-going --nitpicky --quiet \
  --fresh-env --doctree-dir build/docs/doctrees "$@" docs build/docs/html </dev/null
echo "docs: build/docs/html/index.html"
