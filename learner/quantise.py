"""A float32 ONNX file into smaller and faster ones: int8 for a CPU, float16 for CUDA.

Every weight multiplication of the int8 graph has fixed scales, one for each channel of its input, so that a message's
scores depend neither on its batch mates nor on padding, which ONNX Runtime's dynamic quantisation makes them do
(onnxruntime #10111, #8625). `learner.export` decides whether what comes out is fit to serve.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

Floats = npt.NDArray[Any]  # float32 or float64
Feed = Mapping[str, npt.NDArray[np.int64]]

_DOMAIN: Final = "com.microsoft"
_LEAST_RANGE: Final = 1e-3  # of the widest channel's: a channel that never moves has no scale of its own
# A channel goes further on other texts. Error of the attention's output on texts not calibrated with, times 10,000: 2.6 to
# 4.4 with no margin, 2.4 to 2.9 with this one, 2.9 with three times as much; no other input loses by it.
_MARGIN: Final = 0.1
_DAMPING: Final = 0.001  # of the mean variance, added to all: few texts leave the covariance short of full rank
_TEXTS: Final = 32  # whose values are held at once
_BLOCK: Final = 128  # rows of weights whose errors are spread one by one; the rest follow in one product


def to_int8(source: Path, target: Path, feeds: Iterable[Feed]) -> int:
    """Write `source` with its weight multiplications in int8 and return how many there are.

    Channels of an input are scaled to 0..255 by their range over the feeds, and the weights take the scales over
    (SmoothQuant, arXiv 2211.10438, with all of the difficulty moved). The weights are rounded by GPTQ (arXiv 2210.17323).

    Args:
        source: The float32 graph.
        target: The file to write.
        feeds: Inputs of some hundred texts, one text each and none padded.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    sites: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and weights.get(node.input[1], np.empty(0)).ndim == 2:  # noqa: PLR2004
            sites.setdefault(node.input[0], []).append(node)
    constants: dict[str, Any] = {"int8.one": np.float32(1), "int8.middle": np.uint8(128), "int8.zero": np.int8(0)}
    replaced: dict[str, list[onnx.NodeProto]] = {}  # by the output of the node they stand for
    for (name, channels), nodes in zip(_watch(source, sites, feeds).items(), sites.values(), strict=True):
        step, centre = channels.step, channels.centre
        constants |= {
            f"{name}.gain": (1 / step).astype(np.float32),
            f"{name}.shift": (-centre / step).astype(np.float32),
        }
        code = [
            helper.make_node("Mul", [name, f"{name}.gain"], [f"{name}.gained"]),
            helper.make_node("Add", [f"{name}.gained", f"{name}.shift"], [f"{name}.centred"]),
            helper.make_node("QuantizeLinear", [f"{name}.centred", "int8.one", "int8.middle"], [f"{name}.int8"]),
        ]
        for node, (rounded, scale, bias) in zip(
            nodes, channels.round([weights[n.input[1]] for n in nodes]), strict=True
        ):
            own = node.output[0]
            constants |= {f"{own}.weight": rounded, f"{own}.scale": scale, f"{own}.bias": bias}
            inputs = [f"{name}.int8", f"{own}.weight", "int8.one", f"{own}.scale", "int8.middle", "int8.zero"]
            code.append(helper.make_node("MatMulIntegerToFloat", [*inputs, f"{own}.bias"], [own], domain=_DOMAIN))
            replaced[own], code = code, []
    _rewrite(graph, replaced, constants)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    onnx.save(model, target)
    return len(replaced)


def to_float16(source: Path, target: Path) -> None:
    """Write `source` in float16 but for its layer norms, whose squares overflow it; inputs and outputs stay as they are."""
    onnx.save(
        convert_float_to_float16(
            onnx.load(source), keep_io_types=True, op_block_list=["LayerNormalization", "ReduceL2", "ReduceSum"]
        ),
        target,
    )


class _Channels:
    """What is known of one input's channels: range, mean and covariance over all tokens of the feeds."""

    def __init__(self, size: int) -> None:
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self._sum, self._gram, self._rows = np.zeros(size), np.zeros((size, size)), 0

    def see(self, rows: Floats) -> None:
        """Take in `(tokens, channels)` values."""
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))
        self._sum += rows.sum(axis=0)
        self._gram += rows.T @ rows
        self._rows += len(rows)

    @property
    def centre(self) -> Floats:
        """`(channels,)` the middle of each range."""
        return np.asarray((self.low + self.high) / 2)

    @property
    def step(self) -> Floats:
        """`(channels,)` a 255th of each range and its margin."""
        span = (1 + _MARGIN) * (self.high - self.low)
        return np.asarray(np.maximum(span, max(_LEAST_RANGE * span.max(), np.finfo(np.float32).tiny)) / 255)

    def round(self, weights: list[Floats]) -> list[tuple[npt.NDArray[np.int8], Floats, Floats]]:
        """Return each weight's `(channels, n)` int8, the `(n,)` scales of its columns, and the `(n,)` bias.

        The bias makes good for the centre taken off and for the mean error of rounding.
        """
        mean = self._sum / self._rows
        covariance = (self._gram / self._rows - np.outer(mean, mean)) / np.outer(self.step, self.step)
        whole = np.concatenate(weights, axis=1).astype(np.float64)
        scaled = whole * self.step[:, None]
        scale = np.maximum(np.abs(scaled).max(axis=0), np.finfo(np.float32).tiny) / 127
        rounded = _gptq(scaled / scale, covariance)
        bias = self.centre @ whole + ((mean - self.centre) / self.step) @ (scaled - rounded * scale)
        ends = np.cumsum([w.shape[1] for w in weights])[:-1]
        parts = (np.split(a, ends, axis=-1) for a in (rounded, scale, bias))
        return [(r.astype(np.int8), s.astype(np.float32), b.astype(np.float32)) for r, s, b in zip(*parts, strict=True)]


def _gptq(weight: Floats, covariance: Floats) -> Floats:
    """Round `(k, n)` weights to -127..127, row by row, each row's error made good by those not yet rounded.

    GPTQ (arXiv 2210.17323, algorithm 1): what an error costs in the output is told by the inputs' covariance.
    """
    size = len(weight)
    damped = covariance + np.eye(size) * max(_DAMPING * float(np.trace(covariance)) / size, 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, rounded = weight.copy(), np.empty_like(weight)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((stop - start, weight.shape[1]))
        for row in range(start, stop):
            rounded[row] = np.clip(np.round(left[row]), -127, 127)
            errors[row - start] = (left[row] - rounded[row]) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], errors[row - start])
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return rounded


def _watch(source: Path, names: Iterable[str], feeds: Iterable[Feed]) -> dict[str, _Channels]:
    """Run the graph and look at some of its values."""
    model = onnx.load(source)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seen: dict[str, _Channels] = {}
    rest = iter(feeds)
    while some := list(islice(rest, _TEXTS)):
        runs = [session.run(list(names), dict(feed)) for feed in some]
        for name, *values in zip(names, *runs, strict=True):
            rows = np.concatenate([np.reshape(value, (-1, np.shape(value)[-1])) for value in values])
            seen.setdefault(name, _Channels(rows.shape[1])).see(rows)
    return seen


def _rewrite(
    graph: onnx.GraphProto, replaced: Mapping[str, list[onnx.NodeProto]], constants: Mapping[str, Any]
) -> None:
    """Put the new nodes in the places of the old, and drop the weights that nothing reads any more."""
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    read = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in read]
    added = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    tensors = [type(tensor).FromString(tensor.SerializeToString()) for tensor in (*kept, *added)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(tensors)
