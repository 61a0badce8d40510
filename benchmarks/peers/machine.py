"""What the figures were measured on: processor, its flags, cores, memory, system, versions, commit."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

_FLAGS: Final = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """Return it as one mapping."""
    said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(part.partition(":")[::2] for part in said.split("\n\n", 1)[0].splitlines())
    found = {name.strip(): value.strip() for name, value in fields.items()}
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()[0].split()[1]
    return {
        "processor": found.get("model name", platform.processor()),
        "family": found.get("cpu family"),
        "model": found.get("model"),
        "flags": [flag for flag in _FLAGS if flag in found.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory) / 2**20, 1),
        "system": platform.release(),
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


def _commit() -> str | None:
    ended = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stdout.strip() or None
