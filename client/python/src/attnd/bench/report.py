# SPDX-License-Identifier: Apache-2.0
"""Rows of results, in the form of all benchmarks here, and the file that they come from and go to.

A row is {bench, case, metric, unit, ours, peer, peer_name, ratio, ceiling, of_ceiling}. `ratio`
says how much better ours is: of times peer / ours, of rates ours / peer, of memory the share of the
peer's that is saved. What was not measured is null.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnd.bench.cases import Case

FIELDS = (
    "bench",
    "case",
    "metric",
    "unit",
    "ours",
    "peer",
    "peer_name",
    "ratio",
    "ceiling",
    "of_ceiling",
)
GUIDE = "the guide's claim, RX 7900 XTX"
_HERE = Path(__file__).resolve()


class BadResults(ValueError):
    """A file that does not have the form above; says which one and why."""


class Report:
    """Collects rows; writes the file after every case, so that nothing measured is lost."""

    def __init__(self, head: Mapping[str, Any], path: Path | None, bench: str = "pybench") -> None:
        self.head, self.rows, self._bench = dict(head), list[dict[str, Any]](), bench
        self.failures: list[str] = []
        self._path = path

    def add(
        self,
        case: Case | str,
        metric: str,
        unit: str,
        ours: float,
        *,
        peer: float | None = None,
        peer_name: str | None = None,
        ratio: float | None = None,
        ceiling: float | None = None,
        of_ceiling: float | None = None,
    ) -> None:
        """One row. `of_ceiling` is ours / ceiling unless it is given."""
        if of_ceiling is None and ceiling:
            of_ceiling = ours / ceiling
        values = (self._bench, str(case), metric, unit, ours, peer, peer_name, ratio)
        self.rows.append(dict(zip(FIELDS, (*values, ceiling, of_ceiling), strict=True)))

    def fail(self, what: str, error: BaseException | str) -> None:
        """Something could not be measured, or was wrong: goes into the head, first line only."""
        text = str(error).strip().splitlines() or [type(error).__name__]
        self.failures.append(f"{what}: {text[0]}")
        self.head["failures"] = self.failures

    def leave_out(self, what: str, why: str) -> None:
        """What the machine is too small for goes into the head, and is no failure."""
        self.head.setdefault("left_out", []).append(f"{what}: {why}")

    def save(self) -> None:
        """Writes the file, where one is wanted; a reader sees the old one or the new one."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"head": self.head, "rows": self.rows}, indent=1) + "\n"
        scratch = self._path.with_name(self._path.name + ".new")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(self._path)


@dataclass(frozen=True, slots=True)
class Results:
    """Rows of one or more files, to be looked up.

    Attributes:
        head: of the first file.
        rows: of all.
    """

    head: dict[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def load(cls, *paths: Path) -> Results:
        """Reads the files.

        Raises:
            BadResults: no JSON, or of another form.
            OSError: a file cannot be read.
        """
        heads, rows = [], []
        for path in paths:
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BadResults(f"{path}: no JSON: {error}") from None
            if not isinstance(data, dict) or not {"head", "rows"} <= data.keys():
                raise BadResults(f"{path}: expected an object with head and rows")
            for index, row in enumerate(data["rows"]):
                missing = [field for field in FIELDS if field not in row]
                if missing:
                    raise BadResults(f"{path}: row {index} has no {', '.join(missing)}")
            heads.append(data["head"])
            rows += data["rows"]
        return cls(heads[0], rows)

    def find(
        self, case: Case, metric: str, peer: str = "", bench: str = "pybench"
    ) -> dict[str, Any] | None:
        """The row of this case and metric whose peer_name has `peer` in it; None: not measured."""
        for row in self.rows:
            named = row["peer_name"] or ""
            same = row["bench"] == bench and row["metric"] == metric and peer in named
            if same and Case.parse(row["case"]) == case:
                return row
        return None

    def cases(self, metric: str, bench: str = "pybench") -> list[Case]:
        """That have the metric, in the order of the rows, each once."""
        found: dict[Case, None] = {}
        for row in self.rows:
            case = Case.parse(row["case"])
            if case is not None and row["bench"] == bench and row["metric"] == metric:
                found[case] = None
        return list(found)


def make_head(device: str, command: str, **more: Any) -> dict[str, Any]:
    """Hardware, command, date and commit, PyTorch's version, and `more`. Imports torch."""
    import torch

    hardware = f"{_cpu_model()}, {len(os.sched_getaffinity(0))} CPUs"
    if device == "cuda":
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        gpu = f"{torch.cuda.get_device_name()}, driver {driver.splitlines()[0] if driver else '?'}"
        hardware = f"{gpu}, {hardware}"
    now = datetime.datetime.now(datetime.UTC)
    return {
        "hardware": hardware,
        # Without the folders of files, which say nothing of what was done.
        "command": " ".join([command, *(re.sub("(^|=)/.*/", r"\1", arg) for arg in sys.argv[1:])]),
        "date": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "device": device,
        "torch": torch.__version__,
        **more,
    }


def _commit() -> str:
    """Of the bundle that carries the package, or of the source tree; "" of an installed package."""
    carried = _HERE.parents[3] / "commit"
    if carried.is_file():
        return carried.read_text().strip()
    return _output("git", "-C", str(_HERE.parent), "rev-parse", "--short=12", "HEAD")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown CPU")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
