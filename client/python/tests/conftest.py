# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a daemon, the fake one and the real one in turn, and what tests need of it.

The real one is `attnd` in $ATTND_BIN_DIR, or in build/release/bin; without it those tests are
skipped. $ATTND_MODEL_DIR moves the converted model of the slower tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# PyTorch's threads must not spin on the cores that the daemon computes on (attnd/demo/__main__.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
REPOSITORY = HERE.parent.parent.parent
sys.path[:0] = [str(SOURCE), str(HERE)]
subprocess.run([sys.executable, str(HERE.parent / "generate_protos.py")], check=True)

import numpy as np  # noqa: E402

import attnd  # noqa: E402
import fake_daemon  # noqa: E402


@dataclass(frozen=True)
class Daemon:
    """One that serves."""

    kind: str  # "fake", "real"
    address: str
    metrics: str  # HOST:PORT, "" for none
    fake: fake_daemon.FakeDaemon | None


@dataclass(frozen=True)
class RealDaemon:
    """One that a test started for itself, to kill it."""

    process: subprocess.Popen[bytes]
    address: str
    folder: Path


def daemon_binary() -> Path:
    """Where the real one should be."""
    folder = os.environ.get("ATTND_BIN_DIR") or REPOSITORY / "build" / "release" / "bin"
    return Path(folder) / "attnd"


@pytest.fixture(scope="session")
def socket_dir() -> Iterator[Path]:
    """A short path: a Unix socket's name has 107 characters."""
    with tempfile.TemporaryDirectory(prefix="attnd-", dir="/tmp") as path:
        yield Path(path)


def start_real(folder: Path, *flags: str) -> tuple[subprocess.Popen[bytes], Daemon]:
    """Starts the real daemon and waits until it serves."""
    ready = folder / "ready.json"
    address = f"unix:{folder / 'attnd.sock'}"
    log = (folder / "attnd.log").open("wb")
    process = subprocess.Popen(
        [
            str(daemon_binary()),
            f"--listen={address}",
            "--metrics_listen=127.0.0.1:0",
            f"--ready_file={ready}",
            *flags,
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 30
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"attnd did not start:\n{(folder / 'attnd.log').read_text()}")
        time.sleep(0.02)
    return process, Daemon("real", address, json.loads(ready.read_text())["metrics"], None)


def stop_real(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM; the exit code."""
    process.terminate()
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., RealDaemon]]:
    """Starts real daemons of the test's own, with these flags; ended with it."""
    if not daemon_binary().is_file():
        pytest.skip(f"{daemon_binary()} is not built")
    with contextlib.ExitStack() as ends:

        def start(*flags: str, folder: Path | None = None) -> RealDaemon:
            if folder is None:
                folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="attnd-")))
            (folder / "ready.json").unlink(missing_ok=True)
            process, daemon = start_real(folder, "--pool_bytes=64MiB", *flags)
            ends.callback(process.wait)
            ends.callback(process.kill)
            return RealDaemon(process, daemon.address, folder)

        yield start


@pytest.fixture(scope="session", params=["fake", "real"])
def daemon(request: pytest.FixtureRequest, socket_dir: Path) -> Iterator[Daemon]:
    """Both daemons, one after the other."""
    if request.param == "fake":
        address = f"unix:{socket_dir / 'fake.sock'}"
        with fake_daemon.FakeDaemon(address) as fake:
            yield Daemon("fake", address, "", fake)
        return
    if not daemon_binary().is_file():
        pytest.skip(f"{daemon_binary()} is not built")
    process, real = start_real(socket_dir)
    yield real
    with attnd.Client(real.address) as client:
        client.check_integrity()
    assert stop_real(process) == 0


@pytest.fixture
def real_client() -> attnd.Client:
    """Of the process's embedded daemon: for what the fake one does not compute."""
    if not daemon_binary().is_file():
        pytest.skip(f"{daemon_binary()} is not built")
    return attnd.connect()


@pytest.fixture
def fake(socket_dir: Path) -> Iterator[fake_daemon.FakeDaemon]:
    """A fake daemon of the test's own, for failures that are made to happen."""
    path = socket_dir / "own.sock"
    with fake_daemon.FakeDaemon(f"unix:{path}") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def client(daemon: Daemon) -> Iterator[attnd.Client]:
    with attnd.Client(daemon.address, timeout_s=30) as client:
        yield client


@pytest.fixture
def session(client: attnd.Client) -> Iterator[attnd.Session]:
    with client.open_session(lease_s=60, label="pytest") as session:
        yield session


@pytest.fixture
def cache(client: attnd.Client, request: pytest.FixtureRequest) -> attnd.KvCache:
    """Small, with a page size that the tests' lengths cross: 3 layers, 4 heads over 2, dim 64."""
    return client.open_cache(
        "pytest",
        num_layers=3,
        num_query_heads=4,
        num_kv_heads=2,
        head_dim=64,
        page_size_tokens=8,
    )


@pytest.fixture
def sequence(session: attnd.Session, cache: attnd.KvCache) -> attnd.Sequence:
    return session.create_sequence(cache)


Make = Callable[..., attnd.Item]


@pytest.fixture
def make_item() -> Make:
    """An item with random q, k and v of n rows for the sequence's cache."""
    rng = np.random.default_rng(20240607)

    def make(
        sequence: attnd.Sequence,
        n: int,
        *,
        layer: int = 0,
        start: int = 0,
        parts: str = "qkv",
        **fields: object,
    ) -> attnd.Item:
        shape = sequence.cache.geometry
        sizes = {
            "q": (n, shape.num_query_heads, shape.head_dim_k),
            "k": (n, shape.num_kv_heads, shape.head_dim_k),
            "v": (n, shape.num_kv_heads, shape.head_dim_v),
        }
        arrays = {part: rng.standard_normal(sizes[part], np.float32) for part in parts}
        return attnd.Item(sequence=sequence, layer=layer, start=start, **(arrays | fields))

    return make
