#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the attention benchmarks of a release build and writes their rows:
#   tests/bench/run.sh [OUTPUT_DIRECTORY]     (build/bench unless told)
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly out=${1:-build/bench}
readonly program=build/release/bench/bin/attention_bench
mkdir -p "$out"
"$program" --json "$out/attention_bench.json"
.venv/bin/python tests/bench/attention_vs_torch_bench.py --json "$out/attention_vs_torch_bench.json"
