"""Texts into verdicts under exactly one version, and the swap of that version between two requests."""

import asyncio
import ctypes
import gc
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from guard.batcher import Batcher, Tracer
from guard.bundle import Bundle
from guard.decision import Verdict, softmax
from guard.errors import NoModel, OutOfTime, TooLarge
from guard.metrics import Metrics
from guard.reading import Reading, check_length, read
from guard.settings import GuardSettings
from guard.taxonomy import Category

ENCODE_INLINE_CHARS: Final = 2_000  # some 0.1 ms of tokenizing; more than that leaves the event loop for a thread
CHARS_A_TOKEN: Final = 4  # of English, about; it decides only who is refused before the tokenizer and who after


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts of one request, all by one version, and the normalised texts they are about.

    Args:
        windows: How many were judged of each text, those of an undisguised reading included.
        tokens: How many the model read, in all windows.
        spans: The characters of each text as it was sent that decided: start and end.
        disguised: Whether the verdict is that of the undisguised reading.
    """

    model_version: str
    texts: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    windows: tuple[int, ...]
    tokens: int
    spans: tuple[tuple[int, int], ...]
    disguised: tuple[bool, ...]


class Engine:
    """Classifies with the bundle in service.

    Args:
        settings: Limits and deadline.
        metrics: Told of stages and swaps.
        tracer: Told of every run.
    """

    def __init__(self, settings: GuardSettings, metrics: Metrics, *, tracer: Tracer | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._batcher = Batcher(
            threads=settings.threads,
            max_queue_tokens=settings.max_queue_tokens,
            observe=metrics.observe_run,
            tracer=tracer,
        )
        self.bundle: Bundle | None = None

    @property
    def problem(self) -> str | None:
        """Why the engine cannot classify; None when it can."""
        if self.bundle is None:
            return "no model is loaded"
        return self._batcher.problem

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait for a run."""
        return self._batcher.queue_tokens

    def check(self, tokens: int, *, timeout_s: float) -> None:
        """Refuse tokens that could not be judged in time.

        Raises:
            NoRoom: With the seconds after which to try again.
        """
        self._batcher.check(tokens, timeout_s=timeout_s)

    @property
    def busy(self) -> bool:
        """Whether work waits, or would if more came."""
        return self._batcher.busy

    async def classify(
        self,
        texts: Sequence[str],
        thresholds: Mapping[Category, float] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Judged:
        """Judge texts with the bundle that is in service now.

        Args:
            texts: As users sent them, within the limits of the settings.
            thresholds: Override the export's, category by category.
            deadline_s: How long the caller waits, where that is less than `deadline_ms`.

        Raises:
            EmptyText: A text holds nothing visible.
            TooLarge: A text is longer than `max_text_chars`, or there are more than `max_texts`.
            NoModel: No export is loaded, or its run failed.
            NoRoom: The queue is full, or longer than the caller waits.
            OutOfTime: There was no verdict within the deadline.
        """
        bundle = self.bundle
        if bundle is None:
            raise NoModel("No model is loaded yet: run `learner bootstrap`, or wait for it.", retry_after_s=5)
        self._check_size(texts)
        limit = self._settings.max_text_chars
        limit_s = self._settings.deadline_ms / 1000
        deadline_s = limit_s if deadline_s is None else min(limit_s, deadline_s)
        chars = sum(map(len, texts))
        self._batcher.check(chars // CHARS_A_TOKEN, timeout_s=deadline_s)  # before any work is done
        began = time.monotonic()
        short = chars <= ENCODE_INLINE_CHARS
        if short:
            readings = read(bundle, texts, max_chars=limit)
        else:
            try:
                async with asyncio.timeout(deadline_s):
                    readings = await asyncio.to_thread(read, bundle, texts, max_chars=limit)
            except TimeoutError:
                raise OutOfTime(
                    f"Reading the texts took longer than {deadline_s * 1000:.0f} ms: send fewer or shorter ones."
                ) from None
        took_s = time.monotonic() - began
        self._metrics.encode_seconds.observe(took_s)
        flat = [window for reading in readings for window in reading.windows]
        logits = await self._batcher.run(bundle, flat, timeout_s=deadline_s - took_s)
        if not math.isfinite(float(logits.sum())):
            raise NoModel(f"Export {bundle.version} gave no numbers for this request, so there is no verdict.")
        limits = {**bundle.thresholds, **(thresholds or {})}
        counts = tuple(len(reading.windows) for reading in readings)
        rows = softmax(logits)
        ends = [*accumulate(counts)]
        parts = [rows[end - count : end] for count, end in zip(counts, ends, strict=True)]
        decided = [reading.decide(part, limits) for reading, part in zip(readings, parts, strict=True)]
        for verdict, disguised in decided:
            if disguised:
                self._metrics.disguised.labels(verdict.category).inc()
        verdicts = tuple(verdict for verdict, _ in decided)
        return Judged(
            model_version=bundle.version,
            texts=tuple(reading.text for reading in readings),
            verdicts=verdicts,
            windows=counts,
            tokens=sum(len(window.ids) for window in flat),
            spans=_spans(readings, verdicts) if short else await asyncio.to_thread(_spans, readings, verdicts),
            disguised=tuple(disguised for _, disguised in decided),
        )

    def swap(self, bundle: Bundle) -> None:
        """Put a bundle in service; requests under way keep the one they began with."""
        self.bundle = bundle
        self._metrics.set_model(bundle.manifest, bundle.artefact.precision)

    def close(self) -> None:
        """Stop the workers."""
        self._batcher.close()

    def _check_size(self, texts: Sequence[str]) -> None:
        if len(texts) > self._settings.max_texts:
            raise TooLarge(
                f"{len(texts)} texts are more than {self._settings.max_texts}: send them in several requests."
            )
        check_length(texts, self._settings.max_text_chars)


def _spans(readings: Sequence[Reading], verdicts: Sequence[Verdict]) -> tuple[tuple[int, int], ...]:
    """Return where in each text as it was sent the harm lies; some 50 ms for one of 32,000 characters."""
    return tuple(reading.span(verdict.window) for reading, verdict in zip(readings, verdicts, strict=True))


def release_memory() -> None:
    """Give the memory of a dropped bundle back to the system (sessions otherwise grow the process, onnxruntime #26831)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
