#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# In an image build: compiles targets of a preset.   compile.sh PRESET TARGET...
# $AMD_TARGETS chooses GPUs (see Dockerfile); /ccache is the compiler's cache.
set -euo pipefail

preset=$1
shift
# ccache takes the language of the compiler's messages into account.
export CCACHE_DIR=/ccache CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 LANG=C.UTF-8
export PATH=$PATH:/opt/rocm/bin

options=(-DATTND_BUILD_TESTS=OFF)
[[ ! -d /opt/rocm ]] || options+=(-DCMAKE_PREFIX_PATH=/opt/rocm)
[[ -z ${AMD_TARGETS:-} ]] || options+=(-DCMAKE_HIP_ARCHITECTURES="$AMD_TARGETS")
cmake --preset "$preset" "${options[@]}"
ccache --zero-stats
cmake --build --preset "$preset" --target "$@"
ccache --show-stats
