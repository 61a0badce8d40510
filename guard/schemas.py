"""The wire types of classifying, as frozen msgspec structs; OpenAPI is made from them, and `guard.client` reads them.

Those of reviewing are in `guard/review_schemas.py`: they need the store, which a client should not load.
"""

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from guard.taxonomy import CATEGORIES, Action, Category

if TYPE_CHECKING:
    from guard.engine import Judged
    from guard.settings import GuardSettings

DEADLINE_HEADER: Final = (
    "x-deadline-ms"  # milliseconds for which the caller still waits; what comes later is for nobody
)


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message's content; only parts of type `text` are judged."""

    type: str
    text: str = ""


class Turn(msgspec.Struct, frozen=True):
    """One turn of a chat; a turn that only calls tools has no content."""

    role: str
    content: str | list[TextPart] | None = None


User = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class ClassifyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of `text`, `texts` and `messages`."""

    text: str | None = None
    texts: list[str] | None = None
    messages: list[Turn] | None = None
    user: User | None = None
    store: bool = True
    thresholds: dict[Category, Annotated[float, msgspec.Meta(gt=0, le=1)]] | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict on one text. `scores` are those of the window that decided, of `windows` in all.

    `span` is where that window lies in the text as it was sent, in code points: start and end. `disguised` is true when
    the verdict is that of a second reading, with look-alike letters, letters set apart and digits in words undone: harm that
    the first did not find, or none where only the strange letters had alarmed it.
    """

    category: Category
    flagged: bool
    action: Action
    scores: dict[Category, float]
    uncertainty: float
    uncertain: bool
    windows: int
    span: tuple[int, int]
    disguised: bool
    action_text: str | None = None


def results(judged: "Judged", settings: "GuardSettings") -> list[Result]:
    """Return what callers are told of each verdict."""
    return [
        Result(
            category=verdict.category,
            flagged=verdict.flagged,
            action=settings.action(verdict.category),
            action_text=settings.action_texts.get(verdict.category),
            scores={c: round(s, 6) for c, s in zip(CATEGORIES, verdict.scores, strict=True)},
            uncertainty=round(verdict.uncertainty, 6),
            uncertain=settings.uncertain(verdict.uncertainty),
            windows=windows,
            span=span,
            disguised=disguised,
        )
        for verdict, windows, span, disguised in zip(
            judged.verdicts, judged.windows, judged.spans, judged.disguised, strict=True
        )
    ]


class ClassifyResponse(msgspec.Struct, frozen=True):
    """The verdicts, all by one version, in the order of the texts."""

    id: str
    model_version: str
    results: list[Result]


class Problem(msgspec.Struct, frozen=True):
    """An error as RFC 9457 describes it; `detail` says what to do about it."""

    type: str
    title: str
    status: int
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether the guard can classify now, and what is wrong where something is."""

    ready: bool
    model_version: str | None
    problems: list[str]
