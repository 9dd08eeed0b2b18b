# SPDX-License-Identifier: Apache-2.0
"""A process that forks while it holds a client, and handles that are carried to other processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

import attnd
from conftest import HERE, SOURCE, Daemon

USES = ("stats", "capabilities", "open_session", "create_sequence", "renew", "release", "describe")


@pytest.mark.parametrize("how", ["os", "multiprocessing"])
def test_a_fork_is_told_what_to_do_and_the_parent_goes_on(daemon: Daemon, how: str) -> None:
    program = subprocess.run(
        [sys.executable, str(HERE / "fork_program.py"), daemon.address, how],
        env={"PYTHONPATH": str(SOURCE), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,  # Whatever hangs at exit ends here.
    )
    assert program.returncode == 0, program.stderr
    seen = json.loads(program.stdout.splitlines()[-1])
    for use in USES:
        assert seen[use].startswith("ForkedProcess: "), (use, seen[use])
        assert daemon.address in seen[use]
        assert "Make a new attnd.Client here" in seen[use]
    assert seen["session.close"] == seen["client.close"] == "nothing was raised"
    assert seen["threads"] == []
    assert seen["exit"] == 0
    assert seen["own"] == {"epoch": 1, "exit": 0}
    assert seen["parent failures"] == []


def test_the_error_is_a_runtime_error_of_the_table(
    client: attnd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client._channel, "_pid", 1)
    with pytest.raises(RuntimeError, match="was made in process 1 and is used in") as raised:
        client.stats()
    assert isinstance(raised.value, attnd.AttndError)
    assert not raised.value.retryable


def test_handles_do_not_go_into_a_pickle(
    client: attnd.Client, session: attnd.Session, sequence: attnd.Sequence
) -> None:
    for handle in (client, session, sequence):
        with pytest.raises(TypeError, match=f"{type(handle).__name__}: got pickled.*address"):
            pickle.dumps(handle)
