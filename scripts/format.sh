#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Formats the C++ sources and protos (--write), or says which differ from .clang-format (--check).
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -d '' -t sources < <(
  git ls-files -z -co --exclude-standard -- '*.h' '*.cc' '*.hip' '*.proto'
)
existing=()
for source in "${sources[@]}"; do
  [[ -f $source ]] && existing+=("$source")
done
case "${1:-}" in
--write) clang-format -i "${existing[@]}" ;;
--check) clang-format --dry-run -Werror "${existing[@]}" ;;
*)
  echo "usage: scripts/format.sh --write | --check" >&2
  exit 2
  ;;
esac
