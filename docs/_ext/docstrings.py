# SPDX-License-Identifier: Apache-2.0
"""Our docstrings are written to be read in an editor: this makes reStructuredText of them.

Names stand between single backticks, code is indented by four spaces, and |x - y| is a number.
Google's sections are left to napoleon, which runs after this.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(``.+?``|(?<![`:\w])`[^`]+`(?!`))")
_SECTION = re.compile(r"[A-Z]\w*( \w+)?:$")


def inline(line: str) -> str:
    """`x` becomes a literal; what else means something to reStructuredText is escaped."""
    parts = _CODE.split(line)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = part if part.startswith("``") else f"`{part}`"
        else:
            parts[index] = re.sub(r"([*|])", r"\\\1", part)
    return "".join(parts)


def convert(lines: list[str]) -> list[str]:
    """The docstring's lines as reStructuredText, sections as they were."""
    result: list[str] = []
    in_section = in_code = False
    lines = one_attribute_an_entry(lines)
    for index, line in enumerate(lines):
        if line and not line.startswith(" "):
            in_section, in_code = bool(_SECTION.match(line)), False
        opens = line.startswith("    ") and index > 0 and not lines[index - 1].strip()
        if opens and not in_section and not in_code:
            in_code = True
            result += ["::", ""]
        result.append(line if in_code else inline(line))
    return result


def one_attribute_an_entry(lines: list[str]) -> list[str]:
    """Entries of several attributes, "a, b: text", become one of each, as napoleon wants them."""
    result: list[str] = []
    in_attributes = False
    names: list[str] = []
    entry: list[str] = []
    for line in [*lines, ""]:
        if names and not line.startswith("        "):
            for name in names:
                result += [f"    {name}: {entry[0]}", *entry[1:]]
            names = []
        if line and not line.startswith(" "):
            in_attributes = line == "Attributes:"
        several = re.match(r"    (\w+(?:, \w+)+): (.*)", line) if in_attributes else None
        if several:
            names, entry = several.group(1).split(", "), [several.group(2)]
        elif names:
            entry.append(line)
        else:
            result.append(line)
    return result


def process(_: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Called by autodoc for every docstring."""
    lines[:] = convert(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects before napoleon does."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
