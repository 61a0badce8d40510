"""A float32 ONNX file into smaller and faster ones: int8 for a CPU, float16 for CUDA.

Every weight multiplication of the int8 graph has fixed scales, or one for each token, so that a message's scores depend
neither on its batch mates nor on padding, as they do under ONNX Runtime's dynamic quantisation (onnxruntime #10111, #8625).
`learner.export` decides whether what comes out is fit to serve.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from guard.bundle import session_options

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

    The weights are rounded by GPTQ (arXiv 2210.17323); how the inputs are coded, `_Channels` and `_Peaks` say.

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
    inputs: dict[str, _Input] = {}
    for name, nodes in sites.items():
        size, width = weights[nodes[0].input[1]].shape
        inputs[name] = (_Peaks if size > width else _Channels)(size)
    _watch(source, inputs, feeds)
    constants: dict[str, Any] = {"int8.one": np.float32(1), "int8.none": np.int8(0)}
    replaced: dict[str, list[onnx.NodeProto]] = {}  # by the output of the node whose place they take
    for name, nodes in sites.items():
        code, own_constants = inputs[name].code(name)
        constants |= own_constants
        for node, (rounded, scale, centring) in zip(
            nodes, inputs[name].round([weights[n.input[1]] for n in nodes]), strict=True
        ):
            own, bias = node.output[0], centring
            if isinstance(inputs[name], _Channels) and (add := _bias_added(graph, weights, own)) is not None:
                own, bias = add.output[0], centring + _bias(weights, add)
                replaced[own] = []
            constants |= {f"{own}.weight": rounded, f"{own}.scale": scale, f"{own}.bias": bias}
            replaced[node.output[0]] = [*code, *inputs[name].multiply(name, own)]
            code = []
    _rewrite(graph, replaced, constants)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    onnx.save(model, target)
    return sum(map(len, sites.values()))


def to_float16(source: Path, target: Path) -> None:
    """Write `source` in float16 but for its layer norms, whose squares overflow it; inputs and outputs stay as they are."""
    onnx.save(
        convert_float_to_float16(
            onnx.load(source), keep_io_types=True, op_block_list=["LayerNormalization", "ReduceL2", "ReduceSum"]
        ),
        target,
    )


class _Input(Protocol):
    """How the input of a multiplication is coded in 8 bits, learnt from its values."""

    def see(self, rows: Floats) -> None:
        """Take in `(tokens, channels)` values."""

    def code(self, name: str) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
        """Return the nodes that code the input called `name`, and their constants."""

    def round(self, weights: list[Floats]) -> list[tuple[npt.NDArray[np.int8], Floats, Floats]]:
        """Return each weight's `(channels, n)` int8, the `(n,)` scales of its columns, and an `(n,)` bias."""

    def multiply(self, name: str, output: str) -> list[onnx.NodeProto]:
        """Return the nodes that multiply the coded input by a weight."""


class _Channels:
    """One fixed scale for each channel: 0..255 is its range over the feeds, and the weights take the scales over.

    This is SmoothQuant (arXiv 2211.10438) with all of the difficulty moved to the weights.
    """

    def __init__(self, size: int) -> None:
        self._low, self._high = np.full(size, np.inf), np.full(size, -np.inf)
        self._sum, self._gram, self._rows = np.zeros(size), np.zeros((size, size)), 0

    def see(self, rows: Floats) -> None:
        self._low, self._high = np.minimum(self._low, rows.min(axis=0)), np.maximum(self._high, rows.max(axis=0))
        self._sum += rows.sum(axis=0)
        self._gram += rows.T @ rows
        self._rows += len(rows)

    @property
    def _centre(self) -> Floats:
        return np.asarray((self._low + self._high) / 2)

    @property
    def _step(self) -> Floats:
        span = (1 + _MARGIN) * (self._high - self._low)
        return np.asarray(np.maximum(span, max(_LEAST_RANGE * span.max(), np.finfo(np.float32).tiny)) / 255)

    def code(self, name: str) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
        nodes = [
            helper.make_node("Mul", [name, f"{name}.gain"], [f"{name}.gained"]),
            helper.make_node("Add", [f"{name}.gained", f"{name}.shift"], [f"{name}.scaled"]),
            helper.make_node("QuantizeLinear", [f"{name}.scaled", "int8.one", f"{name}.zero"], [f"{name}.int8"]),
        ]
        gain, shift = 1 / self._step, -self._centre / self._step
        constants = {"gain": gain.astype(np.float32), "shift": shift.astype(np.float32), "zero": np.uint8(128)}
        return nodes, {f"{name}.{key}": value for key, value in constants.items()}

    def round(self, weights: list[Floats]) -> list[tuple[npt.NDArray[np.int8], Floats, Floats]]:
        """Round; the bias makes good for the centre taken off and for the mean error of rounding."""
        mean = self._sum / self._rows
        covariance = (self._gram / self._rows - np.outer(mean, mean)) / np.outer(self._step, self._step)
        whole = np.concatenate(weights, axis=1).astype(np.float64)
        rounded, scale, error = _round(whole * self._step[:, None], covariance)
        bias = self._centre @ whole + ((mean - self._centre) / self._step) @ error
        return _split(weights, rounded, scale, bias)

    def multiply(self, name: str, output: str) -> list[onnx.NodeProto]:
        return [_product(name, output, output, f"{output}.bias")]


