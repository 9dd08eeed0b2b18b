#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs clang-tidy over the C++ sources, within a time budget, and remembers what was clean.

    scripts/clang_tidy.py --build build/clang [--jobs N] [--budget_s S] [file...]

A source is looked at again only when its preprocessed text (comments included: they hold NOLINT),
its flags, .clang-tidy or clang-tidy itself changed; so a second run takes seconds, and clones share
what they know. Files that differ from origin's main come first. Exit code 1 where there is a
finding; what the budget left unchecked is listed, and is no failure.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def output_of(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def changed_files():
    """Paths that differ from where this branch left main, or that the last commits touched."""
    base = output_of("git", "merge-base", "HEAD", "origin/main").strip()
    if not base or base == output_of("git", "rev-parse", "HEAD").strip():
        base = "HEAD~5"
    names = output_of("git", "diff", "--name-only", base) + output_of(
        "git", "ls-files", "-o", "--exclude-standard")
    return {str(ROOT / name) for name in names.split()}


def preprocess_command(entry):
    """The compile command of a compilation database entry, turned into a preprocessing one."""
    words = shlex.split(entry["command"])
    if pathlib.Path(words[0]).name == "ccache":
        words = words[1:]
    out = words.index("-o")
    return [w for i, w in enumerate(words) if i not in (out, out + 1) and w != "-c"] + ["-E", "-C"]


class Linter:

    def __init__(self, build, deadline):
        self.build = build
        self.deadline = deadline
        cache = os.environ.get("XDG_CACHE_HOME", str(pathlib.Path.home() / ".cache"))
        self.clean = pathlib.Path(cache) / "attnd" / "clang-tidy"
        self.clean.mkdir(parents=True, exist_ok=True)
        self.salt = output_of("clang-tidy", "--version") + (ROOT / ".clang-tidy").read_text()

    def key(self, entry):
        """Names this source's text, configuration and tool; independent of the clone's path."""
        text = subprocess.run(preprocess_command(entry), cwd=entry["directory"],
                              capture_output=True, text=True, check=False)
        if text.returncode != 0:
            return None
        content = self.salt + entry["command"] + text.stdout
        return hashlib.sha256(content.replace(str(ROOT), "").encode()).hexdigest()

    def check(self, entry):
        """("clean" | "cached" | "skipped" | "findings", output) of one source."""
        if self.deadline and time.monotonic() > self.deadline:
            return "skipped", ""
        key = self.key(entry)
        if key and (self.clean / key).exists():
            return "cached", ""
        run = subprocess.run(["clang-tidy", "--quiet", "-p", str(self.build), entry["file"]],
                             cwd=ROOT, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            return "findings", run.stdout + run.stderr
        if key:
            (self.clean / key).touch()
        return "clean", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/clang")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--budget_s", type=float, default=0, help="0: no limit")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    build = options.build.resolve()

    database = json.loads((build / "compile_commands.json").read_text())
    entries = {e["file"]: e for e in database if not e["file"].startswith(str(build))}
    if options.files:
        wanted = {str(pathlib.Path(f).resolve()) for f in options.files}
        entries = {f: e for f, e in entries.items() if f in wanted}
    changed = changed_files()
    order = sorted(entries, key=lambda f: (f not in changed, f))

    deadline = time.monotonic() + options.budget_s if options.budget_s else None
    linter = Linter(build, deadline)
    results = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for file, (state, text) in zip(order, pool.map(linter.check, map(entries.get, order))):
            results.setdefault(state, []).append(os.path.relpath(file, ROOT))
            if text:
                print(text, flush=True)
    for state in ("skipped", "findings"):
        for file in results.get(state, []):
            print(f"clang-tidy: {state}: {file}")
    print("clang-tidy:", ", ".join(f"{len(files)} {state}" for state, files in results.items())
          or "no sources")
    return 1 if results.get("findings") else 0


if __name__ == "__main__":
    sys.exit(main())
