"""An export in memory: all of each text is seen, label order does not matter, and nothing broken is ever loaded."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from guard.bundle import OVERLAP, Bundle
from guard.decision import softmax
from guard.errors import BadConfiguration, BrokenExport, LifeguardError, NoModel, NotFound
from guard.exports import MANIFEST, Artefact, BatchPolicy, Exports, SelfTest, sha256
from guard.settings import Precision, Provider
from guard.taxonomy import CATEGORIES, Category
from tests.toys import VOTES, publish_toy, rewrite_manifest

TEXTS = [" ".join(words) for words in zip(VOTES, reversed(VOTES), strict=True)] + ["hello", "", "sue " * 70]


def test_label_order_does_not_matter(exports: Exports) -> None:
    """An export whose labels stand in another order gives the same probabilities in the order of the categories."""
    plain = Bundle.load(exports, publish_toy(exports))
    turned = Bundle.load(exports, publish_toy(exports, labels=CATEGORIES[3:] + CATEGORIES[:3]))
    np.testing.assert_allclose(plain.score(TEXTS)[0], turned.score(TEXTS)[0], atol=1e-6)
    assert plain.score(["rash"])[0].argmax() == CATEGORIES.index(Category.MEDICAL_ADVICE)


def test_score_is_each_text_alone(toy: Bundle) -> None:
    """A text's score does not depend on the texts beside it nor on their order."""
    alone = np.concatenate([toy.score([text])[0] for text in TEXTS])
    np.testing.assert_allclose(toy.score(TEXTS)[0], alone, atol=1e-6)
    np.testing.assert_allclose(toy.score(TEXTS[::-1])[0], alone[::-1], atol=1e-6)


def test_score_is_the_softmax_of_a_run(toy: Bundle) -> None:
    """What the learner scores offline is what a run gives."""
    window = toy.encode(["sue the landlord"])[0][0]
    np.testing.assert_allclose(toy.score(["sue the landlord"])[0], softmax(toy.run([window]).logits), atol=1e-6)


def test_runs_from_several_threads(toy: Bundle) -> None:
    """A bundle gives the same when several threads run it at once."""
    windows = [parts[0] for parts in toy.encode(TEXTS)]
    expected = [toy.run([window]).logits for window in windows]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda window: toy.run([window]).logits, windows * 20))
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected * 20))


# windows


@pytest.mark.parametrize("words", [1, 30, 31, 57, 1000])
def test_windows_hold_the_whole_text(exports: Exports, words: int) -> None:
    """Every token of a text is in a window, windows overlap by an eighth, and none is longer than the model takes."""
    votes = {f"w{n}": Category.NOT_HARMFUL for n in range(words)} | {"hello": Category.NOT_HARMFUL}
    bundle = Bundle.load(exports, publish_toy(exports, votes=votes))
    windows = [window.ids[1:-1] for window in bundle.encode([" ".join(f"w{n}" for n in range(words))])[0]]
    assert max(map(len, windows)) <= 30
    tokens = list(windows[0])
    for window in windows[1:]:
        shared = 32 // OVERLAP
        assert window[:shared] == tuple(tokens[-shared:])
        tokens += window[shared:]
    assert tokens == list(range(4, 4 + words))


