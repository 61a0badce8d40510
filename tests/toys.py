"""A toy export: a real ONNX model of a few hundred bytes in which words vote for categories.

Each word of `votes` carries logits; a text's logits are the mean over its tokens. Unknown words vote for `default`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from guard.exports import MANIFEST, Artefact, BatchPolicy, Exports, Manifest, SelfTest, sha256
from guard.taxonomy import CATEGORIES, Category

VOTES: dict[str, Category] = {
    "die": Category.SELF_HARM,
    "hurt": Category.SELF_HARM,
    "rash": Category.MEDICAL_ADVICE,
    "dose": Category.MEDICAL_ADVICE,
    "sue": Category.LEGAL_ADVICE,
    "landlord": Category.LEGAL_ADVICE,
    "invest": Category.FINANCIAL_ADVICE,
    "mortgage": Category.FINANCIAL_ADVICE,
    "fire": Category.EMERGENCY_SITUATION,
    "trapped": Category.EMERGENCY_SITUATION,
    "hello": Category.NOT_HARMFUL,
    "joke": Category.NOT_HARMFUL,
}
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def publish_toy(
    exports: Exports,
    *,
    votes: Mapping[str, Category] = VOTES,
    labels: tuple[Category, ...] = CATEGORIES,
    strength: float = 6.0,
    default: Category | None = Category.NOT_HARMFUL,
    parent: str | None = None,
    max_tokens: int = 32,
    promote: bool = True,
) -> str:
    """Publish a toy export (its logits in the order of `labels`) and make it the champion."""
    words = [*SPECIALS, *votes]
    table = np.zeros((len(words), len(labels)), dtype=np.float32)
    for index, word in enumerate(words):
        category = votes.get(word, default if word == "[UNK]" else None)
        if category is not None:
            table[index, labels.index(category)] = strength
    with exports.publish() as (version, folder):
        _tokenizer(words).save(str(folder / "tokenizer.json"))
        onnx.save(_model(table), folder / "model.onnx")
        manifest = Manifest(
            version=version,
            parent=parent,
            created_at=datetime.now(UTC),
            backbone="toy",
            labels=labels,
            thresholds=dict.fromkeys(CATEGORIES, 0.4),
            temperature=1.0,
            max_tokens=max_tokens,
            pad_id=0,
            pad_token="[PAD]",
            artefacts=(Artefact("model.onnx", "fp32", BatchPolicy(max_batch_size=8, max_batch_tokens=512)),),
            files={name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")},
            self_test=(SelfTest("hello", tuple(_logits(table, words, "hello"))),),
            metrics={"macro_f1": 0.5},
        )
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    if promote:
        exports.promote(version, by="test", reason="toy")
    return version


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change fields of a published manifest."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **changes)))


def _logits(table: np.ndarray, words: list[str], word: str) -> list[float]:
    rows = [words.index(w) for w in ("[CLS]", word, "[SEP]")]
    return [float(x) for x in table[rows].sum(axis=0)]


def _tokenizer(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _model(table: np.ndarray) -> onnx.ModelProto:
    """Logits: the votes of all tokens summed, divided by the number of tokens that are not special."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", table.shape[1]])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", table.shape[1]])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["votes"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["columns"]),
        helper.make_node("Mul", ["votes", "columns"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "middle"], ["length"], keepdims=1),
        helper.make_node("Sub", ["length", "two"], ["content"]),
        helper.make_node("Div", ["sum", "content"], ["logits"]),
        helper.make_node("Identity", ["logits"], ["embedding"]),
    ]
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "middle"),
        numpy_helper.from_array(np.array([2], dtype=np.float32), "two"),
    ]
    graph = helper.make_graph(nodes, "toy", [ids, mask], [logits, embedding], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
