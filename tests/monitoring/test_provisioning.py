# SPDX-License-Identifier: Apache-2.0
"""Grafana's provisioning files have the keys that Grafana documents, and fit what they point to.

Grafana's own loader passes over a key that it does not know, so that a misspelt one shows as a
missing dashboard: here it is an error. The keys are those of
https://grafana.com/docs/grafana/latest/administration/provisioning/.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from expressions import dashboard, read_yaml
from prometheus import CONFIGURATION, REPOSITORY

PROVISIONING = REPOSITORY / "deploy" / "grafana" / "provisioning"
# Where the compose file mounts deploy/grafana/dashboards.
MOUNTED = "/var/lib/grafana/dashboards"

# Key -> its type, or the keys below it. [keys]: a list of such.
DATASOURCE_JSON = {
    "timeInterval": str,
    "queryTimeout": str,
    "httpMethod": str,
    "prometheusType": str,
    "prometheusVersion": str,
    "cacheLevel": str,
    "incrementalQuerying": bool,
    "manageAlerts": bool,
    "tlsAuth": bool,
    "tlsSkipVerify": bool,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "datasources": {
        "apiVersion": int,
        "prune": bool,
        "deleteDatasources": [{"name": str, "orgId": int}],
        "datasources": [
            {
                "name": str,
                "type": str,
                "access": str,
                "orgId": int,
                "uid": str,
                "url": str,
                "user": str,
                "database": str,
                "basicAuth": bool,
                "basicAuthUser": str,
                "withCredentials": bool,
                "isDefault": bool,
                "jsonData": DATASOURCE_JSON,
                "secureJsonData": {},
                "version": int,
                "editable": bool,
            }
        ],
    },
    "dashboards": {
        "apiVersion": int,
        "providers": [
            {
                "name": str,
                "orgId": int,
                "folder": str,
                "folderUid": str,
                "type": str,
                "disableDeletion": bool,
                "updateIntervalSeconds": int,
                "allowUiUpdates": bool,
                "options": {"path": str, "foldersFromFilesStructure": bool},
            }
        ],
    },
}
REQUIRED = {
    "datasources": ("apiVersion", "datasources", "name", "type", "access", "url"),
    "dashboards": ("apiVersion", "providers", "name", "type", "path"),
}
FILES = sorted(PROVISIONING.glob("*/*.y*ml"))


def faults(value: Any, schema: Any, where: str) -> list[str]:
    """What does not fit, each with its place."""
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: got {value!r}, expected a list"]
        return [
            fault
            for index, one in enumerate(value)
            for fault in faults(one, schema[0], f"{where}[{index}]")
        ]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where}: got {value!r}, expected a mapping"]
        found = [
            f"{where}.{key}: unknown, expected one of {sorted(schema)}"
            for key in value
            if key not in schema
        ]
        for key in value.keys() & schema.keys():
            found += faults(value[key], schema[key], f"{where}.{key}")
        return found
    # bool is an int to Python.
    if type(value) is not schema:
        return [f"{where}: got {value!r}, expected {schema.__name__}"]
    return []


def test_both_kinds_are_there() -> None:
    assert {path.parent.name for path in FILES} == set(SCHEMAS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_file_has_grafanas_keys(path: Path) -> None:
    kind = path.parent.name
    content = read_yaml(path)
    assert not faults(content, SCHEMAS[kind], path.name)
    assert content["apiVersion"] == 1
    text = path.read_text()
    for key in REQUIRED[kind]:
        assert re.search(rf"\b{key}:", text), f"{path.name}: no {key}"


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("datasources", {"isDefualt": True}, "isDefualt: unknown"),
        ("datasources", {"editable": "no way"}, "got 'no way', expected bool"),
        ("datasources", {"jsonData": {"timeIntervall": "15s"}}, "timeIntervall: unknown"),
        ("dashboards", {"updateIntervalSeconds": "30"}, "got '30', expected int"),
        ("dashboards", {"options": {"paht": MOUNTED}}, "paht: unknown"),
    ],
)
def test_a_wrong_key_is_seen(kind: str, change: dict[str, Any], words: str) -> None:
    path = next(path for path in FILES if path.parent.name == kind)
    content = copy.deepcopy(read_yaml(path))
    content["datasources" if kind == "datasources" else "providers"][0] |= change
    assert words in "\n".join(faults(content, SCHEMAS[kind], path.name))


def test_dashboards_come_from_where_they_are_mounted() -> None:
    (provider,) = read_yaml(PROVISIONING / "dashboards" / "attnd.yml")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == MOUNTED


def test_data_source_is_one_that_the_dashboard_can_choose() -> None:
    (source,) = read_yaml(PROVISIONING / "datasources" / "prometheus.yml")["datasources"]
    chosen = next(v for v in dashboard()["templating"]["list"] if v["type"] == "datasource")
    assert source["type"] == chosen["query"] == "prometheus"
    assert source["isDefault"] is True
    scraped = read_yaml(CONFIGURATION)["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped, "rate windows would be too short"
