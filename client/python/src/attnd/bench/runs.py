# SPDX-License-Identifier: Apache-2.0
"""A run: the cases of a plan one after another, in as many passes as it has.

What fails is written into the results and does not stop the rest. On a machine that others use too,
several passes help: of each case the rows are kept of the pass in which its ceiling was highest,
since the machine was disturbed least then. What ours or a peer reached plays no part in that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import attnd
from attnd.bench.cases import Case
from attnd.bench.ceilings import Ceilings
from attnd.bench.groups import Groups
from attnd.bench.peers import sdpa_context
from attnd.bench.plan import Plan
from attnd.bench.progress import Progress
from attnd.bench.report import Report

_Step = tuple[Case, str, Callable[[Case], float]]


class Calmest:
    """Of each case's passes the rows of the calmest, in the order in which cases came first."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, list[dict[str, Any]]]] = {}

    def offer(self, what: str, ceiling: float, rows: list[dict[str, Any]]) -> None:
        """Keeps the rows where none are kept or the ceiling is higher than theirs."""
        kept, old = self._kept.get(what, (-1.0, []))
        if rows and (not old or ceiling > kept):
            self._kept[what] = (ceiling, rows)

    def rows(self) -> list[dict[str, Any]]:
        """All that is kept."""
        return [row for _, rows in self._kept.values() for row in rows]


def run(plan: Plan, client: attnd.Client, ceilings: Ceilings, report: Report) -> None:
    """Fills `report` and saves it after every case; what failed is in `report.failures`."""
    calmest = Calmest()
    count = plan.passes * len([*plan.prefills(), *plan.decodes()]) + len(plan.memories())
    with Progress(count) as progress:
        groups = Groups(plan, client, ceilings, report, progress.note)
        for case, what, measure in _steps(plan, groups):
            progress.start(what)
            report.rows.clear()
            ceiling = 0.0
            try:
                with torch.inference_mode(), sdpa_context(case.dtype, plan.device):
                    ceiling = measure(case)
            except Exception as error:  # noqa: BLE001 - one case must not cost the others
                report.fail(what, error)
                progress.note(f"FAILED: {report.failures[-1]}")
            calmest.offer(what, ceiling, list(report.rows))
            report.rows[:] = calmest.rows()
            report.head["ceilings"] = ceilings.summary()
            report.save()
    ceilings.release()


def _steps(plan: Plan, groups: Groups) -> Iterator[_Step]:
    for _ in range(plan.passes):
        for case in plan.prefills():
            yield case, str(case), groups.prefill
        for case in plan.decodes():
            yield case, str(case), groups.decode
    for case in plan.memories():
        yield case, f"memory of {case}", groups.memory
