# SPDX-License-Identifier: Apache-2.0
"""Puts the daemon into a wheel: the program, the libraries that it loads, their licences.

Used by setup.py. $ATTND_WHEEL_DAEMON says which program: a path, "no" for a wheel without one, or
"auto", the default: build/release/bin/attnd of the clone, where it was built.

Libraries of the C and C++ runtimes are left to the system: the wheel's tag names the glibc that the
program and its libraries want. The GPU plugin is not bundled: it needs ROCm where it runs.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Part of every system that runs Python and PyTorch.
_SYSTEM = re.compile(
    r"(linux-vdso|ld-linux.*|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s))\.so(\.\d+)*"
)
_LDD_LINE = re.compile(r"^\s*(\S+) => (\S+)")
_GLIBC = re.compile(rb"\0GLIBC_2\.(\d+)")
_GLIBCXX = re.compile(rb"\0GLIBCXX_3\.4\.(\d+)")
# Releases of libstdc++ and the glibc 2.x that distributions first had beside them: GCC 12 and
# Ubuntu 22.04, GCC 13 and Fedora 38, GCC 14 and Fedora 40.
_GLIBC_BESIDE = {30: 35, 31: 37, 32: 37, 33: 39}


def daemon_program() -> Path | None:
    """What to bundle; None for nothing.

    Raises SystemExit where $ATTND_WHEEL_DAEMON names no program.
    """
    wanted = os.environ.get("ATTND_WHEEL_DAEMON", "auto")
    if wanted == "no":
        return None
    if wanted != "auto":
        path = Path(wanted)
        if not os.access(path, os.X_OK) or path.is_dir():
            raise SystemExit(f"ATTND_WHEEL_DAEMON: got {wanted!r}, expected no, auto or a program")
        return path
    path = REPOSITORY / "build" / "release" / "bin" / "attnd"
    # A source distribution is no clone: what lies three folders up is nobody's.
    return path if (REPOSITORY / "proto" / "attnd").is_dir() and path.is_file() else None


def bundle(program: Path, folder: Path) -> None:
    """Writes folder/attnd, folder/lib/*.so*, folder/licenses/*.

    Raises SystemExit where a library is not here, or the copy would load another than its own.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lib").mkdir(parents=True)
    copy = folder / "attnd"
    shutil.copy2(program, copy)
    libraries = _libraries(program)
    for name, path in libraries.items():
        shutil.copy2(path.resolve(), folder / "lib" / name)
    _copy_licences(list(libraries.values()), folder / "licenses")
    files = [copy, *sorted((folder / "lib").iterdir())]
    for file in files:
        file.chmod(0o755)
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", *files], check=True)
    for name, path in _libraries(copy).items():
        if path.resolve() != (folder / "lib" / name).resolve():
            raise SystemExit(
                f"daemon_bundle: {copy} loads {path}, not its own {name}: was {program} linked "
                "without the RPATH $ORIGIN/lib (server/CMakeLists.txt)?"
            )


def platform_tag(folder: Path) -> str:
    """Of a wheel with the bundle in `folder`: "manylinux_2_35_x86_64" says glibc 2.35 or later."""
    files = [folder / "attnd", *(folder / "lib").iterdir()]
    contents = [file.read_bytes() for file in files]
    minor = max(int(version) for data in contents for version in _GLIBC.findall(data))
    for data in contents:
        for release in map(int, _GLIBCXX.findall(data)):
            if release >= 30:
                minor = max(minor, _GLIBC_BESIDE.get(release, 40))
    return f"manylinux_2_{minor}_{platform.machine()}"


def _libraries(program: Path) -> dict[str, Path]:
    """Name and path of all that it loads, but for the system's own."""
    listed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True)
    found = {}
    for line in listed.stdout.splitlines():
        match = _LDD_LINE.match(line)
        if match is None or _SYSTEM.fullmatch(match[1]):
            continue
        if match[2] == "not":
            raise SystemExit(f"daemon_bundle: {program} needs {match[1]}, which is not here")
        found[match[1]] = Path(match[2])
    return found


def _copy_licences(libraries: list[Path], folder: Path) -> None:
    """Debian's copyright files of the libraries' packages, where this is Debian."""
    if not shutil.which("dpkg-query"):
        return
    # A package may list a file under /lib that is found under /usr/lib, and the other way round.
    names = {
        name: library
        for library in libraries
        for path in (library, library.resolve())
        for name in (str(path), str(path).removeprefix("/usr"), f"/usr{path}")
    }
    answer = subprocess.run(
        ["dpkg-query", "--search", *names], capture_output=True, text=True, check=False
    )
    owned = set()
    folder.mkdir()
    for line in answer.stdout.splitlines():
        package, _, name = line.partition(": ")
        text = Path("/usr/share/doc") / package.split(":")[0] / "copyright"
        if name in names and text.is_file():
            owned.add(names[name])
            shutil.copy(text, folder / text.parent.name)
    for library in set(libraries) - owned:
        print(
            f"daemon_bundle: no package owns {library}: its licence is not there", file=sys.stderr
        )
