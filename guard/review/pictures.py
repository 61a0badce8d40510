"""The loop's numbers into the places of marks on a drawing; `loop.html` writes them down as SVG, without script or style.

Lengths are in units of the drawing, 640 wide; every picture has a table beside it that says the same.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from guard.interval import Rate
from guard.review.overview import CycleFigures, Loop

WIDTH: Final = 640
MAP_HEIGHT: Final = 400
CURVE_HEIGHT: Final = 260
_ROW: Final = 34  # of a picture of intervals, a category each
_NAMES: Final = 170  # what the categories' names take of the width
_EDGE: Final = 44  # between axis and border
_MARGIN: Final = 60  # of the map: the largest cluster and its number above it
_BARS: Final = 10  # cycles whose stages are drawn
_BAR: Final = 26
_LEAST_SPAN: Final = 0.01  # of macro-F1: a flat curve looks flat


@dataclass(frozen=True, slots=True)
class Spot:
    """A mark: its place, its size, what it is called and what else it is."""

    x: float
    y: float
    r: float = 4.0
    name: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A share and its interval on one line."""

    y: float
    low: float
    share: float
    high: float
    kind: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A stage of a cycle's bar."""

    x: float
    y: float
    width: float
    kind: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """Marks and how high the drawing is; the curve has its ticks, its line and what is expected, too."""

    height: float
    spots: tuple[Spot, ...] = ()
    marks: tuple[Spot, ...] = ()
    spans: tuple[Span, ...] = ()
    pieces: tuple[Piece, ...] = ()
    names: tuple[Spot, ...] = ()
    line: str = ""
    hope: str = ""
    band: str = ""


class Pictures:
    """What the page draws.

    Args:
        loop: The page's numbers.
    """

    width = WIDTH
    names = _NAMES

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    @property
    def map(self) -> Drawing:
        """The clusters, the larger the more messages, and the picks."""
        found = self._loop.map
        if found is None:
            return Drawing(MAP_HEIGHT)
        places: list[dict[str, Any]] = [*found.clusters, *found.picks]
        xs, ys = ([float(place[axis]) for place in places] or [0.0] for axis in "xy")
        x, y = _Scale(xs, _MARGIN, WIDTH - _MARGIN), _Scale(ys, MAP_HEIGHT - _MARGIN, _MARGIN)
        most = max((cluster["size"] for cluster in found.clusters), default=1.0)
        clusters = (
            Spot(x(c["x"]), y(c["y"]), round(6 + 30 * math.sqrt(c["size"] / most), 1), f"{c['cluster']:.0f}")
            for c in found.clusters
        )
        picks = (Spot(x(p["x"]), y(p["y"]), kind="audit" if p["audit"] else "pick") for p in found.picks)
        return Drawing(MAP_HEIGHT, spots=tuple(clusters), marks=tuple(picks))

    @property
    def curve(self) -> Drawing:
        """Macro-F1 by labels, and what the next labels should bring."""
        points, hope = self._loop.curve, self._loop.expectation
        if not points:
            return Drawing(CURVE_HEIGHT)
        last = points[-1]
        ends = [] if hope.gain is None else [last.macro_f1 + gain for gain in (hope.low, hope.gain, hope.high) if gain]
        levels = [point.macro_f1 for point in points] + ends
        lowest, highest = min(levels), max(*levels, min(levels) + _LEAST_SPAN)
        until = last.labels + (hope.labels if hope.gain is not None else 0)
        x = _Scale([0.0, float(max(until, 1))], _EDGE + 10, WIDTH - _EDGE)
        y = _Scale([lowest, highest], CURVE_HEIGHT - _EDGE, 20)
        spots = tuple(Spot(x(p.labels), y(p.macro_f1), name=f"{100 * p.macro_f1:.1f}") for p in points)
        ticks = (
            *(Spot(_EDGE, y(level), name=f"{100 * level:.1f}", kind="left") for level in (lowest, highest)),
            *(Spot(x(n), CURVE_HEIGHT - 20, name=str(n), kind="below") for n in sorted({0, last.labels, until})),
        )
        line = " ".join(f"{spot.x},{spot.y}" for spot in spots)
        if hope.gain is None or hope.low is None or hope.high is None:
            return Drawing(CURVE_HEIGHT, spots=spots, names=ticks, line=line)
        at = f"{x(last.labels)},{y(last.macro_f1)}"
        low, middle, high = (f"{x(until)},{y(last.macro_f1 + gain)}" for gain in (hope.low, hope.gain, hope.high))
        return Drawing(
            CURVE_HEIGHT, spots=spots, names=ticks, line=line, hope=f"{at} {middle}", band=f"{at} {low} {high}"
        )

    def intervals(self, what: str) -> Drawing:
        """Return recall or precision of each category, the champion's above the challenger's."""
        contest = self._loop.contest
        if contest is None:
            return Drawing(0)
        x = _Scale([0.0, 1.0], _NAMES, WIDTH - 20)
        spans, names = [], []
        for row, after in enumerate(contest.after):
            top = 10 + row * _ROW
            names.append(Spot(_NAMES - 10, top + 15, name=after.category))
            before: Rate | None = getattr(contest.before[row], what) if contest.before else None
            rates: tuple[tuple[str, Rate | None, int], ...] = (
                ("champion", before, 6),
                ("challenger", getattr(after, what), 16),
            )
            spans += [
                Span(top + down, x(rate.low), x(rate.share), x(rate.high), kind) for kind, rate, down in rates if rate
            ]
        ticks = [
            Spot(x(share), 26 + len(names) * _ROW, name=f"{100 * share:.0f} %", kind="below")
            for share in (0, 0.25, 0.5, 0.75, 1)
        ]
        return Drawing(40 + len(names) * _ROW, spans=tuple(spans), names=tuple(names), marks=tuple(ticks))

    @property
    def stages(self) -> Drawing:
        """The latest cycles, each a bar, each stage the part that it took of the cycle's time."""
        cycles = self._loop.cycles[:_BARS]
        names = tuple(Spot(_NAMES - 10, 18 + row * _BAR, name=f"cycle {c.id}") for row, c in enumerate(cycles))
        pieces = [piece for row, cycle in enumerate(cycles) for piece in _bar(cycle, 4 + row * _BAR)]
        return Drawing(8 + len(cycles) * _BAR, names=names, pieces=tuple(pieces))


class _Scale:
    """Numbers onto a stretch of the drawing; a single one onto its middle."""

    def __init__(self, numbers: list[float], first: float, last: float) -> None:
        self._low, self._span = min(numbers), max(numbers) - min(numbers)
        self._first, self._last = first, last

    def __call__(self, number: float) -> float:
        share = (number - self._low) / self._span if self._span else 0.5
        return round(self._first + share * (self._last - self._first), 1)


def _bar(cycle: CycleFigures, y: float) -> list[Piece]:
    whole = sum(stage.duration_s for stage in cycle.stages) or 1.0
    x, pieces = float(_NAMES), []
    for stage in cycle.stages:
        width = round(stage.duration_s / whole * (WIDTH - 20 - _NAMES), 1)
        pieces.append(Piece(round(x, 1), y, width, stage.stage))
        x += width
    return pieces


def duration(seconds: float | None) -> str:
    """Return a time in words: `2 d 3 h`, `4 min 5 s`, `0.3 s`."""
    if seconds is None:
        return "—"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts = (("d", whole // 86_400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60))
    first = next(place for place, (_, number) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for unit, number in parts[first : first + 2])
