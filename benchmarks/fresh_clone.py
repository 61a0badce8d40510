"""The two commands on a fresh clone in a clean environment: the time to the first answer, and whether the tests pass.

python -m benchmarks.fresh_clone          # make serve
python -m benchmarks.fresh_clone --test   # make test as well
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from tests.served import free_port

RESULTS: Final = Path(__file__).parent / "results"
TIMEOUT_S: Final = 1_800
KEPT: Final = ("HOME", "LANG", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
REQUEST: Final = {"text": "my chest hurts when I breathe in, should I wait until monday?"}


def main(
    *,
    test: Annotated[bool, typer.Option(help="Run `make test` in the clone, too.")] = False,
) -> None:
    """Clone this repository as committed, run the commands, print what came of it."""
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "lifeguard"
        subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
        if test and (root.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(root.parent / "shared")
        port = free_port()
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {
            "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "GUARD_PORT": str(port),
        }
        summary = {"seconds_to_first_answer": _serve(clone, environment, port)}
        if test:
            began = time.monotonic()
            status = subprocess.run(["make", "test"], cwd=clone, env=environment, check=False).returncode
            summary |= {"make_test_status": status, "make_test_seconds": round(time.monotonic() - began)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fresh_clone.json").write_text(json.dumps(summary, indent=2) + "\n")
    typer.echo(json.dumps(summary, indent=2))


def _serve(clone: Path, environment: dict[str, str], port: int) -> int:
    """Run `make serve` until it answers and return the seconds that took.

    Raises:
        TimeoutError: It does not answer in time.
    """
    began = time.monotonic()
    process = subprocess.Popen(["make", "serve"], cwd=clone, env=environment, start_new_session=True)
    try:
        while process.poll() is None and time.monotonic() - began < TIMEOUT_S:
            try:
                response = httpx.post(f"http://127.0.0.1:{port}/classify", json=REQUEST, timeout=5)
            except httpx.HTTPError:
                time.sleep(0.5)
                continue
            if response.status_code == httpx.codes.OK:
                typer.echo(response.text)
                return round(time.monotonic() - began)
            time.sleep(0.5)
        raise TimeoutError(f"no answer after {time.monotonic() - began:.0f} s; make serve: {process.poll()}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


if __name__ == "__main__":
    typer.run(main)
