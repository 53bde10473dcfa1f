"""The usual range of each measure of a task, from the runs before, and how far a run is from it.

Counts and seconds are compared as factors, shares by the square root of their angle: so noise is alike at every level.
A range is made of three things: the level of the last runs, what is usual for this weekday, and a width, which is a
multiple of what earlier runs differed from that. Medians take no notice of single runs, and a run outside its range
does not become part of the next one, unless several in a row agree: then they are the new level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

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
LEAST_RUNS = 10
LEAST_OF_WEEKDAY = 2
# The runs that make a band, and those of them that make its level.
WINDOW = 60
LEVEL = 14
# So many runs in a row outside the band, on the same side and alike, are the new level.
SHIFT = 4
# A job whose runs are this far apart in the middle has no pattern of weekdays that could be learned, or needs none
# because a day has many runs [s].
RARELY, OFTEN = 3.5 * 86400, 0.4 * 86400
# The normal distribution: its standard deviation from the median deviation, and from the deviation that 90 % keep.
_OF_MEDIAN, _OF_90 = 1.4826, 1 / 1.645


def judged(nights: Sequence[Night]) -> list[dict[Measure, Judged]]:
    """Return how far each night is outside its usual range, by the nights before it alone, oldest first.

    One dict a night, without the measures that have no verdict; empty for a night without a result.
    """
    found: list[dict[Measure, Judged]] = [{} for _ in nights]
    for measure in Measure:
        past = _Past(measure)
        for at, night in enumerate(nights):
            value = getattr(night, measure)
            if night.is_done and value is not None:
                verdict = past.take(night.time, value, _noise(measure, night.distinct_items, night.matched is None))
                if verdict is not None:
                    found[at][measure] = verdict
    return found


def judge(nights: Sequence[Night], time: str | None = None, **values: float) -> dict[Measure, Judged]:
    """Return how far the values of a run are outside their usual range; `nights` are the runs before it.

    values: by the names of measures; distinct_items also tells how exact a rate is. time: of the run, now by default.
    """
    now = datetime.now(UTC).isoformat() if time is None else time
    found = {}
    for measure in Measure:
        if measure in values:
            past = _Past(measure)
            for night in nights[-2 * WINDOW :]:
                value = getattr(night, measure)
                if night.is_done and value is not None:
                    past.take(night.time, value, _noise(measure, night.distinct_items, night.matched is None))
            items = values.get(Measure.DISTINCT_ITEMS)
            verdict = past.take(now, values[measure], _noise(measure, items, rounded=False))
            if verdict is not None:
                found[measure] = verdict
    return found


def _noise(measure: Measure, items: float | None, rounded: bool) -> float:
    """Return the deviation that chance alone gives a share of so many items, on the scale of shares."""
    if measure is not Measure.RATE:
        return 0.0
    chance = 0.5 / math.sqrt(items) if items else 0.0
    return max(chance, 0.005) if rounded else chance


@dataclass(frozen=True)
class _Scale:
    """The scale on which a measure is compared, and the least width of its band there.

    least: of every band; spread: how many deviations a band is wide; counts: whether a small number varies by chance.
    """

    to: Callable[[float], float]
    back: Callable[[float], float]
    least: float
    spread: float
    counts: bool = False


def _angle(share: float) -> float:
    return math.asin(math.sqrt(min(max(share, 0.0), 1.0)))


def _share(angle: float) -> float:
    return math.sin(min(max(angle, 0.0), math.pi / 2)) ** 2


_COUNT = _Scale(math.log1p, math.expm1, least=0.2, spread=4, counts=True)
_SCALES = {
    Measure.ROWS: _COUNT,
    Measure.DISTINCT_ITEMS: _COUNT,
    Measure.PEER_ITEMS: _COUNT,
    Measure.RATE: _Scale(_angle, _share, least=0.05, spread=4.5),
    Measure.SECONDS: _Scale(lambda s: math.log(s + 0.5), lambda y: math.exp(y) - 0.5, least=0.6, spread=5),
}


@dataclass
class _Past:
    """The earlier runs of one measure, in the order of time."""

    measure: Measure
    # The time of each run [s], its weekday and its value on the scale; then its difference from the level before.
    times: list[float] = field(default_factory=list)
    days: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    # The last runs that were outside: weekday, value, distance with its sign.
    pending: list[tuple[float, int, float, float]] = field(default_factory=list)

    def take(self, time: str, value: float, noise: float) -> Judged | None:
        """Judge a run and make it part of the past."""
        moment = datetime.fromisoformat(time)
        at, day, scaled = moment.timestamp(), moment.weekday(), _SCALES[self.measure].to(value)
        verdict = self._judge(day, value, scaled, noise)
        if verdict is None or not verdict.outside:
            self.pending.clear()
            self._add(at, day, scaled)
        else:
            self._wait(at, day, scaled, math.copysign(verdict.distance, value - verdict.band.usual))
        return verdict

    def _judge(self, day: int, value: float, scaled: float, noise: float) -> Judged | None:
        if len(self.values) < LEAST_RUNS:
            return None
        days = self.days if self._has_weekdays else [0] * len(self.days)
        day = day if self._has_weekdays else 0
        if days.count(day) < LEAST_OF_WEEKDAY:
            return None
        scale = _SCALES[self.measure]
        first = self._first_level
        ratios = [y - (first if level is None else level) for y, level in zip(self.values, self.levels, strict=True)]
        usual_of = {each: _middle(r for r, d in zip(ratios, days, strict=True) if d == each) for each in set(days)}
        rests = sorted(abs(r - usual_of[d]) for r, d in zip(ratios, days, strict=True))
        deviation = max(_OF_MEDIAN * _middle(rests), _OF_90 * rests[int(0.9 * (len(rests) - 1))])
        usual = _middle(self.values[-LEVEL:]) + usual_of[day]
        width = max(scale.least, scale.spread * deviation, 3.5 * noise)
        if scale.counts:
            width = max(width, 3 / math.sqrt(max(scale.back(usual), 0) + 1))
        band = Band(max(scale.back(usual - width), 0.0), scale.back(usual), scale.back(usual + width), len(self.values))
        distance = (scaled - usual) / width
        if self.measure is Measure.SECONDS:
            distance = max(distance, 0.0)
        return Judged(value, band, abs(distance))

    @property
    def _has_weekdays(self) -> bool:
        gaps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        return not gaps or OFTEN < _middle(gaps) < RARELY

    @property
    def _first_level(self) -> float:
        return _middle(self.values[:LEVEL])

    def _add(self, at: float, day: int, scaled: float) -> None:
        self.times.append(at)
        self.days.append(day)
        self.values.append(scaled)
        self.levels.append(_middle(self.values[-LEVEL:]) if len(self.values) >= LEVEL else None)
        for each in (self.times, self.days, self.values, self.levels):
            del each[:-WINDOW]

    def _wait(self, at: float, day: int, scaled: float, distance: float) -> None:
        """Keep a run that is outside, until several in a row agree on a new level."""
        if self.pending and (self.pending[-1][3] > 0) != (distance > 0):
            self.pending.clear()
        self.pending.append((at, day, scaled, distance))


def _middle(values: Iterable[float]) -> float:
    """Return the median."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
