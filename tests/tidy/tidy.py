#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what neither the compiler nor clang-format knows: layers, file lengths, headers, hygiene.

    tests/tidy/tidy.py [--root DIR]

Prints one `path:line: [rule] message` per finding and exits 1 where there is one. A line that has a
good reason to break a rule says so itself: `tidy-allow(rule): the reason`. Standard library only.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import sys

Finding = collections.namedtuple("Finding", "path line rule message")

CXX = (".h", ".cc", ".hip")
SOURCES = CXX + (".py", ".sh", ".proto", ".cmake")
LENGTH_WARN, LENGTH_FAIL = 500, 800
MAX_COLUMNS = 100
MAX_FILE_BYTES = 512 * 1024

# ------------------------------------------------------------------------------------------ layers

KERNEL_API = ["kernels/attention", "kernels/backend", "kernels/base"]
CPU_BACKEND = KERNEL_API + ["kernels/cpu"]
SERVER_BELOW = ["kv_cache"] + KERNEL_API

# Folder -> the project folders whose headers it may include, its own aside. The longest matching
# folder counts. tests/ may include everything.
LAYERS = {
    "kernels/base": [],
    "kernels/attention": ["kernels/base"],
    "kernels/backend": ["kernels/attention", "kernels/base"],
    "kernels/cpu": KERNEL_API,
    "kernels/hip": KERNEL_API,
    "kv_cache": KERNEL_API,
    # rpc -> admission -> scheduler -> engine; observe is a leaf that each of them reports to, and
    # security one that says who calls.
    "server/base": SERVER_BELOW,
    "server/security": ["server/base"] + SERVER_BELOW,
    "server/observe": SERVER_BELOW,
    "server/engine": ["server/observe"] + SERVER_BELOW,
    "server/scheduler": ["server/engine", "server/observe"] + SERVER_BELOW,
    "server/admission": ["server/scheduler", "server/engine", "server/observe"] + SERVER_BELOW,
    "server/regions": ["server/observe"] + SERVER_BELOW,
    "server/rpc": ["server/admission", "server/scheduler", "server/engine", "server/regions",
                   "server/observe", "server/security", "proto"] + SERVER_BELOW,
    # main.cc, options and server.*: what puts the daemon together, and names its backend.
    "server": ["server"] + CPU_BACKEND + ["kernels/hip", "kv_cache"],
    # kernels/base is the vocabulary (dtypes, units, clock) that the library's interface speaks too.
    "client/cpp": ["proto", "kernels/base"],
    # attnctl links the reference kernels for `verify`.
    "client/cli": ["client/cpp", "proto"] + CPU_BACKEND,
}

CONCRETE_BACKEND = re.compile(r"kernels/(cpu|hip)/")
NAMES_BACKEND = re.compile(r"server/(main|server)\.(cc|h)$")
PROJECT_FOLDERS = ("kernels/", "kv_cache/", "server/", "client/", "tests/")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')

# External headers -> the folders that may include them.
FENCED = [
    (re.compile(r"^hip/|^hip_|^rocwmma/"), ["kernels/hip"], "HIP headers stay in kernels/hip"),
    (re.compile(r"^grpc(pp|\+\+)?/"), ["server/rpc", "server", "client"],
     "gRPC stays in server/rpc, the daemon's main files and the client"),
    (re.compile(r"^google/(protobuf|rpc)/"), ["server/rpc", "client"],
     "protobuf stays in server/rpc and the client"),
    (re.compile(r"\.pb\.h$"), ["server/rpc", "client"],
     "generated headers stay in server/rpc and the client"),
]


def folder_of(path, folders):
    """The longest of `folders` that holds `path`; "server" holds only the files right in it."""
    best = ""
    for folder in folders:
        inside = path.startswith(folder + "/")
        if folder == "server" and path.count("/") > 1:
            inside = False
        if inside and len(folder) > len(best):
            best = folder
    return best


