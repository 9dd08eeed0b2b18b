#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Tests deploy/prometheus and deploy/grafana:   scripts/monitoring.sh [PYTEST_ARGUMENT...]
# promtool on the rules, the TypeScript compiler on the dashboard, and every query of both against
# a real Prometheus that scrapes build/release (or $ATTND_BIN_DIR) under load. What each query found
# is in build/monitoring/queries.json. MONITORING_PYTHON is another Python than .venv's.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${ATTND_BIN_DIR:-build/release/bin}
if [[ ! -x $bin/attnd ]]; then
  echo "monitoring: no $bin/attnd: make build" >&2
  exit 1
fi
scripts/install_deps.sh monitoring
if [[ -z "${MONITORING_PYTHON:-}" ]]; then
  status=0
  scripts/python_env.sh || status=$?
  if [[ $status -ne 0 ]]; then
    echo "monitoring: NOT tested: the Python packages of the tests are not there" >&2
    exit "$status"
  fi
fi

# Grafana's types and the compiler, as the lock file has them; again when it has changed.
node=build/monitoring/npm
mkdir -p "$node"
if ! cmp -s tests/monitoring/package-lock.json "$node/installed.json"; then
  rm -f "$node/installed.json"
  cp tests/monitoring/package.json tests/monitoring/package-lock.json "$node/"
  npm ci --prefix "$node" --ignore-scripts --no-audit --no-fund </dev/null ||
    {
      echo "monitoring: npm could not install the packages of $node/package-lock.json" >&2
      exit 1
    }
  cp "$node/package-lock.json" "$node/installed.json"
fi

ATTND_BIN_DIR=$(realpath "$bin") PYTHONDONTWRITEBYTECODE=1 \
  "${MONITORING_PYTHON:-.venv/bin/python}" -m pytest -c tests/monitoring/pytest.ini \
  --rootdir tests/monitoring tests/monitoring "$@" </dev/null
