# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the status page's test: daemons, and a browser that takes note of what goes wrong.

The browser is Debian's Chromium; scripts/install_deps.sh page installs it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
SOURCE = REPOSITORY / "client" / "python"
sys.path[:0] = [str(SOURCE / "src"), str(HERE)]
subprocess.run([sys.executable, str(SOURCE / "generate_protos.py")], check=True)

from load import Load  # noqa: E402

PICTURES = REPOSITORY / "build" / "page"
_START_S = 60
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Daemon:
    """One that serves."""

    process: subprocess.Popen[bytes]
    address: str
    origin: str  # of its metrics port


@dataclass
class View:
    """A page of the browser, with what it complained about and what it asked for."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Opens the status page and waits for its first figures."""
        self.page.goto(self.origin + "/")
        self.page.wait_for_selector("#options dl", timeout=_START_S * 1000)

    def picture(self, name: str) -> None:
        """Keeps what the whole page looks like."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def _start(folder: Path) -> Daemon:
    binary = Path(os.environ.get("ATTND_BIN_DIR") or REPOSITORY / "build/release/bin") / "attnd"
    assert binary.is_file(), f"{binary} is not built"
    ready = folder / "ready.json"
    address = f"unix:{folder / 'attnd.sock'}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(binary),
                f"--listen={address}",
                "--metrics_listen=127.0.0.1:0",
                f"--ready_file={ready}",
                "--backend=cpu",
                "--num_threads=1",
                "--pool_bytes=64MiB",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + _START_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"attnd did not start:\n{(folder / 'log').read_text()}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    return Daemon(process, address, "http://" + json.loads(ready.read_text())["metrics"])


@pytest.fixture(scope="session")
def start_daemon() -> Iterator[Callable[[], Daemon]]:
    """Starts daemons that are ended with the tests."""
    with contextlib.ExitStack() as ends:

        def start() -> Daemon:
            folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="attnd-", dir="/tmp"))
            daemon = _start(Path(folder))
            ends.callback(daemon.process.wait)
            ends.callback(daemon.process.kill)
            return daemon

        yield start


@pytest.fixture(scope="session")
def loaded(start_daemon: Callable[[], Daemon]) -> Daemon:
    """The daemon that the load is put on."""
    return start_daemon()


@pytest.fixture
def load(loaded: Daemon) -> Iterator[Load]:
    """Calls that go on while a test looks."""
    with Load(loaded.address) as calls:
        calls.wait_for_rounds(2)
        yield calls


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert binary, "no chromium: scripts/install_deps.sh page installs it"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=binary, args=_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def view(browser: Browser) -> Iterator[Callable[..., View]]:
    """Makes views of a daemon's page, of a width and a color scheme."""
    with contextlib.ExitStack() as ends:

        def make(daemon: Daemon, width: int = 1280, scheme: str = "light") -> View:
            context = ends.enter_context(
                contextlib.closing(
                    browser.new_context(
                        viewport={"width": width, "height": 800},
                        color_scheme=scheme,
                        device_scale_factor=2 if width < 500 else 1,
                    )
                )
            )
            made = View(context.new_page(), daemon.origin)
            made.page.set_default_timeout(_START_S * 1000)
            made.page.on(
                "console",
                lambda message: (
                    made.complaints.append(message.text)
                    if message.type in ("error", "warning")
                    else None
                ),
            )
            made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
            made.page.on("request", lambda request: made.urls.append(request.url))
            return made

        yield make
