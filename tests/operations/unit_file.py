# SPDX-License-Identifier: Apache-2.0
"""The systemd unit as its tests read it: settings in order, and the calls that it allows."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

from attnd_process import REPOSITORY

UNIT = REPOSITORY / "deploy" / "systemd" / "attnd.service"
GPU_DROP_IN = REPOSITORY / "deploy" / "systemd" / "attnd.service.d" / "gpu.conf"


def settings(*files: Path) -> dict[str, list[str]]:
    """Each setting's values in order, those of drop-ins last; an empty one clears the list."""
    found: dict[str, list[str]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            match = re.fullmatch(r"([A-Za-z]+)=(.*)", line)
            if not match:
                continue
            name, value = match.groups()
            values = found.setdefault(name, [])
            if value:
                values.append(value)
            else:
                values.clear()
    return found


@functools.cache
def _groups() -> dict[str, list[str]]:
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in text.splitlines():
        word = line.strip()
        if line.startswith("@"):
            groups[word] = []
        elif line.startswith(" ") and word and not word.startswith("#") and groups:
            groups[list(groups)[-1]].append(word)
    return groups


def _expand(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    return set().union(*(_expand(member) for member in _groups()[name]))


def allowed_calls(*files: Path) -> set[str]:
    """Names of the system calls that SystemCallFilter= leaves, as systemd reads it."""
    # With an allow list systemd adds these itself (systemd.exec(5)).
    calls = _expand("@default")
    for value in settings(*files)["SystemCallFilter"]:
        names = set().union(*(_expand(name) for name in value.removeprefix("~").split()))
        calls = calls - names if value.startswith("~") else calls | names
    return calls
