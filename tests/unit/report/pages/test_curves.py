"""Pictures of numbers over time: where points are, where the line ends, and how much room it takes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from psicli.report.pages.past.curves import Curve, Point, Span, backdrop, curve, strip

FIRST = datetime(2026, 3, 2, tzinfo=UTC)
SPAN = Span(FIRST, FIRST + timedelta(days=10))


def day(number: float) -> datetime:
    return FIRST + timedelta(days=number)


def drawn(*points: Point, most: int = 100, text: str = "") -> Curve:
    found = curve(SPAN, points, "under", "title", text, most)
    assert found is not None
    return found


def paths(picture: Markup) -> dict[str, str]:
    return dict(re.findall(r'<path class="([a-z]+)" vector-effect="non-scaling-stroke" d="([^"]*)"/>', picture))


def test_without_numbers_there_is_no_picture() -> None:
    assert curve(SPAN, [], "under", "", "", 100) is None
    assert curve(SPAN, [Point(day(1))], "under", "", "", 100) is None


def test_a_line_over_real_time() -> None:
    found = drawn(Point(day(0), 0.0), Point(day(2), 100.0), Point(day(10), 50.0))
    assert (found.low, found.top) == (0.0, 105.0)
    assert paths(found.picture) == {"line": "M0 200l200-190 800 95"}


def test_numbers_far_from_zero_fill_the_picture() -> None:
    found = drawn(Point(day(0), 1000.0), Point(day(10), 1100.0))
    assert (found.low, found.top) == (995.0, 1105.0)
    assert drawn(Point(day(0), 7.0)).low < 7.0 < drawn(Point(day(0), 7.0)).top


def test_a_line_ends_at_a_failure_and_at_a_gap() -> None:
    points = [
        Point(day(0), 1.0),
        Point(day(1), 1.0),
        Point(day(2)),
        Point(day(3), 1.0),
        Point(day(6), 1.0, after_gap=True),
    ]
    # A run between two interruptions is a dot.
    assert paths(drawn(*points).picture)["line"].count("M") == 3
    assert paths(drawn(*points).picture)["line"].count("h0") == 2


def test_the_usual_range_and_what_is_outside() -> None:
    points = [Point(day(each), 10.0 + each, (5.0, 25.0)) for each in range(5)]
    points.append(Point(day(5), 90.0, (5.0, 25.0), outside=True))
    found = paths(drawn(*points).picture)
    assert found["band"].endswith("z")
    assert re.fullmatch(r"M500 \d+h0", found["dot"])
    # A range that was once much wider than all numbers does not make the line flat.
    assert drawn(Point(day(0), 10.0, (0.0, 10_000.0)), Point(day(1), 12.0, (8.0, 13.0))).top < 15


def test_a_long_line_is_thinned_and_keeps_its_extremes() -> None:
    values = [100.0 + (number * 37 % 11) for number in range(5000)]
    values[1234], values[4321] = 1.0, 200.0
    points = [Point(day(number / 500), value) for number, value in enumerate(values)]
    line = paths(drawn(*points, most=100).picture)["line"]
    assert len(line) < 1500
    heights, at = [], 0
    for step in re.findall(r"-?\d+", line)[1::2]:
        at += int(step)
        heights.append(at)
    low, top = drawn(*points).low, drawn(*points).top
    assert min(heights) == round(200 * (1 - (200.0 - low) / (top - low)))
    assert max(heights) == round(200 * (1 - (1.0 - low) / (top - low)))


def test_texts_are_escaped() -> None:
    hostile = "</title><script>alert(1)</script>\"'&"
    picture = curve(SPAN, [Point(day(1), 1.0)], '"><b>', hostile, hostile, 10)
    assert picture is not None
    assert "<script" not in picture.picture
    assert "<b>" not in picture.picture
    assert "<script" not in strip(SPAN, [day(1)], "fault", hostile)


def test_what_is_behind_the_line() -> None:
    under = backdrop(SPAN, [(day(2), day(4))], [day(5), day(5)])
    assert paths(under) == {"gap": "M200 0h200v200h-200z", "fault": "M500 0v200"}
    assert backdrop(SPAN, [], []) == ""
    # The shortest gap can be seen, and nothing is beyond the edges.
    assert paths(backdrop(SPAN, [(day(2), day(2))], [day(99)])) == {"gap": "M200 0h3v200h-3z", "fault": "M1000 0v200"}
