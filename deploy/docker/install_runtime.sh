#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# In an image build: installs the packages that the file names, makes attnd's user and the folder of
# its socket.   install_runtime.sh /out/packages
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
mapfile -t packages <"$1"
# Licences stay; nobody reads the rest.
options=(-o 'Dpkg::Options::=--path-exclude=/usr/share/doc/*')
options+=(-o 'Dpkg::Options::=--path-include=/usr/share/doc/*/copyright')
for folder in info locale man; do
  options+=(-o "Dpkg::Options::=--path-exclude=/usr/share/$folder/*")
done
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${options[@]}" "${packages[@]}" >/dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old \
  /var/log/apt /var/log/*.log

groupadd --gid 65532 attnd
useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent \
  --shell /usr/sbin/nologin --no-log-init attnd
install -d -m 750 -o attnd -g attnd /run/attnd
