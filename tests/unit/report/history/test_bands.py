"""The usual ranges of measures: what is found in nights that look real, and what is not taken for unusual."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from support.history.data import ANOMALIES, BEGIN, KINDS, series

from psicli.report.history.bands import LEAST_RUNS, SHIFT, Measure, judge, judged
from psicli.report.history.series import Night

# Anomalies are found from this night on.
FIRST = 20


def alarms(nights: Sequence[Night]) -> list[int]:
    """Return the nights that are outside in any measure."""
    return [at for at, night in enumerate(judged(nights)) if any(each.outside for each in night.values())]


def outside(nights: Sequence[Night], at: int) -> list[str]:
    """Return the measures in which a night is outside."""
    return [measure for measure, each in judged(nights)[at].items() if each.outside]


def is_found(nights: list[Night], at: int, anomaly: str) -> bool:
    return at in alarms([*nights[:at], ANOMALIES[anomaly](nights[at])])


def drawn_night(nights: Sequence[Night], draw: random.Random) -> int:
    return draw.choice([at for at, night in enumerate(nights) if at >= FIRST and night.is_done])


@pytest.mark.sample(5)
@pytest.mark.parametrize("kind", KINDS)
def test_real_nights_are_usual_and_each_anomaly_is_found(kind: str) -> None:
    nights = series(kind, 1).nights
    assert len(alarms(nights)) <= 1
    draw = random.Random(kind)
    missed = [anomaly for anomaly in ANOMALIES if not is_found(nights, drawn_night(nights, draw), anomaly)]
    assert missed == []


@pytest.mark.parametrize("kind", ["weekends", "small", "gaps"])
def test_a_run_is_judged_as_the_history_judges_it(kind: str) -> None:
    """A run takes a short way if it is usual, and reads only its last nights."""
    nights = series(kind, 5).nights
    nights[60] = ANOMALIES["half the rows"](nights[60])
    exact = judged(nights)
    for at in range(FIRST, len(nights)):
        values = {str(measure): each.value for measure, each in exact[at].items()}
        found = judge(nights[max(at - 70, 0) : at], nights[at].time, nights[at].distinct_items, **values)
        outside = {measure for measure, each in found.items() if each.outside}
        assert outside == {measure for measure, each in exact[at].items() if each.outside}


@pytest.mark.more
def test_hundreds_of_series() -> None:
    """With 10 % noise, half of a night that had 30 % more cannot be told from the noise; all else is found."""
    draw = random.Random(22)
    false, missed, tried = [], [], 0
    for number in range(200):
        kind = draw.choice([*KINDS])
        nights = series(kind, 1000 + number).nights
        false.append(len(alarms(nights)))
        for anomaly in draw.sample([*ANOMALIES], 3):
            at = drawn_night(nights, draw)
            tried += 1
            if not is_found(nights, at, anomaly):
                missed.append((kind, number, at, anomaly))
    assert sum(each > 1 for each in false) <= 2, false
    assert sum(false) / len(false) < 0.25
    assert len(missed) <= tried // 100, missed


def test_a_constant_task_has_room_for_a_few_rows() -> None:
    nights = [night(at) for at in range(40)]
    assert alarms([*nights, night(40, rows=1001), night(41, rows=1100), night(42, rows=900)]) == []


def test_a_first_verdict_takes_two_weeks() -> None:
    found = judged([night(at) for at in range(LEAST_RUNS + 1)])
    assert [*map(bool, found)] == [False] * LEAST_RUNS + [True]
    assert set(found[-1]) == set(Measure)


@pytest.mark.parametrize("first", range(7))
def test_the_first_weekends_are_no_alarm(first: int) -> None:
    nights = [night(at, rows=400 if (BEGIN + timedelta(days=at)).weekday() > 4 else 1000) for at in range(first, 60)]
    assert alarms(nights) == []


@pytest.mark.parametrize("spike", range(14))
def test_an_early_exception_is_no_pattern_of_its_weekday(spike: int) -> None:
    draw = random.Random(spike)
    usual = [round(1000 * draw.gauss(1, 0.04)) for _ in range(60)]
    mondays = [
        round(rows * (1.5 if (BEGIN + timedelta(days=at)).weekday() == 0 else 1)) for at, rows in enumerate(usual)
    ]
    for rows in (usual, mondays):
        rows[spike] = round(2.2 * rows[spike])
        # Of two Mondays of which one is an exception, nobody can tell which one it is.
        known = [at for at in alarms([*map(night, range(60), rows)]) if rows is usual or at % 7]
        assert known == []


def test_a_new_level_is_usual_after_a_few_nights() -> None:
    nights = [night(at, rows=1000 if at < 40 else 2000) for at in range(80)]
    assert alarms(nights) == [*range(40, 40 + SHIFT)]


def test_anomalies_in_a_row_hide_nothing() -> None:
    nights = [night(at, rows={40: 500, 41: 2000, 43: 500}.get(at, 1000)) for at in range(60)]
    assert alarms(nights) == [40, 41, 43]
    widths = [each[Measure.ROWS].band.high - each[Measure.ROWS].band.low for each in judged(nights)[LEAST_RUNS:]]
    assert max(widths) == pytest.approx(min(widths))


def test_a_task_that_becomes_irregular_is_no_exception_for_ever() -> None:
    draw = random.Random(1)
    nights = [night(at, rows=1000 if at < 40 else draw.choice([400, 700, 1000, 1600, 2500])) for at in range(120)]
    assert len([at for at in alarms(nights) if at > 80]) <= 4


def test_failed_nights_are_no_part_of_it() -> None:
    nights = [night(at) if at % 3 else Night(night(at).time, "", "failed", 79, "policy", 5, 5) for at in range(60)]
    assert alarms(nights) == []
    assert judged(nights)[-3:][0] == {}


def test_an_accepted_night_makes_both_levels_usual() -> None:
    accepted = replace(night(40, rows=3000), drift_accepted=("rows",))
    later = [night(41, rows=3100), night(42), night(43, rows=3000), night(44, rows=6000)]
    nights = [night(at) for at in range(40)]
    assert alarms([*nights, accepted, *later]) == [40, 44]
    assert alarms([*nights, night(40, rows=3000), night(41, rows=3100)]) == [40, 41]


def test_what_is_accepted_for_one_measure_is_not_for_another() -> None:
    no_matches = replace(night(40, rows=3000), matched=0, rate=0.0, drift_accepted=("rows",))
    nights = [*map(night, range(40)), no_matches, replace(no_matches, time=night(41).time)]
    assert [[*outside(nights, at)] for at in (40, 41)] == [["rows", "rate"], ["rate"]]


@pytest.mark.parametrize("usual", [0, SHIFT - 1, SHIFT, 80])
def test_an_accepted_level_is_forgotten_after_a_few_usual_nights(usual: int) -> None:
    accepted = replace(night(40), matched=0, rate=0.0, drift_accepted=("rate",))
    again = replace(accepted, time=night(41 + usual).time, drift_accepted=())
    nights = [*map(night, range(40)), accepted, *(night(41 + at) for at in range(usual)), again]
    assert ("rate" in outside(nights, -1)) is (usual >= SHIFT)


def test_usual_nights_count_only_in_a_row() -> None:
    accepted = replace(night(40, rows=3000), drift_accepted=("rows",))
    both = [night(41 + at, rows=3000 if at % SHIFT == SHIFT - 1 else 1000) for at in range(20)]
    assert alarms([*map(night, range(40)), accepted, *both]) == [40]


def test_a_fast_night_is_no_alarm() -> None:
    nights = [night(at) for at in range(40)]
    assert judge(nights, night(40).time, seconds=0.1)[Measure.SECONDS].distance == 0
    slow = judge(nights, night(40).time, seconds=180.0)[Measure.SECONDS]
    assert (slow.outside, slow.band.usual) == (True, pytest.approx(60))


def test_a_distance_of_one_is_the_edge() -> None:
    nights = [night(at) for at in range(40)]
    band = judge(nights, night(40).time, rows=1000)[Measure.ROWS].band
    for value, distance in ((band.low, 1), (band.usual, 0), (band.high, 1), ((band.high + 1) ** 2 / 1001 - 1, 2)):
        assert judge(nights, night(40).time, rows=value)[Measure.ROWS].distance == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize(("rate", "deviation"), [(0.0, 0.0), (1.0, 0.0), (0.001, 0.0005), (0.999, 0.0005)])
def test_next_to_nothing_or_to_all_the_usual_value_is_far_from_the_edge(rate: float, deviation: float) -> None:
    nights = [replace(night(at), rate=rate + deviation * (at % 3 - 1)) for at in range(40)]
    usual = judge(nights, night(40).time, 1000, rate=rate)[Measure.RATE]
    assert usual.distance == pytest.approx(0)
    assert 0 <= usual.band.low <= rate <= usual.band.high <= 1
    edge = judge(nights, night(40).time, 1000, rate=float(round(rate)))[Measure.RATE]
    assert edge.distance < 0.75


def test_an_accepted_level_of_nothing_is_at_no_distance() -> None:
    accepted = replace(night(40), matched=0, rate=0.0, drift_accepted=("rate",))
    again = judge([*map(night, range(40)), accepted], night(41).time, 1000, rate=0.0)[Measure.RATE]
    assert (again.value, again.band.usual) == (0.0, pytest.approx(0))
    assert again.distance == pytest.approx(0)


def test_few_items_have_a_rough_rate() -> None:
    few = [replace(night(at), distinct_items=20, matched=6, rate=0.3) for at in range(40)]
    assert not judge(few, night(40).time, 20, rate=0.5)[Measure.RATE].outside
    many = [night(at) for at in range(40)]
    assert judge(many, night(40).time, 1000, rate=0.5)[Measure.RATE].outside


def night(at: int, rows: int = 1000) -> Night:
    moment = (BEGIN + timedelta(days=at)).isoformat()
    return Night(moment, f"{at:016x}", "done", None, None, rows, 1000, 2000, 300, 0.3, 60.0)
