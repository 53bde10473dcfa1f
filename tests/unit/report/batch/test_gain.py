"""Whether it paid to run the jobs of a batch at the same time."""

from __future__ import annotations

from typing import Any

import pytest

from psicli.report.batch import BatchReport, JobState, State
from psicli.report.batch.gain import Verdict, gain_in_words, gain_of, use_in_words


def a_batch(seconds: float, *jobs: dict[str, Any], most_jobs: int = 2) -> BatchReport:
    ran = {"starts": 1, "first_started": 0.0, "ended": seconds}
    made = [JobState(f"job-{at}", "bob", "job.yaml", 1, State.DONE, **{**ran, **job}) for at, job in enumerate(jobs)]
    use = {"cores": 2.0, "memory": 4_000_000_000, "peak_memory": 900_000_000}
    computed = sum(job.computed for job in made)
    return BatchReport("nightly", made, "", seconds=seconds, computed=computed, most_jobs=most_jobs, **use)


# Its peer is late, and then it computes on a core of its own.
LATE = {"seconds": 5.0, "waited": 2.0, "late": 2.0, "computed": 3.0, "delayed": 0.1}
# Half of the time that its threads were ready, the other job had the cores.
CROWDED = {"seconds": 12.0, "waited": 2.0, "late": 2.0, "computed": 8.0, "delayed": 8.0}
# The same, but other programs had the cores, and the other job came later.
DISTURBED = {**CROWDED, "computed": 1.0}
EARLIER = {**CROWDED, "ended": 12.0}
LATER = {**CROWDED, "first_started": 12.0, "ended": 24.0}
OVERLAPPING = {**CROWDED, "first_started": 6.0, "ended": 18.0}


@pytest.mark.parametrize(
    ("seconds", "jobs", "verdict", "in_turn"),
    [
        (5.0, [LATE] * 4, Verdict.SAVED, 4 * (2 + 3 * 3 / 3.1)),
        (9.0, [CROWDED] * 2, Verdict.SAVED, 14.0),
        (13.5, [CROWDED] * 2, Verdict.NO_DIFFERENCE, 14.0),
        (14.5, [CROWDED] * 2, Verdict.NO_DIFFERENCE, 14.0),
        (19.0, [CROWDED] * 2, Verdict.COST, 14.0),
        # A share of a short time is no difference: two runs of a batch differ by a second, too.
        (1.2, [{"seconds": 0.4, "computed": 0.3, "delayed": 0.01}] * 2, Verdict.NO_DIFFERENCE, 2 * 0.4 * 0.3 / 0.31),
        # A job loses no more than the others computed, and nothing to those that come later.
        (9.0, [DISTURBED] * 2, Verdict.SAVED, 14.0),
        (9.0, [CROWDED, {**CROWDED, "computed": 2.0}], Verdict.SAVED, (2 + 10 * 8 / 10) + (2 + 10 * 2 / 10)),
        (24.0, [EARLIER, LATER], Verdict.NO_DIFFERENCE, 24.0),
        (
            18.0,
            [EARLIER, {**CROWDED, "first_started": 6.0, "ended": 18.0}],
            Verdict.NO_DIFFERENCE,
            2 * (2 + 10 * 8 / 12),
        ),
        # A peer that was with another job of the batch would come at once to a job that runs alone.
        (9.0, [{**CROWDED, "late": 0.5}] * 2, Verdict.NO_DIFFERENCE, 11.0),
        # More time was lost than the jobs of the batch can have taken from each other.
        (20.0, [DISTURBED] * 2, Verdict.UNKNOWN, 14.0),
        # The pauses before the second start are part of the time.
        (60.0, [CROWDED, {**CROWDED, "starts": 2}], Verdict.UNKNOWN, 14.0),
        (60.0, [CROWDED, {**CROWDED, "failures": 1}], Verdict.UNKNOWN, 14.0),
        # A system that does not say how long threads were ready.
        (8.0, [{"seconds": 10.0}, {"starts": 0}], Verdict.UNKNOWN, 10.0),
        # A job that never started.
        (5.0, [LATE, {"starts": 0, "first_started": None, "ended": None}], Verdict.NO_DIFFERENCE, 5.0),
    ],
)
def test_the_verdict(seconds: float, jobs: list[dict[str, Any]], verdict: Verdict, in_turn: float) -> None:
    gain = gain_of(a_batch(seconds, *jobs))
    assert (gain.verdict, gain.in_turn) == (verdict, pytest.approx(in_turn))
    assert gain.saved == pytest.approx(in_turn - seconds)


