"""The dashboard of `deploy/grafana`: whole, in order, and each panel explained."""

import re
from itertools import combinations
from typing import Any, Final

import pytest

from guard.taxonomy import Category
from tests.monitoring.expressions import AWAITED, dashboard, panels, rules, series, shown
from tests.monitoring.test_rules import exposed

PANELS: Final = list(panels())
# a unit that Grafana knows, for what the panel's axis or cell shows
UNITS: Final = {"bytes", "cps", "none", "percentunit", "reqps", "s", "short"}
_VARIABLES: Final = {"datasource", "category", "__rate_interval", "__range"}

titled = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def test_ids_are_unique() -> None:
    """No two panels or rows share an id, and no two panels a title."""
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_it_can_be_imported() -> None:
    """It has a title and a name of its own, no database's number, and brings no query's result along."""
    found = dashboard()
    assert (found["title"], found["uid"]) == ("Lifeguard", "lifeguard-guard")
    assert "id" not in found
    assert all(variable["options"] == [] for variable in found["templating"]["list"])


def test_datasource_is_a_variable() -> None:
    """Whoever imports it chooses the Prometheus; nothing names one."""
    (chosen,) = (v for v in dashboard()["templating"]["list"] if v["name"] == "datasource")
    assert (chosen["type"], chosen["query"]) == ("datasource", "prometheus")
    sources = [panel["datasource"] for panel in PANELS]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    sources += [note["datasource"] for note in dashboard()["annotations"]["list"] if "expr" in note]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_panels_do_not_overlap() -> None:
    """Panels lie beside and below each other, within the 24 columns."""

    def meet(one: dict[str, int], other: dict[str, int]) -> bool:
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        return not (apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"])

    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    assert [(one, other) for one, other in combinations(places, 2) if meet(one, other)] == []


def test_rows() -> None:
    """What operators ask comes in rows: traffic, latency, verdicts, error rates for each category, the loop, the guards."""
    rows = [panel for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert [row["title"].partition(":")[0] for row in rows] == [
        *("Now", "Traffic", "Latency", "Verdicts", "Error rates", "Error rates", "Loop", "Guards")
    ]
    assert [row["repeat"] for row in rows if "repeat" in row] == ["category"]
    assert dashboard()["panels"][0]["type"] == "row"


@titled
def test_panels_are_explained(panel: dict[str, Any]) -> None:
    """Each panel says what it shows, in what unit, and names every series it draws."""
    assert len(panel["description"]) > 40
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    units = [p["value"] for o in panel["fieldConfig"]["overrides"] for p in o["properties"] if p["id"] == "unit"]
    assert set(units) <= UNITS
    if panel["type"] != "table":
        assert all(target["legendFormat"] for target in panel["targets"])
    if panel["type"] in {"timeseries", "state-timeline"}:
        assert panel["options"]["legend"]["showLegend"] is True


@titled
def test_queries_have_names(panel: dict[str, Any]) -> None:
    """A panel's queries have reference ids of their own, and its legends name labels that their queries keep."""
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGHIJKLM"[: len(panel["targets"])])
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            recorded = [rule.expression for rule in rules() if rule.name in series(target["expr"])]
            aggregated = " ".join([target["expr"], *recorded])
            assert re.search(rf"by \([^)]*\b{label}\b", aggregated) or " by (" not in aggregated, target["expr"]


@titled
def test_variables_exist(panel: dict[str, Any]) -> None:
    """Queries and titles use variables that the dashboard declares or that Grafana has."""
    text = panel["title"] + " ".join(target["expr"] for target in panel["targets"])
    assert {name.strip("{}") for name in re.findall(r"\$(\{\w+\}|\w+)", text)} <= _VARIABLES


def test_series_exist() -> None:
    """What is shown is what the guard exposes, the rules record, or what is awaited."""
    known = exposed() | {rule.name for rule in rules() if not rule.alert} | {"up", *AWAITED}
    assert {name for _, expression in shown() for name in series(expression)} <= known


def test_nothing_is_left_out() -> None:
    """Every series of the guard is shown or stands behind what is shown or alerted of."""
    used = {name for _, expression in shown() for name in series(expression)}
    used |= {name for rule in rules() for name in series(rule.expression)}
    ours = {name for name in exposed() if name.startswith("guard_")}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    assert {name for name in ours if re.sub(r"_(bucket|count|sum)$", "", name) not in families} == set()


@pytest.mark.parametrize("title", ["Passed as harmless", "Missed", "False alarms", "Precision"])
def test_rates_have_their_bands(title: str) -> None:
    """An error rate is drawn with its interval as a band: the upper end is filled down to the lower one."""
    (panel,) = (panel for panel in PANELS if panel["title"] == title)
    legends = {target["legendFormat"]: target["expr"] for target in panel["targets"]}
    assert (
        legends["upper 95 %"].replace(":upper", "")
        == legends["estimate"]
        == legends["lower 95 %"].replace(":lower", "")
    )
    fills = {
        override["matcher"]["options"]: p["value"]
        for override in panel["fieldConfig"]["overrides"]
        for p in override["properties"]
        if p["id"] == "custom.fillBelowTo"
    }
    assert fills == {"upper 95 %": "lower 95 %"}


def test_versions_are_annotated() -> None:
    """A line marks when a version came into service, with its name."""
    (versions,) = (note for note in dashboard()["annotations"]["list"] if note["name"] == "Versions")
    assert versions["enable"] is True
    assert series(versions["expr"]) == {"guard_model_info"}
    assert "{{model_version}}" in versions["titleFormat"]


def test_categories_keep_their_colour() -> None:
    """Wherever categories are drawn beside each other each has its own colour, the same in every panel."""
    coloured = [
        {o["matcher"]["options"]: o["properties"][0]["value"]["fixedColor"] for o in panel["fieldConfig"]["overrides"]}
        for panel in PANELS
        if panel["type"] == "timeseries" and {t["legendFormat"] for t in panel["targets"]} == {"{{category}}"}
    ]
    assert len(coloured) == 3
    assert all(colours == coloured[0] for colours in coloured)
    assert coloured[0].keys() == set(Category)
    assert len(set(coloured[0].values())) == len(Category)
