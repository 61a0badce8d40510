"""README.md and what it leads to do what they say: commands parse, requests are taken, answers are the ones given."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import msgspec
import pytest
import yaml

from guard.app import create_app
from guard.review_schemas import LabelRequest
from guard.schemas import ClassifyRequest
from guard.settings import GuardSettings
from tests.deploy import commands
from tests.deploy.test_dockerfile import read_stages

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text()
_PAGES: Final = ("clients", "monitoring", "desk", "messages")
PAGES: Final = README + "".join((ROOT / "docs" / f"{page}.md").read_text() for page in _PAGES)
FIRST_SCREEN: Final = README.partition("\n## ")[0]
ADDRESS: Final = "http://127.0.0.1:8000"
_BODIES: Final[dict[str, type[msgspec.Struct]]] = {"/classify": ClassifyRequest, "/review/labels": LabelRequest}


class Served(Protocol):
    """A guard that runs in a process of its own."""

    base_url: str


@dataclass(frozen=True)
class Example:
    """A request as the README's curl sends it, and the JSON printed under it, if any."""

    method: str
    path: str
    headers: dict[str, str]
    body: str | None
    answer: Any

    def send(self, base_url: str) -> httpx.Response:
        """Send it to a guard that runs."""
        return httpx.request(
            self.method, base_url + self.path, headers=self.headers, content=self.body, timeout=30, trust_env=False
        )


def _blocks(page: str) -> list[tuple[str, str]]:
    """Return the fenced blocks: (language, content)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def _lines(page: str) -> Iterator[list[str]]:
    """Yield each command of the shell blocks, continued lines joined, as words without comments."""
    for language, content in _blocks(page):
        if language in {"bash", "console"}:
            plain = re.sub(r"[ \t]+# .*$", "", content.replace("\\\n", " "), flags=re.MULTILINE)
            lexer = shlex.shlex(plain, posix=True, punctuation_chars=";&|\n")
            lexer.whitespace, lexer.commenters = " \t", ""
            lexer.whitespace_split = True
            words = list(lexer)
            while words:
                line = list(takewhile(lambda word: not set(word) <= set(";&|\n"), words))
                words = words[len(line) + 1 :]
                if line:
                    yield line


def _examples(page: str) -> list[Example]:
    """Return the curl commands, each with the JSON block that follows its own."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="body")
    parser.add_argument("url")
    blocks = [*_blocks(page), ("", "")]
    found = []
    for (language, content), (next_language, next_content) in pairwise(blocks):
        answer = json.loads(next_content) if next_language == "json" else None
        for words in _lines(f"```{language}\n{content}```\n"):
            if words[0] == "curl":
                given = parser.parse_args(words[1:])
                found.append(
                    Example(
                        method=given.method or ("GET" if given.body is None else "POST"),
                        path=given.url.removeprefix(ADDRESS),
                        headers=dict(header.split(": ", 1) for header in given.headers),
                        body=given.body,
                        answer=answer,
                    )
                )
    return found


def _shape(value: Any) -> Any:
    """Return a JSON value with every number and every string replaced by its type."""
    if isinstance(value, dict):
        return {key: _shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_shape(part) for part in value]
    return type(value)


def test_first_screen_is_two_commands_and_a_request() -> None:
    """A reader first sees what to type to serve, to test and to ask, and what is answered."""
    assert [language for language, _ in _blocks(FIRST_SCREEN)] == ["bash", "bash", "json"]
    assert [words[:2] for words in _lines(FIRST_SCREEN)] == [["make", "serve"], ["make", "test"], ["curl", "-s"]]
    assert FIRST_SCREEN.count("\n") < 35


def test_make_knows_its_goals() -> None:
    """Every `make …` in the README is a goal that make would run."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    goals = {words[words.index("make") + 1] for words in _lines(README) if "make" in words}
    assert {"serve", "test"} <= goals
    for goal in goals:
        planned = subprocess.run(
            ["make", "-n", goal], cwd=ROOT, env=outside, capture_output=True, text=True, check=False
        )
        assert planned.returncode == 0, planned.stderr
        assert planned.stdout.strip()


def test_commands_parse() -> None:
    """Every `guard …` and `learner …` on the pages is one that the programs take, in a container too."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    checked = set()
    for words in _lines(PAGES):
        if words[0].startswith(".venv/bin/"):
            words[0] = words[0].removeprefix(".venv/bin/")
        elif words[:3] == ["docker", "compose", "run"]:
            service, *rest = [word for word in words[3:] if word not in {"--rm", "--no-deps"}]
            assert service in services
            words[:] = rest
        else:
            continue
        commands.check(list(takewhile(lambda word: word not in {"<", ">"}, words)))
        checked.add(" ".join(words[:2]))
    assert {"guard check", "guard keys", "guard reviewers", "guard models", "guard erase", "guard keyring"} <= checked


