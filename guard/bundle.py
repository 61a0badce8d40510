"""One export in memory: session, tokenizer, thresholds and version, swapped as one object.

Texts come in normalised; windows, logits and embeddings go out. The batcher runs windows, the learner whole lists.
"""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from guard.decision import softmax
from guard.errors import BadConfiguration, BrokenExport, LifeguardError, NoModel
from guard.exports import Artefact, Exports, Manifest
from guard.lexicon import Lexicon
from guard.settings import Precision, Provider
from guard.taxonomy import CATEGORIES

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default in the Linux wheels since 1.29
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import onnxruntime as ort

TOKENIZER: Final = "tokenizer.json"
_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
OVERLAP: Final = 8  # windows share an eighth of their tokens, so that no sentence is seen only in halves
# Logits. Another CPU's kernels differ by 1e-4, which int8 can round to the next step; a wrong file, or int8 that saturates,
# is off by more than 1.
SELF_TEST_TOLERANCE: Final[Mapping[str, float]] = {Precision.FP32: 1e-2, Precision.INT8: 0.2, Precision.FP16: 0.1}


@dataclass(frozen=True, slots=True)
class Window:
    """Up to `max_tokens` tokens of a text, special tokens included, and the span of its characters that they are."""

    ids: tuple[int, ...]
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model gave: `(n, 6)` logits, already divided by the temperature, and `(n, d)` embeddings."""

    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32]


class Bundle:
    """An export, loaded and tested. Immutable; `run` may be called from several threads at once."""

    def __init__(
        self,
        manifest: Manifest,
        artefact: Artefact,
        tokenizer: Tokenizer,
        lexicon: Lexicon,
        session: ort.InferenceSession,
    ) -> None:
        self.manifest = manifest
        self.artefact = artefact
        self.version = manifest.version
        self.thresholds = manifest.thresholds
        self.lexicon = lexicon
        self._tokenizer = tokenizer
        self._session = session
        self._inputs = {i.name for i in session.get_inputs()}
        self._order = [manifest.labels.index(c) for c in CATEGORIES]

    @classmethod
    def load(
        cls,
        exports: Exports,
        version: str,
        *,
        provider: Provider = Provider.CPU,
        precision: Precision = Precision.AUTO,
    ) -> Self:
        """Load a version: verify its digests, open its artefact, and run its self-test, which also warms it.

        Without a demand the fastest artefact that passes its self-test here is taken: int8 may fail it on a processor
        whose kernels saturate.

        Raises:
            NotFound: There is no such version.
            BrokenExport: It is incomplete, altered, or does not give the logits it gave when it was made.
            BadConfiguration: The demanded provider is not active, or the demanded artefact not there.
        """
        try:
            manifest = exports.verify(version)
            _check(manifest)
            *faster, last = _candidates(manifest, _providers(provider), precision)
            for artefact in faster:
                with suppress(BrokenExport):
                    return cls._open(exports, manifest, artefact, provider)
            return cls._open(exports, manifest, last, provider)
        except (LifeguardError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - for a file they cannot use the libraries raise all sorts, and Rust panics
            raise BrokenExport(f"Export {version} cannot be opened or run ({type(error).__name__}).") from None

    @classmethod
    def _open(cls, exports: Exports, manifest: Manifest, artefact: Artefact, provider: Provider) -> Self:
        version = manifest.version
        if artefact.batch.max_batch_size < 1:
            raise BrokenExport(f"Export {version} allows {artefact.batch.max_batch_size} messages a run, not even one.")
        bundle = cls.untested(exports.path(version), manifest, artefact, provider)
        bundle.self_test()
        return bundle

    @classmethod
    def untested(cls, folder: Path, manifest: Manifest, artefact: Artefact, provider: Provider = Provider.CPU) -> Self:
        """Open an artefact of an export that is still being made, in its folder.

        Raises:
            BrokenExport: Its windows are too short to hold any text.
            BadConfiguration: The demanded provider is not active.
        """
        tokenizer, lexicon = _reader((folder / TOKENIZER).read_text(encoding="utf-8"), manifest.max_tokens)
        if manifest.max_tokens <= tokenizer.num_special_tokens_to_add(is_pair=False):
            raise BrokenExport(
                f"Export {manifest.version} has windows of {manifest.max_tokens} tokens: too few for any text."
            )
        return cls(manifest, artefact, tokenizer, lexicon, open_session(folder / artefact.file, provider))

    def self_test(self) -> None:
        """Compare the logits of the artefact's texts with those of the day it was made.

        Each is run alone and, where the policy allows company, beside a longer one, which shows whether padding is
        ignored.

        Raises:
            BrokenExport: They differ, or there are none to compare.
        """
        tests = self.artefact.self_test or self.manifest.self_test
        if not tests:
            raise BrokenExport(f"Export {self.version} has no self-test.")
        tolerance = SELF_TEST_TOLERANCE.get(self.artefact.precision, SELF_TEST_TOLERANCE[Precision.FP32])
        for test in tests:
            window, longer = (parts[0] for parts in self.encode([test.text, f"{test.text} {test.text}"]))
            expected = np.array(test.logits, dtype=np.float32)[self._order]
            for run in ([window], [window, longer])[: self.artefact.batch.max_batch_size]:
                logits = self.run(run).logits
                if not np.isfinite(logits).all() or np.abs(logits[0] - expected).max() > tolerance:
                    raise BrokenExport(
                        f"Export {self.version} fails its self-test: the logits of {self.artefact.file} are not those of "
                        "its making."
                    )

    def encode(self, texts: Sequence[str]) -> list[list[Window]]:
        """Cut normalised texts into overlapping windows of tokens, all of each text.

        Raises:
            NoModel: The tokenizer fails on them.
        """
        try:
            encodings = self._tokenizer.encode_batch(list(texts))  # releases the GIL, which `encode` holds
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of the tokenizer's Rust is no Exception
            raise NoModel(f"The tokenizer of export {self.version} failed ({type(error).__name__}).") from None
        return [_windows(encoding, text) for encoding, text in zip(encodings, texts, strict=True)]

    def run(self, windows: Sequence[Window]) -> Outputs:
        """Run the model once over some windows, padded on the right to the longest."""
        logits, embeddings = self._session.run(["logits", "embedding"], self.feed(windows))
        return Outputs(logits=np.asarray(logits)[:, self._order], embeddings=np.asarray(embeddings))

    def feed(self, windows: Sequence[Window]) -> dict[str, npt.NDArray[np.int64]]:
        """Return the model's inputs for some windows, `(n, width)` each, padded on the right to the longest."""
        width = max(len(w.ids) for w in windows)
        ids = np.full((len(windows), width), self.manifest.pad_id, dtype=np.int64)
        mask = np.zeros((len(windows), width), dtype=np.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window.ids)] = window.ids
            mask[row, : len(window.ids)] = 1
        feed = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(ids)
        return feed

    def score(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return `(n, 6)` probabilities and `(n, d)` embeddings of each normalised text's first window, for the learner."""
        windows = [w[0] for w in self.encode(texts)]
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].ids))
        size = self.artefact.batch.max_batch_size
        outputs = [self.run([windows[i] for i in order[b : b + size]]) for b in range(0, len(order), size)]
        back = np.argsort(order)
        logits = np.concatenate([o.logits for o in outputs])[back]
        return softmax(logits), np.concatenate([o.embeddings for o in outputs])[back]


