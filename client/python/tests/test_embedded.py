# SPDX-License-Identifier: Apache-2.0
"""The daemon of a process: its start, its end with the process, forks, threads, deaths."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import attnd
from attnd import embedded, shared
from conftest import SOURCE, daemon_binary

pytestmark = pytest.mark.skipif(
    not daemon_binary().is_file(), reason=f"{daemon_binary()} is not built"
)
RESTARTS = pytest.mark.filterwarnings("ignore:the embedded daemon ended:RuntimeWarning")
Q = np.random.default_rng(1).standard_normal((1, 8, 2, 32), np.float32)


@pytest.fixture(autouse=True)
def _from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon and no settings of another test."""
    for name in ("ATTND_ADDRESS", "ATTND_MEMORY_BYTES", "ATTND_MEMORY_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ATTND_BINARY", str(daemon_binary()))
    attnd.disconnect()
    yield
    attnd.disconnect()
    shared.set_memory()


def wait_for_end(pid: int) -> None:
    """Until the process is gone, whoever's child it is."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(fd):
        assert select.select([fd], [], [], 30)[0], f"process {pid} still runs"


def python(code: str, **options: object) -> subprocess.Popen[str]:
    """Another interpreter; `code` begins with the client imported."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os, sys, attnd, numpy as np\nq = np.ones((1, 4, 2, 32), 'f')\n{code}",
        ],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_two_lines_are_enough() -> None:
    process = python("print(attnd.connect().flash_attention(q, q, q).out.sum())")
    out, error = process.communicate(timeout=60)
    assert (out.strip(), error) == ("256.0", "")


def test_the_socket_is_private_and_its_folder_goes_with_the_daemon() -> None:
    with attnd.EmbeddedDaemon(num_threads=1) as daemon:
        folder = Path(daemon.address.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        pid = daemon.pid
        assert pid is not None
        with daemon.connect() as client:
            assert np.array_equal(
                client.flash_attention(Q, Q, Q).out, client.flash_attention(Q, Q, Q).out
            )
    assert not folder.exists()
    assert daemon.pid is None
    wait_for_end(pid)
    with pytest.raises(attnd.Unavailable, match="was closed"):
        daemon.serving_address()


def test_it_ends_with_the_process_even_by_sigkill() -> None:
    process = python(
        "attnd.connect().capabilities()\n"
        "print(attnd.shared._state.daemon.pid, flush=True)\nsys.stdin.read()"
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    os.kill(pid, 0)
    process.kill()
    process.communicate()
    wait_for_end(pid)


def test_it_ends_with_an_interpreter_that_ends() -> None:
    process = python("attnd.connect().capabilities(); print(attnd.shared._state.daemon.pid)")
    out, error = process.communicate(timeout=60)
    assert error == ""
    wait_for_end(int(out))


def test_one_daemon_for_all_threads() -> None:
    barrier = threading.Barrier(16)

    def call(_: int) -> tuple[attnd.Client, np.ndarray]:
        barrier.wait()
        client = attnd.connect()
        return client, client.flash_attention(Q, Q, Q).out

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(call, range(16)))
    assert len({id(client) for client, _ in results}) == 1
    assert all(np.array_equal(out, results[0][1]) for _, out in results)
    assert len(embedded._daemons) == 1


def test_closing_the_shared_client_cuts_nobody_off() -> None:
    with attnd.connect() as client:
        pass
    assert client.flash_attention(Q, Q, Q).out.shape == Q.shape
    assert attnd.connect() is client
    with attnd.connect(timeout_s=5) as own:
        assert own is not client
        assert own.address == client.address


def test_a_daemon_that_died_is_started_again() -> None:
    with attnd.EmbeddedDaemon(num_threads=1) as daemon, daemon.connect() as client:
        cache = client.open_cache("c", num_layers=1, num_query_heads=2, num_kv_heads=2, head_dim=32)
        want = client.flash_attention(Q, Q, Q).out
        first = daemon.pid
        os.kill(first, signal.SIGKILL)
        wait_for_end(first)
        with pytest.warns(
            RuntimeWarning, match=r"ended by itself \(signal 9\) and is started again"
        ):
            assert np.array_equal(client.flash_attention(Q, Q, Q).out, want)
        assert daemon.pid not in (None, first)
        # What the former daemon had is gone, and says so.
        with client.open_session() as session, pytest.raises(attnd.NotFound):
            session.create_sequence(cache)


@RESTARTS
def test_a_stateless_call_in_flight_when_the_daemon_dies_is_sent_again() -> None:
    # Half a second in the queue, for others to share the launch.
    flags = ["--max_linger=500ms"]
    with attnd.EmbeddedDaemon(flags=flags) as daemon, daemon.connect() as client:
        first = daemon.pid
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.flash_attention, Q, Q, Q)
            with attnd.Client(daemon.address) as watcher:
                while not watcher.stats().queued_items:
                    assert not running.done()
            os.kill(first, signal.SIGKILL)
            out = running.result(60).out
        assert out.shape == Q.shape
        assert daemon.pid not in (None, first)


@RESTARTS
def test_a_daemon_that_dies_again_and_again_is_given_up() -> None:
    with attnd.EmbeddedDaemon(num_threads=1) as daemon, daemon.connect() as client:
        for _ in range(2):
            os.kill(daemon.pid, signal.SIGKILL)
            client.flash_attention(Q, Q, Q)
        os.kill(daemon.pid, signal.SIGKILL)
        with pytest.raises(attnd.Unavailable, match="3 times within a minute") as raised:
            client.flash_attention(Q, Q, Q)
        assert "serving on unix:" in str(raised.value)


