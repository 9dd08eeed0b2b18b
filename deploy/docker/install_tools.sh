#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# In an image build: installs what attnd is compiled with.   install_tools.sh [hip]
# With `hip` the distribution's HIP compiler too, unless the base image has one (AMD's have).
set -euo pipefail

mapfile -t packages < <(scripts/install_deps.sh --list)
if [[ "${1:-}" == hip ]]; then
  if PATH=$PATH:/opt/rocm/bin command -v hipcc; then
    echo "install_tools: the base image's hipcc compiles the kernels"
  else
    packages+=(hipcc libamdhip64-dev)
  fi
fi
export DEBIAN_FRONTEND=noninteractive
# Nobody reads there.
options=()
for folder in doc info locale man; do
  options+=(-o "Dpkg::Options::=--path-exclude=/usr/share/$folder/*")
done
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${options[@]}" "${packages[@]}" >/dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
