"""How often a harmful text is flagged and a harmless one is: ours on the sets of `benchmarks/sets`, beside keyword lists."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.peers.corpus import SETS
from benchmarks.peers.environments import Environments, Unavailable, clean_environment, versions
from benchmarks.peers.roster import SERVICES
from guard.bundle import Bundle
from guard.decision import decide, softmax
from guard.text import normalise

LITELLM: Final = ("litellm==1.104.5", "fastapi")
_FILTER_S: Final = 300


def sets() -> dict[str, list[str]]:
    """Return the texts by set; those of `commands` and `harmless_words` are harmless, all others harmful."""
    found = {}
    for file in sorted(SETS.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found[file.stem] = [row["text"] for row in rows]
    return found


def guard_flags(bundle: Bundle, texts: Sequence[str]) -> list[bool]:
    """Return what the guard flags, decided as in service: all windows, the export's thresholds."""
    windows = bundle.encode([normalise(text) for text in texts])
    return [decide(softmax(bundle.run(part).logits), bundle.thresholds).flagged for part in windows]


def filter_flags(environments: Environments, folder: Path, texts: Sequence[str]) -> tuple[list[bool], str]:
    """Return what LiteLLM's content filter blocks, and its version.

    Raises:
        Unavailable: It cannot be installed or run.
    """
    python = environments.python("litellm", LITELLM)
    file = folder / "texts.json"
    file.write_text(json.dumps(list(texts)))
    try:
        ended = subprocess.run(
            [python, SERVICES / "content_filter.py", file],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=_FILTER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the content filter took longer than {_FILTER_S} s") from None
    if ended.returncode:
        raise Unavailable(f"the content filter ended with {ended.returncode}: {ended.stderr.strip()[-200:]}")
    said = json.loads(ended.stdout.splitlines()[-1])
    return said, versions(python, ("litellm",))["litellm"]


def shares(found: dict[str, list[str]], flags: Sequence[bool]) -> dict[str, float]:
    """Return the share of each set that is flagged, flags given in the order of the sets."""
    told = iter(flags)
    flagged = {name: sum(next(told) for _ in rows) for name, rows in found.items()}
    return {name: round(flagged[name] / len(rows), 4) for name, rows in found.items()}
