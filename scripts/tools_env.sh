#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes .venv-tools from client/python/requirements-tools.txt: ruff, mypy and Sphinx. It sees the
# packages of .venv (made first where it is missing), so that types are checked against, and the
# documentation imports, the very torch and transformers that the tests run with.
# Exit codes are those of python_env.sh. 3: the packages could not be had.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly requirements=client/python/requirements-tools.txt
readonly venv=.venv-tools
readonly stamp=$venv/.requirements.sha256

say() { printf 'tools_env: %s\n' "$*" >&2; }

scripts/python_env.sh
# python_env.sh writes its stamp last: it changes with that Python, its packages and this clone.
want="$(cat "$requirements" .venv/.requirements.sha256 | sha256sum | cut -d' ' -f1)"
[[ ! -f $stamp || "$(<"$stamp")" != "$want" ]] || exit 0

say "making $venv"
.venv/bin/python -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input)
if ! "${pip[@]}" --retries 1 --timeout 20 install --no-deps --requirement "$requirements" \
  </dev/null; then
  say "could not install $requirements: is the Python package index out of reach?"
  exit 3
fi
site="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/venv.pth"
printf '%s\n' "$PWD/client/python/src" >"$site/attnd.pth"
if ! "$venv/bin/python" -c 'import sphinx, furo, myst_parser, torch, attnd' </dev/null; then
  say "the installed packages do not import (see above)"
  exit 1
fi
printf '%s\n' "$want" >"$stamp"
say "done"
