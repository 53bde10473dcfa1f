"""The usual range of each measure of a task, from the runs before, and how far a run is from it.

Counts and seconds are compared as factors, shares by the square root of their angle: so noise is alike at every level.
A range is made of three things: the level of the last runs, what is usual for this weekday, and a width, which is a
multiple of what earlier runs differed from that. Medians take no notice of single runs, and a run outside its range
does not become part of the next one, unless several in a row agree: then they are the new level.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from psicli.core.records import dataclass
from psicli.report.history.series import Night


class Measure(StrEnum):
    """What is compared with earlier runs."""

    ROWS = "rows"
    DISTINCT_ITEMS = "distinct_items"
    PEER_ITEMS = "peer_items"
    RATE = "rate"
    SECONDS = "seconds"


@dataclass(frozen=True)
class Band:
    """The usual range of a measure, in its own unit, and over how many runs."""

    low: float
    usual: float
    high: float
    runs: int = 0


@dataclass(frozen=True)
class Judged:
    """A value with its band. distance: from the usual value; 1 is the edge of the band, 2 is twice as far."""

    value: float
    band: Band
    distance: float

    @property
    def outside(self) -> bool:
        return self.distance > 1


# How many earlier runs a verdict needs, and how many of them on the same weekday.
LEAST_RUNS = 14
LEAST_OF_WEEKDAY = 2
# Fewer are enough if so many were on business days, or at weekends, as this run is.
LEAST_LIKE_IT = 3
# The runs that make a band, and those of them that make its level.
WINDOW = 42
LEVEL = 14
# So many runs in a row outside the band, on the same side and alike, are the new level.
SHIFT = 4
# So many of the last runs outside the band, of as many as make a level, are no exceptions any more.
MANY = 6
# Where the time between two runs is in the middle shorter or longer than this [s], weekdays are not compared: a day has
# many runs, or a weekday comes too rarely.
OFTEN, RARELY = 0.4 * 86400, 3.5 * 86400
# So many runs of a job that often runs may find the level of a weekend, or of the week after it, if it is lower.
SETTLING = 3
_BUSINESS_DAYS, _WEEKEND = range(5), range(5, 7)
# The normal distribution: its standard deviation from the median deviation, and from the deviation that 90 % keep.
_OF_MEDIAN, _OF_90 = 1.4826, 1 / 1.645
# A run that is not further away than this from the middle of the narrowest band is inside any band.
SURELY = 0.5
# A band is always so many deviations wide, even if that hides a half.
_AT_LEAST = 3.1
# A weekday has a pattern of its own if it differs from the other days by so many deviations.
_OF_ITS_OWN = 2.5
# Fewer values of a weekday make a pattern only if they agree: one of two may be an exception.
_ENOUGH = 3


def judged(nights: Sequence[Night]) -> list[dict[Measure, Judged]]:
    """Return how far each night is outside its usual range, by the nights before it alone, oldest first.

    One dict a night, without the measures that have no verdict; empty for a night without a result.
    """
    found: list[dict[Measure, Judged]] = [{} for _ in nights]
    for measure in Measure:
        past = _Past(measure)
        for at, night in enumerate(nights):
            verdict = past.pass_by(night)
            if verdict is not None:
                found[at][measure] = verdict
    return found


def judge(
    nights: Sequence[Night],
    time: str | None = None,
    items: int | None = None,
    *,
    rounded: bool = False,
    **values: float,
) -> dict[Measure, Judged]:
    """Return how far the values of a run are outside their usual range; `nights` are the runs before it.

    values: by the names of measures. time: of the run, now by default. items: how many items a rate is a share of;
    rounded: whether it is known in whole percent.
    """
    now = datetime.now(UTC).isoformat() if time is None else time
    found = {}
    for measure in Measure:
        if measure in values:
            noise = _noise(measure, items, rounded=rounded)
            verdict = _if_usual(measure, nights, now, values[measure], noise)
            if verdict is None:
                past = _Past(measure)
                for night in nights:
                    past.pass_by(night)
                verdict = past.take(now, values[measure], noise)
            if verdict is not None:
                found[measure] = verdict
    return found


def _if_usual(measure: Measure, nights: Sequence[Night], time: str, value: float, noise: float) -> Judged | None:
    """Return the verdict on a run that is so usual that it is inside its band whatever the runs before it were.

    It takes no notice of which of them were outside: that takes a hundred times as long, and medians hardly depend on
    it. None for any other run.
    """
    past = _Past(measure)
    for night in nights:
        if night.is_done and (before := getattr(night, measure)) is not None:
            past.add(_run(measure, night.time, before))
    run = _run(measure, time, value)
    usual = past.usual(run)
    if usual is None:
        return None
    verdict = past.verdict(value, run.value, usual[0], 0.0, noise)
    return verdict if verdict.distance <= SURELY else None


def _run(measure: Measure, time: str, value: float) -> _Run:
    moment = datetime.fromisoformat(time)
    return _Run(moment.timestamp(), moment.weekday(), _SCALES[measure].to(value))


def _noise(measure: Measure, items: float | None, rounded: bool) -> float:
    """Return the deviation that chance alone gives a share of so many items, on the scale of shares."""
    if measure is not Measure.RATE:
        return 0.0
    chance = 0.5 / math.sqrt(items) if items else 0.0
    return max(chance, 0.005) if rounded else chance


def _count_slack(usual: float) -> float:
    # A small number varies by chance.
    return 3 * math.sqrt(usual + 1)


def _rate_slack(usual: float) -> float:
    # Near 0 and near 1, noise is not alike on both sides.
    return min(0.05, 0.2 * usual)


def _no_slack(usual: float) -> float:
    return 0.0


def _angle(share: float) -> float:
    return math.asin(math.sqrt(min(max(share, 0.0), 1.0)))


def _share(angle: float) -> float:
    return math.sin(min(max(angle, 0.0), math.pi / 2)) ** 2


@dataclass(frozen=True)
class _Scale:
    """The scale on which a measure is compared, and back from it.

    least: the least width of a band there; spread: how many deviations a band is wide; slack: its least width in the
    unit of the measure; most: what it need not exceed unless noise is great
    weekend: how much lower an unknown weekend may be.
    """

    to: Callable[[float], float]
    back: Callable[[float], float]
    least: float
    spread: float
    most: float = math.inf
    slack: Callable[[float], float] = _no_slack
    weekend: float = 0.0


# Half of a file is 0.69 away from a whole one, and a night that takes three times as long 1.1.
_COUNT = _Scale(math.log1p, math.expm1, least=0.22, spread=4.5, most=0.44, slack=_count_slack, weekend=1.5)
_SCALES = {
    Measure.ROWS: _COUNT,
    Measure.DISTINCT_ITEMS: _COUNT,
    Measure.PEER_ITEMS: _COUNT,
    Measure.RATE: _Scale(_angle, _share, least=0.03, spread=4.5, slack=_rate_slack),
    # What takes less than a second or two is never compared to the millisecond.
    Measure.SECONDS: _Scale(lambda s: math.log(s + 0.3), lambda y: math.exp(y) - 0.3, least=0.6, spread=4.5),
}


class _Run(NamedTuple):
    """A run of the past. at: its time [s]; value: on the scale; rest: how far it is there from the level it was at."""

    at: float
    day: int
    value: float
    rest: float = 0.0


@dataclass
class _Past:
    """The earlier runs of one measure, in the order of time."""

    measure: Measure
    runs: list[_Run] = field(default_factory=list)
    # The last runs that were outside, and how far on the scale.
    pending: list[tuple[_Run, float]] = field(default_factory=list)
    # How far another level is away that a user has accepted, and how many usual runs in a row came after it.
    accepted: float | None = None
    usual_since: int = 0

    def pass_by(self, night: Night) -> Judged | None:
        """Judge a night of the past, if it has a result."""
        value = getattr(night, self.measure)
        if not night.is_done or value is None:
            return None
        noise = _noise(self.measure, night.distinct_items, rounded=night.matched is None)
        return self.take(night.time, value, noise, accepted=self.measure in night.drift_accepted)

    def take(self, time: str, value: float, noise: float, *, accepted: bool = False) -> Judged | None:
        """Judge a run and make it part of the past."""
        run = _run(self.measure, time, value)
        usual = self.usual(run)
        if usual is None:
            self.add(run)
            return None
        level, deviation = usual
        verdict = self.verdict(value, run.value, level, deviation, noise)
        away = run.value - level
        self.usual_since = 0 if verdict.outside else self.usual_since + 1
        if not verdict.outside:
            if self.usual_since >= SHIFT:
                self.accepted = None
            self._forget()
            self.add(run)
            return verdict
        if self._settles(run, away):
            self._wait(run, away, SETTLING)
            return None
        if self.accepted is not None:
            other = self.verdict(value, run.value, level + self.accepted, deviation, noise)
            verdict = verdict if other.outside else other
        if verdict.outside and accepted:
            self.accepted = away
        self._wait(run, away, SHIFT)
        return verdict

    def _settles(self, run: _Run, away: float) -> bool:
        """Return whether a weekend, or the week after it, explains a level of a job that often runs."""
        last = self.runs[-SETTLING:]
        is_weekend = run.day in _WEEKEND
        if self._gap >= OFTEN or all((each.day in _WEEKEND) == is_weekend for each in last):
            return False
        return 0 < (-away if is_weekend else away) <= _SCALES[self.measure].weekend

    def usual(self, run: _Run) -> tuple[float, float] | None:
        """Return the usual value for a run and the deviation from it, on the scale; None if too little is known."""
        if len(self.runs) < LEAST_RUNS:
            return None
        has_weekdays = OFTEN < self._gap < RARELY
        today = run.day if has_weekdays else 0
        # A run does this for every run of the past, so it is kept cheap.
        by_day: defaultdict[int, list[float]] = defaultdict(list)
        for _, day, _, rest in self.runs:
            by_day[day if has_weekdays else 0].append(rest)
        alike = [day for day in by_day if (day in _WEEKEND) == (today in _WEEKEND)]
        known = sum(len(by_day[day]) for day in alike)
        if known < LEAST_LIKE_IT and len(by_day.get(today, ())) < LEAST_OF_WEEKDAY:
            return None
        offsets = {day: _middle(of_day) for day, of_day in by_day.items()}
        rests: list[float] = []
        for day, of_day in by_day.items():
            if len(of_day) > 1:
                # A day is closer to the middle of few days than to what is usual.
                middle, more = offsets[day], math.sqrt(len(of_day) / (len(of_day) - 1))
                rests += [(ratio - middle) * more for ratio in of_day]
        deviation = _deviation(rests)
        # What a band never tells apart agrees, and what noise explains.
        agree = max(_SCALES[self.measure].least, _OF_ITS_OWN * math.sqrt(2) * deviation)
        # Days without a pattern of their own share what is known of them.
        for group in (_WEEKEND, _BUSINESS_DAYS):
            of_group = [day for day in by_day if day in group]
            if of_group:
                shared = _middle([ratio for day in of_group for ratio in by_day[day]])
                for day in of_group:
                    values = by_day[day]
                    is_torn = len(values) < _ENOUGH and max(values) - min(values) > agree
                    if is_torn or abs(offsets[day] - shared) <= _OF_ITS_OWN * deviation / math.sqrt(len(values)):
                        offsets[day] = shared
        if today not in offsets:
            offsets[today] = _middle([ratio for day in alike for ratio in by_day[day]])
        now = _middle([value - offsets[day if has_weekdays else 0] for _, day, value, _ in self.runs[-LEVEL:]])
        return now + offsets[today], deviation * (1 + 4 / len(self.runs))

    def verdict(self, value: float, scaled: float, usual: float, deviation: float, noise: float) -> Judged:
        """Compare a value with the usual one, which like `scaled` and `deviation` is on the scale."""
        scale = _SCALES[self.measure]
        # An accepted level may move to where no value can be.
        middle = max(scale.back(usual), 0.0)
        usual = scale.to(middle)
        wide = min(scale.spread * deviation, max(scale.most, _AT_LEAST * deviation))
        width, slack = max(scale.least, wide, 3.5 * noise), scale.slack(middle)
        # An edge may be where no value can be: it says how much a distance of 1 is, also next to nothing or to all.
        below = max(width, usual - scale.to(max(middle - slack, 0.0)))
        above = max(width, scale.to(middle + slack) - usual)
        band = Band(max(scale.back(usual - below), 0.0), middle, scale.back(usual + above), len(self.runs))
        distance = abs(scaled - usual) / (above if scaled > usual else below)
        if self.measure is Measure.SECONDS and value < middle:
            # A faster night worries nobody.
            distance = 0.0
        return Judged(value, band, distance)

    @property
    def _gap(self) -> float:
        """The time between two runs, in the middle [s]."""
        return _middle([after.at - before.at for before, after in pairwise(self.runs[-LEVEL:])])

    def add(self, run: _Run) -> None:
        """Make a run part of the past."""
        self.runs.append(run)
        del self.runs[:-WINDOW]
        if len(self.runs) >= LEVEL:
            level = _middle([each.value for each in self.runs[-LEVEL:]])
            # The first runs have all been at the first level.
            for at in range(LEVEL) if len(self.runs) == LEVEL else (-1,):
                self.runs[at] = self.runs[at]._replace(rest=self.runs[at].value - level)

    def _forget(self) -> None:
        """Forget the runs that were outside long ago."""
        if len(self.runs) >= LEVEL:
            self.pending = [each for each in self.pending if each[0].at >= self.runs[-LEVEL].at]

    def _wait(self, run: _Run, away: float, enough: int) -> None:
        """Keep a run that is outside, until it is clear that it is no exception; enough: so many in a row."""
        self.pending.append((run, away))
        last = [each for each in self.pending[-enough:] if each[0].at > self.runs[-1].at]
        aways = [each[1] for each in last]
        if len(last) == enough and (min(aways) > 0 or max(aways) < 0):
            # The level is another one; the pattern of weekdays and the noise stay.
            by = _middle(aways)
            self.runs = [each._replace(value=each.value + by) for each in self.runs]
            added = [each[0] for each in last]
        elif len(self.pending) >= MANY:
            added = [each[0] for each in self.pending]
        else:
            return
        self.pending = []
        self.accepted = None
        for each in added:
            self.add(each)


def _deviation(rests: Iterable[float]) -> float:
    """Return the standard deviation, of which single values do not change much."""
    ordered = sorted(map(abs, rests))
    return max(_OF_MEDIAN * _middle(ordered), _OF_90 * ordered[int(0.9 * (len(ordered) - 1))])


def _middle(values: Iterable[float]) -> float:
    """Return the median."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
