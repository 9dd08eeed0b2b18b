# SPDX-License-Identifier: Apache-2.0
"""Runs that take turns, and what their samples say.

    samples = alternate({"ours": ours, "peer": peer}, budget_s=4.0)
    samples.median("ours.call"), samples.ratio("peer", "ours.call")

Two numbers that are compared come from the same rounds: a shared machine's clock and memory change
from one second to the next, ratios of neighbouring samples much less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# What a run measured of itself in one go: {name: seconds}, or a rate of a ceiling.
Run = Callable[[], Mapping[str, float]]


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, between neighbours linearly.

    Raises:
        ValueError: no values, or a share outside [0, 1].
    """
    if not values or not 0 <= share <= 1:
        raise ValueError(f"share: got {share} of {len(values)} values, expected 0 to 1 of some")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True, slots=True)
class Samples:
    """Of every name one sample a round, in the order of the rounds."""

    values: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Of all rounds."""
        return statistics.median(self.values[name])

    def p10(self, name: str) -> float:
        """A tenth of the rounds were below."""
        return quantile(self.values[name], 0.1)

    def p90(self, name: str) -> float:
        """A tenth of the rounds were above."""
        return quantile(self.values[name], 0.9)

    def ratio(self, numerator: str, denominator: str) -> float:
        """The median of the ratios of each round's two samples."""
        pairs = zip(self.values[numerator], self.values[denominator], strict=True)
        return statistics.median(a / b for a, b in pairs)

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(next(iter(self.values.values())))


def alternate(
    runs: Mapping[str, Run], *, budget_s: float, least: int = 7, most: int = 300, warm: int = 2
) -> Samples:
    """Every round runs each of `runs` once; the first of a round is another one each time.

    Args:
        runs: what a run returns under "x" is kept as "NAME.x", under "" as "NAME".
        budget_s: no round starts after it, but at least `least` are made.
        warm: rounds that are thrown away, before.
    """
    order = list(runs)
    values: dict[str, list[float]] = {}
    for _ in range(warm):
        for name in order:
            runs[name]()
    start_s = time.perf_counter()
    done = 0
    while done < least or (done < most and time.perf_counter() - start_s < budget_s):
        for name in order[done % len(order) :] + order[: done % len(order)]:
            for part, sample in runs[name]().items():
                values.setdefault(f"{name}.{part}" if part else name, []).append(sample)
        done += 1
    return Samples(values)
