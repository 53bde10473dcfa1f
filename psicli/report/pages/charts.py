"""Pictures as inline SVG. They have no text of their own but the alternative one, so that a phone does not shrink it.

Colours are classes of page.css.j2: c1 to c6 for series, and good, bad, warn and quiet for states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from psicli.core.errors import printable
from psicli.core.records import dataclass

# The width of a picture [units]; it is as wide as its box.
WIDTH = 1000


@dataclass(frozen=True)
class Span:
    """A bar from begin to end [s]; row: 0 for the tall row at the top, 1 for the flat row below it."""

    kind: str
    label: str
    begin: float
    end: float
    row: int = 0


# Where the two rows of a lane begin, and how tall they are [units].
_ROWS = ((0, 14), (16, 6))
_LANE = 22


def lane(spans: Sequence[Span], whole: float, text: str, most: int = 60) -> Markup:
    """Return one lane of a timeline of `whole` seconds.

    text: what it shows, in words. most: the bars of one kind; those that are closest to each other become one.
    """
    whole = whole or 1.0
    paths = [
        Markup('<path class="{}" d="{}"><title>{}</title></path>').format(
            kind, _path(bars, row, whole, most), printable(label)
        )
        for kind, label, row, bars in _by_kind(spans)
    ]
    is_flat = not any(span.row for span in spans)
    height = _ROWS[0][1] if is_flat else _LANE
    ticks = "".join(f"M{_at(tick, whole):g} 0v{height}" for tick in marks(whole))
    return Markup(
        '<svg class="lane{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="grid" vector-effect="non-scaling-stroke" d="{}"/>{}</svg>'
    ).format(" flat" if is_flat else "", WIDTH, height, printable(text), ticks, Markup("").join(paths))


def axis(whole: float, label: str = "s") -> Markup:
    """Return the ticks below a timeline."""
    texts = [
        Markup('<text x="{}%" y="12" class="{}">{}</text>').format(
            f"{100 * tick / (whole or 1.0):.2f}", "" if tick else "first", f"{tick:,g} {label}"
        )
        for tick in marks(whole)
    ]
    return Markup('<svg class="axis" aria-hidden="true">{}</svg>').format(Markup("").join(texts))


def marks(whole: float, most: int = 6) -> list[float]:
    """Return round numbers from 0 to a whole, at most so many, the last of them clearly below it."""
    step = next(
        factor * 10.0**power for power in range(-3, 10) for factor in (1, 2, 5) if whole / (factor * 10.0**power) < most
    )
    return [round(number * step, 3) for number in range(most) if not number or number * step <= 0.95 * whole]


def share(value: float, kind: str = "c1") -> Markup:
    """Return a small bar for a share from 0 to 1; the text beside it says how much it is."""
    width = round(100 * min(max(value, 0.0), 1.0), 1)
    return Markup(
        '<svg class="share" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/><rect class="{}" width="{:g}" height="6"/></svg>'
    ).format(kind, width)


def stack(parts: Iterable[tuple[str, str, float]], whole: float, text: str) -> Markup:
    """Return one bar of several parts side by side: the class, a label and the size of each. text: it in words."""
    drawn, begin = [], 0.0
    for kind, label, length in parts:
        drawn.append(Span(kind, label, begin, begin + length))
        begin += length
    bars = [
        Markup('<rect class="{}" x="{}" width="{}" height="14"><title>{}</title></rect>').format(
            span.kind, _at(span.begin, whole or 1.0), _at(span.end - span.begin, whole or 1.0), printable(span.label)
        )
        for span in drawn
    ]
    return Markup(
        '<svg class="stack" viewBox="0 0 {} 14" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, printable(text), Markup("").join(bars))


def _by_kind(spans: Sequence[Span]) -> list[tuple[str, str, int, list[tuple[float, float]]]]:
    kinds = {span.kind: span for span in spans}
    return [
        (kind, one.label, one.row, sorted((each.begin, each.end) for each in spans if each.kind == kind))
        for kind, one in kinds.items()
    ]


def _path(bars: Sequence[tuple[float, float]], row: int, whole: float, most: int) -> str:
    top, height = _ROWS[row]
    return "".join(
        f"M{_at(begin, whole):g} {top}h{max(_at(end - begin, whole), 1.0):g}v{height}H{_at(begin, whole):g}z"
        for begin, end in merged(bars, most, whole / WIDTH)
    )


def merged(bars: Sequence[tuple[float, float]], most: int, gap: float) -> list[tuple[float, float]]:
    """Join the bars, sorted by their begin, that are no further apart than a gap; wider gaps if too many are left."""
    joined: list[tuple[float, float]] = []
    for begin, end in bars:
        if joined and begin - joined[-1][1] <= gap:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return joined if len(joined) <= most else merged(joined, most, 2 * gap)


def _at(moment: float, whole: float) -> float:
    return round(WIDTH * moment / whole, 1)
