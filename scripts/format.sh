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
--check)
  bad=0
  for source in "${existing[@]}"; do
    clang-format "$source" | diff -u --label "$source" --label "$source (formatted)" "$source" - ||
      bad=$((bad + 1))
  done
  if [[ $bad -gt 0 ]]; then
    echo "format: $bad files differ from .clang-format: run 'make format'" >&2
    exit 1
  fi
  ;;
*)
  echo "usage: scripts/format.sh --write | --check" >&2
  exit 2
  ;;
esac
