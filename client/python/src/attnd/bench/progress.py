# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: rich's bar on a terminal, plain lines elsewhere or without rich."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any


class Progress:
    """Of `total` steps.

    with Progress(total=3) as progress:
        progress.start("prefill ...")    # what is being measured now
        progress.note("1.6 times ...")   # what it found; stays on the screen
    """

    def __init__(self, total: int) -> None:
        self._total, self._begun = total, 0
        self._start_s = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty():
            self._bar = _rich_bar()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            if error is None:
                self._bar.update(self._task, completed=self._total, description="done")
            self._bar.stop()

    def start(self, what: str) -> None:
        """The next step begins; the one before is done."""
        self._begun += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._begun - 1, description=what)
        else:
            elapsed_s = time.monotonic() - self._start_s
            self._print(f"[{self._begun}/{self._total}] {elapsed_s:5.0f} s  {what}")

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._print(f"    {text}")

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    """The bar of rich; None where it is not installed: a machine of benchmarks may have little."""
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    return progress.Progress(
        progress.SpinnerColumn(),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
    )
