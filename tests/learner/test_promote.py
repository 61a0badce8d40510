"""Who may move the pointer, and that moving it twice is moving it once."""

from pathlib import Path

import pytest

from guard.errors import Conflict, NotFound
from guard.exports import Exports
from learner.gate import Judgement
from learner.promote import promote
from tests.toys import publish_toy

FIT = Judgement(promote=True, reasons=("macro-F1 changes by +1.0 points to 90.0", "and more"), metrics={})
UNFIT = Judgement(promote=False, reasons=("3 must-pass messages fail",), metrics={})


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    """Two versions, the first of them champion."""
    exports = Exports(tmp_path)
    publish_toy(exports)
    publish_toy(exports, parent="0001", promote=False)
    return exports


def test_a_fit_challenger_becomes_champion(exports: Exports) -> None:
    """The pointer moves, and the reasons are kept with the move."""
    assert promote(exports, FIT, "0002", expected="0001", by="learner")
    assert exports.champion() == "0002"
    move = exports.promotions()[-1]
    assert (move.version, move.previous, move.by) == ("0002", "0001", "learner")
    assert move.reason == "macro-F1 changes by +1.0 points to 90.0; and more"


def test_an_unfit_challenger_is_held(exports: Exports) -> None:
    """Nothing moves."""
    assert not promote(exports, UNFIT, "0002", expected="0001", by="learner")
    assert exports.champion() == "0001"
    assert len(exports.promotions()) == 1


def test_twice_is_once(exports: Exports) -> None:
    """A learner that was killed after the move does it again without a second move."""
    for _ in range(2):
        assert promote(exports, FIT, "0002", expected="0001", by="learner")
    assert len(exports.promotions()) == 2


@pytest.mark.parametrize("expected", ["0003", None])
def test_a_stale_judgement_moves_nothing(exports: Exports, expected: str | None) -> None:
    """A challenger judged against another champion, or against none, must be judged again."""
    with pytest.raises(Conflict, match=r"0001.*judge 0002"):
        promote(exports, FIT, "0002", expected=expected, by="learner")
    assert exports.champion() == "0001"


def test_the_first_champion_expects_none(tmp_path: Path) -> None:
    """Without a champion the first fit version takes the place."""
    exports = Exports(tmp_path)
    publish_toy(exports, promote=False)
    assert promote(exports, FIT, "0001", expected=None, by="bootstrap")
    assert exports.champion() == "0001"


def test_a_version_that_is_not_there_is_not_promoted(exports: Exports) -> None:
    """The pointer names only what exists."""
    with pytest.raises(NotFound):
        promote(exports, FIT, "0009", expected="0001", by="learner")
    assert exports.champion() == "0001"
