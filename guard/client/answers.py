"""What a client answers: a verdict, or that there is none and why. Neither holds the text."""

from enum import StrEnum
from typing import Final, Literal, TypeAlias

import msgspec

from guard.schemas import Result
from guard.taxonomy import Action


class Reason(StrEnum):
    """Why there is no verdict."""

    OUT_OF_TIME = "out-of-time"
    UNREACHABLE = "unreachable"
    UNAVAILABLE = "unavailable"
    NOT_ALLOWED = "not-allowed"
    BAD_INPUT = "bad-input"
    BAD_ANSWER = "bad-answer"


_EXPLANATIONS: Final = {
    Reason.OUT_OF_TIME: "no answer came before the deadline",
    Reason.UNREACHABLE: "no connection could be made, or it broke",
    Reason.UNAVAILABLE: "the guard cannot judge now",
    Reason.NOT_ALLOWED: "the guard wants another key",
    Reason.BAD_INPUT: "the guard does not take this request: a text is empty or too long, or a field is wrong",
    Reason.BAD_ANSWER: "what answered is no guard, or not one that this client understands",
}


class Judged(Result, frozen=True, kw_only=True):
    """A verdict, with the id of the request and the version that made it."""

    id: str
    model_version: str

    @property
    def judged(self) -> Literal[True]:
        """That there is a verdict."""
        return True

    @property
    def allowed(self) -> bool:
        """Whether the chatbot may answer as it always does; where not, `action` says what to do instead."""
        return self.action is Action.ALLOW


class Unjudged(msgspec.Struct, frozen=True, kw_only=True):
    """No verdict. There is no `flagged`, no `category` and no score here, so that none can be mistaken for one.

    Args:
        reason: Why.
        allowed: What the client's `on_failure` makes of it.
        status: The HTTP status, if the last attempt got one.
        title: The guard's own word for what was wrong, if it gave one.
        attempts: How often the guard was asked.
    """

    reason: Reason
    allowed: bool
    status: int | None = None
    title: str | None = None
    attempts: int = 1

    @property
    def judged(self) -> Literal[False]:
        """That there is no verdict."""
        return False

    @property
    def detail(self) -> str:
        """The reason in words."""
        said = f" ({self.status}{f', {self.title}' if self.title else ''})" if self.status else ""
        return f"Not judged: {_EXPLANATIONS[self.reason]}{said}; attempts: {self.attempts}."


Answer: TypeAlias = Judged | Unjudged
