# SPDX-License-Identifier: Apache-2.0
"""What the rules and the dashboard ask for, read from the files that are shipped."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prometheus import REPOSITORY

RULES = REPOSITORY / "deploy" / "prometheus" / "rules"
RULE_TESTS = REPOSITORY / "deploy" / "prometheus" / "tests"
CATALOGUE = REPOSITORY / "deploy" / "prometheus" / "metrics.json"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "attnd.json"
# Labels that Prometheus gives every series of a target, a bucket's bound, and those of rules.
TARGET_LABELS = {"job", "instance"}
METRIC = re.compile(r"\b(?:attnd|process)_\w+\b(?!:)(?<!:)")
RECORDED = re.compile(r"\binstance\w*:\w+:\w+\b")
# What Grafana fills in; each variable stands at "All".
GRAFANA = {
    "$__rate_interval": "5s",
    "$job": ".*",
    "$instance": ".*",
    "$tenant": ".*",
    "$cache": ".*",
    "$device": ".*",
    "$stage": "queue",
}


def read_yaml(path: Path) -> Any:
    """A file's content."""
    return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@dataclass(frozen=True)
class Rule:
    """One of rules/*.yml; `alert` is empty for a recording rule."""

    name: str
    expr: str
    alert: bool
    body: dict[str, Any]
    file: Path


@dataclass(frozen=True)
class PanelQuery:
    """One target of a panel."""

    panel: str
    expr: str
    legend: str

    def as_prometheus(self) -> str:
        """As Grafana sends it."""
        expr = self.expr
        for name, value in GRAFANA.items():
            expr = expr.replace(name, value)
        assert "$" not in expr, f"{self.panel}: a variable that GRAFANA does not have: {expr}"
        return expr


def rules() -> list[Rule]:
    """All, in the order of the files."""
    found = []
    for path in sorted(RULES.glob("*.yml")):
        for group in read_yaml(path)["groups"]:
            for rule in group["rules"]:
                name = rule.get("alert") or rule["record"]
                found.append(Rule(name, rule["expr"].strip(), "alert" in rule, rule, path))
    return found


def catalogue() -> dict[str, dict[str, Any]]:
    """The daemon's metrics by name."""
    return {metric["name"]: metric for metric in json.loads(CATALOGUE.read_text())}


def dashboard() -> dict[str, Any]:
    """The committed JSON."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """All panels but the rows' headings, those of collapsed rows too."""
    found = []
    for panel in dashboard()["panels"]:
        found += panel["panels"] if panel["type"] == "row" else [panel]
    return found


def panel_queries() -> list[PanelQuery]:
    """The targets of all panels."""
    return [
        PanelQuery(panel["title"], target["expr"], target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    ]


def documentation() -> str:
    """The page of the docs."""
    return (REPOSITORY / "docs" / "monitoring.md").read_text()


def examples() -> list[str]:
    """The queries that it shows."""
    blocks = re.findall(r"^```promql\n(.*?)^```$", documentation(), re.M | re.S)
    return [block.strip() for block in blocks]


def metrics_of(expr: str) -> set[str]:
    """The metrics of the catalogue that an expression names, without a histogram's suffixes."""
    known = catalogue()
    names = set()
    for name in METRIC.findall(strip_recorded(expr)):
        base = re.sub(r"_(?:bucket|sum|count)$", "", name)
        names.add(base if name not in known and base in known else name)
    return names


def strip_recorded(expr: str) -> str:
    """Without the names of recording rules, which have names of metrics inside."""
    return RECORDED.sub("", expr)


def labels_of(expr: str) -> set[str]:
    """The labels that an expression names: in matchers, by, on, group_left and label_replace."""
    labels = set()
    for inside in re.findall(r"\{([^}]*)\}", expr):
        labels |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", inside))
    for inside in re.findall(r"\b(?:by|on|ignoring|without|group_left)\s*\(([^)]*)\)", expr):
        labels |= {label.strip() for label in inside.split(",") if label.strip()}
    return labels


def as_data(expr: str) -> str:
    """An alert's expression with comparisons that answer 0 or 1 instead of leaving series out.

    So it has data wherever what it compares has, whether the alert would fire or not.
    """
    parts = re.split(r"(\{[^}]*\})", expr)
    parts[::2] = [re.sub(r"\s(==|!=|<=|>=|<|>)\s", r" \1 bool ", part) for part in parts[::2]]
    return "".join(parts)
