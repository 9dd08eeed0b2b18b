# SPDX-License-Identifier: Apache-2.0
"""Reads the daemon's own Prometheus metrics."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass

_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the exposition format."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples of one moment."""

    samples: list[Sample]

    def total(self, name: str, **labels: str) -> float | None:
        """The sum over all samples of this name and these labels; None where there is none."""
        values = [
            sample.value
            for sample in self.samples
            if sample.name == name
            and all(sample.labels.get(key) == value for key, value in labels.items())
        ]
        return sum(values) if values else None


def parse(text: str) -> Scrape:
    """Reads Prometheus' text format, version 0.0.4; skips what is no sample."""
    samples = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            name, labels, value = match.groups()
            samples.append(Sample(name, dict(_LABEL.findall(labels or "")), float(value)))
    return Scrape(samples)


def scrape(address: str, timeout_s: float = 5.0) -> Scrape:
    """Fetches http://`address`/metrics.

    Raises:
        OSError: nobody answers there.
    """
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=timeout_s) as response:
        return parse(response.read().decode())
