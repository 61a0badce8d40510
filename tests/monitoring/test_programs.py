"""Prometheus for the tests: the machine's, Debian's, or a reason to do without."""

from pathlib import Path

import pytest

from tests.monitoring import programs


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no Prometheus and nothing to fetch one with; returns the folder of its programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(programs, "FOLDER", tmp_path / "unpacked")
    monkeypatch.delenv("CI", raising=False)
    return folder


def _install(folder: Path, name: str, script: str) -> Path:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def test_own_program_is_used(bare: Path) -> None:
    """Where the machine has one nothing is fetched."""
    own = _install(bare, "promtool", "true")
    assert programs.program("promtool") == str(own)
    assert not programs.FOLDER.exists()


def test_without_one_tests_are_skipped(bare: Path) -> None:
    """Where none is to be had a test is skipped and says what would help."""
    with pytest.raises(pytest.skip.Exception, match="install Prometheus"):
        programs.program("promtool")


def test_without_one_ci_fails(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In CI it is a failure: there the rules must have been tried."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no promtool"):
        programs.program("promtool")


def test_debians_is_fetched_once(bare: Path, tmp_path: Path) -> None:
    """Debian's package is downloaded and unpacked, after a look for the lists where they are missing, and then kept."""
    asked = tmp_path / "asked"
    _install(bare, "apt-get", f'echo "$2" >> {asked}; [ "$2" = update ] || [ -e {tmp_path}/listed ] || exit 100')
    with pytest.raises(pytest.skip.Exception):
        programs.program("promtool")
    assert asked.read_text().split() == ["download", "update", "download"]
    (tmp_path / "listed").touch()
    asked.write_text("")
    _install(bare, "apt-get", f'echo "$2" >> {asked}; : > prometheus_2_amd64.deb')
    _install(bare, "dpkg-deb", "/bin/mkdir -p staged/usr/bin && : > staged/usr/bin/promtool")
    for _ in range(2):
        assert programs.program("promtool") == str(tmp_path / "unpacked" / "usr" / "bin" / "promtool")
    assert asked.read_text().split() == ["download"]
    assert not list((tmp_path / "unpacked").glob("*.deb"))
