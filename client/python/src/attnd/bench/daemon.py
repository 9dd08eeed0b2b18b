# SPDX-License-Identifier: Apache-2.0
"""The daemon that is measured: one at an address, or a fresh one of the benchmark's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import attnd

_START_S = 60.0
_TIMEOUT_S = 120.0


class DaemonMissing(attnd.AttndError):
    """There is no `attnd` program to start, or it did not start."""


def binary() -> Path:
    """$ATTND_BINARY, $ATTND_BIN_DIR/attnd, the wheel's, the source tree's build, or PATH's.

    Raises:
        DaemonMissing: none of them is there; names what was looked for.
    """
    named = os.environ.get("ATTND_BINARY"), os.environ.get("ATTND_BIN_DIR")
    package = Path(attnd.__file__).resolve().parent
    found = shutil.which("attnd")
    candidates = [
        Path(named[0]) if named[0] else None,
        Path(named[1]) / "attnd" if named[1] else None,
        package / "_bin" / "attnd",
        package.parents[3] / "build" / "release" / "bin" / "attnd"
        if len(package.parents) > 3
        else None,
        Path(found) if found else None,
    ]
    looked = [path for path in candidates if path is not None]
    for path in looked:
        if path.is_file():
            return path
    raise DaemonMissing(
        f"no attnd program: looked for {', '.join(map(str, looked))} and in PATH; set ATTND_BINARY "
        "to one, or give --address"
    )


class Daemon:
    """Serves until the `with` block ends; `client` is connected to it.

    Args:
        address: of one that runs already; None: starts `attnd` on a Unix socket of its own.
        flags: of the started one.
    """

    def __init__(self, address: str | None, flags: list[str]) -> None:
        self._given, self._flags = address, flags
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._client: attnd.Client | None = None

    @property
    def pid(self) -> int | None:
        """Of the daemon that was started; None of one at an address."""
        return self._process.pid if self._process is not None else None

    @property
    def client(self) -> attnd.Client:
        """Connected; a daemon of ours that has died is started again."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._client is None:
            address = self._given if self._given is not None else self._start()
            self._client = attnd.Client(address, timeout_s=_TIMEOUT_S)
        return self._client

    def close(self) -> None:
        """Ends the daemon where it is ours."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> str:
        program = binary()
        # A short path: a Unix socket's name has 107 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="attnd-bench-", dir="/tmp")
        folder = Path(self._folder.name)
        address, ready, log = f"unix:{folder}/attnd.sock", folder / "ready", folder / "log"
        command = [str(program), f"--listen={address}", "--metrics_listen=", *self._flags]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, f"--ready_file={ready}"], stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_S
        while not (ready.is_file() and _whole(ready)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")[-2000:]
                self.close()
                raise DaemonMissing(f"{' '.join(command)} did not start:\n{text}")
            time.sleep(0.02)
        return address


def _whole(ready: Path) -> bool:
    try:
        return bool(json.loads(ready.read_text()))
    except ValueError:
        return False
