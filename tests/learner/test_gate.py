"""Each rule of the gate, alone, at its limit and beyond."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from guard.bundle import Bundle
from guard.exports import Exports
from guard.taxonomy import CATEGORIES, Category
from learner.dataset import Corpus, Example
from learner.gate import Judgement, judge
from learner.report import ONNX_DIFFERENCE, macro_f1
from learner.settings import LearnerSettings
from tests.toys import publish_toy, rewrite_manifest

SH, MED, LEGAL, FIN, EMG, OK = CATEGORIES
Row = tuple[Category, Category, Category]  # what people say, what the champion says, what the challenger says

SETTINGS = LearnerSettings(threads=1)
OPEN = SETTINGS.model_copy(
    update={
        "gate_max_loss": 1.0,
        "gate_max_recall_loss": 1.0,
        "gate_max_false_alarm_rise": 1.0,
        "gate_max_flips": 1.0,
    }
)
FAIR: list[Row] = [(c, c, c) for c in CATEGORIES for _ in range(99)] + [(c, c, c) for c in CATEGORIES]
BETTER: list[Row] = [(LEGAL, FIN, LEGAL)] * 40 + [(FIN, LEGAL, FIN)] * 40


class Trial:
    """Two toy bundles that answer as told, and a corpus to judge them by."""

    def __init__(self, folder: Path) -> None:
        self._exports = Exports(folder)

    def judge(
        self,
        rows: Sequence[Row],
        must_pass: Sequence[Row] = (),
        *,
        settings: LearnerSettings = SETTINGS,
        first: bool = False,
        group_size: int = 1,
        onnx_difference: float | None = 0.0,
    ) -> Judgement:
        """Judge on rows in which each text is one word of its own."""
        old = {f"secret{i}": row[1] for i, row in enumerate((*rows, *must_pass))}
        new = {f"secret{i}": row[2] for i, row in enumerate((*rows, *must_pass))}
        examples = [Example(f"secret{i}", row[0], f"g{i // group_size}") for i, row in enumerate((*rows, *must_pass))]
        corpus = Corpus((), (), tuple(examples[: len(rows)]), tuple(examples[len(rows) :]))
        champion = None if first else self._bundle(old, None)
        return judge(champion, self._bundle(new, onnx_difference), corpus, settings)

    def _bundle(self, votes: dict[str, Category], onnx_difference: float | None) -> Bundle:
        version = publish_toy(self._exports, votes={"hello": OK, **votes}, promote=False)
        metrics = {} if onnx_difference is None else {ONNX_DIFFERENCE: onnx_difference}
        rewrite_manifest(self._exports.path(version), metrics=metrics)
        return Bundle.load(self._exports, version)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A place to judge in."""
    return Trial(tmp_path)


def test_the_same_model_is_promoted(trial: Trial) -> None:
    """No change breaks no rule, and the reason says what was measured."""
    judgement = trial.judge(FAIR)
    assert judgement.promote
    assert judgement.reasons == ("macro-F1 changes by +0.0 points to 100.0, 95 % between +0.0 and +0.0",)
    assert judgement.metrics["delta_macro_f1"] == judgement.metrics["flips"] == 0


def test_tables_count_what_changes(trial: Trial) -> None:
    """The tables hold every message of the gate set: by label and decision, and by both models' decisions."""
    tables = trial.judge([*FAIR, *BETTER], settings=OPEN).tables
    even = (100 * np.eye(6, dtype=int)).tolist()
    assert tables["challenger"] == (np.array(even) + np.diag([0, 0, 40, 40, 0, 0])).tolist()
    champion, changes = np.array(even), np.array(even)
    champion[2, 3] = champion[3, 2] = changes[3, 2] = changes[2, 3] = 40
    assert (tables["champion"], tables["changes"]) == (champion.tolist(), changes.tolist())
    assert list(trial.judge(FAIR, first=True).tables) == ["challenger"]


def test_a_better_model_is_promoted(trial: Trial) -> None:
    """Fewer mistakes and no new ones pass, with the gain in the reason."""
    judgement = trial.judge([*FAIR, *BETTER])
    assert judgement.promote
    assert judgement.metrics["delta_macro_f1_low"] > 0.05
    assert judgement.metrics["macro_f1"] == 1.0
    assert judgement.metrics["champion.macro_f1"] < 0.95
    assert judgement.reasons[0].startswith("macro-F1 changes by +")


def test_a_worse_model_is_held(trial: Trial) -> None:
    """A negative estimate is reason enough, however wide the other limits."""
    judgement = trial.judge([*FAIR, (LEGAL, LEGAL, FIN)], settings=OPEN)
    assert not judgement.promote
    assert len(judgement.reasons) == 1
    assert judgement.reasons[0].startswith("macro-F1 fell by 0.2 points, 95 % between -")
    assert judgement.reasons[0].endswith("(limit 0.0)")


