# SPDX-License-Identifier: Apache-2.0
"""The dashboard is what its source writes, fits Grafana's types, and has no overlaps."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import panels as grafana
import promql
from expressions import (
    DASHBOARD,
    GRAFANA,
    TARGET_LABELS,
    catalogue,
    dashboard,
    labels_of,
    metrics_of,
    panel_queries,
    panels,
)
from prometheus import REPOSITORY

GENERATOR = REPOSITORY / "deploy" / "grafana" / "dashboard.py"
TYPES = REPOSITORY / "tests" / "monitoring" / "dashboard_types.ts"
# scripts/monitoring.sh puts @grafana/schema and the compiler there.
NODE = REPOSITORY / "build" / "monitoring" / "npm"
# Grafana's ids of units, as its documentation of standard options lists them.
UNITS = {
    "none", "short", "percentunit", "s", "dtdurations", "bytes", "reqps", "ops", "celsius", "watt",
}  # fmt: skip
Change = Callable[[Any], None]


def generate(*arguments: str, where: Path = GENERATOR) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(where), *arguments], capture_output=True, text=True, timeout=60
    )


def test_committed_dashboard_is_what_the_source_writes() -> None:
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_a_changed_dashboard_is_seen(tmp_path: Path) -> None:
    copied = tmp_path / "deploy"
    shutil.copytree(GENERATOR.parent.parent, copied)
    file = copied / "grafana" / "dashboards" / "attnd.json"
    file.write_text(file.read_text().replace('"title": "Fragmentation"', '"title": "Other"'))
    done = generate("--check", where=copied / "grafana" / "dashboard.py")
    assert done.returncode == 1
    assert "run it and commit" in done.stderr
    assert generate("--chekc").returncode == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: promql.gauge("attnd_pagez"), "attnd_pagez: no such metric"),
        (lambda: promql.rate("attnd_pages"), "attnd_pages: it is a gauge, expected a counter"),
        (lambda: promql.quantile(0.9, "attnd_pages"), "expected a histogram"),
        (lambda: promql.gauge("attnd_pages", by="stat"), "no label 'stat'"),
        (lambda: promql.gauge("attnd_pages", stat="used"), "no label 'stat'"),
        (lambda: promql.gauge("attnd_sessions", by="le"), "no label 'le'"),
        (lambda: promql.label_values("attnd_pages", "code"), "no label 'code'"),
        (
            lambda: promql.gauge("attnd_pages").over(promql.gauge("attnd_pages", by="cache")),
            "got labels \\['cache'\\] below, expected some of \\[\\]",
        ),
        (
            lambda: grafana.Target(promql.gauge("attnd_pages", by="cache"), "{{state}}"),
            "\\['state'\\] not in the result",
        ),
        (
            lambda: grafana.table(promql.gauge("attnd_pages"), {"cache": "Cache"}, None),
            "columns \\['cache'\\]: not in the result",
        ),
    ],
)
def test_source_refuses_what_the_catalogue_does_not_have(
    call: Callable[[], object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("query", panel_queries(), ids=lambda query: query.panel)
def test_names_are_those_of_the_catalogue(query: Any) -> None:
    """The same, of the JSON: nobody has put a name in by hand."""
    known = catalogue()
    names = metrics_of(query.expr)
    assert names <= set(known)
    allowed = TARGET_LABELS | {"le"}
    for name in names:
        allowed |= set(known[name]["labels"])
    if "ALERTS" in query.expr:
        allowed |= set(promql.BUILT_IN["ALERTS"]["labels"])
    assert labels_of(query.expr) <= allowed
    assert names or "ALERTS" in query.expr


def test_every_metric_is_on_the_dashboard_or_behind_an_alert() -> None:
    """What nobody looks at need not be exported."""
    shown = set().union(*(metrics_of(query.expr) for query in panel_queries()))
    assert set(catalogue()) <= shown


def rectangles() -> list[tuple[str, dict[str, int]]]:
    """As they lie where all rows are open."""
    found = []
    for panel in dashboard()["panels"]:
        whole = [panel, *panel.get("panels", [])]
        found += [(one["title"], one["gridPos"]) for one in whole]
    return found


def overlaps(where: list[tuple[str, dict[str, int]]]) -> list[str]:
    """Each pair that does, by name."""
    cells: dict[tuple[int, int], str] = {}
    found = []
    for title, at in where:
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                if (x, y) in cells:
                    found.append(f"{title} over {cells[x, y]}")
                cells[x, y] = title
    return found


def test_panels_do_not_overlap_and_leave_no_holes() -> None:
    where = rectangles()
    assert not overlaps(where)
    lines: dict[int, int] = {}
    for title, at in where:
        assert at["x"] >= 0 and at["x"] + at["w"] <= grafana.COLUMNS, title
        for y in range(at["y"], at["y"] + at["h"]):
            lines[y] = lines.get(y, 0) + at["w"]
    assert sorted(lines) == list(range(max(lines) + 1)), "an empty line"
    ragged = {y: width for y, width in lines.items() if width != grafana.COLUMNS}
    assert not ragged, f"lines that are not {grafana.COLUMNS} columns wide: {ragged}"


def test_an_overlap_is_seen() -> None:
    where = rectangles()
    moved = [(title, at | {"x": 0, "y": 1}) for title, at in where[:3]]
    assert overlaps(moved)


def test_panels_are_described() -> None:
    ids = [
        one["id"] for panel in dashboard()["panels"] for one in [panel, *panel.get("panels", [])]
    ]
    assert sorted(set(ids)) == sorted(ids)
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert len(panel["title"]) < 40
        if panel["type"] == "heatmap":
            assert panel["options"]["yAxis"]["unit"] in UNITS
        else:
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_every_variable_is_used_and_every_used_one_is_there() -> None:
    declared = {variable["name"] for variable in dashboard()["templating"]["list"]}
    text = json.dumps(dashboard()["panels"])
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"}
    assert used == declared
    assert {f"${name}" for name in declared} - {"$datasource"} <= set(GRAFANA)


# ------------------------------------------------------------------------------------- the compiler


def compile_constant(content: Any, folder: Path) -> str:
    """What tsc says of the dashboard as a constant of Grafana's types."""
    assert (NODE / "node_modules" / ".bin" / "tsc").exists(), "run scripts/monitoring.sh"
    (folder / "node_modules").symlink_to(NODE / "node_modules")
    shutil.copy(TYPES, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "dashboard.ts").write_text(
        "import type { AttndDashboard } from './dashboard_types.js';\n"
        f"export const dashboard: AttndDashboard = {json.dumps(content, indent=1)};\n"
    )
    done = subprocess.run(
        [
            "node_modules/.bin/tsc",
            "--strict",
            "--noEmit",
            "--skipLibCheck",
            "--target",
            "es2022",
            "--module",
            "nodenext",
            "--moduleResolution",
            "nodenext",
            "dashboard.ts",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode == 0) == (not done.stdout), done.stderr
    return done.stdout


def test_dashboard_compiles_against_grafana_schema(tmp_path: Path) -> None:
    assert compile_constant(dashboard(), tmp_path) == ""


def first(content: Any, kind: str) -> Any:
    return next(panel for panel in content["panels"] if panel["type"] == kind)


def unknown_key(content: Any) -> None:
    first(content, "timeseries")["options"]["legend"]["showLegnd"] = True


def wrong_type(content: Any) -> None:
    first(content, "timeseries")["fieldConfig"]["defaults"]["custom"]["fillOpacity"] = "8"


def unknown_value(content: Any) -> None:
    first(content, "heatmap")["options"]["color"]["mode"] = "schema"


def unknown_panel(content: Any) -> None:
    first(content, "stat")["type"] = "state"


def unknown_top_key(content: Any) -> None:
    content["schemaVersionn"] = content.pop("schemaVersion")


def wrong_number(content: Any) -> None:
    content["templating"]["list"][1]["refresh"] = 7


def misspelt_target(content: Any) -> None:
    target = first(content, "stat")["targets"][0]
    target["expression"] = target.pop("expr")


def misspelt_override(content: Any) -> None:
    panel = next(p for p in content["panels"] if p.get("fieldConfig", {}).get("overrides"))
    panel["fieldConfig"]["overrides"][0]["properties"][0]["id"] = "colour"


def panel_without_targets(content: Any) -> None:
    first(content, "table")["targets"] = []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unknown_key, "'\"showLegnd\"' does not exist in type"),
        (wrong_type, "Type 'string' is not assignable to type 'number'"),
        (unknown_value, "Type '\"schema\"' is not assignable"),
        (unknown_panel, "Type '\"state\"' is not assignable"),
        (unknown_top_key, "'\"schemaVersionn\"' does not exist"),
        (wrong_number, "Type '7' is not assignable"),
        (misspelt_target, "'\"expression\"' does not exist"),
        (misspelt_override, "Type '\"colour\"' is not assignable"),
        (panel_without_targets, "Source has 0 element"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_compiler_refuses(change: Change, words: str, tmp_path: Path) -> None:
    content = copy.deepcopy(dashboard())
    change(content)
    assert words in compile_constant(content, tmp_path)


def test_file_is_plain_json() -> None:
    assert DASHBOARD.read_text().endswith("}\n")
    assert json.loads(DASHBOARD.read_text())["uid"] == "attnd"
