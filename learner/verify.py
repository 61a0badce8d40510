"""The relation R(f(x), O(x)) of the paper (section 3.2), computed instead of assumed: what may become a variation.

A candidate text and its seed come in, a fate goes out. Shape and novelty are decided here; the blind judge's verdict is
asked for by `variations` and settled here.
"""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from guard.taxonomy import CATEGORIES, Category
from learner.language import same_alphabet, same_language
from learner.prompts import fixed_texts


class Fate(StrEnum):
    """What became of a candidate; of a whole answer in `failed`, and in `refused` and `malformed` where it held none."""

    ACCEPTED = "accepted"
    FAILED = "failed"  # the call gave no answer
    REFUSED = "refused"  # the LLM would not
    MALFORMED = "malformed"  # no list or an empty one, or an item that is no string or was cut off
    SURPLUS = "surplus"  # more than was asked for
    SHAPE = "shape"  # empty, too short or long, several lines, markup
    LANGUAGE = "language"  # not the seed's
    CONTACT = "contact"  # a link, an address or a telephone number
    ECHO = "echo"  # repeats the prompt, a label or instructions to a model
    DISTANT = "distant"  # an edit that is a new text rather than its seed with a change
    DUPLICATE = "duplicate"  # of the seed, a sibling, or a text known already
    UNJUDGED = "unjudged"  # the judge gave no usable verdict
    MISLABELLED = "mislabelled"  # the judge sees another category


_MAX_CHARS: Final = 1_000
_MAX_LINES: Final = 2
_GROWTH: Final = 4  # times the seed's length ...
_ROOM_CHARS: Final = 200  # ... or this, whichever is more: a two-word seed may become a sentence
_SHRINKAGE: Final = 10
_FEW_CHARS: Final = 80  # a text this long is long enough for a seed of any length
_ECHO_WORDS: Final = 7  # words in a row that only a copy of the prompt shares with it
# Shared character trigrams of all, from which two texts count as one: of 6,000 pairs of a seed and its variations that
# the paper published, one shares as many.
_SAME: Final = 0.7
# ... and what an edit shares with its seed at the least: edits made by hand share .26 to .67, variations .04 to .1.
_NEAR: Final = 0.25

_WORD: Final = re.compile(r"\w+")
_LABEL: Final = "|".join(re.escape(c).replace("\\-", r"[\s_-]?") for c in CATEGORIES)
_MARKUP: Final = re.compile(
    r"</?[a-z!?]|<\||&(?:[a-z]{2,8}|#x?[0-9a-f]{2,6});|```|~~~|\*\*\w|__\w+__|\]\(|^\s*(?:#{1,6}\s|>\s|[-*•]\s|\d{1,2}[.)]\s)|[{}]|"
    r"javascript:|\$\(|\\[nu]|<<<|>>>|\[/?inst\]",
    re.IGNORECASE,
)
_CONTACT: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)\S+"
    r"|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|org|net|io|info|biz|ru|cn|xyz|top|app|dev|link|gov|edu|co)\b\S*"
    r"|[\w.+-]+@[\w-]+(?:\.[\w-]+)*"
    r"|[+(]?\d(?:[\s.)-]{0,2}\d){8,}",  # from nine digits: less is a date, a sum or a span of years
    re.IGNORECASE,
)
_REFUSAL: Final = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|assistant)\b"
    r"|\bi(?:['\u2019]m| am) (?:just |only )?an? (?:ai|language model|virtual assistant)\b"
    r"|\b(?:can(?:no|['\u2019])?t|could(?: not|n['\u2019]t)|won['\u2019]?t|will not|unable to|not able to|not comfortable) "
    r"(?:(?:to |with )?(?:assist|comply|assisting|complying)\b"
    r"|(?:help|helping)(?: you)? with (?:this|that|your|these|those|such)\b"
    r"|(?:provid|generat|creat|writ|produc|fulfil)\w* (?:this|that|your|these|those|such|any|content|variations)\b)"
    r"|\b(?:content|usage) polic(?:y|ies)\b|\bagainst my (?:guidelines|programming)\b",
    re.IGNORECASE,
)
_ECHO: Final = re.compile(
    rf"^\W*(?:(?:category|label|class|option|variation|message|text|answer|output|response)\b[\s\d]*[:=]|(?:{_LABEL})\s*[\]:=|)>-])"
    r"|\b(?:category|label|class)\s*[:=]|\boption [a-f]\b|\bjson\b.{0,20}\b(?:object|string)|^\W*\"?variations\b"
    r"|\b(?:ignore|disregard|forget|override)\b.{0,30}\b(?:instruction|prompt|rule|guideline|above|previous)"
    r"|\b(?:system|developer|hidden) (?:prompt|message|instruction)|\b(?:system|assistant|user|judge|classifier)\s*:"
    r"|\byou are now\b|\b(?:jailbreak|dan mode|developer mode)\b|\b(?:dear|attention|note to) (?:judge|classifier|model|ai)\b"
    r"|\bclassify (?:this|it|me|these) as\b|\bwrite (?:\w+ )?variations\b|^\s*(?:here (?:are|is)|sure|certainly)\b.*:",
    re.IGNORECASE,
)


