"""Progress as people and logs see it."""

import io
from collections.abc import Iterator

from learner import progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_elsewhere_than_on_a_terminal_a_stage_is_told_in_plain_lines() -> None:
    """A stage's first and last step make one plain line each."""
    stream = io.StringIO()
    with progress.shown(stream) as show:
        show("training", 0, 10)
        show("training", 3, 10)
        show("training", 10, 10)
    assert stream.getvalue() == "training 0/10\ntraining 10/10\n"


def test_a_long_stage_is_told_every_few_seconds() -> None:
    """Between the first and the last step there is a line after `LINE_EVERY_S`, and none before."""
    stream = io.StringIO()
    times: Iterator[float] = iter([0.0, progress.LINE_EVERY_S - 0.1, progress.LINE_EVERY_S, progress.LINE_EVERY_S + 1])
    show = progress._Lines(stream, lambda: next(times))
    for done in range(4):
        show("embedding", done, 9)
    assert stream.getvalue() == "embedding 0/9\nembedding 2/9\n"


def test_every_stage_gets_its_own_line() -> None:
    """A stage that begins is told at once, however short ago the line before was."""
    stream = io.StringIO()
    with progress.shown(stream) as show:
        show("training", 1, 10)
        show("exporting", 1, 2)
    assert stream.getvalue() == "training 1/10\nexporting 1/2\n"


def test_on_a_terminal_there_is_a_bar_for_every_stage() -> None:
    """A terminal shows both stages with how far they came, also a stage that runs a second time."""
    stream = Terminal()
    with progress.shown(stream) as show:
        for stage in ("training", "exporting", "training"):
            show(stage, 1, 2)
            show(stage, 2, 2)
    shown = stream.getvalue()
    assert "training" in shown
    assert "exporting" in shown
    assert "2/2" in shown


def test_silence_is_silent() -> None:
    """The silent progress takes what every progress takes."""
    progress.silent("training", 1, 2)
