"""`docs/monitoring.md` lists the alerts and panels there are; run as a module, this file writes them into it."""

import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.monitoring.expressions import ROOT, alerts, dashboard

PAGE: Final = ROOT / "docs" / "monitoring.md"


def _alerts() -> Iterator[str]:
    yield "| alert | when | what to do |"
    yield "|---|---|---|"
    for alert in alerts():
        said = alert.annotations
        yield f"| **{alert.name}**, {alert.labels['severity']} | {said['description']} | {said['remedy']} |"


def _panels() -> Iterator[str]:
    yield "| row | panel | what it shows |"
    yield "|---|---|---|"
    row = ""
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            row = panel["title"].replace("$category", "each category")
        else:
            yield f"| {row} | **{panel['title']}** | {panel['description']} |"


def _fill(text: str, name: str, lines: Iterator[str]) -> str:
    table = "\n".join(lines).replace("{{ $labels.category }}", "the category").replace("{{ $labels.instance }}", "it")
    filled, times = re.subn(
        rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{table}\n\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    assert times == 1
    return filled


def render() -> str:
    """Return the page with its tables as they should be."""
    return _fill(_fill(PAGE.read_text(), "alerts", _alerts()), "panels", _panels())


def test_page_lists_what_there_is() -> None:
    """Every alert with its remedy and every panel with its meaning is on the page, in the words of the files."""
    assert PAGE.read_text() == render(), "run `.venv/bin/python -m tests.monitoring.test_page`"


def test_page_has_no_placeholder() -> None:
    """No label or value that Prometheus would fill in is left in the tables."""
    assert "{{" not in PAGE.read_text()


@pytest.mark.parametrize("path", ["compose.yaml", *re.findall(r"`(deploy/[\w./]+)`", PAGE.read_text())])
def test_files_exist(path: str) -> None:
    """The files and folders that the page names are there."""
    assert (ROOT / path).exists()


if __name__ == "__main__":
    PAGE.write_text(render())
