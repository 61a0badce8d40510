"""That an export is the network, complete, and visible only when it is."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from guard.bundle import Bundle
from guard.errors import BadConfiguration, BrokenExport
from guard.exports import Exports
from guard.settings import Precision
from guard.taxonomy import CATEGORIES
from learner import backbone, quantise
from learner import export as exporting
from learner.calibrate import Calibration
from learner.dataset import Corpus, Dataset, assemble
from learner.export import export
from learner.network import Network
from learner.progress import silent
from learner.report import ONNX_DIFFERENCE
from learner.settings import LearnerSettings
from learner.train import train

CALIBRATION = Calibration(1.7, {c: 0.2 + 0.05 * i for i, c in enumerate(CATEGORIES)})
LONG = "then fire because flood and the landlord said " * 40


@pytest.fixture(scope="module")
def dataset(corpus: Corpus) -> Dataset:
    """The easy corpus alone."""
    return assemble(corpus, [], variation_weight=0.3)


@pytest.fixture(scope="module", params=["distilbert", "roberta"])
def network(request: pytest.FixtureRequest, dataset: Dataset, settings: LearnerSettings) -> Network:
    """A trained network of each architecture."""
    folder: Path = request.getfixturevalue(request.param)
    return train(dataset, backbone.load(str(folder)), settings, silent)[0]


def published(network: Network, dataset: Dataset, exports: Exports) -> str:
    """Export a network without a report."""
    return export(
        network, CALIBRATION, dataset, exports, parent="0007", cycle_id=12, metrics={"a": 0.5}, report=_no_report
    )


def _no_report(bundle: Bundle, folder: Path) -> Mapping[str, float]:
    return {"b": 0.25}


def test_the_guard_serves_what_was_trained(network: Network, dataset: Dataset, tmp_path: Path) -> None:
    """The bundle loads, passes its self-test and gives the network's logits over the temperature, in any batch."""
    exports = Exports(tmp_path)
    bundle = Bundle.load(exports, published(network, dataset, exports), precision=Precision.FP32)
    texts = ["joke", "well fire or trapped", "é ñ 漢字 🙂 unseen", *(e.text for e in dataset.dev)]
    logits = bundle.run([windows[0] for windows in bundle.encode(texts)]).logits
    assert np.allclose(logits, network.score(texts) / 1.7, atol=1e-3)
    embeddings = bundle.score(texts)[1]
    with torch.inference_mode():
        alone = [network(*network.collate([ids]))[1] for ids in network.encode(texts)]
    assert np.allclose(embeddings, torch.cat(alone), atol=1e-3)


def test_every_window_of_a_long_text_runs(network: Network, dataset: Dataset, tmp_path: Path) -> None:
    """A text longer than a window is cut into windows that all give logits of their own."""
    exports = Exports(tmp_path)
    bundle = Bundle.load(exports, published(network, dataset, exports))
    windows = bundle.encode([LONG])[0]
    assert len(windows) > 5
    assert max(len(window.ids) for window in windows) == network.max_tokens
    assert np.isfinite(bundle.run(windows).logits).all()


def test_the_manifest_tells_the_whole_story(network: Network, dataset: Dataset, tmp_path: Path) -> None:
    """Lineage, recipe, digests, self-test, versions and metrics are all there."""
    exports = Exports(tmp_path)
    version = published(network, dataset, exports)
    manifest = exports.verify(version)
    assert (manifest.version, manifest.parent, manifest.cycle_id) == ("0001", "0007", 12)
    assert manifest.labels == CATEGORIES
    assert manifest.thresholds == CALIBRATION.thresholds
    assert manifest.temperature == 1.7
    assert manifest.snapshot == dataset.digest
    assert (manifest.pad_id, manifest.pad_token) == (network.backbone.pad_id, network.backbone.pad_token)
    assert manifest.max_tokens == 48
    assert manifest.artefacts[0].precision == "fp32"
    assert {a.precision for a in manifest.artefacts} <= {"fp32", "int8", "fp16"}
    for artefact in manifest.artefacts:
        assert artefact.agreement is not None
        assert artefact.agreement >= 0.99
        assert artefact.run_ms is not None
        assert artefact.run_ms > 0
        assert len(artefact.self_test or manifest.self_test) >= 4
    assert manifest.artefacts[0].batch.max_batch_tokens >= 512
    assert set(manifest.files) == {file.name for file in exports.path(version).iterdir()} - {"manifest.json"}
    assert len(manifest.self_test) >= 4
    assert {"torch", "transformers", "optimum", "onnxruntime", "lifeguard"} <= set(manifest.libraries)
    assert manifest.metrics["a"] == 0.5
    assert manifest.metrics["b"] == 0.25
    assert 0 <= manifest.metrics[ONNX_DIFFERENCE] <= 1e-3
    assert exports.of_cycle(12) == version


