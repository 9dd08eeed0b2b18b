# SPDX-License-Identifier: Apache-2.0
"""docs/monitoring.md knows every metric, rule and alert, and no other."""

from __future__ import annotations

import re

import pytest

from expressions import RECORDED, Rule, catalogue, documentation, examples, metrics_of, rules

TEXT = documentation()
ALERTS = [rule for rule in rules() if rule.alert]
# Words that begin like metrics and are none.
OTHERS = {"attnd_tenant", "attnd_limit_use"}


def section(name: str) -> str:
    """What is below a heading of the third level."""
    found = re.search(rf"^### {name}\n(.*?)(?=^##)", TEXT + "\n##", re.M | re.S)
    return found.group(1) if found else ""


def table_of(heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## )", TEXT, re.M | re.S)
    assert found, f"no section {heading!r}"
    return found.group(1)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_alert_has_a_section_with_its_severity(rule: Rule) -> None:
    text = section(rule.name)
    assert text, f"docs/monitoring.md has no section {rule.name}"
    assert text.strip().startswith(f"*{rule.body['labels']['severity']}.*"), text
    assert len(text) > 100, "a runbook says what to do"


def test_sections_are_those_of_alerts() -> None:
    headings = set(re.findall(r"^### (\w+)$", TEXT, re.M))
    assert headings == {rule.name for rule in ALERTS}


def test_links_to_sections_lead_somewhere() -> None:
    anchors = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", TEXT, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= anchors


def test_table_of_metrics_is_the_catalogue() -> None:
    named = set(re.findall(r"`((?:attnd|process)_\w+)`", table_of("What to look at")))
    assert named == set(catalogue())


def test_table_of_rules_is_complete() -> None:
    named = set(RECORDED.findall(table_of("Recording rules")))
    assert named == {rule.name for rule in rules() if not rule.alert}


def test_no_other_metric_is_named() -> None:
    known = set(catalogue())
    assert metrics_of(TEXT) - OTHERS <= known


def test_there_are_examples() -> None:
    assert len(examples()) >= 5
    for expr in examples():
        assert metrics_of(expr) <= set(catalogue()), expr
