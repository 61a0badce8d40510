"""The tree of errors."""

import re
from collections.abc import Iterator

import pytest

from guard import errors
from guard.errors import Conflict, LifeguardError, StoreUnavailable, Unavailable

LEAF = re.compile(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: +(?P<status>\d{3}))?")


def _family(kind: type[LifeguardError], depth: int = 0) -> Iterator[tuple[str, int, int]]:
    yield kind.__name__, depth, kind.status
    for child in kind.__subclasses__():
        yield from _family(child, depth + 1)


def test_drawing() -> None:
    """The tree in the module's docstring is the tree of classes, with the status of each."""
    drawn = []
    statuses: list[int] = []
    for line in (errors.__doc__ or "").splitlines():
        if (leaf := LEAF.match(line)) is None:
            continue
        depth = len(leaf["branch"]) // 4
        status = int(leaf["status"]) if leaf["status"] else statuses[depth - 1]
        statuses[depth:] = [status]
        drawn.append((leaf["name"], depth, status))
    assert drawn == list(_family(LifeguardError))


def test_detail() -> None:
    """An error carries its message as detail, and has a title."""
    error = Conflict("The batch is closed.")
    assert (error.detail, str(error), error.title) == ("The batch is closed.", "The batch is closed.", "Conflict")


@pytest.mark.parametrize("kind", [Unavailable, *Unavailable.__subclasses__()])
def test_retry_after(kind: type[Unavailable]) -> None:
    """What is unavailable says when to come back."""
    assert kind("Busy.").retry_after_s == 1
    assert kind("Busy.", retry_after_s=5).retry_after_s == 5
    assert StoreUnavailable.status == 503
