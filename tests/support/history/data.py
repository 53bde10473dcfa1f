"""Nights that look real, with every number from a seed: patterns of weekdays, growth, noise, holidays and failures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from psicli.report.history.series import Night, Series

# The first night of every series, a Monday or one of the days after it.
BEGIN = datetime(2026, 1, 5, 2, 10, tzinfo=UTC)


@dataclass(frozen=True)
class Kind:
    """What the nights of a task are like. rows: of the first night; noise: the deviation of counts, as a share.

    weekend: what share of a business day comes at a weekend; growth: a week, as a share; tails: whether noise has heavy
    tails; step: the time between runs; missing, failed: the share of nights without a run, and without a result.
    """

    rows: int = 24_000
    noise: float = 0.05
    weekend: float = 1.0
    monday: float = 1.0
    growth: float = 0.0
    tails: bool = False
    rate: float = 0.3
    step: timedelta = timedelta(days=1)
    holidays: int = 0
    business: bool = False
    missing: float = 0.0
    failed: float = 0.0


KINDS = {
    "weekends": Kind(weekend=0.4, noise=0.05, growth=0.01),
    "noisy": Kind(weekend=0.4, noise=0.10, growth=0.02, rows=300_000),
    "growing": Kind(growth=0.04, noise=0.03, rows=2_000_000, rate=0.02),
    "mondays": Kind(weekend=0.4, monday=1.5, noise=0.04, rate=0.97),
    "business": Kind(business=True, noise=0.07, monday=1.3, growth=0.01),
    "tails": Kind(weekend=0.4, noise=0.04, tails=True),
    "holiday": Kind(weekend=0.4, noise=0.05, holidays=1),
    "small": Kind(rows=50, noise=0.05, rate=0.5),
    "constant": Kind(noise=0.0),
    "hourly": Kind(noise=0.07, step=timedelta(hours=1)),
    "hourly weekends": Kind(noise=0.06, weekend=0.4, step=timedelta(hours=1)),
    "weekly": Kind(noise=0.06, step=timedelta(weeks=1), growth=0.01),
    "gaps": Kind(weekend=0.4, noise=0.06, missing=0.08, failed=0.08),
}


def series(kind: Kind | str, seed: int, nights: int = 90, job: str = "nightly", task: str = "customers") -> Series:
    """Return the nights of a task; the same arguments give the same nights."""
    draw, kind = random.Random(f"{kind} {seed} {task}"), KINDS[kind] if isinstance(kind, str) else kind
    night, found = _Nights(kind, draw), Series(job, task, "airline", "registry")
    moment = BEGIN + timedelta(days=draw.randrange(7))
    holidays = set(draw.sample(range(20, nights), kind.holidays))
    while len(found.nights) < nights:
        is_weekend = moment.weekday() > 4
        if not (kind.business and is_weekend) and draw.random() >= kind.missing:
            number = len(found.nights)
            found.nights.append(night.at(moment, f"{number:016x}", number in holidays))
        moment += kind.step
    return found


class _Nights:
    def __init__(self, kind: Kind, draw: random.Random) -> None:
        self._kind, self._draw = kind, draw
        self._begin: datetime | None = None
        self._peer = round(kind.rows * draw.uniform(0.5, 20))

    def at(self, moment: datetime, run: str, is_holiday: bool) -> Night:
        kind, draw = self._kind, self._draw
        self._begin = self._begin or moment
        if draw.random() < kind.failed:
            return Night(moment.isoformat(), run, "failed", 69, "peer lost")
        weeks = (moment - self._begin) / timedelta(weeks=1)
        pattern = kind.weekend if moment.weekday() > 4 or is_holiday else kind.monday if not moment.weekday() else 1.0
        rows = max(round(kind.rows * (1 + kind.growth) ** weeks * pattern * self._factor(kind.noise)), 0)
        items = min(round(rows * 0.93 * self._factor(kind.noise / 8)), rows)
        peer = round(self._peer * (1 + kind.growth / 2) ** weeks * self._factor(kind.noise / 2))
        share = min(max(kind.rate * self._factor(kind.noise / 2), 0.0), 1.0)
        matched = _binomial(items, share, draw)
        slow = 1.3 if draw.random() < 0.05 else 1.0
        seconds = (2 + (rows + peer) / 40_000) * math.exp(draw.gauss(0, 0.1)) * slow
        rate = matched / items if items else 0.0
        return Night(moment.isoformat(), run, "done", None, None, rows, items, peer, matched, rate, round(seconds, 3))

    def _factor(self, noise: float) -> float:
        """Return what noise multiplies a count by; with heavy tails, as of Student's distribution with 4 degrees."""
        spread = self._draw.gauss(0, 1)
        if self._kind.tails:
            spread /= math.sqrt(sum(self._draw.gauss(0, 1) ** 2 for _ in range(4)) / 4) * math.sqrt(2)
        return math.exp(noise * spread)


def _binomial(items: int, share: float, draw: random.Random) -> int:
    return min(max(round(draw.gauss(items * share, math.sqrt(items * share * (1 - share)))), 0), items)


def _scaled(
    rows: float = 1, items: float = 1, peer: float = 1, rate: float = 1, seconds: float = 1
) -> Callable[[Night], Night]:
    def change(night: Night) -> Night:
        distinct, share = round((night.distinct_items or 0) * items), (night.rate or 0.0) * rate
        matched = round(distinct * share)
        return replace(
            night,
            rows=round((night.rows or 0) * rows),
            distinct_items=distinct,
            peer_items=round((night.peer_items or 0) * peer),
            matched=matched,
            rate=matched / distinct if distinct else 0.0,
            seconds=round((night.seconds or 0.0) * seconds, 3),
        )

    return change


# What goes wrong in a night, and what becomes of it.
ANOMALIES: dict[str, Callable[[Night], Night]] = {
    "half the rows": _scaled(rows=0.5, items=0.5),
    "no matches": _scaled(rate=0),
    "doubled items": _scaled(rows=2, items=2),
    "rows twice": _scaled(rows=2),
    "half the peer": _scaled(peer=0.5, rate=0.5),
    "doubled peer": _scaled(peer=2),
    "slow": _scaled(seconds=3),
}