class _Peaks:
    """One scale for each token, by its greatest value, for inputs wider than what comes of them: the feed-forward half.

    Most of what GELU gives is near 0 and a few values are large, so fixed scales are too coarse: on MiniLM they were nine
    tenths of the error of all logits, and 1.2 % of decisions changed.
    """

    def __init__(self, size: int) -> None:
        self._gram, self._rows, self._low, self._peaks = np.zeros((size, size)), 0, 0.0, 0.0

    def see(self, rows: Floats) -> None:
        peaks = np.maximum(rows.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        self._low = min(self._low, float(rows.min()))
        self._peaks += float(peaks.sum())
        scaled = rows / peaks
        self._gram += scaled.T @ scaled
        self._rows += len(rows)

    def code(self, name: str) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
        peak = self._peaks / self._rows
        zero = int(np.clip(np.ceil(255 * -self._low / (peak - self._low)), 1, 128))
        nodes = [
            helper.make_node("ReduceMax", [name], [f"{name}.peak"], axes=[-1], keepdims=1),
            helper.make_node("Mul", [f"{name}.peak", f"{name}.share"], [f"{name}.above"]),
            helper.make_node("Max", [f"{name}.above", f"{name}.least"], [f"{name}.step"]),
            helper.make_node("Div", [name, f"{name}.step"], [f"{name}.scaled"]),
            helper.make_node("QuantizeLinear", [f"{name}.scaled", "int8.one", f"{name}.zero"], [f"{name}.int8"]),
        ]
        least = max(-self._low / zero, float(np.finfo(np.float32).tiny))  # or what is below 0 would be cut off
        constants = {"share": np.float32(1 / (255 - zero)), "least": np.float32(least), "zero": np.uint8(zero)}
        return nodes, {f"{name}.{key}": value for key, value in constants.items()}

    def round(self, weights: list[Floats]) -> list[tuple[npt.NDArray[np.int8], Floats, Floats]]:
        rounded, scale, _ = _round(np.concatenate(weights, axis=1).astype(np.float64), self._gram / self._rows)
        return _split(weights, rounded, scale, np.zeros(len(scale)))

    def multiply(self, name: str, output: str) -> list[onnx.NodeProto]:
        return [
            _product(name, output, f"{output}.steps"),
            helper.make_node("Mul", [f"{output}.steps", f"{name}.step"], [output]),
        ]


def _product(name: str, weight: str, output: str, *bias: str) -> onnx.NodeProto:
    inputs = [f"{name}.int8", f"{weight}.weight", "int8.one", f"{weight}.scale", f"{name}.zero", "int8.none", *bias]
    return helper.make_node("MatMulIntegerToFloat", inputs, [output], domain=_DOMAIN)


def _round(weight: Floats, covariance: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the weight rounded, the scales of its columns, and the error."""
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / 127
    rounded = _gptq(weight / scale, covariance)
    return rounded, scale, weight - rounded * scale


def _split(
    weights: list[Floats], rounded: Floats, scale: Floats, bias: Floats
) -> list[tuple[npt.NDArray[np.int8], Floats, Floats]]:
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


def _bias_added(graph: onnx.GraphProto, weights: Mapping[str, Floats], output: str) -> onnx.NodeProto | None:
    """Return the node that adds a bias to an output, where nothing else reads the output."""
    readers = [node for node in graph.node if output in node.input]
    fit = len(readers) == 1 and readers[0].op_type == "Add" and _bias(weights, readers[0]).ndim == 1
    return readers[0] if fit else None


def _bias(weights: Mapping[str, Floats], add: onnx.NodeProto) -> Floats:
    return next((weights[name] for name in add.input if name in weights), np.empty((0, 0)))


def _watch(source: Path, inputs: Mapping[str, _Input], feeds: Iterable[Feed]) -> None:
    """Run the graph and show the inputs their values."""
    model = onnx.load(source)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inputs)
    session = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    rest = iter(feeds)
    while some := list(islice(rest, _TEXTS)):
        runs = [session.run(list(inputs), dict(feed)) for feed in some]
        for seen, *values in zip(inputs.values(), *runs, strict=True):
            seen.see(np.concatenate([np.reshape(value, (-1, np.shape(value)[-1])) for value in values]))


def _rewrite(
    graph: onnx.GraphProto, replaced: Mapping[str, list[onnx.NodeProto]], constants: Mapping[str, Any]
) -> None:
    """Put the new nodes in the places of the old, and drop the weights that nothing reads any more."""
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    read = {name for node in nodes for name in node.input}
    kept = [i for i in graph.initializer if i.name in read]
    added = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in read]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    tensors = [type(tensor).FromString(tensor.SerializeToString()) for tensor in (*kept, *added)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    graph.initializer.extend(tensors)
