# SPDX-License-Identifier: Apache-2.0
"""Queries whose metrics and labels are those of deploy/prometheus/metrics.json, or an error.

    rate("attnd_items_total", by="code")
    -> sum by (code) (rate(attnd_items_total{job=~"$job",instance=~"$instance"}[$__rate_interval]))

A selector takes the dashboard's variables by itself: job and instance always, tenant, cache and
device where the metric has that label.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).resolve().parent.parent / "prometheus" / "metrics.json"
# What Prometheus adds to every series of a target, and the labels that are variables too.
TARGET_LABELS = ("job", "instance")
VARIABLE_LABELS = (*TARGET_LABELS, "tenant", "cache", "device")
# Prometheus' own series.
BUILT_IN: dict[str, dict[str, Any]] = {
    "ALERTS": {
        "name": "ALERTS",
        "type": "gauge",
        "labels": ["alertname", "alertstate", "severity"],
    },
}
WINDOW = "$__rate_interval"


class UnknownMetric(ValueError):
    """A query names a metric or a label that the daemon does not have, or misuses its type."""


@dataclass(frozen=True)
class Query:
    """An expression and the labels that its result has."""

    expr: str
    labels: frozenset[str]

    def over(self, other: Query) -> Query:
        """The ratio. `other` has the same labels, or fewer: then each of ours is divided by it."""
        if not other.labels <= self.labels:
            raise UnknownMetric(
                f"ratio of {self.expr!r} to {other.expr!r}: got labels {sorted(other.labels)} "
                f"below, expected some of {sorted(self.labels)}"
            )
        extra = ", ".join(sorted(self.labels - other.labels))
        match = f"ignoring ({extra}) group_left () " if extra else ""
        return Query(f"{self.expr} / {match}{other.expr}", self.labels)


def load(path: Path = CATALOGUE) -> dict[str, dict[str, Any]]:
    """The catalogue by name."""
    return BUILT_IN | {metric["name"]: metric for metric in json.loads(path.read_text())}


_METRICS = load()


def gauge(name: str, by: str = "", agg: str = "sum", **match: str) -> Query:
    """The sum (or max, min) of a gauge. `match` are matchers: state="used", code="!~OK|ABORTED"."""
    metric = _metric(name, "gauge")
    return _aggregate(agg, by, metric, _selector(metric, name, match))


def rate(name: str, by: str = "", **match: str) -> Query:
    """A counter's growth a second, summed."""
    metric = _metric(name, "counter")
    return _aggregate("sum", by, metric, f"rate({_selector(metric, name, match)}[{WINDOW}])")


def increase(name: str, by: str = "", **match: str) -> Query:
    """A counter's growth over a point's own width, summed."""
    metric = _metric(name, "counter")
    return _aggregate("sum", by, metric, f"increase({_selector(metric, name, match)}[{WINDOW}])")


def quantile(q: float, name: str, by: str = "", **match: str) -> Query:
    """A histogram's quantile."""
    metric = _metric(name, "histogram")
    inner = f"rate({_selector(metric, f'{name}_bucket', match)}[{WINDOW}])"
    buckets = _aggregate("sum", f"{by} le".strip(), metric, inner)
    return Query(f"histogram_quantile({q:g}, {buckets.expr})", buckets.labels - {"le"})


def mean(name: str, by: str = "", **match: str) -> Query:
    """A histogram's mean."""
    return total(name, by, **match).over(count(name, by, **match))


def total(name: str, by: str = "", **match: str) -> Query:
    """What a histogram's samples add up to, a second."""
    metric = _metric(name, "histogram")
    return _aggregate(
        "sum", by, metric, f"rate({_selector(metric, f'{name}_sum', match)}[{WINDOW}])"
    )


def count(name: str, by: str = "", **match: str) -> Query:
    """A histogram's samples a second."""
    metric = _metric(name, "histogram")
    return _aggregate(
        "sum", by, metric, f"rate({_selector(metric, f'{name}_count', match)}[{WINDOW}])"
    )


def heat(name: str, **match: str) -> Query:
    """A histogram's buckets, as a heat map takes them."""
    metric = _metric(name, "histogram")
    inner = f"increase({_selector(metric, f'{name}_bucket', match)}[{WINDOW}])"
    return _aggregate("sum", "le", metric, inner)


def label_values(name: str, label: str) -> str:
    """The query of a variable: the label's values, of the jobs and instances that are chosen."""
    metric = _METRICS.get(name)
    if metric is None:
        raise UnknownMetric(f"{name}: no such metric in {CATALOGUE.name}")
    _check_labels(metric, [label])
    # A variable that depends on itself would never be filled in.
    known = [target for target in TARGET_LABELS if target != label]
    known = known[: known.index("job") + 1] if label == "instance" else known
    where = ",".join(f'{target}=~"${target}"' for target in known if label != "job")
    return f"label_values({name}{{{where}}}, {label})"


def _metric(name: str, kind: str) -> dict[str, Any]:
    metric = _METRICS.get(name)
    if metric is None:
        raise UnknownMetric(f"{name}: no such metric in {CATALOGUE.name}")
    if metric["type"] != kind:
        raise UnknownMetric(f"{name}: it is a {metric['type']}, expected a {kind}")
    return metric


def _check_labels(metric: dict[str, Any], labels: list[str]) -> None:
    known = {*metric["labels"], *TARGET_LABELS}
    if metric["type"] == "histogram":
        known.add("le")
    for label in labels:
        if label not in known:
            raise UnknownMetric(
                f"{metric['name']}: no label {label!r}, expected some of {sorted(known)}"
            )


def _selector(metric: dict[str, Any], name: str, match: dict[str, str]) -> str:
    _check_labels(metric, list(match))
    matchers = [
        f'{label}=~"${label}"'
        for label in VARIABLE_LABELS
        if label in (*TARGET_LABELS, *metric["labels"]) and label not in match
    ]
    for label, value in match.items():
        operator = next((op for op in ("=~", "!~", "!=") if value.startswith(op)), "")
        matchers.append(f'{label}{operator or "="}"{value.removeprefix(operator)}"')
    return f"{name}{{{','.join(matchers)}}}"


def _aggregate(agg: str, by: str, metric: dict[str, Any], inner: str) -> Query:
    labels = by.split()
    _check_labels(metric, labels)
    clause = f" by ({', '.join(labels)})" if labels else ""
    return Query(f"{agg}{clause} ({inner})", frozenset(labels))
