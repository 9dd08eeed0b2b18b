# SPDX-License-Identifier: Apache-2.0
"""The demo, shortened, as a process; and that it says no where it should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attnd.demo import model
from attnd.demo.report import Outcome, verdict_line
from attnd.demo.run import Demo
from conftest import SOURCE, Daemon, daemon_binary


def test_the_demo_ends_with_yes(daemon: Daemon) -> None:
    if daemon.kind == "fake" and daemon_binary().is_file():
        pytest.skip("the real daemon is there, and one run is enough")
    try:
        model.gguf_path()
    except model.ModelMissing as missing:
        pytest.skip(str(missing))
    command = [sys.executable, "-m", "attnd.demo", "--new_tokens=8"]
    command += [f"--address={daemon.address}", f"--metrics={daemon.metrics}"]
    if "ATTND_MODEL_DIR" in os.environ:
        command.append(f"--model_dir={os.environ['ATTND_MODEL_DIR']}")
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(
        r"demo: tokens_identical=yes resumed=yes prompts=4 tokens=32 "
        r"attention_ms=\d+ pages_peak=\d+",
        done.stdout.splitlines()[-1],
    ), done.stdout


def test_without_a_daemon_the_demo_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attnd.demo", f"--address=unix:{tmp_path}/nobody.sock"],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "nobody.sock" in done.stderr


@pytest.mark.parametrize(
    ("changed", "written", "resumed"),
    [
        ({}, 30 * 10, True),
        ({}, 30 * 10 + 1, False),
        ({"answers": [[1, 2], [3, 5]]}, 30 * 10, False),
        ({"restarts": [9, 21]}, 30 * 10, False),
        ({"prompt_lengths": [9, 20]}, 30 * 10, False),
    ],
)
def test_every_doubt_is_a_no(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], written: int, resumed: bool
) -> None:
    monkeypatch.setattr(Demo, "_layers", lambda self: 30)
    demo = Demo("unix:/nowhere", "", 2, None)
    demo._expected, demo._prompt_lengths = [[1, 2], [3, 4]], [10, 20]
    found = {
        "answers": [[1, 2], [3, 4]],
        "prompt_lengths": [10, 20],
        "restarts": [11, 21],
        "written": 10,
    }
    demo._judge(found | changed, written)
    assert demo._outcome.resumed is resumed


def test_the_last_line() -> None:
    outcome = Outcome(4, 256, True, False, 429.6, 45)
    assert verdict_line(outcome) == (
        "demo: tokens_identical=yes resumed=no prompts=4 tokens=256 attention_ms=430 pages_peak=45"
    )
