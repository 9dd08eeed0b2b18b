#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# In an image build: lays out what an image takes over of a preset's build.   collect.sh PRESET
# /out/root is laid over the image's root, /out/example too in the example's; /out/packages names
# the packages with the libraries that the programs load, whatever the distribution calls them.
set -euo pipefail

bin=build/$1/bin

# Without line tables; symbols stay, for the names in a backtrace.
put() { install -D -m "$1" "$2" "$3"; }
root=/out/root
put 755 "$bin/attnd" $root/usr/bin/attnd
put 755 "$bin/attnctl" $root/usr/bin/attnctl
if [[ -f $bin/libattnd_hip.so ]]; then
  put 644 "$bin/libattnd_hip.so" $root/usr/lib/attnd/libattnd_hip.so
fi
put 644 deploy/docker/attnd.conf $root/etc/attnd/attnd.conf
put 644 LICENSE $root/usr/share/doc/attnd/copyright
if [[ -f $bin/attnd_model_server ]]; then
  put 755 "$bin/attnd_model_server" /out/example/usr/bin/attnd_model_server
  put 755 deploy/docker/example_client.sh /out/example/usr/bin/attnd-example-client
  install -d -m 750 -o 65532 -g 65532 /out/example/var/lib/attnd-example
fi
mapfile -t programs < <(find /out -type f '(' -path '*/bin/attn*' -o -name '*.so' ')' ! -name '*-*')
strip --strip-debug "${programs[@]}"

# The package of a library. ldd may name it by a path that dpkg doesn't know: through a link, or
# with or without the /usr that both mean.
package_of() {
  local real
  real=$(realpath "$1")
  # It fails where it knows but some of them.
  { dpkg-query --search "$1" "$real" "/usr$1" "${real#/usr}" 2>/dev/null || true; } |
    sed -nE '/^diversion /d; s/^([^ :]+).*/\1/p; T; q'
}
libraries=$(ldd "${programs[@]}" | sed -nE 's/.* => (\/[^ ]+) .*/\1/p; /not found/p' | sort -u)
if [[ $libraries == *'not found'* ]]; then
  printf 'collect: %s\n' "$libraries" >&2
  exit 1
fi
while read -r library; do
  package=$(package_of "$library")
  if [[ -z $package ]]; then
    echo "collect: no package has $library" >&2
    exit 1
  fi
  printf '%s\n' "$package"
done <<<"$libraries" | sort -u >/out/packages
echo "collect: the programs load libraries of $(tr '\n' ' ' </out/packages)"
