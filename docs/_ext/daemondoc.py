# SPDX-License-Identifier: Apache-2.0
"""The directives `attnd-flags` and `attnd-metrics`: what the daemon says about itself.

The flags are those of `attnd --help`. The metrics are scraped from a daemon that is started for it
and served some calls, since a family shows up with its first sample. Both need the program: without
it the build fails and says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import attnd
import comments
from attnd._proto import admin_pb2
from protodoc import table

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_TIMEOUT_S = 60


def daemon() -> Path:
    """The program, or an error that names where it was expected."""
    folder = os.environ.get("ATTND_BIN_DIR") or REPOSITORY / "build" / "release" / "bin"
    path = Path(folder) / "attnd"
    if not path.is_file():
        raise ExtensionError(f"daemondoc: no {path}: build it (make build), or set ATTND_BIN_DIR")
    return path


class Flags(SphinxDirective):
    """A table of flags for each group of `attnd --help`."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        self.env.note_dependency(str(daemon()))
        help_text = subprocess.run(
            [daemon(), "--help"], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
        ).stdout
        groups: list[tuple[str, list[list[list[nodes.Node]]]]] = []
        for line in help_text.splitlines():
            if heading := re.fullmatch(r"(\w[\w ]*):", line):
                groups.append((heading.group(1), []))
            elif flag := re.match(r"  (-\S+)(?: (\S.*?))?(?:  +(\S.*))?$", line):
                groups[-1][1].append(self._row(*flag.groups(default="")))
            elif groups and groups[-1][1] and line.startswith("   "):
                groups[-1][1][-1][2] = self._text(line)
        if len(groups) < 2:
            raise ExtensionError(f"daemondoc: {daemon()} --help has no groups of flags any more")
        return [
            nodes.section(
                "",
                nodes.title("", title),
                table(["flag", "default", ""], rows, [30, 16, 54]),
                ids=[nodes.make_id("flags " + title)],
            )
            for title, rows in groups
        ]

    def _row(self, names: str, value: str, text: str) -> list[list[nodes.Node]]:
        kind, _, default = value.partition("=")
        cell = nodes.paragraph()
        for index, name in enumerate(re.sub(r"\{\w+\}", "", names).split(",")):
            cell += [nodes.Text(", ")] * bool(index)
            cell += nodes.literal("", name)
        if kind:
            cell += [nodes.Text(" "), nodes.emphasis("", kind.removesuffix(" ..."))]
        shown = default.removesuffix(" ...").strip('"')
        known = [nodes.literal("", shown)] if shown else []
        return [
            [cell],
            [nodes.paragraph("", "", *known)],
            self._text(text),
        ]

    @staticmethod
    def _text(text: str) -> list[nodes.Node]:
        marked = re.sub(r"--\w+", lambda flag: f"`{flag.group()}`", text.strip())
        return [nodes.paragraph("", "", *comments.inline(marked))]


class Metrics(SphinxDirective):
    """A table of the families that a daemon at work exposes."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        self.env.note_dependency(str(daemon()))
        families: dict[str, dict[str, Any]] = {}
        for line in scrape().splitlines():
            if line.startswith("# "):
                _, what, name, text = line.split(" ", 3)
                families.setdefault(name, {"labels": set()})[what] = text
            elif sample := re.match(r"(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? ", line):
                found = families.get(sample.group(1)) or families.get(line.split("{")[0], {})
                found.get("labels", set()).update(re.findall(r"(\w+)=\"", sample.group(2) or ""))
        rows = [
            [
                [nodes.paragraph("", "", nodes.literal("", name))],
                [nodes.paragraph("", family.get("TYPE", ""))],
                [nodes.paragraph("", ", ".join(sorted(family["labels"] - {"le"})))],
                [nodes.paragraph("", "", *comments.inline(family.get("HELP", "")))],
            ]
            for name, family in sorted(families.items())
            if name.startswith("attnd_")
        ]
        if not rows:
            raise ExtensionError("daemondoc: the daemon exposed no attnd_ metrics")
        return [table(["metric", "type", "labels", ""], rows, [44, 10, 14, 32])]


def scrape() -> str:
    """The metrics of a fresh daemon after calls of every kind that brings a family."""
    with tempfile.TemporaryDirectory(prefix="attnd-docs-", dir="/tmp") as name:
        folder = Path(name)
        ready = folder / "ready.json"
        address = f"unix:{folder}/attnd.sock"
        command = [
            str(daemon()),
            f"--listen={address}",
            "--metrics_listen=127.0.0.1:0",
            f"--ready_file={ready}",
            "--pool_bytes=64MiB",
            "--backend=cpu",
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _TIMEOUT_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (folder / "log").read_text()
                    raise ExtensionError(f"daemondoc: attnd did not start:\n{said}")
                time.sleep(0.02)
            exercise(address)
            metrics = json.loads(ready.read_text())["metrics"]
            with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=_TIMEOUT_S) as page:
                text: str = page.read().decode()
                return text
        finally:
            process.terminate()
            process.wait(_TIMEOUT_S)


def exercise(address: str) -> None:
    """One item that is served, and one that a draining daemon refuses."""
    rows = np.ones((1, 1, 32), np.float32)
    with attnd.Client(address, timeout_s=_TIMEOUT_S) as client:
        cache = client.open_cache(
            "docs", num_layers=1, num_query_heads=1, num_kv_heads=1, head_dim=32
        )
        with client.open_session() as session:
            sequence = session.create_sequence(cache)
            item = attnd.Item(sequence=sequence, layer=0, start=0, q=rows, k=rows, v=rows)
            session.attend([item])
            client.call("AdminService", "Drain", admin_pb2.DrainRequest(), admin_pb2.DrainResponse)
            with contextlib.suppress(attnd.Draining):
                session.attend([item])


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directives."""
    app.add_directive("attnd-flags", Flags)
    app.add_directive("attnd-metrics", Metrics)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
