"""Whether it paid to run the jobs of a batch at the same time."""

from __future__ import annotations

from typing import Any

import pytest

from psicli.report.batch import BatchReport, JobState, State
from psicli.report.batch.gain import Verdict, gain_in_words, gain_of, use_in_words


def a_batch(seconds: float, *jobs: dict[str, Any], most_jobs: int = 2, busy: float = 0.0) -> BatchReport:
    made = [
        JobState(f"job-{at}", "bob", "job.yaml", 1, State.DONE, **{"starts": 1, **job}) for at, job in enumerate(jobs)
    ]
    use = {"busy": busy, "cores": 2.0, "memory": 4_000_000_000, "peak_memory": 900_000_000}
    computed = sum(job.computed for job in made)
    return BatchReport("nightly", made, "", seconds=seconds, computed=computed, most_jobs=most_jobs, **use)


# Its peer is late, and then it computes on a core of its own.
LATE = {"seconds": 5.0, "waited": 2.0, "computed": 3.0}
# Half of the time that its threads were ready, another job had the cores.
CROWDED = {"seconds": 12.0, "waited": 2.0, "computed": 8.0, "delayed": 8.0}


@pytest.mark.parametrize(
    ("seconds", "jobs", "verdict", "in_turn"),
    [
        (5.0, [LATE] * 4, Verdict.SAVED, 20.0),
        (10.0, [CROWDED] * 2, Verdict.SAVED, 14.0),
        (13.5, [CROWDED] * 2, Verdict.NO_DIFFERENCE, 14.0),
        (14.5, [CROWDED] * 2, Verdict.NO_DIFFERENCE, 14.0),
        (16.0, [CROWDED] * 2, Verdict.COST, 14.0),
        # The pauses before the second start are part of the time.
        (60.0, [LATE, {**LATE, "starts": 2}], Verdict.UNKNOWN, 10.0),
        # A system that does not say how long threads were ready, and a job that never started.
        (8.0, [{"seconds": 10.0}, {"starts": 0}], Verdict.SAVED, 10.0),
    ],
)
def test_the_verdict(seconds: float, jobs: list[dict[str, Any]], verdict: Verdict, in_turn: float) -> None:
    gain = gain_of(a_batch(seconds, *jobs))
    assert (gain.verdict, gain.in_turn) == (verdict, pytest.approx(in_turn))
    assert gain.saved == pytest.approx(in_turn - seconds)


def test_jobs_that_ran_in_turn_need_no_verdict() -> None:
    report = a_batch(10.0, LATE, LATE, most_jobs=1)
    assert gain_of(report).verdict is Verdict.IN_TURN
    assert gain_in_words(report) == ""
    assert use_in_words(report).startswith("one job at a time, ")


def test_what_it_says() -> None:
    report = a_batch(5.0, LATE, LATE, LATE)
    assert (
        use_in_words(report)
        == "up to 2 jobs at a time, on average 1.8 of 2 cores, at most 900.0 MB of 4.0 GB of memory"
    )
    alone = "one after another, the jobs would have taken about"
    assert gain_in_words(report) == f"{alone} 15 s: running them at the same time saved 10 s"
    assert (
        gain_in_words(a_batch(14.2, CROWDED, CROWDED))
        == f"{alone} 14 s: running them at the same time made no difference"
    )
    assert gain_in_words(a_batch(60.0, {**LATE, "starts": 2}, LATE)).endswith(" before jobs were started again")


# Jobs that keep each other waiting more than their pauses are worth.
ENTANGLED = {"seconds": 18.0, "waited": 2.0, "computed": 4.0, "delayed": 8.0}


def test_what_to_do_if_it_did_not_pay() -> None:
    report = a_batch(18.0, ENTANGLED, ENTANGLED, busy=0.45)
    assert gain_in_words(report).endswith(
        " cost 3 s. Run them with `--jobs 1`, or make the jobs with bob tasks of one job."
    )
    # Jobs with different parties cannot become one.
    report.jobs[1].peer = "carol"
    assert gain_in_words(report).endswith(" cost 3 s. Run them with `--jobs 1`.")


def test_other_programs_would_slow_down_jobs_one_after_another_too() -> None:
    alone = gain_of(a_batch(18.0, ENTANGLED, ENTANGLED, busy=0.45)).in_turn
    assert alone == pytest.approx(15.2, abs=0.2)
    assert gain_of(a_batch(18.0, ENTANGLED, ENTANGLED, busy=2.0)).in_turn == pytest.approx(33.6, abs=0.2)
    # A peer on this machine competes like its job, and only when the job runs.
    local = {**ENTANGLED, "is_local": True}
    assert gain_of(a_batch(18.0, local, local, busy=0.9)).in_turn == pytest.approx(alone, abs=0.2)
