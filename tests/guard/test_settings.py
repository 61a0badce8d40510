"""The settings: from variables, with bounds, without secrets in what is printed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from guard.settings import GuardSettings
from guard.taxonomy import GUIDELINES, Action, Category


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting is read from its variable; a value given in code wins."""
    monkeypatch.setenv("GUARD_PORT", "9000")
    monkeypatch.setenv("GUARD_AUDIT_RATE", "0.25")
    assert (GuardSettings().port, GuardSettings().audit_rate) == (9000, 0.25)
    assert GuardSettings(port=1).port == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("AUDIT_RATE", "1.5"),
        ("UNCERTAIN_ABOVE", "-0.1"),
        ("RETENTION_DAYS", "0"),
        ("PROVIDER", "tpu"),
        ("ACTIONS", '{"self-harm": "ignore"}'),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_bounds(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A value that cannot work is refused at once."""
    monkeypatch.setenv(f"GUARD_{name}", value)
    with pytest.raises(ValidationError):
        GuardSettings()


def test_frozen() -> None:
    """Nobody changes a setting while the program runs."""
    with pytest.raises(ValidationError):
        GuardSettings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", GuardSettings.model_fields)
def test_descriptions(name: str) -> None:
    """Every setting says what it is for."""
    assert (GuardSettings.model_fields[name].description or "").endswith(".")


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("sqlite:////srv/guard.sqlite", "sqlite+aiosqlite:////srv/guard.sqlite"),
    ],
)
def test_store_url(given: str, driver: str) -> None:
    """A database's URL gets the asynchronous driver, whatever it is written with."""
    assert GuardSettings(database_url=given).store_url == driver


def test_embedded(tmp_path: Path) -> None:
    """Without a URL the store is a SQLite file in the data folder, and so is the keyring unless it is elsewhere."""
    settings = GuardSettings(data_dir=tmp_path)
    assert settings.store_url == f"sqlite+aiosqlite:///{tmp_path}/guard.sqlite"
    assert settings.keyring_path == tmp_path / "keyring.json"
    assert GuardSettings(keyring_file=Path("/k")).keyring_path == Path("/k")


def test_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions that are not set are the taxonomy's."""
    monkeypatch.setenv("GUARD_ACTIONS", '{"legal-advice": "escalate"}')
    settings = GuardSettings()
    assert settings.action(Category.LEGAL_ADVICE) is Action.ESCALATE
    assert settings.action(Category.SELF_HARM) is GUIDELINES[Category.SELF_HARM].action


def test_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the keyring nor the database's password is in what is printed."""
    monkeypatch.setenv("GUARD_KEYRING", "hush-keyring")
    monkeypatch.setenv("GUARD_DATABASE_URL", "postgresql://u:hush-password@h/d")
    assert "hush" not in f"{GuardSettings()!r} {GuardSettings()!s}"