def in_forked_child(run) -> str:
    """What `run` returns in a child that was forked off, or the exception's text."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = str(run())
        except BaseException as error:  # noqa: BLE001 - it goes through the pipe
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        # As a forked worker ends: without the parent's exit handlers.
        attnd.disconnect()
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def test_a_forked_child_gets_a_daemon_of_its_own() -> None:
    client = attnd.connect()
    want = client.flash_attention(Q, Q, Q).out
    daemon = shared._state.daemon

    def child() -> str:
        assert attnd.connect() is client
        assert np.array_equal(client.flash_attention(Q, Q, Q).out, want)
        return f"{client.address} {shared._state.daemon.pid}"

    address, pid = in_forked_child(child).split()
    assert address != client.address
    wait_for_end(int(pid))
    # The child's end left ours alone.
    assert daemon.pid is not None
    assert np.array_equal(client.flash_attention(Q, Q, Q).out, want)


def test_a_client_of_the_parent_says_so_in_a_forked_child() -> None:
    with attnd.EmbeddedDaemon(num_threads=1) as daemon, attnd.Client(daemon.address) as client:
        client.capabilities()
        text = in_forked_child(lambda: client.flash_attention(Q, Q, Q))
        assert text.startswith("ForkedProcess: the client of unix:"), text
        assert f"was made in process {os.getpid()}" in text
        with daemon.connect() as bound:
            text = in_forked_child(lambda: bound.flash_attention(Q, Q, Q))
            assert text.startswith("ForkedProcess: the embedded daemon at unix:"), text
        assert client.flash_attention(Q, Q, Q).out.shape == Q.shape


def test_a_forked_child_does_not_keep_the_daemon_alive() -> None:
    process = python(
        "attnd.connect().capabilities()\n"
        "pid = attnd.shared._state.daemon.pid\n"
        "if os.fork() == 0:\n    sys.stdin.read(); os._exit(0)\n"
        "print(pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    assert process.stdout is not None
    wait_for_end(int(process.stdout.readline()))  # while the child still waits for its input
    process.communicate()


def test_memory_is_set_before_the_start() -> None:
    client = attnd.connect(memory_bytes=64 << 20)
    assert client.stats().devices[0].pool_bytes == 64 << 20
    assert attnd.connect(memory_bytes=64 << 20) is client
    with pytest.raises(attnd.InvalidArgument, match="address: got 'unix:/x' with memory_bytes"):
        attnd.connect("unix:/x", memory_bytes=64 << 20)
    with pytest.raises(
        attnd.FailedPrecondition, match=r"memory_fraction: got 0\.5 while the embed"
    ):
        attnd.connect(memory_fraction=0.5)
    attnd.disconnect()
    attnd.connect(memory_fraction=0.5)
    assert "--gpu_memory_fraction=0.5" in shared._state.daemon._flags


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_bytes": 1}, "memory_bytes: got 1, expected 2097152 to"),
        ({"memory_fraction": 1.5}, r"memory_fraction: got 1\.5, expected 0\.05 to 0\.98"),
        ({"memory_fraction": 0.5, "memory_bytes": 1 << 30}, "expected one of them"),
        ({"num_threads": -1}, "num_threads: got -1, expected 0 to 1024"),
        ({"backend": "cuda"}, "backend: got 'cuda', expected one of auto, cpu, hip"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(attnd.InvalidArgument, match=message):
        attnd.EmbeddedDaemon(**settings)
    assert not list(embedded._daemons)


def test_variables_choose_the_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with attnd.EmbeddedDaemon(num_threads=1) as other:
        monkeypatch.setenv("ATTND_ADDRESS", other.address)
        assert attnd.connect().flash_attention(Q, Q, Q).out.shape == Q.shape
        assert shared._state.daemon is None
        attnd.disconnect()
    monkeypatch.delenv("ATTND_ADDRESS")
    monkeypatch.setenv("ATTND_MEMORY_BYTES", "lots")
    with pytest.raises(attnd.InvalidArgument, match=r"\$ATTND_MEMORY_BYTES: got 'lots'"):
        attnd.connect()
    monkeypatch.setenv("ATTND_MEMORY_BYTES", str(32 << 20))
    monkeypatch.setenv("ATTND_DAEMON_FLAGS", "--num_threads=1 '--log_level=debug'")
    assert attnd.connect().stats().devices[0].pool_bytes == 32 << 20
    assert shared._state.daemon._flags[-1] == "--log_level=debug"


def test_the_choice_of_gpus_reaches_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1,0")
    with attnd.EmbeddedDaemon(backend="cpu", num_threads=1) as daemon:
        assert "environment: HIP_VISIBLE_DEVICES = 1,0" in daemon.log()


def test_what_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(attnd.DaemonNotStarted, match="unknown option --no_such_flag") as raised:
        attnd.EmbeddedDaemon(flags=["--no_such_flag"])
    assert "exit code 2" in str(raised.value)
    monkeypatch.setenv("ATTND_BINARY", str(tmp_path / "attnd"))
    with pytest.raises(attnd.DaemonNotStarted, match=r"\$ATTND_BINARY: got '/"):
        attnd.connect()
    silent = tmp_path / "attnd"
    silent.write_text("#!/bin/sh\nread line\n")
    silent.chmod(0o755)
    with pytest.raises(attnd.DaemonNotStarted, match=r"did not serve \(0\.1 s passed\)"):
        attnd.EmbeddedDaemon(start_timeout_s=0.1)
    assert not list(embedded._daemons)


def test_without_a_program_it_says_where_one_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATTND_BINARY", "ATTND_BIN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded, "__file__", "/nowhere/attnd/embedded.py")
    with pytest.raises(
        attnd.DaemonNotStarted, match=r"looked for /nowhere/attnd/_bin/attnd"
    ) as raised:
        attnd.connect()
    assert "ATTND_ADDRESS" in str(raised.value)