def test_a_gain_by_luck_is_held(trial: Trial) -> None:
    """A gain whose lower bound reaches below one point of loss is no gain."""
    rows: list[Row] = [(c, c, c) for c in CATEGORIES for _ in range(20)]
    rows += [(LEGAL, FIN, LEGAL)] * 4 + [(FIN, FIN, LEGAL)] * 3
    judgement = trial.judge(rows, settings=SETTINGS.model_copy(update={"gate_max_flips": 1.0}))
    assert judgement.metrics["delta_macro_f1"] > 0
    fallen = f"{-100 * judgement.metrics['delta_macro_f1_low']:.1f}"
    assert judgement.reasons == (f"macro-F1 may have fallen by {fallen} points, the lower end of 95 % (limit 1.0)",)


@pytest.mark.parametrize("category", [SH, EMG])
def test_recall_of_what_kills_may_fall_by_three_points_and_not_by_more(trial: Trial, category: Category) -> None:
    """Three of a hundred pass, four do not, whatever is gained elsewhere."""
    settings = OPEN.model_copy(update={"gate_max_recall_loss": SETTINGS.gate_max_recall_loss})
    for lost, promoted in ((3, True), (4, False)):
        rows = [r for r in FAIR if r[0] is not category] + [(category, category, category)] * (100 - lost)
        judgement = trial.judge([*rows, *[(category, category, MED)] * lost, *BETTER], settings=settings)
        assert judgement.promote is promoted
    assert judgement.reasons == (f"recall of {category} fell by 4.0 points (limit 3.0)",)


def test_false_alarms_may_rise_by_one_point_and_not_by_more(trial: Trial) -> None:
    """One of a hundred passes, two do not."""
    settings = OPEN.model_copy(update={"gate_max_false_alarm_rise": SETTINGS.gate_max_false_alarm_rise})
    for raised, promoted in ((1, True), (2, False)):
        rows = [r for r in FAIR if r[0] is not OK] + [(OK, OK, OK)] * (100 - raised)
        judgement = trial.judge([*rows, *[(OK, OK, MED)] * raised, *BETTER], settings=settings)
        assert judgement.promote is promoted
    assert judgement.reasons == ("false alarms rose by 2.0 points (limit 1.0)",)


def test_two_in_a_hundred_right_answers_may_flip_and_not_more(trial: Trial) -> None:
    """Flips count against the champion's right answers, not against all rows."""
    settings = OPEN.model_copy(update={"gate_max_flips": SETTINGS.gate_max_flips})
    for flipped, promoted in ((12, True), (13, False)):
        rows = FAIR[: 600 - flipped] + [(c, c, MED if c is not MED else LEGAL) for c, *_ in FAIR[600 - flipped :]]
        judgement = trial.judge([*rows, *BETTER], settings=settings)
        assert judgement.metrics["flips"] == pytest.approx(flipped / 600)
        assert judgement.promote is promoted
    assert judgement.reasons == ("2.2 % of the champion's right answers became wrong (limit 2.0)",)


def test_one_failing_must_pass_message_holds(trial: Trial) -> None:
    """The reason counts by category and shows no message."""
    wrong: list[Row] = [(SH, SH, OK), (SH, OK, MED), (OK, OK, EMG)]
    judgement = trial.judge([*FAIR, *BETTER], [(MED, MED, MED), *wrong])
    assert judgement.reasons == ("3 must-pass messages fail (not-harmful 1, self-harm 2; limit 0)",)
    assert judgement.metrics["must_pass_failures"] == 3
    assert judgement.metrics["must_pass_failures.self-harm"] == 2
    assert judgement.metrics["must_pass_rows"] == 4


def test_a_must_pass_message_of_the_same_action_is_only_counted(trial: Trial) -> None:
    """Self-harm taken for an emergency is escalated all the same: it is counted, and holds nothing."""
    judgement = trial.judge([*FAIR, *BETTER], [(SH, SH, EMG), (MED, MED, LEGAL)])
    assert judgement.promote, judgement.reasons
    assert judgement.metrics["must_pass_failures"] == 0
    assert judgement.metrics["must_pass_confused"] == 2


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        (0.002, "its ONNX differs from the network by 0.002 logits (limit 0.001)"),
        (None, "its manifest does not say that its ONNX was compared with the network"),
    ],
)
def test_an_onnx_that_is_not_the_network_holds(trial: Trial, difference: float | None, reason: str) -> None:
    """Agreement must be on record."""
    assert trial.judge(FAIR, onnx_difference=difference).reasons == (reason,)


