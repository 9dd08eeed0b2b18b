# SPDX-License-Identifier: Apache-2.0
"""What attnd says where it cannot start, or has to start otherwise; and what systemd is told."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from attnd_process import ATTND, attnctl, make_open_folder, start

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")


@pytest.fixture
def folder() -> Iterator[Path]:
    with make_open_folder() as path:
        yield path


def refused(folder: Path, *flags: str, wrapper: tuple[str, ...] = (), code: int = 1) -> str:
    """Starts attnd, which must end with `code` and leave nothing behind; its one line of error."""
    served = folder / "served"
    served.mkdir(exist_ok=True)
    served.chmod(0o777)
    with start(
        folder,
        f"--listen=unix:{served}/s",
        f"--ready_file={served}/ready.json",
        "--metrics_listen=",
        *flags,
        wrapper=wrapper,
    ) as attnd:
        assert not attnd.ready, attnd.log
        assert attnd.process.returncode == code, attnd.log
        assert list(served.iterdir()) == []
        lines = attnd.log.splitlines()
        errors = [line for line in lines if " info " not in line]
        assert len(errors) == 1 and lines[-1] == errors[0], attnd.log
        return errors[0].partition("cannot start: ")[2] if code == 1 else errors[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_in_use(folder: Path, taken_port: int) -> None:
    assert refused(folder, f"--listen=127.0.0.1:{taken_port}") == (
        f'--listen: cannot listen on "127.0.0.1:{taken_port}": it is in use: another process '
        "listens there"
    )


def test_a_metrics_port_in_use(folder: Path, taken_port: int) -> None:
    assert refused(folder, f"--metrics_listen=127.0.0.1:{taken_port}").startswith(
        f'--metrics_listen: cannot listen on "127.0.0.1:{taken_port}": it is in use'
    )


def test_an_address_of_another_machine(folder: Path) -> None:
    said = refused(folder, "--listen=192.0.2.1:7450", "--insecure")
    assert said.endswith("it is no address of this machine")


def test_one_socket_twice(folder: Path) -> None:
    """Found only when the first listener already serves: it must clean up."""
    assert "is in use" in refused(folder, f"--listen=unix:{folder}/served/s")


def test_a_missing_socket_folder(folder: Path) -> None:
    assert refused(folder, f"--listen=unix:{folder}/nowhere/attnd.sock") == (
        f'--listen: Unix socket "{folder}/nowhere/attnd.sock": there is no directory '
        f'"{folder}/nowhere": create it, writable for the daemon\'s user'
    )
    assert "RuntimeDirectory=attnd-nowhere" in refused(
        folder, "--listen=unix:/run/attnd-nowhere/attnd.sock"
    )


def test_a_socket_path_that_is_too_long(folder: Path) -> None:
    path = f"/tmp/{'a' * 150}"
    assert f'"{path}": the path has 155 bytes, at most 107 fit' in refused(
        folder, f"--listen=unix:{path}"
    )


@as_root
def test_a_folder_that_another_user_owns(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o755)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    said = refused(folder, f"--listen=unix:{closed}/s", wrapper=nobody)
    assert f'the directory "{closed}" is not writable for the daemon\'s user, uid 65534' in said
    said = refused(folder, f"--ready_file={closed}/ready.json", wrapper=nobody)
    assert said.startswith(f'--ready_file "{closed}/ready.json": the directory "{closed}" is not')


@as_root
def test_a_read_only_file_system(folder: Path) -> None:
    """Mounted for the daemon alone."""
    fixed = folder / "fixed"
    fixed.mkdir()
    script = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", script, str(fixed))
    if subprocess.run([*wrapper, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    for flag in (f"--listen=unix:{fixed}/s", f"--ready_file={fixed}/ready.json"):
        said = refused(folder, flag, wrapper=wrapper)
        assert said.endswith(f'the directory "{fixed}": Read-only file system')


def test_a_missing_folder_of_the_ready_file(folder: Path) -> None:
    assert refused(folder, f"--ready_file={folder}/nowhere/ready.json").startswith(
        f'--ready_file "{folder}/nowhere/ready.json": there is no directory "{folder}/nowhere"'
    )


def test_a_missing_plugin(folder: Path) -> None:
    plugin = f"--hip_plugin={folder}/none.so"
    assert refused(folder, plugin, "--backend=hip") == (
        f'--hip_plugin "{folder}/none.so": No such file or directory; expected the GPU plugin, '
        "libattnd_hip.so"
    )
    with start(
        folder, f"--listen=unix:{folder}/s", "--metrics_listen=", plugin, "--backend=auto"
    ) as attnd:
        assert attnd.ready, attnd.log
        assert "backend: cpu" in attnd.log
        assert "chosen because no GPU can be used: " in attnd.log
        assert f"{folder}/none.so" in attnd.log
        assert attnd.stop() == 0


def test_a_gpu_that_is_insisted_on_and_no_plugin_beside_the_program(folder: Path) -> None:
    alone = folder / "bin" / "attnd"
    alone.parent.mkdir()
    shutil.copy(ATTND, alone)
    said = refused(folder, "--backend=hip", wrapper=("sh", "-c", f'shift; exec {alone} "$@"', "0"))
    assert said.startswith(f"--backend=hip: there is no {alone.parent}/libattnd_hip.so and no ")


def test_a_pool_larger_than_memory(folder: Path) -> None:
    said = refused(folder, "--backend=cpu", "--pool_bytes=32TiB")
    assert "cpu memory: 35184372088832 bytes asked" in said
    assert said.endswith("the KV pool's size is set by --pool_bytes, lower it or free memory")


def test_bad_options_end_with_another_code(folder: Path) -> None:
    config = folder / "attnd.conf"
    config.write_text("# mine\nnum_thread = 2\n")
    assert refused(folder, f"--config={config}", code=2) == (
        f'attnd: {config}:2: unknown option "num_thread"; did you mean num_threads?'
    )


def test_systemd_is_told_when_it_serves_and_when_it_stops(folder: Path) -> None:
    with start(
        folder, f"--listen=unix:{folder}/s", "--metrics_listen=", "--drain_timeout=90s"
    ) as attnd:
        assert attnd.messages == [f"READY=1\nSTATUS=serving on unix:{folder}/s"]
        # It is true: who starts after it is served.
        assert "log level: info" in attnctl("--address", f"unix:{folder}/s", "log-level")
        assert attnd.stop() == 0
        assert attnd.messages[1:] == ["STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=100000000"]


def test_a_notify_socket_that_is_gone_is_a_warning(folder: Path) -> None:
    process = subprocess.Popen(
        [ATTND, f"--listen=unix:{folder}/s", "--metrics_listen=", "--pool_bytes=64MiB"],
        env={**os.environ, "NOTIFY_SOCKET": f"{folder}/gone"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        warning = next(line for line in process.stderr if " warning " in line)
        assert f'NOTIFY_SOCKET="{folder}/gone": No such file or directory' in warning
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stderr.close()


def test_the_log_is_json_from_the_first_line_to_the_last(folder: Path) -> None:
    with start(
        folder, f"--listen=unix:{folder}/s", "--metrics_listen=", "--log_format=json"
    ) as attnd:
        assert attnd.ready, attnd.log
        assert attnd.stop() == 0
        lines = [json.loads(line) for line in attnd.log.splitlines()]
    assert lines[0]["msg"] == "attnd starts"
    assert lines[0]["pid"] == attnd.process.pid
    assert lines[0]["version"]
    assert lines[-1]["msg"] == "attnd ends"
    assert all({"ts", "level", "msg"} <= line.keys() for line in lines)