def check_layers(path, lines):
    if not path.endswith(CXX) or path.startswith("tests/"):
        return
    here = folder_of(path, LAYERS)
    if not here:
        yield Finding(path, 1, "layers", "this folder is in no layer: add it to LAYERS in tidy.py")
        return
    for number, line in lines:
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(1)
        for pattern, allowed, why in FENCED:
            if pattern.search(header) and not folder_of(path, allowed):
                yield Finding(path, number, "layers", f"includes {header}: {why}")
        if header.endswith(".pb.h"):
            if header.startswith("attnd/") and "proto" not in LAYERS[here]:
                yield Finding(path, number, "layers", f"{here} may not include {header}")
        elif CONCRETE_BACKEND.match(header) and here == "server" and not NAMES_BACKEND.match(path):
            yield Finding(path, number, "layers",
                          f"includes {header}: only main.cc and server.* name a backend")
        elif header.startswith(PROJECT_FOLDERS):
            # By folder prefix: a header under server/ belongs to its subfolder or to server's top.
            target = folder_of(header, list(LAYERS) + ["tests"])
            if target != here and target not in LAYERS[here] and not (
                    here == "server" and target.startswith("server/")):
                yield Finding(path, number, "layers", f"{here} may not include {header}")
        elif '"' in line and "/" not in header and not path.startswith("client/"):
            yield Finding(path, number, "layers",
                          f'write "{header}" from the repository root')


# ----------------------------------------------------------------------------------------- headers

def check_header(path, lines, cmake_texts):
    if not path.endswith(".h"):
        return
    text = "\n".join(line for _, line in lines)
    guard = re.search(r"^#ifndef (\w+)\n#define \1$", text, re.M)
    if not guard and not re.search(r"^#pragma once$", text, re.M) and "HWY_TARGET_TOGGLE" not in text:
        yield Finding(path, 1, "header-guard", "neither an include guard nor #pragma once")
    # Highway includes an -inl header once per target; alone it means nothing.
    if path.startswith("tests/") or path.endswith("-inl.h"):
        return
    # header_selfcheck compiles what CMake lists; a header that nobody lists is never checked.
    folder = pathlib.PurePosixPath(path).parent
    while str(folder) != ".":
        cmake = cmake_texts.get(f"{folder}/CMakeLists.txt")
        if cmake is not None:
            name = str(pathlib.PurePosixPath(path).relative_to(folder))
            if re.search(rf"(?<![\w/]){re.escape(name)}(?![\w/])", cmake):
                return
        folder = folder.parent
    yield Finding(path, 1, "header-listed", "no CMakeLists.txt above it lists it under HDRS")


# ----------------------------------------------------------------------------------------- hygiene

TODO = re.compile(r"\bTODO\b(?!\([^)]{3,}\): \S)")
LEFTOVERS = [
    (re.compile(r"^(<<<<<<<|>>>>>>>) "), "a merge conflict was left in"),
    (re.compile(r"\b(FIXME|XXX|HACK|WIP)\b"), "finish it, or write TODO(condition): what"),
    (re.compile(r"(?<![\w.])/(root|home/\w+|Users/\w+)/"), "a path of one developer's machine"),
    (re.compile(r"\bDO NOT (SUBMIT|MERGE|COMMIT)\b"), "was not meant to be committed"),
]
SLEEPS = re.compile(r"\b(sleep_for|sleep_until|usleep|nanosleep|SleepFor|time\.sleep)\b")
GETENV = re.compile(r"\b(std::|secure_)?getenv\s*\(")
GENERATED = re.compile(
    r"(\.pb\.(h|cc)|_pb2(_grpc)?\.pyi?|\.(o|a|so|pyc|gguf|bin|npy|npz|whl|gz|zip|log|orig|rej))$")


