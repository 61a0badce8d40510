"""The images, as far as they can be judged without building them."""

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest

from guard.settings import GuardSettings
from learner.cli import Standing
from learner.settings import LearnerSettings
from tests.deploy import commands

ROOT: Final = Path(__file__).parents[2]
FINAL: Final = ("guard", "guard-gpu", "learner")
FOLDERS: Final = {"/var/lib/lifeguard/data", "/var/lib/lifeguard/exports"}


@dataclass
class Stage:
    """A stage of the Dockerfile: what it is built from and its instructions, continued lines joined."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        """Return the arguments of every instruction of a kind."""
        return [arguments for word, arguments in self.instructions if word == keyword]

    def one(self, keyword: str) -> str:
        """Return the arguments of the only instruction of a kind."""
        (arguments,) = self.all(keyword)
        return arguments

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the image sets."""
        return dict(pair.split("=", 1) for line in self.all("ENV") for pair in line.split())


def read_stages() -> tuple[dict[str, Stage], dict[str, str]]:
    """Return the stages by name, and the defaults of the build arguments that stand before the first."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = re.sub(r"\s*\\\n\s*", " ", text)
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    current: Stage | None = None
    for line in filter(None, text.splitlines()):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages[name] = Stage(base)
        elif current is None:
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            current.instructions.append((keyword, rest))
    return stages, arguments


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    return read_stages()[0]


def test_targets(stages: dict[str, Stage]) -> None:
    """The three targets exist."""
    assert set(FINAL) <= set(stages)


def test_bases_are_pinned(stages: dict[str, Stage]) -> None:
    """Every image that comes from elsewhere has a tag that names a patch release."""
    arguments = read_stages()[1]
    outside = {stage.base for stage in stages.values()} - set(stages)
    images = {arguments[base.strip("${}")] for base in outside}
    assert images
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+-", image)] == []


@pytest.mark.parametrize("name", FINAL)
def test_runs_as_nobody_in_particular(stages: dict[str, Stage], name: str) -> None:
    """The last word on the user is a fixed uid that is not root, and the program stays root's, not to be rewritten."""
    stage = stages[name]
    assert stage.one("USER") == "10001:10001"
    after = [keyword for keyword, _ in stage.instructions]
    assert "RUN" not in after[after.index("USER") :]
    assert not any("--chown" in line for line in stage.all("COPY"))


@pytest.mark.parametrize("name", FINAL)
def test_writes_only_to_volumes(stages: dict[str, Stage], name: str) -> None:
    """Data and exports are volumes that belong to the user, and the settings lead there."""
    stage = stages[name]
    assert set(json.loads(stage.one("VOLUME"))) == FOLDERS
    assert {stage.environment["GUARD_DATA_DIR"], stage.environment["GUARD_EXPORTS_DIR"]} == FOLDERS
    assert all(re.search(rf"install .*--owner=10001.* {folder}\b", stage.all("RUN")[-1]) for folder in FOLDERS)


@pytest.mark.parametrize("name", FINAL)
def test_variables_are_settings(stages: dict[str, Stage], name: str) -> None:
    """Each GUARD_ or LEARNER_ variable is a setting and its value is accepted."""
    for prefix, settings in (("GUARD_", GuardSettings), ("LEARNER_", LearnerSettings)):
        given = {k.removeprefix(prefix).lower(): v for k, v in stages[name].environment.items() if k.startswith(prefix)}
        assert set(given) <= set(settings.model_fields)
        settings.model_validate(given)


@pytest.mark.parametrize("name", FINAL)
def test_no_telemetry_no_buffering_no_secrets(stages: dict[str, Stage], name: str) -> None:
    """Logs come out at once, onnxruntime sends nothing home, and no key is baked in."""
    environment = stages[name].environment
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert not any(re.search("KEY|SECRET|PASSWORD|TOKEN|DATABASE_URL", variable) for variable in environment)


@pytest.mark.parametrize(
    ("name", "build", "extras"),
    [
        ("guard", "build-guard", "cpu,otel"),
        ("guard-gpu", "build-guard-gpu", "gpu,otel"),
        ("learner", "build-learner", "cpu,learner"),
    ],
)
def test_installs_pinned_extras(stages: dict[str, Stage], name: str, build: str, extras: str) -> None:
    """Each image holds the environment made for it, of extras that exist, by the pins."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(declared)
    assert stages[name].one("COPY") == f"--from={build} /opt/lifeguard /opt/lifeguard"
    (install,) = (line for line in stages[build].all("RUN") if "pip install" in line)
    assert install.endswith(f"--constraint constraints.txt '.[{extras}]'")


@pytest.mark.parametrize("name", ["guard", "guard-gpu"])
def test_guard_serves_alone(stages: dict[str, Stage], name: str) -> None:
    """A guard's image serves to others on its port, without a learner."""
    stage = stages[name]
    assert stage.environment["GUARD_HOST"] == "0.0.0.0"
    assert stage.environment["GUARD_LEARNER"] == "false"
    assert stage.environment["GUARD_PORT"] == stage.one("EXPOSE")


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (500, False), (None, False)])
@pytest.mark.parametrize("name", ["guard", "guard-gpu"])
def test_guard_is_ill_when_it_does_not_answer(
    stages: dict[str, Stage], name: str, status: int | None, *, healthy: bool
) -> None:
    """The check asks /healthz, past any proxy, and fails on an error as on silence."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 500 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        environment = {"GUARD_PORT": str(server.server_port), "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
        if status is None:
            server.server_close()
            assert not _passes(stages[name], environment)
            return
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert _passes(stages[name], environment) is healthy
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", FINAL)
def test_starts_a_command_that_exists(stages: dict[str, Stage], name: str) -> None:
    """The image starts an installed command in exec form, so that signals reach it."""
    words = json.loads(stages[name].one("CMD"))
    assert words == (["learner", "run"] if name == "learner" else ["guard", "serve"])
    commands.check(words)


@pytest.mark.parametrize(
    ("standing", "status", "healthy"),
    [('{"learner_until": "2026-11-20T12:00:00Z"}', 0, True), ('{"learner_until": null}', 0, False), ("", 1, False)],
)
def test_learner_is_ill_when_nobody_learns(
    stages: dict[str, Stage], tmp_path: Path, standing: str, status: int, *, healthy: bool
) -> None:
    """The check asks `learner status --json` and fails when no learner is at work, or when it gets no answer."""
    commands.check(["learner", "status", "--json"])
    assert "learner_until" in {f.name for f in fields(Standing)}
    program = tmp_path / "learner"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'status --json' ] && echo '{standing}'\nexit {status}\n")
    program.chmod(0o755)
    assert _passes(stages["learner"], {"PATH": str(tmp_path)}) is healthy


def test_context_holds_what_is_copied(stages: dict[str, Stage]) -> None:
    """Everything is kept from the builder but what the images copy."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {word.strip("./") for line in stages["source"].all("COPY") for word in line.split()} - {""}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in let_in)


def _passes(stage: Stage, environment: dict[str, str]) -> bool:
    """Return whether the image's health check, run here, says that all is well."""
    program, flag, code = json.loads(stage.one("HEALTHCHECK").partition("CMD ")[2])
    assert (program, flag) == ("python", "-c")
    checked = subprocess.run([sys.executable, flag, code], env=environment, capture_output=True, check=False)
    return checked.returncode == 0
