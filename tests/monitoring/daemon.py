# SPDX-License-Identifier: Apache-2.0
"""A real attnd of $ATTND_BIN_DIR or build/release/bin, small enough to be filled and overrun."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType

from prometheus import REPOSITORY, TIMEOUT_S, wait_until

FOLDER = Path(os.environ.get("ATTND_BIN_DIR") or REPOSITORY / "build" / "release" / "bin")


class Daemon:
    """The process; `with` ends it. Its log is FOLDER/attnd.log."""

    def __init__(self, folder: Path, *flags: str) -> None:
        if not (FOLDER / "attnd").is_file():
            raise FileNotFoundError(f"{FOLDER / 'attnd'}: build it (make build), or ATTND_BIN_DIR")
        self.folder = folder
        self._ready = folder / "ready.json"
        self._flags = flags
        self.address = f"unix:{folder / 'attnd.sock'}"
        self.metrics = ""
        self.start()

    def start(self, metrics: str = "127.0.0.1:0") -> None:
        """Starts the process and waits until it serves."""
        self._ready.unlink(missing_ok=True)
        with (self.folder / "attnd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(FOLDER / "attnd"),
                    f"--listen={self.address}",
                    f"--metrics_listen={metrics}",
                    f"--ready_file={self._ready}",
                    *self._flags,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

        def serves() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"no start:\n{(self.folder / 'attnd.log').read_text()}")
            return self._ready.exists()

        wait_until(serves, "attnd serves")
        self.metrics = json.loads(self._ready.read_text())["metrics"]

    def restart(self) -> None:
        """Ends it the hard way and starts it on the same ports, as a supervisor does."""
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        (self.folder / "attnd.sock").unlink(missing_ok=True)
        self.start(self.metrics)

    def scrape(self) -> str:
        """What /metrics says now."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=TIMEOUT_S) as page:
            text: str = page.read().decode()
            return text

    def attnctl(self, *arguments: str) -> str:
        """What `attnctl ARGUMENTS` prints."""
        return subprocess.run(
            [str(FOLDER / "attnctl"), f"--address={self.address}", *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        ).stdout

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
