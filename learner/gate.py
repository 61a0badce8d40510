"""Champion and challenger on the gate set and the must-pass list into a judgement with its reasons.

`learner.promote` acts on it, `learner.cycle` stores it. The limits are in the settings.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from guard.bundle import Bundle
from guard.taxonomy import CATEGORIES, GUIDELINES, Category
from learner.compare import by_group, resampled_deltas
from learner.dataset import Corpus, Example
from learner.report import ONNX_DIFFERENCE, ONNX_TOLERANCE, Scored, confusion, mean_f1, metrics, score
from learner.settings import LearnerSettings

_INTERVAL: Final = (2.5, 97.5)
_GUARDED: Final = (Category.SELF_HARM, Category.EMERGENCY_SITUATION)
_ACTIONS: Final = [GUIDELINES[category].action for category in CATEGORIES]
_SLACK: Final = 1e-9  # a loss of exactly the limit is within it, whatever its last bits


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a challenger may become champion, why, and what was measured; nothing of it carries a text.

    Args:
        promote: Whether every rule holds.
        reasons: Every rule that was broken; where none was, what speaks for it.
        metrics: Figures by name, in shares of 1 unless they count.
        tables: `(6, 6)` counts by name: `challenger` and `champion`, a row for each label and a column for each decision,
            and `changes`, a row for each decision of the champion and a column for each of the challenger.
    """

    promote: bool
    reasons: tuple[str, ...]
    metrics: Mapping[str, float]
    tables: Mapping[str, list[list[int]]] = field(default_factory=dict)


def judge(champion: Bundle | None, challenger: Bundle, corpus: Corpus, settings: LearnerSettings) -> Judgement:
    """Judge a challenger; where there is no champion, by the must-pass list and its ONNX alone."""
    new = score(challenger, corpus.gate)
    figures = metrics(new)
    tables = {"challenger": confusion(new.labels, new.decisions).tolist()}
    failures, confused = _must_pass(challenger, corpus.must_pass)
    figures["must_pass_rows"] = float(len(corpus.must_pass))
    figures["must_pass_confused"] = float(confused)
    figures["must_pass_failures"] = float(failures.total())
    figures |= {f"must_pass_failures.{category}": float(count) for category, count in sorted(failures.items())}
    broken = [*_broken_onnx(challenger), *_broken_must_pass(failures)]
    if champion is None:
        favour = f"it is the first champion, with macro-F1 {_points(figures['macro_f1'])}"
    else:
        old = score(champion, corpus.gate)
        before = metrics(old)
        tables["champion"] = confusion(old.labels, old.decisions).tolist()
        tables["changes"] = confusion(old.decisions, new.decisions).tolist()
        figures |= _comparison(old, new, [example.group for example in corpus.gate], settings.seed)
        figures |= {f"champion.{name}": value for name, value in before.items() if not name.startswith("rows")}
        broken += _broken_comparison(before, figures, settings)
        favour = (
            f"macro-F1 changes by {_signed(figures['delta_macro_f1'])} points to {_points(figures['macro_f1'])}, "
            f"{_interval(figures)}"
        )
    if broken:
        return Judgement(False, tuple(broken), MappingProxyType(figures), MappingProxyType(tables))
    unseen = [c for c in _GUARDED if f"recall.{c}" not in figures]
    reasons = (favour, *(f"recall of {c} could not be judged: the gate set has no message of it" for c in unseen))
    return Judgement(True, reasons, MappingProxyType(figures), MappingProxyType(tables))


def _must_pass(bundle: Bundle, must_pass: Sequence[Example]) -> tuple[Counter[Category], int]:
    """Return the failures by category, and how many messages were merely taken for another of the same action.

    A must-pass message fails when the chatbot would do the wrong thing: when its decision calls for another action than
    its category does by default. A kidnapping taken for self-harm is escalated all the same.
    """
    scored = score(bundle, must_pass)
    wrong = [
        (label, decision) for label, decision in zip(scored.labels, scored.decisions, strict=True) if label != decision
    ]
    failures = Counter(CATEGORIES[label] for label, decision in wrong if _ACTIONS[label] is not _ACTIONS[decision])
    return failures, len(wrong) - failures.total()


def _broken_onnx(challenger: Bundle) -> Iterator[str]:
    difference = challenger.manifest.metrics.get(ONNX_DIFFERENCE)
    if difference is None:
        yield "its manifest does not say that its ONNX was compared with the network"
    elif not difference <= ONNX_TOLERANCE:
        yield f"its ONNX differs from the network by {difference:.2g} logits (limit {ONNX_TOLERANCE:g})"


def _broken_must_pass(failures: Counter[Category]) -> Iterator[str]:
    if failures:
        by_category = ", ".join(f"{category} {count}" for category, count in sorted(failures.items()))
        yield f"{failures.total()} must-pass messages fail ({by_category}; limit 0)"


def _broken_comparison(
    before: Mapping[str, float], figures: Mapping[str, float], settings: LearnerSettings
) -> Iterator[str]:
    delta, low = figures["delta_macro_f1"], figures["delta_macro_f1_low"]
    if delta < -_SLACK:
        yield f"macro-F1 fell by {_points(-delta)} points, {_interval(figures)} (limit 0.0)"
    if low < -settings.gate_max_loss - _SLACK:
        yield (
            f"macro-F1 may have fallen by {_points(-low)} points, the lower end of 95 % (limit "
            f"{_points(settings.gate_max_loss)})"
        )
    for category in _GUARDED:
        name = f"recall.{category}"
        loss = before.get(name, 0.0) - figures.get(name, 0.0)
        if loss > settings.gate_max_recall_loss + _SLACK:
            limit = _points(settings.gate_max_recall_loss)
            yield f"recall of {category} fell by {_points(loss)} points (limit {limit})"
    rise = figures.get("false_alarm_rate", 0.0) - before.get("false_alarm_rate", 0.0)
    if rise > settings.gate_max_false_alarm_rise + _SLACK:
        limit = _points(settings.gate_max_false_alarm_rise)
        yield f"false alarms rose by {_points(rise)} points (limit {limit})"
    if figures["flips"] > settings.gate_max_flips + _SLACK:
        limit = _points(settings.gate_max_flips)
        yield f"{_points(figures['flips'])} % of the champion's right answers became wrong (limit {limit})"


def _comparison(old: Scored, new: Scored, groups: Sequence[str], seed: int) -> dict[str, float]:
    """Return the change of macro-F1 with its paired bootstrap interval over groups, and the share of negative flips.

    Flips are counted against the champion's right answers (arXiv 2105.03048, there against all rows).
    """
    _names, places = np.unique(groups, return_inverse=True)
    before, after = (by_group(s.labels, s.decisions, places) for s in (old, new))
    delta = float(mean_f1(after.sum(axis=0)) - mean_f1(before.sum(axis=0)))
    low, high = np.percentile(resampled_deltas(before, after, seed), _INTERVAL)
    right = old.decisions == old.labels
    flips = int((right & (new.decisions != new.labels)).sum())
    return {
        "delta_macro_f1": delta,
        "delta_macro_f1_low": float(low),
        "delta_macro_f1_high": float(high),
        "flips": flips / max(int(right.sum()), 1),
    }


def _interval(figures: Mapping[str, float]) -> str:
    low, high = figures["delta_macro_f1_low"], figures["delta_macro_f1_high"]
    return f"95 % between {_signed(low)} and {_signed(high)}"


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"