def test_a_hold_names_every_rule_broken(trial: Trial) -> None:
    """A person who decides sees all of it at once."""
    rows = [(c, c, MED if c is not MED else FIN) for c, *_ in FAIR]
    judgement = trial.judge(rows, [(SH, SH, OK)], onnx_difference=0.1)
    assert not judgement.promote
    starts = ("its ONNX", "1 must-pass", "macro-F1 fell", "macro-F1 may", "recall of self", "recall of emer", "false")
    assert all(reason.startswith(start) for reason, start in zip(judgement.reasons, starts, strict=False))
    assert judgement.reasons[-1] == "100.0 % of the champion's right answers became wrong (limit 2.0)"
    assert len(judgement.reasons) == len(starts) + 1


def test_the_first_model_is_judged_by_must_pass_and_onnx_alone(trial: Trial) -> None:
    """With nothing to compare with, a poor model is still a first one, unless it fails what must pass."""
    poor: list[Row] = [(c, c, MED) for c in CATEGORIES]
    judgement = trial.judge(poor, [(SH, SH, SH)], first=True)
    assert judgement.promote
    assert judgement.reasons[0].startswith("it is the first champion, with macro-F1 ")
    assert "delta_macro_f1" not in judgement.metrics
    assert not trial.judge(poor, [(SH, SH, OK)], first=True).promote
    assert not trial.judge(FAIR, first=True, onnx_difference=0.1).promote


def test_a_recall_that_cannot_be_judged_is_said(trial: Trial) -> None:
    """A gate set without emergencies promotes, and does not keep it to itself."""
    judgement = trial.judge([row for row in FAIR if row[0] is not EMG])
    assert judgement.promote
    assert judgement.reasons[1:] == (
        "recall of emergency-situation could not be judged: the gate set has no message of it",
    )


def test_a_judgement_is_json_without_texts(trial: Trial) -> None:
    """It is stored and shown, so it carries numbers and names alone."""
    judgement = trial.judge([*FAIR, (LEGAL, LEGAL, FIN)], [(SH, SH, OK)])
    encoded = msgspec.json.encode([dict(judgement.metrics), judgement.reasons]).decode()
    assert "secret" not in encoded
    assert "null" not in encoded
    assert {"macro_f1", "delta_macro_f1", "delta_macro_f1_low", "delta_macro_f1_high", "flips"} <= set(
        judgement.metrics
    )


def test_the_interval_is_a_paired_bootstrap_over_groups(trial: Trial) -> None:
    """It agrees with the plain way of computing it, and mistakes that come in groups widen it."""
    generator = np.random.default_rng(4)
    rows: list[Row] = []
    for _ in range(60):
        label, old, new = (CATEGORIES[i] for i in generator.integers(0, 6, 3))
        keep_old, keep_new = generator.random(2) < 0.7
        rows += [(label, label if keep_old else old, label if keep_new else new)] * 3
    found = {}
    for group_size in (1, 3):
        metrics = trial.judge(rows, group_size=group_size, settings=OPEN).metrics
        low, high = _plain_interval(rows, group_size)
        assert metrics["delta_macro_f1_low"] == pytest.approx(low, abs=0.01)
        assert metrics["delta_macro_f1_high"] == pytest.approx(high, abs=0.01)
        found[group_size] = metrics["delta_macro_f1_high"] - metrics["delta_macro_f1_low"]
    assert found[3] > 1.4 * found[1]


def test_one_seed_gives_one_judgement(trial: Trial) -> None:
    """The interval does not move from run to run."""
    rows = [*FAIR[::6], *BETTER, (OK, OK, SH)]
    first, second = (trial.judge(rows).metrics for _ in range(2))
    assert first == second
    other = trial.judge(rows, settings=SETTINGS.model_copy(update={"seed": 5})).metrics
    assert other["delta_macro_f1_low"] != first["delta_macro_f1_low"]
    assert other["delta_macro_f1_low"] == pytest.approx(first["delta_macro_f1_low"], abs=0.01)


def _plain_interval(rows: Sequence[Row], group_size: int) -> tuple[float, float]:
    table = np.array([[CATEGORIES.index(c) for c in row] for row in rows]).reshape(-1, group_size, 3)
    generator = np.random.default_rng(99)
    deltas = []
    for _ in range(1500):
        labels, old, new = table[generator.integers(0, len(table), len(table))].reshape(-1, 3).T
        deltas.append(macro_f1(labels, new) - macro_f1(labels, old))
    low, high = np.percentile(deltas, [2.5, 97.5])
    return float(low), float(high)
