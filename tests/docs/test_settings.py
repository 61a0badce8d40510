"""`docs/settings.md` says what the settings classes say; run as a module, this file writes it."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

import learner
from guard.settings import GuardSettings
from learner.settings import LearnerSettings

PAGE: Final = Path(__file__).parents[2] / "docs" / "settings.md"
_PACKAGES: Final = Path(learner.__file__).parents[1]

_INTRODUCTION: Final = """\
# Settings

Every setting is an environment variable, read once when a command starts. A value that cannot work stops the command
with a message that names it. Mappings are JSON: `GUARD_ACTIONS='{"medical-advice": "escalate"}'` changes one action and
leaves the others. The learner reads the `GUARD_` variables for the store, the keyring and the exports, so give both
processes the same ones.

This page is written from the settings classes: `.venv/bin/python -m tests.docs.test_settings` renews it.
"""


def render() -> str:
    """Return the page."""
    return "\n".join(
        [_INTRODUCTION, *_table("The guard", GuardSettings), "", *_table("The learner", LearnerSettings), ""]
    )


def _table(heading: str, settings: type[BaseSettings]) -> list[str]:
    prefix = settings.model_config["env_prefix"]
    rows = (
        f"| `{prefix}{name.upper()}` | {_default(field)} | {(field.description or '').replace('|', chr(92) + '|')} |"
        for name, field in settings.model_fields.items()
    )
    return [f"## {heading}", "", "| variable | default | what it does |", "|---|---|---|", *rows]


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, int) and field.default_factory is not None:
        return "the CPUs it may use"
    if value is None:
        return "none"
    if isinstance(value, Path) and value.is_absolute():
        value = value.relative_to(_PACKAGES)
    if isinstance(value, bool | dict):
        value = json.dumps(value)
    return f"`{value}`"


def test_page_matches_the_settings() -> None:
    """The page is what the settings classes say today."""
    assert PAGE.read_text() == render(), "renew it: .venv/bin/python -m tests.docs.test_settings"


@pytest.mark.parametrize("settings", [GuardSettings, LearnerSettings])
def test_every_setting_is_described(settings: type[BaseSettings]) -> None:
    """No setting goes without a description, and each stands on the page by its full name."""
    page = PAGE.read_text()
    prefix = settings.model_config["env_prefix"]
    undescribed = [name for name, field in settings.model_fields.items() if not field.description]
    missing = [name for name in settings.model_fields if f"| `{prefix}{name.upper()}` |" not in page]
    assert (undescribed, missing) == ([], [])


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render())
