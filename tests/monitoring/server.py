"""A real Prometheus over one guard, with the configuration and the rules as they are deployed, only quicker."""

import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml

from tests.monitoring.expressions import RULES
from tests.monitoring.programs import program
from tests.served import ServedGuard, free_port, wait_for

STEP_S: Final = 1.0  # between two scrapes and two evaluations


class Prometheus:
    """Prometheus in a process of its own.

    Args:
        folder: Holds its configuration, its data and its output.
        guard: What it scrapes.
    """

    def __init__(self, folder: Path, guard: ServedGuard) -> None:
        self._folder = folder
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", trust_env=False, timeout=30)

    def __enter__(self) -> Self:
        configuration = yaml.safe_load((RULES / "prometheus.yml").read_text())
        step = f"{STEP_S * 1000:.0f}ms"
        configuration["global"] |= {"scrape_interval": step, "scrape_timeout": step, "evaluation_interval": step}
        configuration["rule_files"] = [str(RULES / file) for file in configuration["rule_files"]]
        configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{self._guard.port}"]
        file = self._folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration))
        command = [program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={self._folder / 'data'}"]
        command += [f"--web.listen-address={self._client.base_url.host}:{self._client.base_url.port}"]
        with (self._folder / "prometheus.log").open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_for(self._ready, timeout_s=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            finally:
                self._process.kill()
                self._process.wait()
        self._client.close()

    def instant(self, expression: str) -> list[float]:
        """Return the values that an expression has now."""
        found = self._ask("query", query=expression)
        return [float(one["value"][1]) for one in found["result"]]

    def over_time(self, expression: str, *, seconds: float) -> list[float]:
        """Return all values that an expression had within the last seconds."""
        now = time.time()
        found = self._ask("query_range", query=expression, start=now - seconds, end=now, step=STEP_S)
        return [float(value) for one in found["result"] for _, value in one["values"]]

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **parameters: Any) -> dict[str, Any]:
        answer = self._client.get(f"/api/v1/{what}", params=parameters).json()
        if answer["status"] != "success":
            raise ValueError(f"{answer.get('error')}: {parameters}")
        found: dict[str, Any] = answer["data"]
        return found

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError((self._folder / "prometheus.log").read_text()[-3000:])
        with suppress(httpx.TransportError):
            return self._client.get("/-/ready").status_code == httpx.codes.OK
        return False
