"""That int8 gives what fp32 gives, and the same for any batch mates and padding."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from guard.bundle import open_session
from learner.quantise import to_float16, to_int8

TOKENS, WIDTH = 40, 24
Floats = npt.NDArray[Any]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Embed, multiply, add a bias, GELU's cousin, multiply; one channel is a hundred times wider than the others."""
    random = np.random.default_rng(20261121)
    table = random.normal(size=(TOKENS, WIDTH)).astype(np.float32)
    table[:, 5] *= 100
    up, down = (random.normal(size=shape).astype(np.float32) for shape in ((WIDTH, 160), (160, 6)))
    up[5] /= 100
    constants = {"table": table, "up": up, "down": down, "bias": random.normal(size=160).astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "up"], ["wide"]),
        helper.make_node("Add", ["wide", "bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["active"]),
        helper.make_node("MatMul", ["active", "down"], ["logits"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", 6])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "toy", [ids], [logits], tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "fp32.onnx")
    return tmp_path / "fp32.onnx"


def _texts(count: int, seed: int) -> list[Floats]:
    random = np.random.default_rng(seed)
    return [random.integers(0, TOKENS, (1, random.integers(2, 30))) for _ in range(count)]


def _run(file: Path, ids: Floats) -> Floats:
    return np.asarray(open_session(file).run(["logits"], {"input_ids": ids})[0])


def test_int8_gives_what_fp32_gives(graph: Path, tmp_path: Path) -> None:
    """Both multiplications are replaced, and what they give is off by a hundredth at most, wide channel or not."""
    assert to_int8(graph, tmp_path / "int8.onnx", ({"input_ids": ids} for ids in _texts(100, seed=1))) == 2
    assert "MatMul" not in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    for ids in _texts(20, seed=2):
        expected = _run(graph, ids)
        assert np.abs(_run(tmp_path / "int8.onnx", ids) - expected).max() < 0.02 * expected.std() * 3


def test_int8_does_not_depend_on_batch_mates(graph: Path, tmp_path: Path) -> None:
    """Alone or beside others, a text gets the same numbers, bit for bit."""
    to_int8(graph, tmp_path / "int8.onnx", ({"input_ids": ids} for ids in _texts(100, seed=1)))
    session = open_session(tmp_path / "int8.onnx")
    random = np.random.default_rng(3)
    for rows in (2, 3, 8, 13):
        ids = random.integers(0, TOKENS, (rows, 17))
        together = session.run(["logits"], {"input_ids": ids})[0]
        alone = np.concatenate([session.run(["logits"], {"input_ids": ids[i : i + 1]})[0] for i in range(rows)])
        np.testing.assert_array_equal(together, alone)


def test_int8_is_the_same_twice(graph: Path, tmp_path: Path) -> None:
    """The same graph and the same texts give the same file."""
    for name in ("a", "b"):
        to_int8(graph, tmp_path / name, ({"input_ids": ids} for ids in _texts(40, seed=1)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_float16_is_close_and_half_the_size(graph: Path, tmp_path: Path) -> None:
    """float16 takes and gives what float32 does."""
    to_float16(graph, tmp_path / "fp16.onnx")
    ids = _texts(1, seed=2)[0]
    assert np.abs(_run(tmp_path / "fp16.onnx", ids) - _run(graph, ids)).max() < 0.1
    assert (tmp_path / "fp16.onnx").stat().st_size < 0.6 * graph.stat().st_size
