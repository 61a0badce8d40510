"""The rules of `deploy/prometheus`: sound, tried by promtool, and each alert of use to whoever it wakes."""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from litestar.handlers import HTTPRouteHandler

from guard.metrics import Metrics
from guard.patience import PatientOperation
from guard.routes import ROUTES
from guard.settings import GuardSettings
from guard.taxonomy import HARMFUL
from learner.settings import LearnerSettings
from tests.deploy import commands
from tests.monitoring.expressions import AWAITED, RULES, Rule, alerts, rules, series
from tests.monitoring.programs import program

CASES: Final = sorted((RULES / "tests").glob("*.yml"))
ALERTS: Final = alerts()


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def exposed() -> set[str]:
    """Return the names of all samples that a guard may expose."""
    families = Metrics().registry.collect()
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


def expectations() -> list[tuple[str, bool]]:
    """Return (alert, whether it must fire) for each expectation of promtool's tests."""
    tests: list[dict[str, Any]] = [test for case in CASES for test in yaml.safe_load(case.read_text())["tests"]]
    return [
        (name, bool(expected["exp_samples"]))
        for test in tests
        for expected in test["promql_expr_test"]
        for name in re.findall(r'alertname="(\w+)"', expected["expr"])
    ]


def test_configuration_is_sound() -> None:
    """Prometheus takes the configuration with all its rules."""
    ended = promtool("check", "config", RULES / "prometheus.yml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("rules found") == len(list(RULES.glob("*.rules.yml")))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_rules_do_what_their_tests_say(case: Path) -> None:
    """Every alert fires when it should and is silent when not, as promtool finds."""
    ended = promtool("test", "rules", case)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_every_alert_is_tried_both_ways(alert: Rule) -> None:
    """For each alert promtool's tests hold a case in which it fires and one in which it does not."""
    assert {fires for name, fires in expectations() if name == alert.name} == {True, False}


def test_tests_name_alerts_that_exist() -> None:
    """What is expected to be silent is silent for another reason than that there is no such alert."""
    assert {name for name, _ in expectations()} == {alert.name for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alerts_say_what_to_do(alert: Rule) -> None:
    """Each alert has a severity, a summary, a description and a remedy, and sends nobody to pages that may not exist."""
    assert alert.labels.keys() == {"severity"}
    assert alert.labels["severity"] in {"critical", "warning", "info"}
    assert alert.annotations.keys() == {"summary", "description", "remedy"}
    assert alert.annotations["description"].endswith(".")
    assert alert.annotations["remedy"].endswith(".")
    assert "://" not in "".join(alert.annotations.values())


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_remedies_can_be_followed(alert: Rule) -> None:
    """The commands and settings that an alert names exist."""
    text = " ".join(alert.annotations.values())
    for command in re.findall(r"`((?:guard|learner) [^`]+)`", text):
        words = command.split()
        commands.check(
            [*words, "--reason", "why"] if words[:2] == ["guard", "models"] and words[2] != "list" else words
        )
    for prefix, settings in (("GUARD_", GuardSettings), ("LEARNER_", LearnerSettings)):
        assert {name.lower() for name in re.findall(rf"{prefix}(\w+)", text)} <= settings.model_fields.keys()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: f"{rule.name} {sorted(rule.labels.values())}")
def test_series_exist(rule: Rule) -> None:
    """Rules stand on series that the guard exposes, that other rules record, or that are awaited."""
    recorded = {rule.name for rule in rules() if not rule.alert}
    known = exposed() | recorded | {"up", *AWAITED, *(f"{name}_total" for name in AWAITED)}
    assert series(rule.expression) <= known


def test_nothing_is_awaited_that_is_there() -> None:
    """A series that the guard exposes is no longer awaited."""
    assert exposed() & {*AWAITED, *(f"{name}_total" for name in AWAITED)} == set()


def test_what_judges_is_counted() -> None:
    """The shares and quantiles of judging requests are those of every route that judges, and of no other."""
    judging = {
        path
        for route in ROUTES
        if isinstance(route, HTTPRouteHandler) and route.operation_class is PatientOperation
        for path in route.paths
    }
    named = [found for rule in rules() for found in re.findall(r'route=~"([^"]+)"', rule.expression)]
    assert len(named) == 2
    assert all(set(routes.split("|")) == judging for routes in named)


@pytest.mark.parametrize("measure", ["cleared_rate", "miss_rate", "false_alarm_rate"])
def test_every_harm_has_a_target(measure: str) -> None:
    """Each harmful category has one target that its error rate is held against."""
    found = [rule.labels["category"] for rule in rules() if rule.name == f"lifeguard:{measure}:target"]
    assert sorted(found) == sorted(HARMFUL)
