"""Every PromQL expression that rules and dashboard hold, and the series they name."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "guard.json"

# Series that the rules and the dashboard are ready for but the guard does not expose yet; empty when it does.
AWAITED: Final[tuple[str, ...]] = ()

_OWN: Final = r"(?:guard|process)_\w+|lifeguard:[\w:]+|\bup\b(?!\w)"
_RECORDED: Final = re.compile(r"lifeguard:[\w:]+")
_SELECTOR: Final = re.compile(rf"(?<![\w:])({_OWN})(\{{[^}}]*\}})?")


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule or an alert."""

    name: str
    expression: str
    alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


def rules() -> list[Rule]:
    """Return every rule of every file."""
    files = sorted(RULES.glob("*.rules.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [
        Rule(
            name=rule.get("alert") or rule["record"],
            expression=rule["expr"],
            alert="alert" in rule,
            labels=rule.get("labels", {}),
            annotations=rule.get("annotations", {}),
        )
        for group in groups
        for rule in group["rules"]
    ]


def alerts() -> list[Rule]:
    """Return the rules that are alerts."""
    return [rule for rule in rules() if rule.alert]


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    parsed: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return parsed


def panels() -> Iterator[dict[str, Any]]:
    """Yield every panel that shows data."""
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def shown() -> list[tuple[str, str]]:
    """Return (where, expression) for each query of a panel, an annotation or a variable of the dashboard."""
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    found += [(note["name"], note["expr"]) for note in dashboard()["annotations"]["list"] if "expr" in note]
    return found


def series(expression: str) -> set[str]:
    """Return the names of the series in an expression."""
    return {name for name, _ in _SELECTOR.findall(expression)}


def selectors(expression: str) -> set[str]:
    """Return the series in an expression with their conditions, as each could be asked for by itself."""
    return {name + condition for name, condition in _SELECTOR.findall(expression)}


def awaits(expression: str) -> bool:
    """Return whether an expression stands on a series that is awaited, itself or through the rules it names."""
    recorded = {rule.name: rule.expression for rule in rules() if not rule.alert}
    return any(
        name.startswith(AWAITED) if name not in recorded else awaits(recorded[name]) for name in series(expression)
    )
