"""`/review/guideline…`: what reviewers decide by, the whole of it or what concerns one category."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Controller, Response, get
from litestar.params import FromPath
from markdown_it import MarkdownIt
from markupsafe import Markup

from guard.errors import NotFound
from guard.review.identity import DeskRequest, reviewing
from guard.review.page import PROBLEMS, answer
from guard.taxonomy import GUIDELINES, Category

_FILE: Final = Path(__file__).parent / "GUIDELINES.md"
_MARKDOWN: Final = MarkdownIt("commonmark", {"html": False}).enable("table")
_ELSEWHERE: Final = {Category.NOT_HARMFUL: "errands"}  # a heading that does not say whom it concerns


class Section(msgspec.Struct, frozen=True):
    """A part of the guideline: its heading and its text as Markdown."""

    title: str
    markdown: str

    def html(self) -> Markup:
        """Return the text as HTML; it is our own."""
        return Markup(_MARKDOWN.render(self.markdown))  # noqa: S704 - and raw HTML in it is shown, not rendered


class GuidelinePage(msgspec.Struct, frozen=True):
    """What concerns a category, or with None the whole guideline in one section."""

    category: Category | None
    definition: str | None
    boundary: str | None
    sections: tuple[Section, ...]


class GuidelineController(Controller):
    """The guideline."""

    path = "/review/guideline"
    guards = [reviewing()]  # noqa: RUF012 - Litestar's own way
    exception_handlers = PROBLEMS
    include_in_schema = False

    @get("/", sync_to_thread=False)
    def whole(self, request: DeskRequest) -> Response[Any]:
        """Show all of it."""
        title, _, text = _FILE.read_text().partition("\n")
        page = GuidelinePage(None, None, None, (Section(title.lstrip("# "), text),))
        return answer(request, "guideline.html", page)

    @get("/{category:str}", sync_to_thread=False)
    def about(self, request: DeskRequest, category: FromPath[str]) -> Response[Any]:
        """Show what concerns a category: definition, boundary, and the cases where it meets others."""
        if category not in set(Category):
            raise NotFound(f"There is no such category: take one of {', '.join(Category)}.")
        return answer(request, "guideline.html", concerning(Category(category)))


@cache
def concerning(category: Category) -> GuidelinePage:
    """Return what concerns a category."""
    words = {category.value, _ELSEWHERE.get(category, category.value)}
    sections = tuple(s for s in _cases() if any(word in s.title.lower() for word in words))
    guideline = GUIDELINES[category]
    return GuidelinePage(category, guideline.definition, guideline.boundary, sections)


@cache
def between(categories: frozenset[Category]) -> tuple[Section, ...]:
    """Return the cases where two or more of these categories meet."""
    words = [{category.value, _ELSEWHERE.get(category, category.value)} for category in categories]
    meeting = tuple(
        section
        for section in _cases()
        if sum(any(word in section.title.lower() for word in either) for either in words) > 1
    )
    if not meeting and Category.NOT_HARMFUL in categories:  # what sounds like a need for advice and is an errand
        return tuple(s for s in _cases() if _ELSEWHERE[Category.NOT_HARMFUL] in s.title.lower())
    return meeting


def _cases() -> list[Section]:
    """Return the sections of the third level: two categories each, and where they meet."""
    parts = _FILE.read_text().split("\n### ")[1:]
    halves = (part.partition("\n## ")[0].partition("\n") for part in parts)
    return [Section(title, text.strip()) for title, _, text in halves]
