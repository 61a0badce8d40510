"""Repeated measurements into medians with their spread."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

from benchmarks.peers.load import Load

FIGURES: Final = ("per_s", "cpu_ms", "p50_ms", "p99_ms", "failed", "generator_cpu_ms")


@dataclass(frozen=True, slots=True)
class Key:
    """What was measured: a peer in a setting, a corpus, and how it was loaded."""

    peer: str
    setting: str
    corpus: str
    load: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the load generator.

    Args:
        per_s: Texts answered a second.
        cpu_ms: CPU time of the server's processes, a text.
        p50_ms: Median time to the answer to a request.
        p99_ms: Its 99th percentile.
        failed: Requests without a 200.
        generator_cpu_ms: CPU time of the load generator, a text.
    """

    per_s: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    failed: float
    generator_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some repeats, the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Return the spread of at least one value."""
        found = sorted(values)
        return cls(median(found), found[0], found[-1])


def sample(load: Load, server_cpu_s: float, *, texts: int = 1) -> Sample:
    """Return the figures of one run whose requests held so many texts each."""
    answered = max(1, load.answered) * texts
    return Sample(
        per_s=load.per_s * texts,
        cpu_ms=1000 * server_cpu_s / answered,
        p50_ms=load.latency_ms(0.5),
        p99_ms=load.latency_ms(0.99),
        failed=load.failed,
        generator_cpu_ms=1000 * load.cpu_s / answered,
    )


class Ledger:
    """All samples, in the order of measuring."""

    def __init__(self) -> None:
        self._samples: dict[Key, list[Sample]] = {}

    def add(self, key: Key, found: Sample) -> None:
        """Take note of one run."""
        self._samples.setdefault(key, []).append(found)

    def __contains__(self, key: Key) -> bool:
        return key in self._samples

    def spread(self, key: Key, figure: str) -> Spread:
        """Return the spread of one figure over the repeats."""
        return Spread.of(getattr(found, figure) for found in self._samples[key])

    def saturation(self, peer: str, setting: str, corpus: str, loads: Sequence[str]) -> float:
        """Return the greatest median of texts a second over some loads."""
        keys = (Key(peer, setting, corpus, load) for load in loads)
        return max(self.spread(key, "per_s").median for key in keys if key in self)

    def fastest(self, peer: str, settings: Sequence[str], corpus: str, load: str) -> str:
        """Return the setting in which a peer answers most texts a second."""
        return max(settings, key=lambda setting: self.spread(Key(peer, setting, corpus, load), "per_s").median)

    def rows(self) -> list[Mapping[str, Any]]:
        """Return each key with the spread of each figure and the number of repeats, ready for JSON."""
        return [
            {
                **asdict(key),
                "repeats": len(samples),
                **{name: _rounded(self.spread(key, name)) for name in FIGURES},
            }
            for key, samples in self._samples.items()
        ]


def _rounded(spread: Spread) -> dict[str, float]:
    return {name: round(value, 3) for name, value in asdict(spread).items()}
