#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Packs what a machine with a GPU and nothing installed needs, from a build of the preset
# `hip-nvidia`: the daemon and its plugin, attnctl, the tests and the benchmark, and every library
# that they load but the C and C++ ones, found beside them by RPATH. Runs on a glibc and a libstdc++
# that are not older than this machine's.
#
#   tests/hip/bundle.sh build/hip-nvidia     writes build/hip-nvidia/bundle
set -euo pipefail

build="$(realpath "$1")"
here="$(cd "$(dirname "$0")" && pwd)"
root="$(cd "$here/../.." && pwd)"
readonly build here root out=$build/bundle max_mib=60
# Part of every system that has a C++ compiler's runtime.
readonly system='^(linux-vdso\.|/lib64/ld-linux|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s)\.so)'

rm -rf "$out"
mkdir -p "$out"/{bin,lib,bench,tests}
cp "$build"/bin/{attnd,attnctl,libattnd_hip.so} "$out/bin"
cp "$build"/tests/bin/gpu_{conformance,daemon}_test "$here/run_on_gpu.sh" "$out/tests"
cp "$build/bench/lib/libattnd_hip_bench.so" "$root"/tests/bench/hip/*.py "$out/bench"
rm -f "$out"/bench/*_test.py
git -C "$root" describe --always --dirty --abbrev=12 --exclude '*' >"$out/commit"

# What is started or opened: each has the RPATH that all below it are looked up by.
binaries=("$out"/bin/* "$out"/tests/gpu_* "$out"/bench/*.so)
# name and path of what a binary loads.
needed() { ldd "$1" | sed -nE 's/^\s*(\S+)( => (\S+))? .*$/\1 \3/p' | grep -vE "$system"; }

for binary in "${binaries[@]}"; do
  while read -r name path; do
    [[ -n $path && $path != not ]] || {
      echo "bundle: $binary needs $name, which is not here" >&2
      exit 1
    }
    [[ -e $out/lib/$name ]] || cp --dereference "$path" "$out/lib/$name"
  done < <(needed "$binary")
done
strip --strip-unneeded "${binaries[@]}" "$out"/lib/*

# Nothing may come from this machine any more.
for binary in "${binaries[@]}"; do
  while read -r name path; do
    [[ "$(realpath "$path")" == "$out/lib/$name" ]] || {
      echo "bundle: $binary loads $path, not the bundle's" >&2
      exit 1
    }
  done < <(needed "$binary")
done

mib=$(($(du -sk "$out" | cut -f1) / 1024 + 1))
echo "bundle: $out, $mib MiB of $max_mib"
[[ $mib -le $max_mib ]] || exit 1