def check_lines(path, lines):
    if not path.endswith(SOURCES) and not path.endswith(("CMakeLists.txt", "Makefile", ".md")):
        return
    for number, line in lines:
        for pattern, message in LEFTOVERS:
            if pattern.search(line):
                yield Finding(path, number, "leftover", message)
        if path.endswith(".md"):
            continue
        if TODO.search(line):
            yield Finding(path, number, "todo", "say when it is due: TODO(condition): what")
        if len(line) > MAX_COLUMNS and "://" not in line:
            yield Finding(path, number, "columns", f"{len(line)} columns, at most {MAX_COLUMNS}")
        if line != line.rstrip():
            yield Finding(path, number, "whitespace", "white space at the end of the line")
        if path.startswith("tests/") and SLEEPS.search(line):
            yield Finding(path, number, "sleep", "tests wait for events, not for time")
        if path.endswith(CXX) and GETENV.search(line) and not path.startswith(
                ("tests/", "client/cli/", "server/main.cc")):
            yield Finding(path, number, "getenv", "options come through Options, not environment")


def check_whole(path, lines):
    if not path.endswith(SOURCES) and not path.endswith("CMakeLists.txt"):
        return
    if not any("SPDX-License-Identifier: Apache-2.0" in line for _, line in lines[:3]):
        yield Finding(path, 1, "license", "no 'SPDX-License-Identifier: Apache-2.0' in its head")
    if len(lines) > LENGTH_FAIL:
        yield Finding(path, len(lines), "length", f"{len(lines)} lines, at most {LENGTH_FAIL}")


def check_file_kind(root, path):
    if GENERATED.search(path):
        return [Finding(path, 1, "generated", "generated files and binaries are not committed")]
    data = (root / path).read_bytes()
    if len(data) > MAX_FILE_BYTES:
        return [Finding(path, 1, "generated", f"{len(data)} bytes: is it a dump?")]
    if b"\0" in data and not path.endswith(".png"):
        return [Finding(path, 1, "generated", "a binary file")]
    return []


# --------------------------------------------------------------------------------------------- run

def list_files(root):
    """What git tracks or would track; without git, everything but build outputs."""
    git = subprocess.run(["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"],
                         capture_output=True, check=False)
    if git.returncode == 0:
        names = git.stdout.decode().split("\0")
    else:
        names = [str(p.relative_to(root)) for p in root.rglob("*")]
    return sorted(name for name in set(names) if name and (root / name).is_file()
                  and not name.startswith(("build/", ".venv/", ".git/")))


def allowed(finding, lines):
    """`tidy-allow(rule): reason` on the line itself or on the one above."""
    near = [text for number, text in lines if number in (finding.line, finding.line - 1)]
    return any(re.search(rf"tidy-allow\({finding.rule}\): \S", text) for text in near)


def check(root):
    """All findings in the tree at `root`, and the files that are longer than they should be."""
    findings, long_files = [], []
    paths = list_files(root)
    cmake_texts = {p: (root / p).read_text() for p in paths if p.endswith("CMakeLists.txt")}
    for path in paths:
        kind = check_file_kind(root, path)
        findings += kind
        # This folder quotes what it forbids.
        if kind or path.startswith("tests/tidy/"):
            continue
        text = (root / path).read_text(errors="replace")
        lines = list(enumerate(text.splitlines(), start=1))
        for rule in (check_layers(path, lines), check_header(path, lines, cmake_texts),
                     check_lines(path, lines), check_whole(path, lines)):
            findings += [f for f in rule if not allowed(f, lines)]
        if path.endswith(SOURCES) and LENGTH_WARN < len(lines) <= LENGTH_FAIL:
            long_files.append((path, len(lines)))
    return findings, long_files


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = pathlib.Path(__file__).resolve()
    parser.add_argument("--root", type=pathlib.Path, default=here.parents[2])
    root = parser.parse_args().root.resolve()
    findings, long_files = check(root)
    for path, count in long_files:
        print(f"{path}: warning: {count} lines; past {LENGTH_WARN} a file needs a reason")
    for f in findings:
        print(f"{f.path}:{f.line}: [{f.rule}] {f.message}")
    print(f"tidy: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
