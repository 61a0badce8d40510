"""What stands between measurements and README: corpora, environments' names, verdicts, statistics, tables, recovery."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import environments
from benchmarks.peers.corpus import MIXED, SHORT, corpora, project_texts
from benchmarks.peers.environments import Environments, Unavailable, digest
from benchmarks.peers.figures import Key, Ledger, Sample, Spread, sample
from benchmarks.peers.load import OK, Load
from benchmarks.peers.measure import disagreement
from benchmarks.peers.plot import plot
from benchmarks.peers.roster import UNSAFE, Answer, roster, scored
from benchmarks.peers.table import Results, markdown, ratios, terminal_table
from benchmarks.pressure import recovered_s


def _count(text: str) -> int:
    return len(text.split()) + 2


def test_corpora_have_their_lengths() -> None:
    """The short corpus has some 32 tokens a text, the mixed one 8 to 256 with a median near 32, both from our own texts."""
    made = corpora(project_texts(), _count, size=200)
    short, mixed = ([_count(text) for text in made[name]] for name in (SHORT, MIXED))
    assert len(short) == len(mixed) == 200
    assert min(short) >= 28
    assert max(short) <= 36
    assert min(mixed) >= 6
    assert max(mixed) <= 256
    assert np.median(mixed) == pytest.approx(32, abs=6)
    assert max(mixed) > 120
    assert made == corpora(project_texts(), _count, size=200)


def test_an_environment_is_named_by_its_requirements() -> None:
    """The order of requirements does not matter, a version does."""
    assert digest(["a==1", "b"]) == digest(["b", "a==1"]) != digest(["a==2", "b"])


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed installation is reported with its error and leaves nothing that a later run would take for complete."""

    def fail(command: list[str], name: str) -> None:
        if "pip" in command:
            raise Unavailable(f"installing {name} failed: no such package")

    monkeypatch.setattr(environments, "_run", fail)
    for _ in range(2):
        with pytest.raises(Unavailable, match="no such package"):
            Environments(tmp_path).python("peer", ["nothing"])


def test_verdicts_are_compared_at_one_half() -> None:
    """A text is harmful when any harmful label reaches one half; differences of scores are told where there are scores."""
    calm = dict.fromkeys(UNSAFE, 0.1) | {"not-harmful": 0.5}
    grave = calm | {UNSAFE[0]: 0.5}
    assert [scored(calm).flagged, scored(grave).flagged] == [False, True]
    assert disagreement([scored(calm)], [scored(grave)]) == (1, 0.4)
    assert disagreement([scored(calm)], [Answer(flagged=False)]) == (0, None)


def test_a_sample_is_a_text() -> None:
    """The figures of requests with several texts are those of one text, but for the latency."""
    load = Load(np.array([0.0, 0.1]), np.array([0.2, 0.4]), np.array([OK, 503]), seconds=1.0, cpu_s=0.064)
    found = sample(load, server_cpu_s=0.32, texts=32)
    assert found == Sample(32.0, 10.0, 200.0, 200.0, 1, 2.0)


def test_a_spread_is_a_median_between_the_ends() -> None:
    """Of an even number the median is between the middle two."""
    assert Spread.of([4, 1, 2, 3]) == Spread(2.5, 1, 4)


def _sample(per_s: float) -> Sample:
    return Sample(per_s, 1000 / per_s, 1.0, 2.0, 0, 0.1)


def test_the_fastest_setting_is_that_of_the_greatest_median() -> None:
    """One lucky repeat does not make a setting the fastest."""
    ledger = Ledger()
    for setting, found in {"steady": (90, 100, 110), "lucky": (10, 20, 900)}.items():
        for per_s in found:
            ledger.add(Key("peer", setting, SHORT, "closed-8"), _sample(per_s))
    assert ledger.fastest("peer", ["lucky", "steady"], SHORT, "closed-8") == "steady"
    assert ledger.saturation("peer", "steady", SHORT, ["closed-8", "closed-32"]) == 100


def _content() -> dict[str, Any]:
    ledger = Ledger()
    speeds = {"guard-fp32": 400, "guard-auto": 900, "slow": 100, "bf16": 450}
    for name, per_s in speeds.items():
        for load in ("closed-1", "closed-8", "open-80"):
            ledger.add(Key(name, "default", SHORT, load), _sample(per_s))
    row = {
        "setting": "default",
        "fastest": True,
        "problem": None,
        "memory_mb": 300.0,
        "verdicts": {"texts": 128, "differ": 0, "largest_difference": None},
        "versions": {"torch": "2"},
    }
    return {
        "measured_at": "2026-11-21",
        "machine": {
            "processor": "a processor",
            "family": "6",
            "model": "1",
            "flags": ["avx2"],
            "cores": 2,
            "memory_gb": 8,
            "system": "6.1",
            "python": "3.11",
            "load_average_before": 0.1,
            "commit": "abc",
        },
        "model": {"version": "0001", "backbone": "minilm", "difference": 2e-6},
        "repeats": 1,
        "seconds": 1.0,
        "peers": [
            row | {"name": "guard-fp32", "title": "Guard", "precision": "fp32", "ours": True, "artefact": "fp32"},
            row
            | {"name": "guard-auto", "title": "Guard (auto)", "precision": "auto", "ours": True, "artefact": "int8"},
            row | {"name": "slow", "title": "Slow", "precision": "fp32", "ours": False},
            row | {"name": "bf16", "title": "Fast", "precision": "bf16", "ours": False},
            {"name": "x", "title": "Gone", "precision": "fp32", "setting": "default", "problem": "no | such package"},
        ],
        "samples": ledger.rows(),
        "engines": [],
        "efficiency": [],
        "quality": {"Lifeguard": {"commands": 0.05}},
    }


def test_each_guard_is_compared_with_whom_it_may_face() -> None:
    """The fp32 guard is compared with the best fp32 peer, the other with the best of all."""
    assert [(r["rival"], r["ratio"]) for r in ratios(Results(_content()))] == [
        ("Slow, fp32, default", 4.0),
        ("Fast, bf16, default", 2.0),
    ]


def test_tables_hold_who_ran_and_who_did_not(tmp_path: Path) -> None:
    """Every peer is in the tables, one that could not be run with its problem, and the plot is drawn."""
    results = Results(_content())
    told = markdown(results)
    assert "| Gone | default | no / such package |" in told
    assert "400 [400, 400]" in told
    assert terminal_table(results).row_count == 5
    plot(results, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_names_of_peers_are_their_own() -> None:
    """No two peers have one name, and those with an environment have requirements."""
    peers = roster()
    assert len({peer.name for peer in peers}) == len(peers)
    assert all(bool(peer.requirements) is not peer.ours for peer in peers)


def test_recovery_is_when_refusals_and_waiting_have_ended() -> None:
    """Recovery is where two seconds begin in which none is refused and half of each half second's are in time."""
    due = np.arange(0, 4, 0.1)
    late = np.where((due < 1.2) | (due > 3.4), 1.0, 0.01)
    status = np.where(due < 0.4, 503, OK)
    load = Load(due, late, status, seconds=4.0, cpu_s=0.0)
    assert recovered_s(load, limit_s=0.02) == 1.0
    assert recovered_s(Load(due, late, np.full(len(due), OK), 4.0, 0.0), limit_s=5.0) == 0.0
    assert recovered_s(Load(due, np.ones(len(due)), status, 4.0, 0.0), limit_s=0.02) is None
