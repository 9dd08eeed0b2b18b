# SPDX-License-Identifier: Apache-2.0
"""Results put into a page of the docs: pictures and tables, between two comments of the page."""

from __future__ import annotations

from pathlib import Path

from attnd.bench import tables
from attnd.bench.report import BadResults, Results

_PICTURES = {
    "speedup": "Speed-up over standard attention",
    "tflops": "Floating-point operations a second, and the ceiling",
    "overhead": "Where the time of a whole call goes",
    "memory": "Memory at its highest",
    "decode": "A decode step",
}


def section(page: Path, name: str, results: Results) -> str:
    """Markdown: those of the page's `images/NAME/*.svg` that there are, then every table."""
    pictures = [
        f"![{title}](images/{name}/{picture}.svg)"
        for picture, title in _PICTURES.items()
        if (page.parent / "images" / name / f"{picture}.svg").is_file()
    ]
    return "\n\n".join([*pictures, tables.everything(results)])


def write_into(page: Path, name: str, results: Results) -> None:
    """Replaces what is between the page's `<!-- results: NAME -->` and the next `<!-- end -->`.

    Raises:
        BadResults: the page has no such place.
    """
    before = page.read_text(encoding="utf-8")
    begin, end = f"<!-- results: {name} -->\n", "<!-- end -->"
    head, found, rest = before.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise BadResults(f"{page}: expected a line {begin.strip()} and one {end} after it")
    text = section(page, name, results)
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
