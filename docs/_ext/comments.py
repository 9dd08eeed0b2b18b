# SPDX-License-Identifier: Apache-2.0
"""Comments as paragraphs: `code` between backticks, lists after "- ", and indented tables as is."""

from __future__ import annotations

import re
import textwrap

from docutils import nodes


def inline(text: str) -> list[nodes.Node]:
    """Text with its `code` as literals."""
    parts = re.split(r"`([^`]+)`", text)
    return [
        nodes.literal("", part) if index % 2 else nodes.Text(part)
        for index, part in enumerate(parts)
        if part
    ]


def blocks(comment: str) -> list[nodes.Node]:
    """Paragraphs, divided by empty lines and by a change of indentation to two spaces or more."""
    result: list[nodes.Node] = []
    group: list[str] = []

    def flush() -> None:
        if not group:
            return
        if group[0].startswith("  "):
            literal = textwrap.dedent("\n".join(group))
            result.append(nodes.literal_block(literal, literal, language="none"))
        else:
            result.append(nodes.paragraph("", "", *inline(" ".join(map(str.strip, group)))))
        group.clear()

    for line in textwrap.dedent(comment).rstrip().splitlines():
        if not line.strip():
            flush()
            continue
        if group and line.startswith("  ") != group[0].startswith("  "):
            flush()
        group.append(line)
    flush()
    return result
