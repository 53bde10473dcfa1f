"""How a number changed from run to run, as inline SVG over real time.

Below the line is the usual range. The line ends where a run has no number, and a shaded stripe stands where no run
happened. A picture has no letters of its own but its alternative text, so that a phone does not shrink it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from markupsafe import Markup

from psicli.core.errors import printable
from psicli.core.records import dataclass

# The picture is as wide as its box [units].
WIDTH, HEIGHT = 1000, 200


@dataclass(frozen=True)
class Span:
    """The time from the left edge of a picture to the right one."""

    begin: datetime
    end: datetime

    def at(self, moment: datetime) -> int:
        """Return where a moment is [units]."""
        whole = (self.end - self.begin).total_seconds() or 1.0
        return round(WIDTH * min(max((moment - self.begin).total_seconds() / whole, 0.0), 1.0))


@dataclass(frozen=True)
class Point:
    """One run: its number, None if it has none, and its usual range, if that is known.

    after_gap: whether runs that did not happen separate it from the run before.
    """

    time: datetime
    value: float | None = None
    band: tuple[float, float] | None = None
    outside: bool = False
    after_gap: bool = False


@dataclass(frozen=True)
class Curve:
    """A picture, and what belongs to the top and to the bottom of its left edge."""

    picture: Markup
    top: float
    low: float


def curve(span: Span, points: Sequence[Point], under: str, title: str, text: str, most: int) -> Curve | None:
    """Draw the numbers of runs; None if there is none.

    under: the place in the page of what is behind the line, as `backdrop` returns it. text: the picture in words. most:
    so many points that a longer line is thinned to.
    """
    known = [point for point in points if point.value is not None]
    if not known:
        return None
    low, top = _limits(known)

    def place(moment: datetime, value: float) -> tuple[int, int]:
        return span.at(moment), round(HEIGHT * (1 - min(max((value - low) / (top - low), 0.0), 1.0)))

    parts = [_shape("band", _bands(points, place, most)), Markup('<use href="#{}"/>').format(under)]
    lines = [_thin([place(each.time, each.value or 0.0) for each in line], most, len(known)) for line in _lines(points)]
    parts.append(_shape("line", "".join(map(_path, lines))))
    outside = sorted({place(each.time, each.value or 0.0) for each in known if each.outside})
    parts.append(_shape("dot", "".join(f"M{x} {y}h0" for x, y in outside)))
    picture = Markup(
        '<svg class="curve" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img"><title>{}</title><desc>{}</desc>'
        "{}</svg>"
    ).format(WIDTH, HEIGHT, printable(title), printable(text), Markup("").join(parts))
    return Curve(picture, top, low)


def backdrop(span: Span, gaps: Iterable[tuple[datetime, datetime]], failures: Iterable[datetime]) -> Markup:
    """Return what all pictures of a job have in common: stripes where no run happened, and lines where one failed."""
    stripes = sorted({(span.at(begin), max(span.at(end) - span.at(begin), 3)) for begin, end in gaps})
    marks = sorted(set(map(span.at, failures)))
    return Markup("").join(
        (
            _shape("gap", "".join(f"M{x} 0h{width}v{HEIGHT}h-{width}z" for x, width in stripes)),
            _shape("fault", "".join(f"M{x} 0v{HEIGHT}" for x in marks)),
        )
    )


def strip(span: Span, moments: Iterable[datetime], kind: str, text: str) -> Markup:
    """Return one lane with a mark at each moment."""
    marks = "".join(f"M{x} 0v22" for x in sorted(set(map(span.at, moments))))
    return Markup(
        '<svg class="lane" viewBox="0 0 {} 22" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, printable(text), _shape(kind, marks))


def _limits(known: Sequence[Point]) -> tuple[float, float]:
    """Return the numbers at the bottom and at the top: from 0, unless all numbers are far above it."""
    values = [each.value for each in known if each.value is not None]
    edges = [edge for each in known if each.band for edge in each.band]
    # A range that was once very wide must not make the line flat.
    top = max(values)
    top = max([top, *(edge for edge in edges if edge <= 2 * top)])
    low = min([*values, *edges])
    room = 0.05 * (top - low) or 0.05 * abs(top) or 1.0
    return (0.0 if low < 0.5 * top or low <= 0 else low - room), top + room


def _lines(points: Sequence[Point]) -> list[list[Point]]:
    """Return the parts of the line: runs that follow each other and have numbers."""
    lines: list[list[Point]] = [[]]
    for point in points:
        if point.after_gap or point.value is None:
            lines.append([])
        if point.value is not None:
            lines[-1].append(point)
    return [line for line in lines if line]


def _bands(points: Sequence[Point], place: Callable[[datetime, float], tuple[int, int]], most: int) -> str:
    """Return the outline of the usual range: along its upper edge, and back along the lower one."""
    known = [(point.time, point.band) for point in points if point.band]
    step = -(-len(known) // most)
    # The last range counts most.
    kept = known[::-1][:: step or 1][::-1]
    if len(kept) < 2:
        return ""
    upper, lower = [place(time, band[1]) for time, band in kept], [place(time, band[0]) for time, band in kept[::-1]]
    return f"{_path([*upper, *lower])}z"


def _thin(line: list[tuple[int, int]], most: int, whole: int) -> list[tuple[int, int]]:
    """Return a line with fewer points: of each part of it, the highest and the lowest."""
    parts = max(most * len(line) // (2 * whole), 1)
    if len(line) <= 2 * parts or whole <= most:
        return line
    found = []
    for number in range(parts):
        part = line[number * len(line) // parts : (number + 1) * len(line) // parts]
        extremes = {min(part, key=lambda each: each[1]), max(part, key=lambda each: each[1])}
        found += sorted(extremes)
    return found


def _path(points: Sequence[tuple[int, int]]) -> str:
    """Return a path through points; one alone becomes a dot."""
    (x, y), *rest = points
    steps = []
    for next_x, next_y in rest:
        across, down = next_x - x, next_y - y
        steps.append(f"{across}{' ' if down >= 0 else ''}{down}")
        x, y = next_x, next_y
    moves = "".join(f"{' ' if number and step[0] != '-' else ''}{step}" for number, step in enumerate(steps))
    return f"M{points[0][0]} {points[0][1]}" + (f"l{moves}" if moves else "h0")


def _shape(kind: str, path: str) -> Markup:
    # The validator does not know this as a property of CSS.
    shape = Markup('<path class="{}" vector-effect="non-scaling-stroke" d="{}"/>')
    return shape.format(kind, path) if path else Markup("")
