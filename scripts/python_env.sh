#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes .venv from client/python/requirements.txt, with the attnd package of this clone in it, and
# generates that package's protos. Does nothing where all is up to date.
# Exit code 0: .venv is ready. 3: the packages could not be had (no package index within reach), and
# the caller may go on without Python. 1: anything else.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly requirements=client/python/requirements.txt
readonly venv=.venv
readonly stamp=$venv/.requirements.sha256

say() { printf 'python_env: %s\n' "$*" >&2; }

# The pinned wheels need Python 3.11 or later.
find_python() {
  local python
  for python in "${PYTHON:-}" python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
    if [[ -n "$python" ]] && command -v "$python" >/dev/null &&
      "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
      command -v "$python"
      return
    fi
  done
  say "no Python 3.11 or later with the venv module: apt-get install python3-venv"
  exit 1
}

python="$(find_python)"
# A clone that was moved, or a Python that was upgraded, makes the environment anew too.
want="$(
  {
    cat "$requirements"
    pwd
    "$python" -c 'import sys; print(sys.version, sys.executable)'
  } | sha256sum | cut -d' ' -f1
)"
generate_protos() { "$venv/bin/python" client/python/generate_protos.py </dev/null; }
if [[ -x $venv/bin/python && -f $stamp && "$(<"$stamp")" == "$want" ]]; then
  generate_protos
  exit
fi

say "making $venv with $("$python" --version) (about 1.3 GB)"
"$python" -m venv --clear "$venv"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input)
# One small package first: an unreachable index shows in seconds, and apart from other errors.
probe="$(grep -m1 '^iniconfig==' "$requirements")"
if ! "${pip[@]}" --retries 1 --timeout 20 install --no-deps "$probe" </dev/null; then
  say "cannot get $probe: the Python package index is out of reach"
  exit 3
fi
if ! "${pip[@]}" install --no-deps --requirement "$requirements" </dev/null; then
  say "could not install $requirements (see above)"
  exit 3
fi
if ! "$venv/bin/python" -c 'import torch, transformers, grpc, gguf' </dev/null; then
  say "the installed packages do not import. Was it torch's CUDA build? See $requirements."
  exit 1
fi
generate_protos
# An editable install, without a build: the sources of this clone are on the path.
site="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
printf '%s\n' "$PWD/client/python/src" >"$site/attnd.pth"
printf '%s\n' "$want" >"$stamp"
say "done"