@lru_cache(maxsize=2)
def _reader(tokenizer_json: str, max_tokens: int) -> tuple[Tokenizer, Lexicon]:
    """Return a tokenizer and its words, the same ones again for the next version: making them stops all for 25 ms."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, stride=max_tokens // OVERLAP)
    return tokenizer, Lexicon.of(tokenizer.get_vocab())


def open_session(file: Path, provider: Provider = Provider.CPU) -> ort.InferenceSession:
    """Open an ONNX file as serving does: one thread a run, no spinning.

    Raises:
        BadConfiguration: The demanded provider is not active.
    """
    session = ort.InferenceSession(str(file), session_options(), providers=_providers(provider))
    if provider is Provider.CUDA and session.get_providers()[0] != _CUDA:
        raise BadConfiguration("GUARD_PROVIDER=cuda, but the CUDA provider did not start: check driver and libraries.")
    return session


def session_options() -> ort.SessionOptions:
    """Return how every session runs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # one run, one thread: the batcher has as many threads as cores
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors are raised too; written by it they would be lines of no JSON
    return options


def _providers(provider: Provider) -> list[str]:
    wanted = [_CPU] if provider is Provider.CPU else [_CUDA, _CPU]
    available = set(ort.get_available_providers())
    if provider is Provider.CUDA and _CUDA not in available:
        raise BadConfiguration("GUARD_PROVIDER=cuda, but this onnxruntime has no CUDA: install the `gpu` extra.")
    return [p for p in wanted if p in available]


def _candidates(manifest: Manifest, providers: Sequence[str], precision: Precision) -> list[Artefact]:
    """Return the artefacts that may serve on the first of the providers, the fastest first."""
    fit = (Precision.FP16, Precision.FP32) if providers[0] == _CUDA else (Precision.INT8, Precision.FP32)
    if precision is not Precision.AUTO and precision not in fit:
        device = "CUDA" if providers[0] == _CUDA else "a CPU"
        raise BadConfiguration(f"GUARD_ARTEFACT={precision} does not run well on {device}: {' or '.join(fit)} does.")
    wanted = fit if precision is Precision.AUTO else (precision,)
    found = [artefact for artefact in manifest.artefacts if artefact.precision in wanted]
    if not found:
        there = ", ".join(artefact.precision for artefact in manifest.artefacts)
        raise BadConfiguration(f"GUARD_ARTEFACT={precision}, but export {manifest.version} has only {there}.")
    if providers[0] == _CUDA:  # the times in the manifest are a CPU's
        return sorted(found, key=lambda artefact: wanted.index(Precision(artefact.precision)))
    return sorted(found, key=lambda artefact: math.inf if artefact.run_ms is None else artefact.run_ms)


def _check(manifest: Manifest) -> None:
    version = manifest.version
    if set(manifest.labels) != set(CATEGORIES) or len(manifest.labels) != len(CATEGORIES):
        raise BrokenExport(f"Export {version} does not have the six categories.")
    if set(manifest.thresholds) != set(CATEGORIES) or not all(0 < t <= 1 for t in manifest.thresholds.values()):
        raise BrokenExport(f"Export {version} needs a threshold in (0, 1] for each category.")


def _windows(encoding: Encoding, text: str) -> list[Window]:
    if not encoding.overflowing:
        return [Window(tuple(encoding.ids), 0, len(text))]
    windows = []
    for part in (encoding, *encoding.overflowing):
        places = [place for place in part.offsets if place[1] > place[0]]  # special tokens have none
        start = places[0][0] if places else 0
        windows.append(Window(tuple(part.ids), start, places[-1][1] if places else start))
    return windows
