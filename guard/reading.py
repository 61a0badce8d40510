"""Texts as they were sent, read twice: as they are written, and without their disguise where they wear one.

`engine` has all windows of both judged, one that both have only once, and `Reading.decide` takes the worse verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from guard.bundle import Bundle, Window
from guard.decision import Thresholds, Verdict, decide
from guard.disguise import Undisguised, undisguise
from guard.errors import EmptyText, TooLarge
from guard.text import normalise, origins


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as it is judged.

    Args:
        sent: As the user sent it.
        text: Normalised.
        undisguised: Its second reading; None for a plain text.
        windows: All that are judged, none twice: the text's own first.
        plain: How many of the windows are the text's own.
        second: Which of the windows the second reading has.
    """

    sent: str
    text: str
    undisguised: Undisguised | None
    windows: tuple[Window, ...]
    plain: int
    second: tuple[int, ...]

    def decide(self, probabilities: npt.NDArray[np.float32], thresholds: Thresholds) -> tuple[Verdict, bool]:
        """Judge both readings, and return the worse verdict and whether it is the second's.

        Of two harmful categories the second reading's stands: the first has only guessed at letters.

        Args:
            probabilities: `(windows, 6)`.
            thresholds: One for each category.
        """
        verdict = decide(probabilities[: self.plain], thresholds)
        if self.second:
            other = decide(probabilities[list(self.second)], thresholds)
            if other.flagged and other.category is not verdict.category:
                return replace(other, window=self.second[other.window]), True
        return verdict, False

    def span(self, window: int) -> tuple[int, int]:
        """Return where a window lies in the text as it was sent: start and end, in code points."""
        if self.plain == 1:
            return 0, len(self.sent)
        start, end = self.windows[window].start, self.windows[window].end
        if self.undisguised is not None and window >= self.plain:
            start, end = self.undisguised.origin(start, end)
        if self.text == self.sent:
            return start, end
        places = [*origins(self.sent), len(self.sent)]
        return places[start], places[end]


def read(bundle: Bundle, texts: Sequence[str], *, max_chars: int) -> list[Reading]:
    """Normalise texts, see through their disguises, and cut both readings into windows.

    Raises:
        EmptyText: A text holds nothing visible.
        TooLarge: A normalised text is longer than `max_chars`.
        NoModel: The tokenizer fails on them.
    """
    normalised = [*map(normalise, texts)]
    check_length(normalised, max_chars)  # NFKC writes one character of a ligature as up to eighteen
    if not all(normalised):
        empty = next(i for i, text in enumerate(normalised) if not text)
        raise EmptyText(f"Text {empty} holds no visible character: leave it out.")
    seconds = [undisguise(text, bundle.lexicon) for text in normalised]
    windows = iter(bundle.encode([*normalised, *(second.text for second in seconds if second)]))
    plain = [next(windows) for _ in normalised]
    return [
        _reading(sent, text, second, own, next(windows) if second else [])
        for sent, text, second, own in zip(texts, normalised, seconds, plain, strict=True)
    ]


def check_length(texts: Sequence[str], max_chars: int) -> None:
    """Refuse texts that are too long.

    Raises:
        TooLarge: One has more than `max_chars` characters.
    """
    longest = max(map(len, texts))
    if longest > max_chars:
        raise TooLarge(
            f"A text has {longest} characters, the limit is {max_chars}: send it in parts (GUARD_MAX_TEXT_CHARS)."
        )


def _reading(
    sent: str, text: str, undisguised: Undisguised | None, own: Sequence[Window], others: Sequence[Window]
) -> Reading:
    places = {window.ids: place for place, window in enumerate(own)}  # a tokenizer may know no case and no accents
    new = [window for window in others if window.ids not in places]
    places |= {window.ids: place for place, window in enumerate(new, start=len(own))}
    second = tuple(places[window.ids] for window in others) if new else ()
    return Reading(sent, text, undisguised, (*own, *new), len(own), second)
