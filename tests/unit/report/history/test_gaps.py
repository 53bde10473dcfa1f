"""When a job usually runs, and which runs did not happen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from psicli.report.history.gaps import gaps_between, usual_interval

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
# A Monday.
FIRST = datetime(2026, 3, 2, 2, 10, tzinfo=UTC)


def nights(*days: int, late: timedelta = timedelta()) -> list[datetime]:
    return [FIRST + day * DAY + (late if day % 2 else timedelta()) for day in days]


def found(runs: list[datetime], interval: timedelta, until: datetime) -> list[tuple[int, int, int, bool]]:
    """Return the gaps, with the days since the first run in place of moments."""
    gaps = gaps_between(runs, interval, until)
    return [((gap.first - FIRST).days, (gap.last - FIRST).days, gap.runs, gap.is_open) for gap in gaps]


def test_the_usual_interval_is_the_median() -> None:
    assert usual_interval(nights(*range(10), late=5 * timedelta(minutes=1))) == pytest.approx(
        DAY, abs=timedelta(minutes=5)
    )
    assert usual_interval(nights(0, 1, 2, 3, 7, 8, 9, 10)) == DAY
    assert usual_interval([FIRST + number * HOUR for number in range(30)]) == HOUR
    assert usual_interval([FIRST + number * 7 * DAY for number in range(6)]) == 7 * DAY


@pytest.mark.parametrize("days", [(), (0,), (0, 1, 2, 3), (0, 0, 0, 0, 0, 0), (0, 1, 5, 6, 13, 40, 41, 60)])
def test_few_or_irregular_runs_have_no_usual_interval(days: tuple[int, ...]) -> None:
    assert usual_interval(nights(*days)) is None


def test_nights_without_a_run() -> None:
    assert found(nights(0, 1, 2, 3, 5, 6, 9), DAY, FIRST + 9 * DAY) == [(4, 4, 1, False), (7, 8, 2, False)]
    # A run that is late by less than half an interval is not missed.
    assert found([*nights(0, 1, 2), FIRST + 3.45 * DAY, *nights(4, 5)], DAY, FIRST + 5 * DAY) == []


def test_a_run_that_has_not_come_since() -> None:
    runs = nights(*range(6))
    assert found(runs, DAY, FIRST + 6.4 * DAY) == []
    assert found(runs, DAY, FIRST + 6.6 * DAY) == [(6, 6, 1, True)]
    assert found(runs, DAY, FIRST + 30 * DAY) == [(6, 29, 24, True)]


def test_repetitions_of_a_failed_run_are_no_runs_of_their_own() -> None:
    runs = sorted([*nights(*range(10)), *(FIRST + 4 * DAY + number * timedelta(minutes=5) for number in (1, 2, 3))])
    assert found(runs, DAY, FIRST + 9 * DAY) == []


def test_a_job_for_business_days_misses_no_weekend() -> None:
    days = [day for day in range(8 * 7) if day % 7 < 5]
    runs = nights(*days)
    assert usual_interval(runs) == DAY
    assert found(runs, DAY, FIRST + 56 * DAY) == []
    # But a Wednesday, and a Monday after a weekend.
    fewer = nights(*(day for day in days if day not in (23, 28)))
    assert found(fewer, DAY, FIRST + 53 * DAY) == [(23, 23, 1, False), (28, 28, 1, False)]


def test_a_job_for_business_hours_misses_no_night() -> None:
    runs = [FIRST + day * DAY + hour * HOUR for day in range(28) for hour in range(8)]
    assert usual_interval(runs) == HOUR
    assert gaps_between(runs, HOUR, runs[-1]) == []
    lost = [run for run in runs if run != FIRST + 10 * DAY + 3 * HOUR]
    (gap,) = gaps_between(lost, HOUR, runs[-1])
    assert (gap.first, gap.runs) == (FIRST + 10 * DAY + 3 * HOUR, 1)


def test_a_job_that_was_given_up_long_ago_is_one_gap() -> None:
    (gap,) = gaps_between([FIRST + number * HOUR for number in range(50)], HOUR, FIRST + 3000 * DAY)
    assert gap.is_open
    assert gap.runs == 1_000
