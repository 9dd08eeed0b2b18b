# SPDX-License-Identifier: Apache-2.0
"""The wheels: one with the daemon in it, one without; each used from a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import REPOSITORY, daemon_binary

PACKAGE = REPOSITORY / "client" / "python"
# Wherever a clone of it is run from, -I keeps that folder and $PYTHONPATH out of the path.
USE = """
import sys; sys.path.insert(0, sys.argv[1])
import attnd, flash_attention_amd, torch
assert attnd.__file__.startswith(sys.argv[1]), attnd.__file__
q = torch.ones(1, 4, 2, 32)
try:
    print(float(flash_attention_amd.flash_attn_func(q, q, q).sum()))
    maps = open(f"/proc/{attnd.shared._state.daemon.pid}/maps").read()
    print(sys.argv[1] + "/attnd/_bin/attnd" in maps, sys.argv[1] + "/attnd/_bin/lib/" in maps)
    print([line for line in maps.splitlines() if "libgrpc" in line and sys.argv[1] not in line])
except attnd.DaemonNotStarted as error:
    print(error)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build reads, so that it writes nothing into the tree that is tested."""
    root = tmp_path_factory.mktemp("clone")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(PACKAGE, root / "client" / "python", ignore=ignored)
    shutil.copytree(REPOSITORY / "proto", root / "proto")
    return root


def build(clone: Path, folder: Path, daemon: str) -> Path:
    """The wheel, by pip, with what is installed here."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--wheel-dir", str(folder), str(clone / "client" / "python")),
        ],
        env={**os.environ, "ATTND_WHEEL_DAEMON": daemon},
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-compile", "--target", str(folder), str(wheel)),
        ],
        check=True,
    )
    return folder


def use(folder: Path) -> list[str]:
    """What two lines of Python print, from a folder that has nothing to do with it."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ATTND_")
    }
    process = subprocess.run(
        [sys.executable, "-I", "-c", USE, str(folder)],
        env={**environment, "PATH": "/usr/bin:/bin"},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.skipif(not daemon_binary().is_file(), reason=f"{daemon_binary()} is not built")
def test_a_wheel_with_the_daemon_needs_nothing_else(clone: Path, tmp_path: Path) -> None:
    wheel = build(clone, tmp_path / "wheel", str(daemon_binary()))
    assert wheel.name.startswith("attnd-")
    assert "-py3-none-manylinux_2_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"attnd/_bin/attnd", "attnd/py.typed", "flash_attention_amd/py.typed"} <= names
    assert "attnd/v1/attention_pb2.py" in names
    assert not [n for n in names if "_bin/lib/libc.so" in n or "_bin/lib/libstdc++" in n]
    assert use(install(wheel, tmp_path / "site")) == ["256.0", "True True", "[]"]


def test_a_wheel_without_one_says_where_one_comes_from(clone: Path, tmp_path: Path) -> None:
    wheel = build(clone, tmp_path / "wheel", "no")
    assert wheel.name.endswith("-py3-none-any.whl")
    (text,) = use(install(wheel, tmp_path / "site"))
    assert text.startswith("there is no attnd program (looked for ")
    assert "ATTND_ADDRESS" in text


def test_a_program_that_is_not_there_is_an_error(clone: Path, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        build(clone, tmp_path, "/no/such/attnd")


def test_a_source_distribution_builds_without_the_clone(clone: Path, tmp_path: Path) -> None:
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=clone / "client" / "python",
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "a" / "b")
    (source,) = (tmp_path / "a" / "b").iterdir()
    (source.parent / "client").mkdir()
    source.rename(source.parent / "client" / "python")
    wheel = build(source.parent, tmp_path / "wheel", "auto")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert "attnd/v1/attention_pb2.py" in packed.namelist()
