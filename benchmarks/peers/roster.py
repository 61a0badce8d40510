"""Who takes part: how each server is installed, started, asked, and how its answers are read.

Whatever a server's own shape, an answer is reduced to what all can say: is a text harmful at 0.5, and, where a server
tells them, the scores of the six labels.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.peers.load import OK, post
from guard.taxonomy import HARMFUL

CORES: Final = len(os.sched_getaffinity(0))
SERVICES: Final = Path(__file__).parent / "services"
FP32: Final = "fp32"
THRESHOLD: Final = 0.5
UNSAFE: Final = tuple(str(category) for category in HARMFUL)
_TORCH: Final = "torch==2.13.0"  # the CPU build; a plain `torch` brings gigabytes of CUDA


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says of one text; scores by label where it gives them."""

    flagged: bool
    scores: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs.

    Args:
        python: Of its environment.
        model: The Hugging Face folder.
        exports: Our own folder of versions.
        folder: Its own; kept until the run ends.
        port: To listen on.
    """

    python: Path
    model: Path
    exports: Path
    folder: Path
    port: int


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a peer.

    Args:
        name: As the table shows it.
        environment: Further variables.
        workers: Processes, for the servers that can have several.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1


DEFAULT: Final = Setting("default")
ONE_THREAD: Final = Setting("1 thread", {"OMP_NUM_THREADS": "1"})
MANY_WORKERS: Final = Setting(f"{CORES} workers, 1 thread", {"OMP_NUM_THREADS": "1"}, CORES)


@dataclass(frozen=True, slots=True)
class Peer:
    """One server.

    Args:
        name: As `--only` takes it.
        title: As the table shows it.
        precision: Of its arithmetic.
        environment: Its name; empty for our own.
        requirements: Of that environment.
        packages: Those whose versions are told.
        settings: The ways to run it; the fastest is measured in full.
        command: Returns what to run, and further variables; writes what the server reads.
        ask: Returns path and body of a request about some texts.
        read: Returns the answers in a response.
        lists: Whether one request may hold several texts.
        aside: Whether it is shown for one difference only, and measured in the closed loops of the short corpus alone.
    """

    name: str
    title: str
    precision: str
    environment: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    settings: tuple[Setting, ...]
    command: Callable[[Place, Setting], tuple[list[str], dict[str, str]]]
    ask: Callable[[Sequence[str]], tuple[str, object]]
    read: Callable[[Any], list[Answer]]
    lists: bool = True
    aside: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is our guard."""
        return not self.environment

    def request(self, texts: Sequence[str]) -> bytes:
        """Return a whole request about some texts."""
        return post(*self.ask(texts))

    def answers(self, port: int, texts: Sequence[str]) -> list[Answer]:
        """Ask once and return what is said of each text.

        Raises:
            httpx.HTTPError: The answer is no 200.
        """
        path, body = self.ask(texts)
        response = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=60, trust_env=False)
        return self.read(response.raise_for_status().json())

    def is_up(self, port: int) -> bool:
        """Return whether it answers a question."""
        path, body = self.ask(["hello"])
        try:
            response = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=60, trust_env=False)
        except httpx.TransportError:
            return False
        return response.status_code == OK


def scored(scores: Mapping[str, float]) -> Answer:
    """Return the answer that scores make."""
    return Answer(max(scores[label] for label in UNSAFE) >= THRESHOLD, scores)


