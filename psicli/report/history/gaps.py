"""When a job usually runs, and which runs did not happen.

Nobody tells psicli when cron starts a job. The usual interval is the median of the times between good runs, so that the
repetitions of a failed run do not count. A time at which the job did not run in most other weeks is not missed: many
jobs have no runs at weekends.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from psicli.core.records import dataclass

# Fewer runs have no usual interval, and neither have runs of which fewer than this share come after it.
_LEAST_RUNS, _REGULAR = 5, 0.6
# How much a regular time differs from the interval, as a share of it.
_SLACK = 0.25
_WEEK = timedelta(weeks=1)
# How many weeks before and after tell whether a job runs at a time, and how many of them it takes.
_WEEKS, _LEAST_WEEKS = 8, 2
# Runs that are further apart have no pattern of weekdays.
_RARE = timedelta(days=3.5)
# The most runs that are missed in a row; what is longer ago is not worth counting.
_MOST = 1_000


@dataclass(frozen=True)
class Gap:
    """Runs in a row that did not happen: when the first and the last of them would have begun, and how many."""

    first: datetime
    last: datetime
    runs: int
    # Whether no run has come since.
    is_open: bool = False


def usual_interval(good: Sequence[datetime]) -> timedelta | None:
    """Return the usual time between runs; None if there is none. good: when the good runs began, oldest first."""
    gaps = [(after - before).total_seconds() for before, after in pairwise(good)]
    if len(gaps) + 1 < _LEAST_RUNS:
        return None
    usual = median(gaps)
    regular = sum(abs(gap - usual) <= _SLACK * usual for gap in gaps)
    return timedelta(seconds=usual) if usual > 0 and regular >= _REGULAR * len(gaps) else None


def gaps_between(runs: Sequence[datetime], interval: timedelta, until: datetime) -> list[Gap]:
    """Return the runs that did not happen before `until`, oldest first. runs: when all runs began, oldest first."""
    found = []
    for number, begin in enumerate(runs):
        is_open = number + 1 == len(runs)
        end = until if is_open else runs[number + 1]
        # The last run is not missed before half an interval has passed.
        count = math.floor((end - begin) / interval - 0.5)
        slots = [begin + each * interval for each in range(1, min(count, _MOST) + 1)]
        missed = [slot for slot in slots if _is_expected(slot, runs, interval)]
        if missed:
            found.append(Gap(missed[0], missed[-1], len(missed), is_open))
    return found


def _is_expected(slot: datetime, runs: Sequence[datetime], interval: timedelta) -> bool:
    """Whether the job ran at this time in at least half of the other weeks."""
    if interval > _RARE:
        return True
    weeks = [slot + number * _WEEK for number in range(-_WEEKS, _WEEKS + 1) if number]
    known = [week for week in weeks if runs[0] - interval / 2 <= week <= runs[-1] + interval / 2]
    if len(known) < _LEAST_WEEKS:
        return True
    return 2 * sum(_has_run(week, runs, interval) for week in known) >= len(known)


def _has_run(moment: datetime, runs: Sequence[datetime], interval: timedelta) -> bool:
    at = bisect_left(runs, moment - interval / 2)
    return at < len(runs) and runs[at] < moment + interval / 2
