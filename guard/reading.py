"""Texts as they were sent, read twice: as they are written, and without their disguise where they wear one.

`engine` has all windows of both judged, one that both have only once, and `Reading.decide` takes the worse verdict, with
one exception. A model that is shown `h o w  d o` sees harm in three of ten harmless texts: strange letters tell it
nothing, and alarm it. So an alarm of the first reading alone is dropped if the second is beyond doubt (`Undisguised.sure`)
and nothing in plain sight bears the alarm out: what is left of the text without its disguised words is judged too, and if
that is harmful the alarm stands. Disguised chatter around a plain threat therefore hides nothing, where the second reading
alone would be diluted by it as any text is: on 291 harmful messages of the seed corpus's dev split, each before two spaced-out
harmless ones, 88 % are found with this rule as with the worse of both readings, 56 % without the third.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from guard.bundle import Bundle, Window
from guard.decision import Thresholds, Verdict, decide
from guard.disguise import Undisguised, undisguise
from guard.errors import EmptyText, TooLarge
from guard.text import breaks, normalise, origins


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
        legible: Which of the windows hold what can be read as it is written; none where that tells nothing.
    """

    sent: str
    text: str
    undisguised: Undisguised | None
    windows: tuple[Window, ...]
    plain: int
    second: tuple[int, ...]
    legible: tuple[int, ...]

    def decide(self, probabilities: npt.NDArray[np.float32], thresholds: Thresholds) -> tuple[Verdict, bool]:
        """Judge both readings, and return the worse verdict and whether it is the second's.

        Of two harmful categories the second reading's stands: the first has only guessed at letters. It also stands where
        it clears a text whose plain words are harmless by themselves and that otherwise is beyond doubt.

        Args:
            probabilities: `(windows, 6)`.
            thresholds: One for each category.
        """
        verdict = decide(probabilities[: self.plain], thresholds)
        if not self.second or self.undisguised is None:
            return verdict, False
        other = decide(probabilities[list(self.second)], thresholds)
        alarm = other.flagged and other.category is not verdict.category
        if alarm or (verdict.flagged and not other.flagged and not self._stands(probabilities, thresholds)):
            return replace(other, window=self.second[other.window]), True
        return verdict, False

    def _stands(self, probabilities: npt.NDArray[np.float32], thresholds: Thresholds) -> bool:
        """Return whether the first reading's alarm stands against the second: not if it only comes of strange letters."""
        if self.undisguised is None or not self.undisguised.sure:
            return True
        return bool(self.legible) and decide(probabilities[list(self.legible)], thresholds).flagged

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
    seconds = [
        undisguise(text, bundle.lexicon, partial(breaks, sent)) for sent, text in zip(texts, normalised, strict=True)
    ]
    others = [part for second in seconds if second for part in (second.text, second.legible) if part]
    windows = iter(bundle.encode([*normalised, *others]))
    plain = [next(windows) for _ in normalised]
    return [
        _reading(
            sent,
            text,
            second,
            own,
            next(windows) if second and second.text else [],
            next(windows) if second and second.legible else [],
        )
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
    sent: str,
    text: str,
    undisguised: Undisguised | None,
    own: Sequence[Window],
    others: Sequence[Window],
    legible: Sequence[Window],
) -> Reading:
    places = {window.ids: place for place, window in enumerate(own)}  # a tokenizer may know no case and no accents
    if all(window.ids in places for window in others):
        return Reading(sent, text, undisguised, tuple(own), len(own), (), ())
    windows = [*own]
    for window in (*others, *legible):
        if places.setdefault(window.ids, len(windows)) == len(windows):
            windows.append(window)
    second, plain = ([places[window.ids] for window in part] for part in (others, legible))
    return Reading(sent, text, undisguised, tuple(windows), len(own), tuple(second), tuple(plain))
