# SPDX-License-Identifier: Apache-2.0
"""A real attnd of $ATTND_BIN_DIR or build/release/bin, small enough to be filled and overrun.

    with Daemon(folder) as daemon:
        with daemon.connect("chat", timeout_s=20) as client:
            ...

It knows the tenants `chat` and, with narrow limits, `batch`, and the operator `ops`; beside its
Unix socket it serves TLS, with a certificate that expires within a day.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import attnd
from prometheus import REPOSITORY, TIMEOUT_S, wait_until

FOLDER = Path(os.environ.get("ATTND_BIN_DIR") or REPOSITORY / "build" / "release" / "bin")


# Each may be the only one in the queue; together they are more than it takes.
TENANTS = """
tenants:
  - {{name: chat, tokens: [{chat}], max_queued_requests: 6}}
  - {{name: batch, tokens: [{batch}], max_queued_requests: 2, max_sessions: 8}}
  - {{name: ops, role: admin, tokens: [{ops}]}}
"""
FLAGS = ("--backend=cpu", "--pool_bytes=16MiB", "--num_threads=1", "--max_queued_requests=6")


class Daemon:
    """The process; `with` ends it. Its log is FOLDER/attnd.log."""

    def __init__(self, folder: Path) -> None:
        if not (FOLDER / "attnd").is_file():
            raise FileNotFoundError(f"{FOLDER / 'attnd'}: build it (make build), or ATTND_BIN_DIR")
        self.folder = folder
        self._ready = folder / "ready.json"
        self.address = f"unix:{folder / 'attnd.sock'}"
        self.metrics = ""
        self._tokens = {name: secrets.token_hex(16) for name in ("chat", "batch", "ops")}
        self.tenants_file = folder / "tenants.yml"
        self.write_tenants()
        self.certificate, self._key = folder / "server.pem", folder / "server.key"
        self.make_certificate()
        self.start()

    def write_tenants(self, extra: str = "") -> None:
        """The tenants file, whole or with a line that does not belong there."""
        write_secret(self.tenants_file, TENANTS.format(**self._tokens) + extra)

    def make_certificate(self) -> None:
        """A new one and its key, which expires within a day."""
        new = {path: path.with_name(f"new-{path.name}") for path in (self.certificate, self._key)}
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=attnd"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-out", str(new[self.certificate]), "-keyout", str(new[self._key])),
            ],
            check=True,
            capture_output=True,
            timeout=TIMEOUT_S,
        )
        for path, made in new.items():
            made.replace(path)

    def connect(self, tenant: str, **arguments: Any) -> attnd.Client:
        """A client with the tenant's token, or none; the other arguments are attnd.Client's."""
        token = self._tokens.get(tenant)
        return attnd.Client(
            self.address, credentials=attnd.Credentials(token=token) if token else None, **arguments
        )

    def start(self, metrics: str = "127.0.0.1:0") -> None:
        """Starts the process and waits until it serves."""
        self._ready.unlink(missing_ok=True)
        with (self.folder / "attnd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(FOLDER / "attnd"),
                    f"--listen={self.address}",
                    "--listen=127.0.0.1:0",
                    f"--tls_cert={self.certificate}",
                    f"--tls_key={self._key}",
                    f"--tenants_file={self.tenants_file}",
                    f"--metrics_listen={metrics}",
                    f"--ready_file={self._ready}",
                    *FLAGS,
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
        """What `attnctl ARGUMENTS` prints, as the operator."""
        token = self.folder / "ops.token"
        write_secret(token, self._tokens["ops"])
        program = [str(FOLDER / "attnctl"), f"--address={self.address}", f"--token_file={token}"]
        return subprocess.run(
            [*program, *arguments],
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


def write_secret(path: Path, text: str) -> None:
    """All at once, and closed to others, as the daemon wants it."""
    new = path.with_name(f"new-{path.name}")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