def _guard(artefact: str, *, store: bool = False) -> Peer:
    def command(place: Place, setting: Setting) -> tuple[list[str], dict[str, str]]:
        variables = {
            "GUARD_PORT": str(place.port),
            "GUARD_DATA_DIR": str(place.folder / "var"),
            "GUARD_EXPORTS_DIR": str(place.exports),
            "GUARD_LEARNER": "false",
            "GUARD_ARTEFACT": artefact,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        return [str(place.python), "-m", "guard.cli", "serve"], variables | dict(setting.environment)

    return Peer(
        name=f"guard-{artefact}" + ("-storing" if store else ""),
        title=f"Lifeguard ({artefact})" + (", storing" if store else ""),
        precision=artefact,
        environment="",
        requirements=(),
        packages=("onnxruntime", "tokenizers", "litestar", "granian"),
        settings=(DEFAULT,),
        command=command,
        ask=lambda texts: (
            "/classify",
            {"texts": list(texts), "store": store} if len(texts) > 1 else {"text": texts[0], "store": store},
        ),
        read=lambda body: [scored(result["scores"]) for result in body["results"]],
        aside=store,
    )


def _uvicorn(place: Place, setting: Setting, app: str) -> list[str]:
    return [
        *(str(place.python), "-m", "uvicorn", "--app-dir", str(SERVICES), app),
        *("--host", "127.0.0.1", "--port", str(place.port), "--workers", str(setting.workers)),
        *("--log-level", "warning", "--no-access-log"),
    ]


def _labels(rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[Answer]:
    return [scored({entry["label"]: entry["score"] for entry in row}) for row in rows]


def _pipeline(name: str, title: str, dtype: str) -> Peer:
    return Peer(
        name=name,
        title=title,
        precision={"float32": FP32, "bfloat16": "bf16"}[dtype],
        environment="transformers",
        requirements=("transformers==5.23.0", _TORCH, "fastapi==0.165.0", "uvicorn[standard]==0.54.0"),
        packages=("transformers", "torch", "fastapi", "uvicorn"),
        settings=(MANY_WORKERS, ONE_THREAD, DEFAULT),
        command=lambda place, setting: (
            _uvicorn(place, setting, "pipeline_server:app"),
            {"MODEL": str(place.model), "DTYPE": dtype, **setting.environment},
        ),
        ask=lambda texts: ("/classify", {"texts": list(texts)}),
        read=_labels,
    )


def _infinity(engine: str) -> Peer:
    return Peer(
        name=f"infinity-{engine}",
        title=f"infinity-emb ({engine})",
        precision=FP32,
        environment="infinity",
        requirements=(
            _TORCH,
            "infinity-emb[server,optimum,torch]==0.0.78",
            "transformers<4.49",
            "optimum<1.26",
            "click<8.2",
            "pyarrow<21",
            "datasets<3",
        ),
        packages=("infinity-emb", "torch", "transformers", "optimum", "onnxruntime"),
        settings=(ONE_THREAD, DEFAULT) if engine == "torch" else (DEFAULT,),
        command=lambda place, setting: (
            [
                *(str(place.python.parent / "infinity_emb"), "v2", "--model-id", str(place.model)),
                *("--served-model-name", "champion", "--engine", engine, "--device", "cpu"),
                *("--no-bettertransformer", "--no-model-warmup", "--trust-remote-code"),
                *("--host", "127.0.0.1", "--port", str(place.port), "--log-level", "warning"),
            ],
            {"INFINITY_ANONYMOUS_USAGE_STATS": "0", **setting.environment},
        ),
        ask=lambda texts: ("/classify", {"model": "champion", "input": list(texts)}),
        read=lambda body: _labels(body["data"]),
    )


def _llm_guard(name: str, title: str, *, padded: bool) -> Peer:
    return Peer(
        name=name,
        title=title,
        precision=FP32,
        environment="llm-guard",
        requirements=(_TORCH, "llm-guard[onnxruntime]==0.3.16", "fastapi", "uvicorn[standard]"),
        packages=("llm-guard", "transformers", "optimum", "onnxruntime"),
        settings=(DEFAULT,) if padded else (MANY_WORKERS, DEFAULT),
        command=lambda place, setting: (
            _uvicorn(place, setting, "llm_guard_server:app"),
            {
                "MODEL": str(place.model),
                "UNSAFE": ",".join(UNSAFE),
                "UNPADDED": "0" if padded else "1",
                "ORT_THREADS": setting.environment.get("OMP_NUM_THREADS", "0"),  # it knows no OpenMP
                **setting.environment,
            },
        ),
        ask=lambda texts: ("/scan", {"texts": list(texts)}),
        read=lambda body: [Answer(not entry["valid"]) for entry in body],
        lists=False,
        aside=padded,
    )


def _bentoml() -> Peer:
    return Peer(
        name="bentoml",
        title="BentoML",
        precision=FP32,
        environment="bentoml",
        requirements=("bentoml==1.4.39", "transformers==5.23.0", _TORCH),
        packages=("bentoml", "transformers", "torch"),
        settings=(MANY_WORKERS, ONE_THREAD, DEFAULT),
        command=lambda place, setting: (
            [
                *(str(place.python), "-m", "bentoml", "serve", "bento_service:Classifier"),
                *("--working-dir", str(SERVICES), "--host", "127.0.0.1", "--port", str(place.port)),
            ],
            {
                "MODEL": str(place.model),
                "WORKERS": str(setting.workers),
                "BENTOML_HOME": str(place.folder / "bentoml"),
                **setting.environment,
            },
        ),
        ask=lambda texts: ("/classify", {"texts": list(texts)}),
        read=_labels,
    )


def _nemo() -> Peer:
    config = "checks"

    def command(place: Place, setting: Setting) -> tuple[list[str], dict[str, str]]:
        classifier = {
            "engine": "local",
            "model": str(place.model),
            "task": "text-classification",
            "threshold": THRESHOLD,
            "blocked_labels": list(UNSAFE),
            "parameters": {"top_k": None, "device": -1, "trust_remote_code": True},
        }
        rails = {
            "config": {"hf_classifier": {"ours": classifier}},
            "input": {"flows": ['hf classifier check input $classifier="ours"']},
        }
        folder = place.folder / "configs" / config
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").write_text(json.dumps({"models": [], "rails": rails}))  # JSON is YAML
        return _uvicorn(place, setting, "nemo_server:app"), {"CONFIGS": str(folder.parent), **setting.environment}

    return Peer(
        name="nemo",
        title="NeMo Guardrails",
        precision=FP32,
        environment="nemo",
        requirements=("nemoguardrails[server]==0.24.1", "transformers==5.23.0", _TORCH),
        packages=("nemoguardrails", "transformers", "torch"),
        settings=(MANY_WORKERS, ONE_THREAD, DEFAULT),
        command=command,
        ask=lambda texts: (
            "/v1/checks",
            {
                "model": "none",
                "messages": [{"role": "user", "content": texts[0]}],
                "guardrails": {"config_id": config},
            },
        ),
        read=lambda body: [Answer(body["status"] == "blocked")],
        lists=False,
    )


def roster() -> list[Peer]:
    """Return all that are measured, ours first."""
    return [
        _guard(FP32),
        _guard("auto"),
        _guard("auto", store=True),
        _pipeline("transformers", "transformers + FastAPI", "float32"),
        _pipeline("transformers-bf16", "transformers + FastAPI", "bfloat16"),
        _infinity("torch"),
        _infinity("optimum"),
        _llm_guard("llm-guard", "llm-guard, unpadded", padded=False),
        _llm_guard("llm-guard-stock", "llm-guard, stock", padded=True),
        _nemo(),
        _bentoml(),
    ]


def own_python() -> Path:
    """Return the Python that runs our guard."""
    return Path(sys.executable)
