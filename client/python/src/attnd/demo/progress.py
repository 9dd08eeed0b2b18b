# SPDX-License-Identifier: Apache-2.0
"""The demo's display: a bar that is redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

_WIDTH = 28


class Progress:
    """Progress of one phase, from 0 to `total` steps. Writes to standard output."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._terminal = sys.stdout.isatty()
        self._begin_s = time.monotonic()
        self._done = 0

    @property
    def elapsed_s(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self._begin_s

    def update(self, done: int) -> None:
        """Shows that `done` steps are done."""
        self._done = done
        if self._terminal:
            filled = _WIDTH * done // max(self._total, 1)
            bar = "#" * filled + "." * (_WIDTH - filled)
            self._write(f"\r  {self._label:<34} [{bar}] {done}/{self._total} {self._unit}")
        elif done % max(self._total // 4, 1) == 0:
            self._write(f"  {self._label:<34} {done}/{self._total} {self._unit}\n")

    def finish(self, note: str = "") -> None:
        """Ends the phase with how long it took."""
        text = f"  {self._label:<34} {self.elapsed_s:6.1f} s"
        text += f"  {note}" if note else ""
        self._write(("\r\x1b[K" if self._terminal else "") + text + "\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
