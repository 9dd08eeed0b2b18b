# SPDX-License-Identifier: Apache-2.0
"""The rules' unit tests pass, cover every rule, and would fail if a rule were another."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from expressions import (
    RULE_TESTS,
    RULES,
    TARGET_LABELS,
    Rule,
    catalogue,
    labels_of,
    metrics_of,
    read_yaml,
    rules,
    strip_recorded,
)
from prometheus import CONFIGURATION, REPOSITORY

ALL = rules()
ALERTS = [rule for rule in ALL if rule.alert]
RECORDED = [rule for rule in ALL if not rule.alert]
TESTS = sorted(RULE_TESTS.glob("*.test.yml"))
RULE_FILES = {
    path: [rule for rule in ALL if rule.file == path] for path in sorted(RULES.glob("*.yml"))
}
RUNBOOK = "docs/monitoring.md#"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)


UNIT_TESTS = {path: read_yaml(path) for path in TESTS}
CASES = [
    case
    for content in UNIT_TESTS.values()
    for test in content["tests"]
    for case in test["promql_expr_test"]
]


def cases_of(rule: Rule) -> list[dict[str, Any]]:
    """Those that ask for this rule's alerts, or for its series."""
    if rule.alert:
        return [case for case in CASES if f'alertname="{rule.name}"' in case["expr"]]
    return [case for case in CASES if re.search(rf"(?<![\w:]){rule.name}(?![\w:])", case["expr"])]


def test_names_are_unique() -> None:
    names = [rule.name for rule in ALL]
    assert sorted(set(names)) == sorted(names)


def test_promtool_accepts_configuration_and_rules() -> None:
    for check in ("config", "rules"):
        paths = [CONFIGURATION] if check == "config" else sorted(RULES.glob("*.yml"))
        done = promtool("check", check, *map(str, paths))
        assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_promtool_passes(path: Path) -> None:
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule.name)
def test_recording_rule_has_a_unit_test(rule: Rule) -> None:
    assert any(case["exp_samples"] for case in cases_of(rule)), "no test expects it to have a value"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_alert_has_unit_tests_of_firing_and_not(rule: Rule) -> None:
    expected = [bool(case["exp_samples"]) for case in cases_of(rule)]
    assert True in expected, "no test expects it to fire"
    assert False in expected, "no test expects it to be silent"


COMPARISON = re.compile(r"\s(==|<|>) (-?[\d.]+(?: \* \d+)?)(?![^{]*\})")


def mutants(rule: Rule) -> dict[str, str]:
    """Expressions that are wrong in ways that a test must see."""
    if not rule.alert:
        return {"doubled": f"2 * ({rule.expr}) + 1"}
    found = {"never": f"({rule.expr}) and (vector(1) == 2)"}
    for number, match in enumerate(COMPARISON.finditer(rule.expr)):
        true = " < 1e300" if match.group(1) == "<" else " > -1e300"
        head, tail = rule.expr[: match.start()], rule.expr[match.end() :]
        found[f"condition {number} always true"] = head + true + tail
    return found


@pytest.mark.parametrize(
    ("rule", "how"),
    [(rule, how) for rule in ALL for how in mutants(rule)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_spoilt_rule_fails_its_tests(rule: Rule, how: str, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    for path, content in RULE_FILES.items():
        text = path.read_text()
        if rule in content:
            spoilt = copy.deepcopy(read_yaml(path))
            for group in spoilt["groups"]:
                for body in group["rules"]:
                    if body == rule.body:
                        body["expr"] = mutants(rule)[how]
            text = json.dumps(spoilt)  # which is YAML, too
        (tmp_path / "rules" / path.name).write_text(text)
    concerned = []
    for path, content in UNIT_TESTS.items():
        used = [test for test in content["tests"] if rule.name in json.dumps(test)]
        if used:
            concerned.append(tmp_path / "tests" / path.name)
            concerned[-1].write_text(json.dumps(content | {"tests": used}))
    done = promtool("test", "rules", *map(str, concerned))
    assert done.returncode == 1, f"{rule.name}, {how}: no test has noticed\n{done.stdout}"


@pytest.mark.parametrize(
    "rule", [r for r in ALERTS if r.name != "AttndAbsent"], ids=lambda r: r.name
)
def test_every_alert_compares_something(rule: Rule) -> None:
    assert len(mutants(rule)) > 1, "COMPARISON does not see its condition"


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_names_are_those_of_the_catalogue(rule: Rule) -> None:
    known = catalogue()
    expr = strip_recorded(rule.expr)
    unknown = metrics_of(rule.expr) - set(known)
    assert not unknown, f"not in metrics.json: {unknown}"
    # Labels of recorded series were checked where they are recorded.
    allowed = (
        TARGET_LABELS | {"le"} | {label for metric in known.values() for label in metric["labels"]}
    )
    if expr == rule.expr and metrics_of(expr):
        allowed = TARGET_LABELS | {"le"}
        for name in metrics_of(expr):
            allowed |= set(known[name]["labels"])
    unknown = labels_of(rule.expr) - allowed
    assert not unknown, f"labels that its metrics do not have: {unknown}"
    for name in set(re.findall(r"\binstance\w*:\w+:\w+\b", rule.expr)):
        assert name in {other.name for other in RECORDED}, f"no rule records {name}"


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_alert_says_what_to_do(rule: Rule) -> None:
    assert set(rule.body) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule.body["labels"]["severity"] in ("critical", "warning", "info")
    texts = rule.body["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url"}
    assert "$labels.instance" in texts["summary"] or rule.name == "AttndAbsent"
    assert len(texts["description"]) > 80
    assert texts["runbook_url"] == RUNBOOK + rule.name.lower()


def rendered(rule: Rule, tmp_path: Path) -> str:
    """Its texts as promtool fills them in, from the first unit test in which it fires."""
    for content in UNIT_TESTS.values():
        for test in content["tests"]:
            for case in test["promql_expr_test"]:
                if case["exp_samples"] and f'alertname="{rule.name}"' in case["expr"]:
                    # Expected is nothing: what promtool says that it got is what we want.
                    wrong = {
                        "eval_time": case["eval_time"],
                        "alertname": rule.name,
                        "exp_alerts": [],
                    }
                    only = {key: test[key] for key in ("interval", "input_series")}
                    spoilt = content | {
                        "tests": [only | {"alert_rule_test": [wrong]}],
                        "rule_files": [str(path) for path in RULE_FILES],
                    }
                    file = tmp_path / "texts.yml"
                    file.write_text(json.dumps(spoilt))
                    done = promtool("test", "rules", str(file))
                    return done.stdout + done.stderr
    raise AssertionError(f"{rule.name}: fires in no unit test")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule.name)
def test_texts_of_a_firing_alert_are_filled_in(rule: Rule, tmp_path: Path) -> None:
    text = rendered(rule, tmp_path)
    assert "got:" in text and "summary=" in text, text
    got = text[text.index("got:") :]
    folder = REPOSITORY / "build" / "monitoring" / "alerts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{rule.name}.txt").write_text(got)
    for broken in ("<error", "<no value>", "%!", "{{", "NaN"):
        assert broken not in got, got