def test_characters_of_many_tokens(toy: Bundle) -> None:
    """A byte-level tokenizer makes four tokens of an emoji: a text of few characters is still seen to its end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.enable_truncation(32, stride=0)
    toy._tokenizer = tokenizer
    text = "\N{FIRE}" * 29 + "x"
    windows = toy.encode([text])[0]
    assert len(windows) == 4
    assert tokenizer.decode([i for w in windows for i in w.ids[1:-1]]) == text


def test_no_texts(toy: Bundle) -> None:
    """No texts have no windows."""
    assert toy.encode([]) == []


# what is refused


def _resign(folder: Path) -> None:
    """Make the digests fit the files again, so that only opening and running can tell."""
    rewrite_manifest(folder, files={name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")})


def _change(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


def _signed(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    _change(folder, name, change)
    _resign(folder)


def _link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "x")
    (folder / "model.onnx").symlink_to(folder / "x")


def _folder(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def _remake(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    _resign(folder)


def _weights(folder: Path, value: float) -> None:
    def change(model: onnx.ModelProto) -> None:
        table = model.graph.initializer[0]
        table.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(table), value), table.name))

    _remake(folder, change)


def _other_weights(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        table = model.graph.initializer[0]
        table.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(table), 1, axis=1), table.name))

    _remake(folder, change)


def _no_mask(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        """Count padding as a token: only a run of several texts shows it."""
        mask = helper.make_node("Shape", ["input_ids"], ["shape"])
        ones = helper.make_node(
            "ConstantOfShape", ["shape"], ["ones"], value=helper.make_tensor("one", TensorProto.INT64, [1], [1])
        )
        cast = next(node for node in model.graph.node if node.op_type == "Cast")
        cast.input[0] = "ones"
        model.graph.node.insert(0, ones)
        model.graph.node.insert(0, mask)

    _remake(folder, change)


def _one_row_only(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    _remake(folder, change)


def _external_data(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    _resign(folder)


def _custom_operator(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[-1].op_type, model.graph.node[-1].domain = "Evil", "evil.example"
        model.opset_import.append(helper.make_opsetid("evil.example", 1))

    _remake(folder, change)


def _other_outputs(folder: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.output[1]

    _remake(folder, change)


def _manifest(folder: Path, **changes: object) -> None:
    content = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps({**content, **changes}))


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "model cut": lambda f: _change(f, "model.onnx", lambda b: b[: len(b) // 2]),
    "model empty": lambda f: _change(f, "model.onnx", lambda _: b""),
    "model one bit": lambda f: _change(f, "model.onnx", lambda b: bytes([b[0] ^ 1]) + b[1:]),
    "model missing": lambda f: (f / "model.onnx").unlink(),
    "model a link": _link,
    "model a folder": _folder,
    "tokenizer cut": lambda f: _change(f, "tokenizer.json", lambda b: b[: len(b) // 2]),
    "tokenizer empty": lambda f: _change(f, "tokenizer.json", lambda _: b""),
    "tokenizer missing": lambda f: (f / "tokenizer.json").unlink(),
    "model cut, signed": lambda f: _signed(f, "model.onnx", lambda b: b[: len(b) // 2]),
    "model empty, signed": lambda f: _signed(f, "model.onnx", lambda _: b""),
    "model text, signed": lambda f: _signed(f, "model.onnx", lambda _: b"hello" * 99),
    "tokenizer empty, signed": lambda f: _signed(f, "tokenizer.json", lambda _: b""),
    "tokenizer other JSON, signed": lambda f: _signed(f, "tokenizer.json", lambda _: b'{"a": 1}'),
    "tokenizer of another model": lambda f: _signed(f, "tokenizer.json", lambda b: b.replace(b'"hello"', b'"x"').replace(b'"die"', b'"hello"')),
    "weights NaN": lambda f: _weights(f, np.nan),
    "weights infinite": lambda f: _weights(f, np.inf),
    "weights of another model": _other_weights,
    "weights elsewhere": _external_data,
    "padding counted": _no_mask,
    "one row a run": _one_row_only,
    "custom operator": _custom_operator,
    "no embedding": _other_outputs,
    "manifest empty": lambda f: _change(f, MANIFEST, lambda _: b""),
    "manifest no JSON": lambda f: _change(f, MANIFEST, lambda b: b[:-1]),
    "manifest no UTF-8": lambda f: _change(f, MANIFEST, lambda b: b.replace(b'"toy"', b'"\xff"')),
    "manifest nested": lambda f: _change(f, MANIFEST, lambda _: b'{"x":' * 100_000),
    "manifest a list": lambda f: _change(f, MANIFEST, lambda _: b"[]"),
    "manifest of another version": lambda f: _manifest(f, version="0099"),
    "five labels": lambda f: _manifest(f, labels=list(CATEGORIES[:5])),
    "a label twice": lambda f: _manifest(f, labels=[*CATEGORIES[:5], CATEGORIES[0]]),
    "seven labels": lambda f: _manifest(f, labels=[*CATEGORIES, CATEGORIES[0]]),
    "unknown label": lambda f: _manifest(f, labels=[*CATEGORIES[:5], "spam"]),
    "no thresholds": lambda f: _manifest(f, thresholds={}),
    "threshold 0": lambda f: _manifest(f, thresholds=dict.fromkeys(CATEGORIES, 0)),
    "threshold above 1": lambda f: _manifest(f, thresholds=dict.fromkeys(CATEGORIES, 1.1)),
    "threshold null": lambda f: _manifest(f, thresholds=dict.fromkeys(CATEGORIES)),
    "no self-test": lambda f: rewrite_manifest(f, self_test=()),
    "self-test of five": lambda f: rewrite_manifest(f, self_test=(SelfTest("hello", (0.0,) * 5),)),
    "self-test fails": lambda f: rewrite_manifest(f, self_test=(SelfTest("hello", (0.0,) * 6),)),
    "no artefact": lambda f: rewrite_manifest(f, artefacts=()),
    "artefact without digest": lambda f: rewrite_manifest(f, files={}),
    "artefact outside": lambda f: _manifest(f, files={"../model.onnx": "0", "model.onnx": "0", "tokenizer.json": "0"}),
    "no message a run": lambda f: rewrite_manifest(f, artefacts=(Artefact("model.onnx", "fp32", BatchPolicy(0, 512)),)),
    "windows of no token": lambda f: rewrite_manifest(f, max_tokens=0),
    "windows of special tokens": lambda f: rewrite_manifest(f, max_tokens=2),
}  # fmt: skip


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_export_is_refused(exports: Exports, breakage: str) -> None:
    """Whatever is wrong with an export, loading it says so in our own words, and only in them."""
    version = publish_toy(exports)
    BREAKAGES[breakage](exports.path(version))
    with pytest.raises(BrokenExport, match=version) as caught:
        Bundle.load(exports, version)
    assert caught.value.__cause__ is None
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_flipped_bits_are_refused(exports: Exports, name: str) -> None:
    """Whichever bit of a file is flipped, the export is refused."""
    version = publish_toy(exports)
    file = exports.path(version) / name
    content = file.read_bytes()
    random_ = random.Random(20261120)
    for _ in range(200):
        place, bit = random_.randrange(len(content)), random_.randrange(8)
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        with pytest.raises(BrokenExport):
            Bundle.load(exports, version)
    file.write_bytes(content)
    assert Bundle.load(exports, version).version == version


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_flipped_bits_with_new_digests(exports: Exports, name: str) -> None:
    """Even where the digests fit, a flipped bit is refused in our own words or leaves the self-test's logits alone."""
    version = publish_toy(exports)
    folder = exports.path(version)
    content = (folder / name).read_bytes()
    random_ = random.Random(20261121)
    refused = 0
    for _ in range(200):
        place, bit = random_.randrange(len(content)), random_.randrange(8)
        (folder / name).write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        _resign(folder)
        try:
            Bundle.load(exports, version)
        except LifeguardError:
            refused += 1
    assert refused > 50


