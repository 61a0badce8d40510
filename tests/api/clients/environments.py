"""Clients whose packages do not go with ours: each in an environment of its own, made once and kept in `.clients/`."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

HERE: Final = Path(__file__).parent
FOLDER: Final = Path(__file__).parents[3] / ".clients"
MADE_WITHIN_S: Final = 840  # a slow line and a busy machine; twenty seconds otherwise
_FOREIGN: Final = ("GUARD_", "LEARNER_", "OPENAI_", "LITELLM_", "PYTHON")
_QUIET: Final = {"NO_PROXY": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}


class Client:
    """A client's own code in a process that stays, so that its packages are imported once.

    It runs `ask_NAME.py` with the packages of `NAME.txt`: a line of JSON goes in for each question, one comes back.

    Args:
        name: Which client.
        log: Where everything goes that it writes besides answers.
    """

    def __init__(self, name: str, log: Path) -> None:
        self._name = name
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)} | _QUIET
        command = [str(_python_of(self._name)), str(HERE / f"ask_{self._name}.py")]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()  # it has nothing to finish, and LiteLLM takes seconds to end by itself
            self._process.communicate()

    def ask(self, questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put questions to the guard, one after the other, and return what the client made of the answers.

        Raises:
            RuntimeError: The process has ended.
        """
        return [self._put(question) for question in questions]

    def _put(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None, "the client was not started"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            outcome: dict[str, Any] = json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise RuntimeError(f"ask_{self._name}.py ended:\n{self._log.read_text()[-3000:]}") from None
        return outcome


def _python_of(name: str) -> Path:
    """Return the interpreter of the environment that `NAME.txt` describes; make it where it is missing or outdated.

    Raises:
        RuntimeError: pip could not install the packages.
    """
    requirements = HERE / f"{name}.txt"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    folder = FOLDER / name
    python = folder / "bin" / "python"
    stamp = folder / "made-from"
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sessions may want it at once
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            _run("venv", "--without-pip", str(folder))
            # The lists are whole: nothing to resolve, a third of the time. Most files are never imported nor compiled.
            _run(
                *("pip", "--python", str(python), "--quiet", "--disable-pip-version-check"),
                *("install", "--no-deps", "--no-compile", "--only-binary", ":all:", "--requirement", str(requirements)),
            )
            stamp.write_text(wanted)
    return python


def _run(*module: str) -> None:
    command = [sys.executable, "-m", *module]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=MADE_WITHIN_S, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: is PyPI reachable?\n{ended.stderr[-3000:]}")
