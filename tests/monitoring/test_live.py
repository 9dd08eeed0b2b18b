# SPDX-License-Identifier: Apache-2.0
"""Every query of the dashboard and every rule has data, in a real Prometheus of a real daemon."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from conftest import MADE_TRUE, MADE_TRUE_OTHERWISE, Watched
from daemon import FOLDER
from exceptions import NOT_FROM_OUTSIDE, NOT_ON_A_CPU, PENDING_LABELS, PENDING_METRICS
from expressions import (
    CATALOGUE,
    PanelQuery,
    Rule,
    as_data,
    catalogue,
    dashboard,
    examples,
    metrics_of,
    panel_queries,
    rules,
)
from picture import draw
from prometheus import REPOSITORY, QueryError

REPORT = REPOSITORY / "build" / "monitoring" / "queries.json"
QUERIES = panel_queries()
RULES = rules()
BY_NAME = {rule.name: rule for rule in RULES}


def missing(expr: str) -> set[str]:
    """Metrics of an expression, or of the rules that it names, that cannot have data here."""
    names = metrics_of(expr)
    for name, rule in BY_NAME.items():
        if not rule.alert and re.search(rf"(?<![\w:]){name}(?![\w:])", expr):
            names |= missing(rule.expr)
    return names & (PENDING_METRICS | set(NOT_ON_A_CPU))


def check(watched: Watched, expr: str, what: str) -> list[dict[str, object]]:
    """The series; none only where the exceptions say so."""
    found = watched.series(expr)
    if missing(expr):
        return found  # accepted; whether it has data is the exceptions' affair
    assert found, f"{what}: no data for\n{expr}"
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.panel}: {query.legend}")
def test_panel_has_data(watched: Watched, query: PanelQuery) -> None:
    for series in check(watched, query.as_prometheus(), query.panel):
        labels = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        labels -= {label for _, label in PENDING_LABELS}
        # An empty label is none to Prometheus; where there are no tenants, theirs is.
        unnamed = labels - set(series["metric"]) - {"tenant"}
        assert not unnamed, f"{query.panel}: {query.legend!r} names {unnamed}, got {series}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule_has_data(watched: Watched, rule: Rule) -> None:
    expr = as_data(rule.expr) if rule.alert else rule.expr
    if rule.name in NOT_FROM_OUTSIDE:
        old, new = NOT_FROM_OUTSIDE[rule.name]
        assert old in expr, f"exceptions.py: {old} is not in {rule.name}"
        watched.series(expr)
        expr = expr.replace(old, new)
    check(watched, expr, rule.name)


@pytest.mark.parametrize("expr", examples())
def test_example_of_the_docs_has_data(watched: Watched, expr: str) -> None:
    check(watched, expr, "docs/monitoring.md")


@pytest.mark.parametrize("rule", [r for r in RULES if not r.alert], ids=lambda rule: rule.name)
def test_prometheus_recorded_the_rule(watched: Watched, rule: Rule) -> None:
    if not missing(rule.expr):
        assert watched.series(rule.name), f"{rule.name}: Prometheus evaluated it to nothing"


@pytest.mark.parametrize("name", MADE_TRUE + MADE_TRUE_OTHERWISE)
def test_alert_finds_what_the_load_did(watched: Watched, name: str) -> None:
    check(watched, BY_NAME[name].expr, name)


def test_prometheus_evaluates_every_rule_without_an_error(watched: Watched) -> None:
    seen = {}
    for group in watched.prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            seen[rule["name"]] = rule
    assert set(seen) == set(BY_NAME)
    failed = {name: rule["lastError"] for name, rule in seen.items() if rule["health"] != "ok"}
    assert not failed


def test_texts_of_alerts_are_filled_in(watched: Watched) -> None:
    alerts = watched.prometheus.get("alerts")["alerts"]
    assert alerts, "no alert is pending or fires, expected AttndDown at least"
    for alert in alerts:
        for text in alert["annotations"].values():
            assert not re.search(r"<error|<no value>|%!|\{\{", text), alert


@pytest.mark.parametrize(
    "variable",
    [v for v in dashboard()["templating"]["list"] if v["type"] == "query"],
    ids=lambda v: v["name"],
)
def test_variable_has_values(watched: Watched, variable: dict[str, dict[str, str]]) -> None:
    query = variable["query"]["query"]
    call = re.fullmatch(r"label_values\((\w+)\{(.*)\}, (\w+)\)", query)
    assert call, query
    metric, matchers, label = call.groups()
    matchers = re.sub(r"\$\w+", ".*", matchers)
    values = watched.prometheus.get(
        f"label/{label}/values",
        **{"match[]": f"{metric}{{{matchers}}}"},
        start=str(watched.start),
        end=str(watched.end),
    )
    if (metric, label) not in PENDING_LABELS and label != "tenant":
        assert values, query


def test_the_daemon_has_the_metrics_of_the_catalogue(watched: Watched) -> None:
    exposed: dict[str, set[str]] = {}
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", watched.scrape, re.M))
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", watched.scrape, re.M):
        family = name if name in types else re.sub(r"_(bucket|sum|count)$", "", name)
        found = exposed.setdefault(family, set())
        found |= set(re.findall(r'(\w+)="', labels)) - {"le"}
    known = catalogue()
    assert set(exposed) <= set(known), "not in metrics.json"
    absent = set(known) - set(exposed) - set(NOT_ON_A_CPU) - PENDING_METRICS
    assert not absent, "in metrics.json, and not served by a daemon under load"
    for name, labels in exposed.items():
        assert types[name] == known[name]["type"], name
        pending = {label for metric, label in PENDING_LABELS if metric == name}
        assert labels | pending == set(known[name]["labels"]), name


def test_metrics_json_is_what_the_daemon_prints() -> None:
    done = subprocess.run(
        [str(FOLDER / "attnd"), "--print_metrics"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert CATALOGUE.read_text() == done.stdout, "attnd --print_metrics > deploy/prometheus/..."


def test_what_is_pending_is_still_missing(watched: Watched) -> None:
    done = {name for name in PENDING_METRICS if f"\n{name}" in watched.scrape}
    done |= {
        f"{name}{{{label}}}"
        for name, label in PENDING_LABELS
        if re.search(rf"^{name}\{{[^}}]*\b{label}=", watched.scrape, re.M)
    }
    assert not done, f"the daemon has them: take them out of exceptions.py: {sorted(done)}"


def test_a_query_without_data_is_seen(watched: Watched) -> None:
    with pytest.raises(AssertionError, match="no data"):
        check(watched, 'attnd_items_total{code="NEVER"}', "itself")
    with pytest.raises(QueryError, match="parse error"):
        check(watched, "sum(attnd_items_total", "itself")


def test_write_report(watched: Watched) -> None:
    found = []
    for name, expr in [(q.panel, q.as_prometheus()) for q in QUERIES] + [
        (r.name, as_data(r.expr) if r.alert else r.expr) for r in RULES
    ]:
        series = watched.series(expr)
        found.append(
            {"name": name, "expr": expr, "series": len(series), "cannot": sorted(missing(expr))}
        )
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    Path(REPORT).write_text(json.dumps(found, indent=1))
    empty = [entry["name"] for entry in found if not entry["series"]]
    print(f"{len(QUERIES)} queries, {len(RULES)} rules; without data: {empty}")


def test_draw_dashboard(watched: Watched) -> None:
    """For eyes: where everything is, with the data of this run."""
    picture = REPORT.with_name("dashboard.png")
    picture.unlink(missing_ok=True)
    draw(picture, watched.series)
    assert picture.stat().st_size > 50_000
