# SPDX-License-Identifier: Apache-2.0
"""What the pictures share: how series look, looking rows up, panels, axes, legends.

The colours are Okabe and Ito's, told apart by people who see fewer; every series has its own marker
too. The background is white on any page.
Source: Okabe, Ito, "Color universal design", 2008.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from attnd.bench.cases import Case
from attnd.bench.report import Results

Style = dict[str, Any]
Lookup = Callable[[Case], float | None]

STANDARD: Style = {"color": "#000000", "marker": "s"}
SDPA: Style = {"color": "#0072B2", "marker": "o"}
SERVED: Style = {"color": "#D55E00", "marker": "D"}
CALL: Style = {"color": "#CC79A7", "marker": "v"}
IN_PROCESS: Style = {"color": "#009E73", "marker": "^"}
CEILING: Style = {"color": "#E69F00", "marker": "", "linestyle": "--"}
CLAIM: Style = {"color": "#767676", "marker": "x", "linestyle": ":"}
YELLOW: Style = {"color": "#F0E442", "marker": "P"}
SKY: Style = {"color": "#56B4E9", "marker": "s"}

RC: Any = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.hashsalt": "attnd.bench",  # The same results make the same file.
}


def lookup(
    results: Results,
    metric: str,
    field: str = "ours",
    peer: str = "",
    *,
    bench: str = "pybench",
    scale: float = 1.0,
) -> Lookup:
    """The field of a case's row, scaled; None where the case was not measured."""

    def value(case: Case) -> float | None:
        row = results.find(case, metric, peer, bench)
        return None if row is None or row[field] is None else row[field] * scale

    return value


def line(axes: Axes, cases: Sequence[Case], value: Lookup, label: str, style: Style) -> None:
    """A series of what there is; none where there is nothing."""
    points = [(case.tokens, y) for case in cases if (y := value(case)) is not None]
    if points:
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)


def panels(
    results: Results,
    metric: str,
    title: str,
    unit: str,
    fill: Callable[[Axes, list[Case]], None],
) -> Figure | None:
    """A row of panels a dtype, not causal and causal, each filled with its prefill cases."""
    cases = [case for case in results.cases(metric) if case.phase == "prefill"]
    if not cases:
        return None
    rows = list(dict.fromkeys(case.dtype for case in cases))
    columns = list(dict.fromkeys(case.causal for case in cases))
    figure, grid = plt.subplots(
        len(rows),
        len(columns),
        figsize=(1 + 4 * len(columns), 1.6 + 2.9 * len(rows)),
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for row, dtype in zip(grid, rows, strict=True):
        for axes, causal in zip(row, columns, strict=True):
            chosen = [case for case in cases if (case.dtype, case.causal) == (dtype, causal)]
            axes.set_title(f"{dtype}, {'causal' if causal else 'not causal'}")
            if chosen:
                fill(axes, chosen)
                tokens_axis(axes, chosen)
        row[0].set_ylabel(unit)
    return finish(figure, list(grid.flat), results, columns=3, title=title)


def finish(
    figure: Figure, axes: Sequence[Axes], results: Results, *, columns: int, title: str
) -> Figure:
    """The title with what it was measured on above the panels, one legend below them."""
    entries: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)
    head = results.head
    where = f"{head.get('hardware', '')}, {head.get('threads', '?')} threads"
    figure.suptitle(f"{title}\n{where}; {head.get('date', '')[:10]}", fontsize=10)
    return figure


def tokens_axis(axes: Axes, cases: Sequence[Case]) -> None:
    """Lengths, doubling from tick to tick."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted({case.tokens for case in cases})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("tokens")


def plain_log_y(axes: Axes, unit: str = "", base: int = 10) -> None:
    """A logarithmic axis whose ticks are plain numbers; to be called when all is drawn."""
    axes.set_yscale("log", base=base)
    low, high = axes.get_ylim()
    if base == 10 and high < 500 * low:
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{_short(y):g}{unit}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda _, __: ""))


def _short(value: float) -> float:
    """Two digits of what is below 1: the tick at 1/128 is 0.0078."""
    return float(f"{value:.2g}") if value < 1 else value
