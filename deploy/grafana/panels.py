# SPDX-License-Identifier: Apache-2.0
"""Grafana's JSON: panels with the project's defaults, and rows that place them.

    layout([Row("Latency", [Panel("Requests", 12, timeseries(...))])])

A panel says how wide it is; `layout` fills lines of 24 columns from left to right. Ids are given in
that order, so that a new panel at the end changes nothing above it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from promql import Query

Json = dict[str, Any]
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Target:
    """A query and the name of its series, in which {{label}} is a label's value."""

    query: Query
    legend: str

    def __post_init__(self) -> None:
        unknown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", self.legend)) - self.query.labels
        if unknown:
            raise ValueError(
                f"legend {self.legend!r}: {sorted(unknown)} not in the result of "
                f"{self.query.expr!r}, which has {sorted(self.query.labels)}"
            )


@dataclass(frozen=True)
class Panel:
    """What is drawn, and how large."""

    title: str
    description: str
    body: Json
    width: int = 8
    height: int = 8


@dataclass(frozen=True)
class Row:
    """Panels under a heading; a collapsed row asks for nothing until it is opened."""

    title: str
    panels: list[Panel] = field(default_factory=list)
    collapsed: bool = False


def layout(rows: list[Row]) -> list[Json]:
    """The dashboard's `panels`."""
    placed: list[Json] = []
    next_id, y = 1, 0
    for row in rows:
        head: Json = {
            "type": "row",
            "id": next_id,
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        placed.append(head)
        next_id, y = next_id + 1, y + 1
        inside = head["panels"] if row.collapsed else placed
        x = line_height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, line_height = 0, y + line_height, 0
            inside.append(_place(panel, next_id, x, y))
            next_id, x = next_id + 1, x + panel.width
            line_height = max(line_height, panel.height)
        y += line_height
    return placed


def timeseries(
    unit: str,
    *targets: Target,
    stacked: bool = False,
    least: float | None = 0,
    most: float | None = None,
    log: bool = False,
    thresholds: list[tuple[float, str]] | None = None,
    colors: dict[str, str] | None = None,
    dashed: str | None = None,
) -> Json:
    """Lines over time. `colors` are by series name; `dashed` is the pattern of limits' names."""
    custom: Json = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 8,
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    overrides = [
        _override("byName", name, [("color", {"mode": "fixed", "fixedColor": color})])
        for name, color in (colors or {}).items()
    ]
    if dashed:
        style = [
            ("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
            ("custom.fillOpacity", 0),
            ("custom.stacking", {"mode": "none", "group": "limits"}),
        ]
        overrides.append(_override("byRegexp", dashed, style))
    return {
        "type": "timeseries",
        "targets": _targets(targets),
        "fieldConfig": _field_config(unit, custom, least, most, thresholds, overrides),
        "options": {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["mean", "max", "lastNotNull"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def stat(
    unit: str,
    *targets: Target,
    thresholds: list[tuple[float, str]] | None = None,
    text: str = "auto",
    graph: bool = True,
    none: str = "-",
) -> Json:
    """The last value, large, over its course."""
    return {
        "type": "stat",
        "targets": _targets(targets),
        "fieldConfig": _field_config(unit, {}, None, None, thresholds, [], none),
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "auto",
            "textMode": text,
            "colorMode": "value",
            "graphMode": "area" if graph else "none",
            "justifyMode": "auto",
            "percentChangeColorMode": "standard",
            "showPercentChange": False,
            "wideLayout": True,
        },
    }


def bars(
    unit: str,
    *targets: Target,
    most: float | None = None,
    thresholds: list[tuple[float, str]] | None = None,
) -> Json:
    """A bar for each series' last value: shares of limits."""
    return {
        "type": "bargauge",
        "targets": _targets(targets),
        "fieldConfig": _field_config(unit, {}, 0, most, thresholds, []),
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "horizontal",
            "displayMode": "basic",
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": False,
                "calcs": [],
            },
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "namePlacement": "auto",
            "showUnfilled": True,
            "sizing": "auto",
            "valueMode": "color",
        },
    }


def heatmap(query: Query, unit: str) -> Json:
    """A histogram's buckets over time."""
    return {
        "type": "heatmap",
        "targets": _targets((Target(query, "{{le}}"),), form="heatmap"),
        "fieldConfig": {"defaults": {"custom": {}}, "overrides": []},
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Spectral",
                "exponent": 0.5,
                "fill": "dark-orange",
                "reverse": True,
                "scale": "exponential",
                "steps": 64,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
        },
    }


def table(query: Query, columns: dict[str, str], value: str | None, unit: str = "short") -> Json:
    """The last values; `columns` are labels and their headings, `value` the value's heading."""
    unknown = set(columns) - query.labels
    if unknown:
        raise ValueError(f"columns {sorted(unknown)}: not in the result of {query.expr!r}")
    target = _targets((Target(query, ""),), form="table")[0] | {"instant": True, "range": False}
    hidden = {"Time": True} | ({} if value else {"Value": True})
    names = columns | ({"Value": value} if value else {})
    return {
        "type": "table",
        "targets": [target],
        "fieldConfig": _field_config(
            unit,
            {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
            None,
            None,
            None,
            [],
        ),
        "options": {"cellHeight": "sm", "frameIndex": 0, "showHeader": True, "sortBy": []},
        "transformations": [
            {
                "id": "organize",
                "options": {
                    "excludeByName": hidden,
                    "indexByName": {name: index for index, name in enumerate(names)},
                    "renameByName": names,
                },
            }
        ],
    }


def _place(panel: Panel, number: int, x: int, y: int) -> Json:
    return {
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        **panel.body,
    }


def _targets(targets: tuple[Target, ...], form: str = "time_series") -> list[Json]:
    return [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": target.query.expr,
            "format": form,
            "instant": False,
            "legendFormat": target.legend,
            "range": True,
        }
        for index, target in enumerate(targets)
    ]


def _field_config(
    unit: str,
    custom: Json,
    least: float | None,
    most: float | None,
    thresholds: list[tuple[float, str]] | None,
    overrides: list[Json],
    none: str | None = None,
) -> Json:
    steps: list[Json] = [{"color": GREEN, "value": None}]
    steps += [{"color": color, "value": value} for value, color in thresholds or []]
    defaults: Json = {
        "color": {"mode": "palette-classic" if "drawStyle" in custom else "thresholds"},
        "custom": custom,
        "mappings": [],
        "thresholds": {"mode": "absolute", "steps": steps},
        "unit": unit,
    }
    if least is not None:
        defaults["min"] = least
    if most is not None:
        defaults["max"] = most
    if none is not None:
        defaults["noValue"] = none
    return {"defaults": defaults, "overrides": overrides}


def _override(matcher: str, options: str, properties: list[tuple[str, Any]]) -> Json:
    return {
        "matcher": {"id": matcher, "options": options},
        "properties": [{"id": name, "value": value} for name, value in properties],
    }
