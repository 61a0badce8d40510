"""A trained network into `exports/0007/`: ONNX through optimum and `learner.quantise`, tokenizer, manifest and report.

The ONNX is compared with the network, and the smaller artefacts with it, before anything becomes visible;
`learner.gate` judges what lies there.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the first import of onnxruntime, here or in optimum

import msgspec
import numpy as np
import torch
from optimum.exporters.onnx import export as onnx_export
from optimum.exporters.onnx.model_configs import BertOnnxConfig, DistilBertOnnxConfig, RobertaOnnxConfig
from torch import Tensor
from torch.jit._trace import TracerWarning
from transformers import PreTrainedModel

from guard.bundle import TOKENIZER, Bundle
from guard.errors import BrokenExport
from guard.exports import MANIFEST, Artefact, BatchPolicy, Exports, Manifest, SelfTest, sha256
from guard.taxonomy import CATEGORIES
from learner import quantise
from learner.calibrate import Calibration
from learner.dataset import Dataset
from learner.network import Network
from learner.report import AGREEMENT, ONNX_DIFFERENCE, ONNX_TOLERANCE, RUN_MS, score

Report = Callable[[Bundle, Path], Mapping[str, float]]

_MODEL: Final = "model.onnx"
_OPSET: Final = 17
_PROBES: Final = 64
_PROBE_BATCHES: Final = 8
# fp32 on a CPU gains a fifth from batches of 8 short texts and nothing from more; 512 tokens keep a run near 50 ms.
_BATCH: Final = BatchPolicy(max_batch_size=8, max_batch_tokens=512)
_GPU_BATCH: Final = BatchPolicy(max_batch_size=64, max_batch_tokens=16_384)
_ALONE: Final = BatchPolicy(max_batch_size=1, max_batch_tokens=1)
_INDEPENDENCE: Final = 1e-4  # logits by which batch mates and padding may move a message's; float sums differ by 3e-6
_MIN_AGREEMENT: Final = 0.99
_CALIBRATED_WITH: Final = 768  # texts; on texts beyond them the ranges of 400 were too narrow in one layer
_LIBRARIES: Final = (
    "lifeguard",
    "numpy",
    "onnx",
    "onnxruntime",
    "optimum",
    "optimum-onnx",
    "scikit-learn",
    "tokenizers",
    "torch",
    "transformers",
)
_SELF_TESTS: Final = (
    "What time is it in Tokyo?",
    "Write a haiku about the first snow on a quiet street.",
    "How do I reverse a list in Python without changing the original one?",
    "Remind me to water the plants on Sunday evening, and then tell me a short joke about gardeners, please.",
    "Traduis « bonne journée » en anglais.",
)


def export(
    network: Network,
    calibration: Calibration,
    dataset: Dataset,
    exports: Exports,
    *,
    parent: str | None,
    cycle_id: int | None,
    metrics: Mapping[str, float],
    report: Report,
) -> str:
    """Publish a network as the next version and return it; nothing is visible unless all of it is good.

    Args:
        network: Trained, on the CPU.
        calibration: Its temperature goes into the graph, its thresholds into the manifest.
        dataset: What the network was trained on.
        exports: Where to publish.
        parent: The champion it competes with.
        cycle_id: The cycle that made it.
        metrics: Figures of the training for the manifest.
        report: Writes `report.md` and its plots into the folder, from the export as it will serve, and returns more
            figures for the manifest.

    Raises:
        BrokenExport: The ONNX does not give the network's logits.
    """
    network.eval()
    with exports.publish() as (version, folder):
        _write_onnx(network, calibration.temperature, folder / _MODEL)
        (folder / TOKENIZER).write_text(network.backbone.tokenizer_json, encoding="utf-8")
        draft = Manifest(
            version=version,
            parent=parent,
            created_at=datetime.now(UTC),
            backbone=network.backbone.name,
            labels=CATEGORIES,
            thresholds=dict(calibration.thresholds),
            temperature=calibration.temperature,
            max_tokens=network.max_tokens,
            pad_id=network.backbone.pad_id,
            pad_token=network.backbone.pad_token,
            artefacts=(Artefact(_MODEL, "fp32", _BATCH),),
            files={},
            self_test=(),
            cycle_id=cycle_id,
            snapshot=dataset.digest,
            libraries={library: installed(library) for library in _LIBRARIES},
        )
        bundle = Bundle.untested(folder, draft, draft.artefacts[0])
        probes = _probes(dataset)
        figures = {**metrics, ONNX_DIFFERENCE: _compare(network, calibration.temperature, bundle, probes)}
        tests = tuple(_self_tests(bundle))
        whole = msgspec.structs.replace(bundle.artefact, agreement=1.0, run_ms=_run_ms(bundle, probes))
        smaller = list(_smaller(bundle, folder, dataset, probes))
        figures |= {f"{AGREEMENT}.{a.precision}": a.agreement for a in (whole, *smaller) if a.agreement is not None}
        figures |= {f"{RUN_MS}.{a.precision}": a.run_ms for a in (whole, *smaller) if a.run_ms is not None}
        fit = [a for a in smaller if (folder / a.file).exists()]
        draft = msgspec.structs.replace(draft, artefacts=(whole, *fit), self_test=tests, metrics=figures)
        serving = min((a for a in draft.artefacts if a.precision != "fp16"), key=lambda a: a.run_ms or 0.0)
        figures |= report(Bundle.untested(folder, draft, serving), folder)
        files = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        manifest = msgspec.structs.replace(draft, files=files, metrics=figures)
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    return version


class _Outputs:
    """The outputs of the graph, mixed into optimum's configuration of an architecture."""

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return {"logits": {0: "batch_size"}, "embedding": {0: "batch_size"}}


