# SPDX-License-Identifier: Apache-2.0
"""deploy/systemd: that systemd takes it, how exposed it leaves the daemon, and that the daemon
lives with it.

No systemd runs here that could start the unit. What is tried with the real program is the part that
it would notice: the list of system calls with MemoryDenyWriteExecute and the address families, and,
as root, a read-only file system, no devices, no capabilities and a user without a name.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import seccomp
import unit_file
from attnd_process import ATTND, REPOSITORY, attnctl, make_open_folder, start

# As docs/operations.md states them; tests/operations is where they are allowed to change.
EXPOSURE = {"attnd.service": 0.9, "gpu.conf": 1.4}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)"
)


def _analyze(*arguments: str, unit: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments, str(unit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit alone, with a program that exists: that it is installed is not asked here."""
    copy = tmp_path / "attnd.service"
    copy.write_text(unit_file.UNIT.read_text().replace("/usr/bin/attnd", str(ATTND)))
    return copy


@pytest.fixture
def unit_with_gpu(unit: Path) -> Path:
    folder = unit.with_name("attnd.service.d")
    folder.mkdir()
    shutil.copy(unit_file.GPU_DROP_IN, folder)
    return unit


def _exposure(unit: Path) -> float:
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True)
    if "systemd 252 " not in version.stdout:
        pytest.skip("the scores are stated for systemd 252; others weigh differently")
    said = _analyze("security", "--offline=true", "--no-pager", unit=unit)
    match = re.search(r"Overall exposure level for attnd.service: ([0-9.]+)", said)
    assert match, said
    return float(match[1])


@needs_systemd
def test_systemd_finds_nothing_wrong(unit_with_gpu: Path) -> None:
    assert _analyze("verify", "--man=no", unit=unit_with_gpu) == ""


@needs_systemd
def test_a_misspelt_setting_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHoem="))
    assert "ProtectHoem" in _analyze("verify", "--man=no", unit=unit)


@needs_systemd
def test_the_exposure_does_not_grow(unit: Path) -> None:
    assert _exposure(unit) <= EXPOSURE["attnd.service"]


@needs_systemd
def test_the_exposure_with_gpus_does_not_grow(unit_with_gpu: Path) -> None:
    assert _exposure(unit_with_gpu) <= EXPOSURE["gpu.conf"]


@needs_systemd
def test_one_setting_less_would_be_found(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("RestrictNamespaces=yes\n", ""))
    assert _exposure(unit) > EXPOSURE["attnd.service"]


def test_the_documentation_states_these_scores() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    for score in EXPOSURE.values():
        assert f"**{score}**" in text


def test_the_unit_waits_longer_than_the_drain() -> None:
    unit = unit_file.settings(unit_file.UNIT)
    drain = re.search(
        r"^#drain_timeout = (\d+)s$", (REPOSITORY / "deploy" / "attnd.conf").read_text(), re.M
    )
    assert drain
    assert int(unit["TimeoutStopSec"][0]) >= int(drain[1]) + 10
    assert unit["Type"] == ["notify"]
    assert unit["RestartPreventExitStatus"] == ["2"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with make_open_folder() as folder:
        yield folder


def _exercise(folder: Path) -> None:
    """Every kind of work: sessions, caches, prefill and decode, the kernels' whole table."""
    address = ("--address", f"unix:{folder}/s")
    assert "verified=yes" in attnctl(*address, "demo", "--tokens", "4")
    assert "ok=yes" in attnctl(*address, "verify", "--rounds", "1")
    assert "integrity: ok" in attnctl(*address, "integrity")


def _families() -> list[int]:
    names = unit_file.settings(unit_file.UNIT)["RestrictAddressFamilies"][0].split()
    return [getattr(socket, name) for name in names]


@needs_systemd
def test_the_daemon_lives_with_its_system_calls(open_folder: Path) -> None:
    """The process is killed at the first other call, so that none is refused unnoticed."""
    allowed = unit_file.allowed_calls(unit_file.UNIT)
    assert {"ptrace", "mount", "setpriority", "io_submit", "shmget"}.isdisjoint(allowed)
    restricted = seccomp.Filter(allowed, _families(), kill=True)
    with start(
        open_folder,
        f"--listen=unix:{open_folder}/s",
        "--listen=127.0.0.1:0",
        "--metrics_listen=127.0.0.1:0",
        f"--ready_file={open_folder}/ready.json",
        "--backend=cpu",
        before=restricted.apply,
    ) as attnd:
        assert attnd.ready, f"exit code {attnd.process.poll()}:\n{attnd.log}"
        status = Path(f"/proc/{attnd.process.pid}/status").read_text()
        assert "Seccomp:\t2\n" in status and "NoNewPrivs:\t1\n" in status
        _exercise(open_folder)
        assert attnd.stop() == 0, attnd.log


@needs_systemd
def test_a_call_outside_the_list_would_be_noticed(open_folder: Path) -> None:
    without = unit_file.allowed_calls(unit_file.UNIT) - {"bind"}
    restricted = seccomp.Filter(without, _families(), kill=True)
    with start(
        open_folder, f"--listen=unix:{open_folder}/s", "--metrics_listen=", before=restricted.apply
    ) as attnd:
        assert not attnd.ready
        assert attnd.process.returncode == -31  # SIGSYS


@needs_systemd
def test_code_cannot_be_written_and_run() -> None:
    """The filter's own proof: what MemoryDenyWriteExecute= forbids fails in a process under it."""
    restricted = seccomp.Filter(unit_file.allowed_calls(unit_file.UNIT), _families(), kill=False)
    program = (
        "import mmap, socket\n"
        "for make in (lambda: mmap.mmap(-1, 4096, prot=7), lambda: socket.socket(16, 3)):\n"
        "    try:\n        make()\n"
        "    except PermissionError:\n        print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=restricted.apply,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "refused\nrefused\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to take rights away")
def test_the_daemon_lives_without_files_devices_and_rights(
    open_folder: Path,
) -> None:
    """ProtectSystem=strict, PrivateDevices, ProcSubset=pid, an empty CapabilityBoundingSet and a
    user that owns nothing but its runtime folder."""
    uid = 61184  # the first of systemd's dynamic users
    run = open_folder / "run"
    run.mkdir(mode=0o750)
    os.chown(run, uid, uid)
    mounts = (
        'mount -o bind "$0" "$0" && mount -o remount,bind,ro / && '
        "mount -t proc -o subset=pid,hidepid=invisible proc /proc && "
        "mount -t tmpfs -o mode=755 tmpfs /dev && mknod -m 666 /dev/null c 1 3 && "
        "mknod -m 666 /dev/urandom c 1 9 && mount -o remount,ro /dev && "
        "exec setpriv --reuid 61184 --regid 61184 --clear-groups --no-new-privs "
        '--bounding-set=-all --inh-caps=-all "$@"'
    )
    wrapper = ("unshare", "--mount", "--ipc", "sh", "-c", mounts, str(run))
    if subprocess.run([*wrapper, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    with start(
        open_folder,
        f"--listen=unix:{run}/s",
        f"--ready_file={run}/ready.json",
        "--metrics_listen=127.0.0.1:0",
        wrapper=wrapper,
    ) as attnd:
        assert attnd.ready, attnd.log
        status = Path(f"/proc/{attnd.process.pid}/status").read_text()
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
        assert "CapEff:\t0000000000000000\n" in status
        assert not Path("/proc", str(attnd.process.pid), "root", "proc", "cpuinfo").exists()
        assert "CapBnd:\t0000000000000000\n" in status
        _exercise(run)
        assert attnd.stop() == 0, attnd.log
        assert list(run.iterdir()) == []
