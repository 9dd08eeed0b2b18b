#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the status page's test in headless Chromium, against build/release; `make test-page`. The
# pictures that it takes are in build/page.
#   scripts/test_page.sh [PYTEST_ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_deps.sh page
scripts/python_env.sh
rm -rf build/page
# Left out of the default run, which has no browser.
ATTND_BIN_DIR=${ATTND_BIN_DIR:-$PWD/build/release/bin} PYTHONDONTWRITEBYTECODE=1 \
  .venv/bin/python -m pytest -o addopts="-q -p no:cacheprovider" "$@" tests/page </dev/null
