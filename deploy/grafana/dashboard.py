#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes attnd's Grafana dashboard. Its panels are in rows_load.py and rows_state.py.

deploy/grafana/dashboard.py            writes dashboards/attnd.json
deploy/grafana/dashboard.py --check    exits 1 where that file is not what would be written

Metrics and labels that are not in deploy/prometheus/metrics.json are an error (promql.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import rows_load
import rows_state
from panels import DATASOURCE, Json, layout
from promql import label_values

OUTPUT = Path(__file__).resolve().parent / "dashboards" / "attnd.json"


def variables() -> list[Json]:
    """What is chosen above the dashboard."""

    def query(name: str, label: str, metric: str, all_values: bool = True) -> Json:
        expression = label_values(metric, name)
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": expression, "refId": f"variable-{name}"},
            "refresh": 2,
            "sort": 1,
            "multi": all_values,
            "includeAll": all_values,
            # Not a list of all: series without the label, or with an empty one, are in it too.
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }

    stages = ("queue", "kernel", "stage_in", "stage_out")
    return [
        {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
        },
        query("job", "Job", "attnd_build_info"),
        query("instance", "Instance", "attnd_build_info"),
        query("tenant", "Tenant", "attnd_sessions"),
        query("cache", "Cache", "attnd_pages"),
        query("device", "Device", "attnd_pool_bytes"),
        {
            "name": "stage",
            "label": "Heat map's stage",
            "type": "custom",
            "query": ",".join(stages),
            "multi": False,
            "includeAll": False,
            "current": {"text": stages[0], "value": stages[0]},
            "options": [
                {"text": stage, "value": stage, "selected": stage == stages[0]} for stage in stages
            ],
        },
    ]


def dashboard() -> Json:
    """All of it."""
    rows = [
        rows_load.at_a_glance(),
        rows_load.latency(),
        rows_load.throughput(),
        rows_state.memory(),
        rows_state.prefixes(),
        rows_load.queue(),
        rows_load.errors(),
        rows_state.sessions(),
        rows_state.devices(),
        rows_state.process(),
    ]
    return {
        "uid": "attnd",
        "title": "attnd",
        "description": "The attention backend daemon: latency, batches, memory, errors, devices. "
        "Written by deploy/grafana/dashboard.py.",
        "tags": ["attnd"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m", "15m"]},
        "links": [],
        "annotations": {"list": []},
        "templating": {"list": variables()},
        "panels": layout(rows),
    }


def main() -> int:
    """Writes or checks; the exit code."""
    if sys.argv[1:] not in ([], ["--check"]):
        print("usage: deploy/grafana/dashboard.py [--check]", file=sys.stderr)
        return 2
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if not sys.argv[1:]:
        OUTPUT.parent.mkdir(exist_ok=True)
        OUTPUT.write_text(text)
        return 0
    if not OUTPUT.is_file() or OUTPUT.read_text() != text:
        print(
            f"{OUTPUT}: differs from what deploy/grafana/dashboard.py writes: run it and commit "
            "the result",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
