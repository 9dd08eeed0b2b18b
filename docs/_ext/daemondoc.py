# SPDX-License-Identifier: Apache-2.0
"""The directives `attnd-flags` and `attnd-metrics`: what the daemon says about itself.

The flags are those of `attnd --help`, the metrics those of `attnd --print_metrics`. Both need the
program: without it the build fails and says so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import comments
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
    """A table of the daemon's catalogue of metrics."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        self.env.note_dependency(str(daemon()))
        catalogue = json.loads(
            subprocess.run(
                [daemon(), "--print_metrics"],
                check=True,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            ).stdout
        )
        rows = [
            [
                [nodes.paragraph("", "", nodes.literal("", metric["name"]))],
                [nodes.paragraph("", metric["type"])],
                [nodes.paragraph("", ", ".join(metric["labels"]))],
                [nodes.paragraph("", "", *comments.inline(metric["help"]))],
            ]
            for metric in catalogue
        ]
        return [table(["metric", "type", "labels", ""], rows, [44, 10, 14, 32])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directives."""
    app.add_directive("attnd-flags", Flags)
    app.add_directive("attnd-metrics", Metrics)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
