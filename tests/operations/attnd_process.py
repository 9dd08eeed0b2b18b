# SPDX-License-Identifier: Apache-2.0
"""The attnd program as a service manager starts it, for tests of how it is run.

It is told to notify (sd_notify(3)) a socket of the test's, so that nobody waits for time: what
comes first, its READY=1 or its end, is what `start` returns with.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("ATTND_BIN_DIR", REPOSITORY / "build" / "release" / "bin"))
ATTND = BIN / "attnd"
ATTNCTL = BIN / "attnctl"
DEADLINE_S = 120.0  # for a machine that does other things, too


@dataclass
class Attnd:
    process: subprocess.Popen[bytes]
    notify: socket.socket
    log_path: Path
    messages: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        return any("READY=1" in message.splitlines() for message in self.messages)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def receive(self) -> bool:
        """Waits for a message; False where the process ended without one."""
        pid_fd = os.pidfd_open(self.process.pid)
        try:
            readable, _, _ = select.select([self.notify, pid_fd], [], [], DEADLINE_S)
        finally:
            os.close(pid_fd)
        assert readable, f"attnd neither notified nor ended:\n{self.log}"
        try:
            self.messages.append(self.notify.recv(4096, socket.MSG_DONTWAIT).decode())
        except BlockingIOError:
            return False
        return True

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        code = self.process.wait(DEADLINE_S)
        while True:
            try:
                self.messages.append(self.notify.recv(4096, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return code


@contextmanager
def start(
    folder: Path,
    *flags: str,
    wrapper: Sequence[str] = (),
    before: Callable[[], None] | None = None,
) -> Iterator[Attnd]:
    """Starts attnd and waits until it is ready or has ended; it is killed at the end.

    `wrapper` goes before the program; `before` runs in the new process.
    """
    address = folder / "notify"
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(address))
    address.chmod(0o666)
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*wrapper, str(ATTND), "--pool_bytes=64MiB", "--num_threads=2", *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
            preexec_fn=before,
        )
    attnd = Attnd(process, notify, log_path)
    try:
        if not attnd.receive():
            process.wait(DEADLINE_S)
        yield attnd
    finally:
        process.kill()
        process.wait()
        notify.close()
        address.unlink()


@contextmanager
def make_open_folder() -> Iterator[Path]:
    """A folder short enough for a socket's path, which any user may pass through. pytest's own is
    closed to others, and closed again by each run of pytest."""
    with tempfile.TemporaryDirectory(prefix="attnd-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


def attnctl(*arguments: str) -> str:
    """What it says; an error where it fails."""
    done = subprocess.run(
        [str(ATTNCTL), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