class _Panic(BaseException):
    """What a panic of Rust looks like in Python: no Exception."""


def _panic(*_: object) -> None:
    raise _Panic("canary")


def test_panic_while_loading(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that panics over a file has a broken export before it, too."""
    version = publish_toy(exports)
    monkeypatch.setattr(Bundle, "run", _panic)
    with pytest.raises(BrokenExport, match=r"cannot be opened or run \(_Panic\)"):
        Bundle.load(exports, version)


def test_panic_over_a_text(toy: Bundle) -> None:
    """A tokenizer that panics over a text gives no verdict on it, and does not say what the text was."""

    class Panicking:
        encode_batch = _panic

    toy._tokenizer = Panicking()
    with pytest.raises(NoModel, match="_Panic") as caught:
        toy.encode(["hello"])
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("version", ["0002", "", "..", "../0001", "0001/../0001", "x" * 5000, "0001\n0002", "\x00"])
def test_versions_that_are_none(exports: Exports, version: str) -> None:
    """A pointer to what is no version is a NotFound, whatever it says."""
    publish_toy(exports)
    with pytest.raises(NotFound):
        Bundle.load(exports, version)


def test_demanded_provider_that_is_not_there(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA that was demanded and is not there is an error, not a silent CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    version = publish_toy(exports)
    with pytest.raises(BadConfiguration, match="GUARD_PROVIDER"):
        Bundle.load(exports, version, provider=Provider.CUDA)


def test_provider_auto_takes_what_there_is(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a demand the CPU serves where there is no CUDA."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert Bundle.load(exports, publish_toy(exports), provider=Provider.AUTO).score(["rash"])[0].argmax() == 1


# artefacts


def _with_int8(exports: Exports, *, run_ms: float = 1.0, damage: float = 0.0) -> str:
    """Publish a toy whose int8 is a copy of its fp32, with a self-test that is off by the damage."""
    version = publish_toy(exports)
    folder = exports.path(version)
    (folder / "model.int8.onnx").write_bytes((folder / "model.onnx").read_bytes())
    manifest = exports.manifest(version)
    (fp32,), (test,) = manifest.artefacts, manifest.self_test
    off = SelfTest(test.text, tuple(value + damage for value in test.logits))
    int8 = Artefact("model.int8.onnx", "int8", BatchPolicy(4, 256), (off,), agreement=0.995, run_ms=run_ms)
    files = {**manifest.files, int8.file: sha256(folder / int8.file)}
    rewrite_manifest(folder, artefacts=(msgspec.structs.replace(fp32, run_ms=2.0), int8), files=files)
    return version


@pytest.mark.parametrize(("run_ms", "precision"), [(1.0, "int8"), (3.0, "fp32")])
def test_auto_takes_the_fastest_artefact(exports: Exports, run_ms: float, precision: str) -> None:
    """Without a demand the artefact with the least time a message serves, with its own batch policy."""
    bundle = Bundle.load(exports, _with_int8(exports, run_ms=run_ms))
    assert bundle.artefact.precision == precision
    assert bundle.artefact.batch.max_batch_size == (4 if precision == "int8" else 8)


def test_demanded_artefact_serves(exports: Exports) -> None:
    """A demand is followed, however slow what is demanded may be."""
    version = _with_int8(exports)
    assert Bundle.load(exports, version, precision=Precision.FP32).artefact.precision == "fp32"
    assert Bundle.load(exports, version, precision=Precision.INT8).artefact.precision == "int8"


def test_demanded_artefact_that_is_not_there(exports: Exports) -> None:
    """An export without the demanded artefact, or a demand that does not suit the provider, is an error that says so."""
    version = publish_toy(exports)
    with pytest.raises(BadConfiguration, match=f"GUARD_ARTEFACT=int8, but export {version} has only fp32"):
        Bundle.load(exports, version, precision=Precision.INT8)
    with pytest.raises(BadConfiguration, match="GUARD_ARTEFACT=fp16 does not run well on a CPU"):
        Bundle.load(exports, version, precision=Precision.FP16)


def test_auto_passes_over_what_fails_its_self_test(exports: Exports) -> None:
    """An int8 that gives other logits on this machine does not serve: fp32 does, and a demand for int8 is refused."""
    version = _with_int8(exports, damage=1.0)
    assert Bundle.load(exports, version).artefact.precision == "fp32"
    with pytest.raises(BrokenExport, match=r"model\.int8\.onnx are not those"):
        Bundle.load(exports, version, precision=Precision.INT8)


def test_manifest_of_before_artefacts_were_measured(exports: Exports) -> None:
    """An artefact of three fields, as older exports have it, loads."""
    version = publish_toy(exports)
    path = exports.path(version) / MANIFEST
    manifest = json.loads(path.read_bytes())
    manifest["artefacts"] = [{key: manifest["artefacts"][0][key] for key in ("file", "precision", "batch")}]
    path.write_text(json.dumps(manifest))
    bundle = Bundle.load(exports, version)
    assert (bundle.artefact.precision, bundle.artefact.run_ms, bundle.artefact.self_test) == ("fp32", None, ())
