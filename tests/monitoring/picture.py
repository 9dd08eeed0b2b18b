# SPDX-License-Identifier: Apache-2.0
"""A sketch of the dashboard with the data of a run, for eyes: not what Grafana draws, but where.

draw(Path("dashboard.png"), series_of=lambda expr: prometheus.query_range(expr, start, end))
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from expressions import PanelQuery, dashboard

COLUMNS, COLUMN_IN, LINE_IN = 24, 0.75, 0.42
BACKGROUND, CARD, INK, FAINT = "#111217", "#181b1f", "#d5d7dc", "#6e7280"
Series = list[dict[str, Any]]


def scaled(value: float, unit: str) -> str:
    """A value as Grafana would write it, nearly."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit in ("s", "dtdurations"):
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1e6:.3g} µs" if value else "0 s"
    if unit == "bytes":
        for power, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
            if abs(value) >= 2**power:
                return f"{value / 2**power:.3g} {name}"
    for size, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}"


def draw(path: Path, series_of: Callable[[str], Series]) -> None:
    """Writes the picture, all rows open."""
    placed = []
    for panel in dashboard()["panels"]:
        placed += [panel, *panel.get("panels", [])]
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in placed)
    figure = plt.figure(figsize=(COLUMNS * COLUMN_IN, lines * LINE_IN), facecolor=BACKGROUND)
    for panel in placed:
        at = panel["gridPos"]
        pad_x, pad_y = 0.1 / COLUMNS, 0.1 / lines
        box = (
            at["x"] / COLUMNS + pad_x,
            1 - (at["y"] + at["h"]) / lines + pad_y,
            at["w"] / COLUMNS - 2 * pad_x,
            at["h"] / lines - 2 * pad_y,
        )
        card = figure.add_axes(box, facecolor=BACKGROUND if panel["type"] == "row" else CARD)
        card.set(xticks=[], yticks=[])
        card.spines[:].set_visible(False)
        card.text(
            0.01, 0.97, panel["title"], transform=card.transAxes, va="top", color=INK, fontsize=9
        )
        if panel["type"] == "row":
            continue
        found = []
        for target in panel["targets"]:
            query = PanelQuery(panel["title"], target["expr"], target["legendFormat"])
            for series in series_of(query.as_prometheus()):
                name = re.sub(
                    r"\{\{(\w+)\}\}",
                    lambda label, s=series: s["metric"].get(label.group(1), ""),
                    query.legend,
                )
                found.append((name, series))
        if not found:
            card.text(0.5, 0.45, "no data", ha="center", color=FAINT, transform=card.transAxes)
            continue
        inner = figure.add_axes(
            (box[0] + box[2] * 0.08, box[1] + box[3] * 0.12, box[2] * 0.9, box[3] * 0.72),
            facecolor=CARD,
        )
        DRAWERS[panel["type"]](inner, panel, found)
    figure.savefig(path, dpi=60, facecolor=BACKGROUND)
    plt.close(figure)


def unit_of(panel: dict[str, Any]) -> str:
    """Of a panel's values."""
    unit: str = panel["fieldConfig"]["defaults"].get("unit", "short")
    return unit


def draw_lines(axes: Axes, panel: dict[str, Any], found: list[tuple[str, Any]]) -> None:
    """The panel `timeseries`."""
    custom = panel["fieldConfig"]["defaults"]["custom"]
    found = found[:12]
    if custom["stacking"]["mode"] == "normal":
        times = sorted({at for _, series in found for at, _ in series["values"]})
        heights = [[dict(series["values"]).get(at, 0) for at in times] for _, series in found]
        axes.stackplot(times, heights, labels=[name for name, _ in found], alpha=0.7)
    else:
        for name, series in found:
            axes.plot(*zip(*series["values"], strict=True), label=name, linewidth=1)
    if custom["scaleDistribution"]["type"] == "log":
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value, unit_of(panel))))
    finish(axes)
    axes.legend(fontsize=6, loc="upper left", frameon=False, labelcolor=INK)


def draw_heat(axes: Axes, panel: dict[str, Any], found: list[tuple[str, Any]]) -> None:
    """The panel `heatmap`."""
    rows = sorted((float(series["metric"]["le"]), dict(series["values"])) for _, series in found)
    times = sorted({at for _, values in rows for at in values})
    below = [0.0] * len(times)
    cells, names = [], []
    for bound, values in rows:
        upto = [values.get(at, 0.0) for at in times]
        cells.append([max(0.0, b - a) for a, b in zip(below, upto, strict=True)])
        names.append(bound)
        below = upto
    used = [index for index, row in enumerate(cells) if any(row)] or [0]
    low, high = max(0, used[0] - 1), used[-1] + 2
    axes.pcolormesh([[v**0.5 for v in row] for row in cells[low:high]], cmap="Spectral_r")
    axes.set_yticks(
        [index + 1 for index in range(len(names[low:high]))],
        [scaled(bound, panel["options"]["yAxis"]["unit"]) for bound in names[low:high]],
    )
    finish(axes)


def draw_stat(axes: Axes, panel: dict[str, Any], found: list[tuple[str, Any]]) -> None:
    """The panel `stat`."""
    axes.axis("off")
    values = found[0][1]["values"]
    if panel["options"]["graphMode"] == "area":
        axes.fill_between(*zip(*values, strict=True), alpha=0.2, color="#73bf69")
    axes.text(
        0.5,
        0.5,
        scaled(values[-1][1], unit_of(panel)),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#73bf69",
        fontsize=20,
    )


def draw_bars(axes: Axes, panel: dict[str, Any], found: list[tuple[str, Any]]) -> None:
    """The panel `bargauge`."""
    last = [series["values"][-1][1] for _, series in found]
    axes.barh(range(len(last)), last, color="#73bf69")
    axes.set_yticks(range(len(last)), [name for name, _ in found])
    axes.set_xlim(0, panel["fieldConfig"]["defaults"].get("max"))
    finish(axes)


def draw_table(axes: Axes, panel: dict[str, Any], found: list[tuple[str, Any]]) -> None:
    """The panel `table`."""
    axes.axis("off")
    names = panel["transformations"][0]["options"]["renameByName"]
    lines = ["   ".join(names.values())]
    for _, series in found[:9]:
        cells = [series["metric"].get(label, "") for label in names if label != "Value"]
        cells += [scaled(series["values"][-1][1], "short")] if "Value" in names else []
        lines.append("   ".join(cells))
    axes.text(0, 1, "\n".join(lines), transform=axes.transAxes, va="top", color=INK, fontsize=7.5)


def finish(axes: Axes) -> None:
    """What all axes have in common."""
    axes.tick_params(colors=FAINT, labelsize=6, length=2)
    if not axes.containers:
        axes.set_xticks([])
    axes.spines[:].set_color("#2c3038")


DRAWERS: dict[str, Callable[[Axes, dict[str, Any], list[tuple[str, Any]]], None]] = {
    "timeseries": draw_lines,
    "heatmap": draw_heat,
    "stat": draw_stat,
    "bargauge": draw_bars,
    "table": draw_table,
}
