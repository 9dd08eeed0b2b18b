# SPDX-License-Identifier: Apache-2.0
"""The code that docs/ shows, run as its reader would: each line `# -> TEXT` must be printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY, SOURCE, daemon_binary

EXAMPLES = sorted((REPOSITORY / "docs" / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(example: Path) -> None:
    if not daemon_binary().is_file():
        pytest.skip(f"{daemon_binary()} is not built")
    marks = [line for line in example.read_text().splitlines() if line.startswith("# -> ")]
    assert marks, "an example that prints nothing shows nothing"
    environment = {key: value for key, value in os.environ.items() if key != "ATTND_ADDRESS"}
    program = subprocess.run(
        [sys.executable, str(example)],
        env=environment | {"ATTND_BINARY": str(daemon_binary()), "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout.splitlines() == [mark.removeprefix("# -> ") for mark in marks]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