def objection(raw: str, text: str, *, seed: str, nonce: str) -> Fate | None:
    """Return why a candidate cannot be a variation of its seed, judged by its form alone; None when it can.

    Args:
        raw: The candidate as it came.
        text: The candidate normalised.
        seed: The seed, normalised.
        nonce: What marked the quotation in the prompt.
    """
    if not _well_sized(raw, text, seed):  # first: what follows is meant for short texts
        return Fate.SHAPE
    held_against = {
        Fate.REFUSED: refuses(text),
        Fate.ECHO: nonce in text or _ECHO.search(text) or (_windows(text) & _PROMPT_WINDOWS) - _windows(seed),
        Fate.CONTACT: _CONTACT.search(text),  # not even the seed's own: one person's number must not become six rows
        Fate.SHAPE: _MARKUP.search(text),
        Fate.LANGUAGE: not same_alphabet(text, seed) or not same_language(text, seed),
    }
    return next((fate for fate, found in held_against.items() if found), None)


def refuses(content: str) -> bool:
    """Return whether a text, or an answer without a list, is an LLM declining."""
    return _REFUSAL.search(content) is not None


def settle(category: Category | None, *, label: Category) -> Fate:
    """Return the fate of a candidate that the judge, who never saw the label, put into `category`."""
    if category is None:
        return Fate.UNJUDGED
    return Fate.ACCEPTED if category is label else Fate.MISLABELLED


def resemblance(text: str, other: str) -> float:
    """Return the share of their character trigrams that two texts have in common, in [0, 1]: 1 for the same words."""
    ours, theirs = _trigrams(_canonical(text)), _trigrams(_canonical(other))
    return len(ours & theirs) / len(ours | theirs)


def edit_objection(raw: str, text: str, *, seed: str, nonce: str) -> Fate | None:
    """Return why a candidate cannot be its seed with a small change, judged by its form alone; None when it can.

    Args:
        raw: The candidate as it came.
        text: The candidate normalised.
        seed: The seed, normalised.
        nonce: What marked the quotation in the prompt.
    """
    fate = objection(raw, text, seed=seed, nonce=nonce)
    if fate is None and _canonical(text) == _canonical(seed):
        fate = Fate.DUPLICATE
    if fate is None and resemblance(text, seed) < _NEAR:
        fate = Fate.DISTANT
    return fate


class Novelty:
    """The texts that a variation must differ from, by more than a letter or a full stop.

    Two texts are near-equal when they share 70 % of their character trigrams; only texts of about one size can, so
    a look-up compares with few.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._exact: set[str] = set()
        self._by_size: dict[int, list[frozenset[str]]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Remember a text."""
        canonical = _canonical(text)
        if canonical in self._exact:
            return
        self._exact.add(canonical)
        trigrams = _trigrams(canonical)
        self._by_size.setdefault(len(trigrams), []).append(trigrams)

    def knows(self, text: str) -> bool:
        """Return whether a text, or one near-equal to it, is remembered."""
        canonical = _canonical(text)
        if canonical in self._exact:
            return True
        trigrams = _trigrams(canonical)
        sizes = range(int(len(trigrams) * _SAME), int(len(trigrams) / _SAME) + 1)
        return any(
            shared >= _SAME * (len(trigrams) + len(other) - shared)
            for size in sizes
            for other in self._by_size.get(size, ())
            for shared in (len(trigrams & other),)
        )


def _well_sized(raw: str, text: str, seed: str) -> bool:
    lines = sum(bool(line.strip()) for line in raw.splitlines())
    least = min(len(seed) // _SHRINKAGE, _FEW_CHARS)
    most = min(max(_GROWTH * len(seed), _ROOM_CHARS), _MAX_CHARS)
    return lines <= _MAX_LINES and max(1, least) <= len(text) <= most


def _canonical(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold())) or text


def _trigrams(canonical: str) -> frozenset[str]:
    padded = f" {canonical} "
    return frozenset(padded[i : i + 3] for i in range(max(1, len(padded) - 2)))


def _windows(text: str) -> set[tuple[str, ...]]:
    words: Sequence[str] = _WORD.findall(text.casefold())
    return {tuple(words[i : i + _ECHO_WORDS]) for i in range(len(words) - _ECHO_WORDS + 1)}


_PROMPT_WINDOWS: Final = {window for text in fixed_texts() for window in _windows(text)}