def test_inline_commands_parse() -> None:
    """So is every whole command named in a sentence."""
    named = re.findall(r"`((?:guard|learner) [a-z]+(?: [a-z]+)?)`", PAGES)
    assert {"learner status", "learner cycle"} <= set(named)
    taking = {"guard check", "guard erase", "guard models rollback", "guard models shadow"}
    for command in set(named) - taking:  # what they take besides stands in the examples
        commands.check(command.split())


@pytest.mark.parametrize("example", _examples(README), ids=lambda e: f"{e.method} {e.path}")
def test_requests_fit_the_routes(example: Example) -> None:
    """Every request in the README goes to a route that there is, with a body of its type."""
    routes: dict[str, set[str]] = {
        route.path: getattr(route, "methods", set()) for route in create_app(GuardSettings()).routes
    }
    assert example.method in routes[example.path]
    if example.body is not None:
        msgspec.json.decode(example.body, type=_BODIES[example.path])
        assert example.headers["Content-Type"] == "application/json"


def test_paths_exist() -> None:
    """Every local link of the README and of the pages in docs/ leads somewhere, and every folder of its listing is there."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    links = [
        page.parent / link.partition("#")[0]
        for page in pages
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text())
        if "://" not in link
    ]
    folders = [ROOT / name for name in re.findall(r"^(\w+/)  ", README, flags=re.MULTILINE)]
    assert len(folders) >= 6
    assert [str(path) for path in (*links, *folders) if not path.exists()] == []


def test_listed_modules_exist() -> None:
    """Every module in the listing of guard/ is there, and none of guard/ is missing from it."""
    listing = README.partition("guard/       the online half\n")[2].partition("learner/     ")[0]
    named = {word for line in listing.splitlines() for word in line[:35].split()}
    modules = {path.stem for path in (ROOT / "guard").glob("*.py")} - {"__init__"}
    folders = {f"{path.name}/" for path in (ROOT / "guard").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == modules | folders


def test_settings_are_real() -> None:
    """Every variable that the pages name stands in docs/settings.md."""
    page = (ROOT / "docs" / "settings.md").read_text()
    named = set(re.findall(r"\b(?:GUARD|LEARNER)_[A-Z_]+\b", PAGES))
    assert named
    assert {name for name in named if f"`{name}`" not in page} == set()


def test_container_facts() -> None:
    """The uid that the README gives is the images'."""
    (uid,) = set(re.findall(r"uid (\d+)", README))
    assert all(stage.one("USER").startswith(f"{uid}:") for stage in read_stages()[0].values() if stage.all("USER"))


@pytest.mark.slow
def test_first_answer_is_the_printed_one(served: Served) -> None:
    """The first request, sent to a guard that runs, gets the printed answer: same shape, same verdict."""
    (example,) = _examples(FIRST_SCREEN)
    response = example.send(served.base_url)
    assert response.status_code == httpx.codes.OK
    answer, printed = response.json(), example.answer
    assert _shape(answer) == _shape(printed)
    for given, shown in zip(answer["results"], printed["results"], strict=True):
        assert {k: given[k] for k in ("category", "flagged", "action", "windows")} == {
            k: shown[k] for k in ("category", "flagged", "action", "windows")
        }


@pytest.mark.slow
def test_other_answers_are_the_printed_ones(served: Served) -> None:
    """Every other request with a printed answer gets exactly that; the other classifications succeed."""
    for example in _examples(README)[1:]:
        if example.answer is not None:
            assert example.send(served.base_url).json() == example.answer
        elif example.path == "/classify":
            assert example.send(served.base_url).status_code == httpx.codes.OK


@pytest.mark.slow
def test_python_prints_what_stands_under_it(served: Served) -> None:
    """Each program on our own client, run against a guard, prints the block that follows it."""
    programs = [
        (content, printed)
        for (language, content), (_, printed) in pairwise([*_blocks(PAGES), ("", "")])
        if language == "python" and "guard.client" in content
    ]
    assert len(programs) > 1
    for program, printed in programs:
        assert ADDRESS in program
        ended = subprocess.run(
            [sys.executable, "-c", program.replace(ADDRESS, served.base_url)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.stdout, ended.stderr) == (printed, "")
