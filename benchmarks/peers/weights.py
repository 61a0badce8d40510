"""The champion as a Hugging Face folder: an export's fp32 ONNX comes in, the same weights for every peer go out.

An export keeps no torch weights, so they are read back from the graph's initialisers and compared with it.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from benchmarks.peers.roster import FP32
from benchmarks.peers.services import modeling_lifeguard
from guard.exports import Exports, Manifest
from learner import backbone
from learner.network import Network

TOLERANCE: Final = 1e-3  # of logits, as for the export itself
_MODULE: Final = "modeling_lifeguard"
_CLASS: Final = "LifeguardForSequenceClassification"
_PREFIX: Final = "network."


def fp32_model(exports: Exports, version: str) -> Path:
    """Return the fp32 ONNX of a version.

    Raises:
        ValueError: It has none.
    """
    manifest = exports.manifest(version)
    for artefact in manifest.artefacts:
        if artefact.precision == FP32:
            return exports.path(version) / artefact.file
    raise ValueError(f"Export {version} has no fp32 artefact, only {[a.precision for a in manifest.artefacts]}.")


def save_as_hugging_face(exports: Exports, version: str, folder: Path, ids: Sequence[Sequence[int]]) -> float:
    """Write config, weights, code, tokenizer and ONNX of a version; return the largest difference of logits.

    Args:
        exports: Where the version is.
        version: Of a BERT-like encoder.
        folder: Made anew.
        ids: Token ids of texts on which the folder's network and the export must agree.

    Raises:
        ValueError: The encoder is no BERT, or the weights read back do not give the export's logits.
    """
    manifest, model = exports.manifest(version), fp32_model(exports, version)
    bones = backbone.load(manifest.backbone)
    if bones.encoder.config.model_type != "bert":
        raise ValueError(
            f"The backbone of export {version} is a {bones.encoder.config.model_type!r}: only BERT is read."
        )
    network = Network(bones, max_tokens=manifest.max_tokens, threads=1)
    network.load_state_dict(_weights(model, network), strict=False)
    difference = _difference(network.eval(), manifest, model, ids)
    if not difference <= TOLERANCE:
        raise ValueError(f"The weights read back from {model.name} differ from it by {difference:.2g} logits.")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "onnx").mkdir(parents=True)
    state = {f"bert.{name}": tensor.contiguous() for name, tensor in network.encoder.state_dict().items()}
    state["classifier.weight"] = network.head.weight.detach() / manifest.temperature
    state["classifier.bias"] = network.head.bias.detach() / manifest.temperature
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(model, folder / "model.onnx")
    shutil.copy(model, folder / "onnx" / "model.onnx")
    shutil.copy(exports.path(version) / "tokenizer.json", folder)
    shutil.copy(modeling_lifeguard.__file__, folder / f"{_MODULE}.py")
    _write(folder / "config.json", _config(network, manifest))
    _write(folder / "tokenizer_config.json", _tokenizer_config(manifest))
    return difference


def run_alone(model: Path, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """Return the `(n, 6)` logits that an ONNX gives token ids, each run alone: what all servers are held to."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rows = []
    for row in ids:
        array = np.array([row], dtype=np.int64)
        feed = {"input_ids": array, "attention_mask": np.ones_like(array)}
        rows.append(session.run(["logits"], feed)[0][0])
    return np.array(rows, dtype=np.float32)


def _weights(model: Path, network: Network) -> dict[str, torch.Tensor]:
    """Return the network's parameters by name; the tracer has renamed what it transposed, but not the nodes."""
    graph = onnx.load(model).graph
    stored = {i.name: i for i in graph.initializer}
    found = {
        name.removeprefix(_PREFIX): _tensor(initializer)
        for name, initializer in stored.items()
        if name.startswith(_PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.removesuffix("/MatMul").replace("/", ".").removeprefix(f".{_PREFIX}")
            found[f"{name}.weight"] = _tensor(stored[node.input[1]]).T.contiguous()
    missing = [name for name, _ in network.named_parameters() if name not in found]
    if missing:
        raise ValueError(f"{model.name} does not hold {', '.join(missing[:3])}: it was not written by this export.")
    return found


def _tensor(initializer: onnx.TensorProto) -> torch.Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(initializer)))


def _difference(network: Network, manifest: Manifest, model: Path, ids: Sequence[Sequence[int]]) -> float:
    with torch.inference_mode():
        rows = [network(*network.collate([row]))[0] / manifest.temperature for row in ids]
    return float(np.abs(run_alone(model, ids) - torch.cat(rows).numpy()).max())


def _config(network: Network, manifest: Manifest) -> dict[str, Any]:
    labels = [str(label) for label in manifest.labels]
    return {
        **{k: v for k, v in network.encoder.config.to_dict().items() if k not in {"_name_or_path", "dtype"}},
        "architectures": [_CLASS],
        "auto_map": {"AutoModelForSequenceClassification": f"{_MODULE}.{_CLASS}"},
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "pooled_layers": network.layers,
        "problem_type": "single_label_classification",
        "torch_dtype": "float32",
    }


def _tokenizer_config(manifest: Manifest) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": manifest.max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": manifest.pad_token,
        "padding_side": "right",
        "truncation_side": "right",
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