def test_the_time_without_a_job_is_the_same_one_after_another() -> None:
    """The start of the batch, the time between two jobs, and its end."""
    apart = [{"seconds": 4.0, "first_started": 0.5, "ended": 4.5}, {"seconds": 4.0, "first_started": 5.0, "ended": 9.0}]
    gain = gain_of(a_batch(10.0, *apart, most_jobs=1))
    assert (gain.in_turn, gain.saved) == (pytest.approx(10.0), pytest.approx(0.0))


@pytest.mark.parametrize("state", [State.FAILED, State.NOT_RUN])
def test_no_verdict_unless_all_jobs_are_done(state: State) -> None:
    report = a_batch(60.0, CROWDED, CROWDED)
    report.jobs[1].state = state
    assert gain_of(report).verdict is Verdict.UNKNOWN
    assert gain_in_words(report) == ""


def test_jobs_that_ran_in_turn_need_no_verdict() -> None:
    report = a_batch(10.0, LATE, LATE, most_jobs=1)
    assert gain_of(report).verdict is Verdict.IN_TURN
    assert gain_in_words(report) == ""
    assert use_in_words(report).startswith("one job at a time, ")


def test_what_it_says() -> None:
    report = a_batch(5.0, LATE, LATE, LATE)
    use = "up to 2 jobs at a time, on average 1.8 of 2 cores, at most 900.0 MB of 4.0 GB of memory"
    assert use_in_words(report) == use
    alone = "one after another, the jobs would have taken about"
    same = "running them at the same time"
    assert gain_in_words(report) == f"{alone} 15 s: {same} saved 10 s"
    assert gain_in_words(a_batch(14.2, CROWDED, CROWDED)) == f"{alone} 14 s: {same} made no difference"
    but = f"{alone} 14 s, but this is not certain:"
    pauses = "jobs were started again, and the pauses before that took time, too"
    assert gain_in_words(a_batch(60.0, {**CROWDED, "starts": 2}, CROWDED)) == f"{but} {pauses}"
    assert gain_in_words(a_batch(60.0, DISTURBED, DISTURBED)) == f"{but} other programs used the cores, too"
    unknown = f"nobody knows what {same} saved: this system does not say how long threads wait for a core"
    assert gain_in_words(a_batch(60.0, {"seconds": 50.0}, {"seconds": 50.0})) == unknown


def test_what_to_do_if_it_did_not_pay() -> None:
    report = a_batch(20.0, CROWDED, CROWDED)
    assert gain_in_words(report).endswith(
        " cost 6 s. Run them with `--jobs 1`, or make the jobs with bob tasks of one job."
    )
    # Jobs with different parties cannot become one.
    report.jobs[1].peer = "carol"
    assert gain_in_words(report).endswith(" cost 6 s. Run them with `--jobs 1`.")


def test_a_peer_on_this_machine_takes_cores_too() -> None:
    crowded = {**CROWDED, "computed": 4.0}
    assert gain_of(a_batch(12.0, crowded, crowded)).in_turn == pytest.approx(14.0)
    local = {**crowded, "is_local": True}
    assert gain_of(a_batch(12.0, local, local)).in_turn == pytest.approx(2 * (2 + 10 / 3))