def test_what_differs_from_the_network_is_not_published(
    network: Network, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX that is off by a hundredth of a logit raises, and nothing becomes visible."""
    honest = exporting._write_onnx

    def altered(network: Network, temperature: float, path: Path) -> None:
        with torch.no_grad():
            network.head.bias[3] += 0.02
            honest(network, temperature, path)
            network.head.bias[3] -= 0.02

    monkeypatch.setattr(exporting, "_write_onnx", altered)
    exports = Exports(tmp_path)
    with pytest.raises(BrokenExport, match=r"differs from the network by up to 0\.012 logits on 64 texts"):
        published(network, dataset, exports)
    assert exports.versions() == []
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_an_artefact_that_decides_otherwise_is_refused(
    network: Network, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An int8 whose decisions are not those of fp32 is measured, named in the metrics, and not in the export."""
    honest = quantise.to_int8

    def wrong(source: Path, target: Path, feeds: Iterable[quantise.Feed]) -> int:
        done = honest(source, target, feeds)
        model = onnx.load(target)
        bias = next(i for i in model.graph.initializer if i.name.endswith("head.bias"))
        bias.CopyFrom(numpy_helper.from_array(np.array([9, 0, 0, 0, 0, 0], dtype=np.float32), bias.name))
        onnx.save(model, target)
        return done

    monkeypatch.setattr(quantise, "to_int8", wrong)
    exports = Exports(tmp_path)
    version = published(network, dataset, exports)
    manifest = exports.verify(version)
    assert "int8" not in {a.precision for a in manifest.artefacts}
    assert manifest.metrics["agreement.int8"] < 0.99
    assert not (exports.path(version) / "model.int8.onnx").exists()
    with pytest.raises(BadConfiguration, match="GUARD_ARTEFACT=int8, but export 0001 has only fp32"):
        Bundle.load(exports, version, precision=Precision.INT8)


def test_a_network_of_nothing_but_nan_is_not_published(network: Network, dataset: Dataset, tmp_path: Path) -> None:
    """NaN is no agreement."""
    bias = network.head.bias.detach().clone()
    try:
        with torch.no_grad():
            network.head.bias[0] = float("nan")
        with pytest.raises(BrokenExport, match="differs"):
            published(network, dataset, Exports(tmp_path))
    finally:
        with torch.no_grad():
            network.head.bias.copy_(bias)


def test_a_report_that_fails_leaves_nothing_behind(network: Network, dataset: Dataset, tmp_path: Path) -> None:
    """Whatever goes wrong on the way, no version appears and the next one gets its number."""

    def failing(bundle: Bundle, folder: Path) -> Mapping[str, float]:
        raise OSError("no room")

    exports = Exports(tmp_path)
    with pytest.raises(OSError, match="no room"):
        export(network, CALIBRATION, dataset, exports, parent=None, cycle_id=None, metrics={}, report=failing)
    assert exports.versions() == []
    assert published(network, dataset, exports) == "0001"


def test_the_comparison_covers_64_texts_from_shortest_to_longest(dataset: Dataset) -> None:
    """With few texts prefixes of them fill up."""
    probes = exporting._probes(dataset)
    lengths = [len(text) for text in probes]
    assert len(probes) == 64
    assert max(lengths) == max(len(e.text) for e in (*dataset.train, *dataset.dev))
    few = replace(dataset, train=dataset.train[:3], dev=())
    assert len(exporting._probes(few)) == 64
    assert len({len(text) for text in exporting._probes(few)}) > 8