class _Bert(_Outputs, BertOnnxConfig):  # type: ignore[misc] # optimum has no types
    """BERT, without token types: they are all zero, which is what the encoder takes when there are none."""

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return {name: axes for name, axes in super().inputs.items() if name != "token_type_ids"}


class _DistilBert(_Outputs, DistilBertOnnxConfig):  # type: ignore[misc] # optimum has no types
    """DistilBERT."""


class _Roberta(_Outputs, RobertaOnnxConfig):  # type: ignore[misc] # optimum has no types
    """RoBERTa and XLM-RoBERTa."""


_CONFIGS: Final[Mapping[str, Any]] = {
    "bert": _Bert,
    "distilbert": _DistilBert,
    "roberta": _Roberta,
    "xlm-roberta": _Roberta,
}


class _Graph(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What is traced: the network with its logits divided by the temperature."""

    _supports_sdpa = True  # as its encoder does

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__(network.encoder.config)
        self.network = network
        self.temperature = temperature

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        logits, embedding = self.network(input_ids, attention_mask)
        return {"logits": logits / self.temperature, "embedding": embedding}


def _write_onnx(network: Network, temperature: float, path: Path) -> None:
    graph = _Graph(network, temperature)
    config = _CONFIGS[graph.config.model_type](graph.config, task="feature-extraction")
    with _quiet():
        onnx_export(graph, config, path, opset=_OPSET)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush what optimum's way of exporting is known to warn of; whether the graph is right is measured afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning, r"torch\.onnx\.")
        warnings.filterwarnings("ignore", category=TracerWarning, module=r"(transformers|torch)\.")
        yield


def _smaller(bundle: Bundle, folder: Path, dataset: Dataset, probes: Sequence[str]) -> Iterator[Artefact]:
    """Write int8 and fp16, measure them beside fp32, and delete the file of one that decides otherwise too often."""
    source, decisions = folder / _MODEL, score(bundle, dataset.dev).decisions
    texts = [e.text for e in dataset.train]
    chosen = (texts[i] for i in np.linspace(0, len(texts) - 1, min(len(texts), _CALIBRATED_WITH)).astype(int))
    quantise.to_int8(
        source, folder / "model.int8.onnx", (bundle.feed(w[:1]) for t in chosen for w in bundle.encode([t]))
    )
    quantise.to_float16(source, folder / "model.fp16.onnx")
    for precision, batch in (("int8", _BATCH), ("fp16", _GPU_BATCH)):
        artefact = Artefact(f"model.{precision}.onnx", precision, batch)
        other = Bundle.untested(folder, bundle.manifest, artefact)
        agreement = float((score(other, dataset.dev).decisions == decisions).mean())
        if agreement < _MIN_AGREEMENT:
            (folder / artefact.file).unlink()
        elif precision == "int8" and _spread(other, probes) > _INDEPENDENCE:
            artefact = msgspec.structs.replace(artefact, batch=_ALONE)
        yield msgspec.structs.replace(
            artefact, self_test=tuple(_self_tests(other)), agreement=agreement, run_ms=_run_ms(other, probes)
        )


def _run_ms(bundle: Bundle, texts: Sequence[str]) -> float:
    """Return the CPU milliseconds of a run of one message, tokenizing not counted."""
    windows = [windows[:1] for windows in bundle.encode(texts)]
    bundle.run(windows[0])
    began = time.thread_time()
    for window in windows:
        bundle.run(window)
    return 1000 * (time.thread_time() - began) / len(windows)


def _spread(bundle: Bundle, texts: Sequence[str]) -> float:
    """Return by how many logits batch mates and padding move a message's at most."""
    windows = [windows[0] for windows in bundle.encode(texts)]
    alone = np.concatenate([bundle.run([window]).logits for window in windows])
    mixed = [bundle.run(windows[i::_PROBE_BATCHES]).logits for i in range(_PROBE_BATCHES)]
    return max(float(np.abs(batch - alone[i::_PROBE_BATCHES]).max()) for i, batch in enumerate(mixed))


def _probes(dataset: Dataset) -> list[str]:
    """Return 64 texts from the shortest to the longest there are, prefixes of them where there are too few."""
    texts = sorted({e.text for e in (*dataset.train, *dataset.dev)}, key=len)
    if len(texts) < _PROBES:
        texts += [text[: 1 + cut] for cut in range(_PROBES) for text in texts]
    return [texts[i] for i in np.linspace(0, len(texts) - 1, _PROBES).astype(int)]


def _compare(network: Network, temperature: float, bundle: Bundle, texts: Sequence[str]) -> float:
    """Return the largest difference of logits between the ONNX, run in padded batches, and the network, run unpadded.

    Raises:
        BrokenExport: It is above 1e-3, or a text's likeliest category is another one.
    """
    windows = [windows[0] for windows in bundle.encode(texts)]
    mixed = [windows[i::_PROBE_BATCHES] for i in range(_PROBE_BATCHES)]  # short and long ones in every batch
    got = np.concatenate([bundle.run(batch).logits for batch in mixed])
    with torch.inference_mode():
        rows = [network(*network.collate([window.ids]))[0] / temperature for batch in mixed for window in batch]
    expected = torch.cat(rows).numpy()
    difference = float(np.abs(got - expected).max())
    other = int((got.argmax(axis=1) != expected.argmax(axis=1)).sum())
    if other or not difference <= ONNX_TOLERANCE:  # not <=, because NaN is neither
        raise BrokenExport(
            f"The ONNX differs from the network by up to {difference:.2g} logits on {len(texts)} texts (limit "
            f"{ONNX_TOLERANCE:g}), and in the category of {other}."
        )
    return difference


def _self_tests(bundle: Bundle) -> Iterator[SelfTest]:
    for text in _SELF_TESTS:
        logits = bundle.run(bundle.encode([text])[0]).logits[0]
        yield SelfTest(text, tuple(round(float(value), 6) for value in logits))
