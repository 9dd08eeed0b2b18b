#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Configures (once) and builds a preset:   scripts/build.sh PRESET JOBS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

preset=$1 jobs=$2
if [[ $preset == hip-amd && -z "${ATTND_ROCM_ROOT:-}" ]]; then
  exec scripts/rocm_root.sh run scripts/build.sh "$@"
fi
shift 2
# Ninja configures again by itself when a CMakeLists.txt changes; a preset it does not know of.
if [[ ! -f build/$preset/build.ninja || CMakePresets.json -nt build/$preset/build.ninja ]]; then
  cmake --preset "$preset"
fi
targets=()
[[ $# -eq 0 ]] || targets=(--target "$@")
cmake --build --preset "$preset" --parallel "$jobs" "${targets[@]}"
