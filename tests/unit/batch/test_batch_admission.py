"""When another job of a batch may start, and why not."""

from __future__ import annotations

import pytest

from psicli.batch.admission import Rules, doubt_about, reason_to_wait
from psicli.batch.machine import Machine
from psicli.report.batch import JobState, State

MB = 1_000_000
RULES = Rules(places=4, memory=2000 * MB, cores=2.0)


def job(state: State, *, memory: int = 500, holds: int = 0) -> JobState:
    return JobState("job", "bob", "job.yaml", 1, state=state, memory=memory * MB, holds=holds * MB)


def reason(budget: int, *jobs: JobState, free: int = 10_000, busy: float = 0.0, rules: Rules = RULES) -> str | None:
    return reason_to_wait(budget * MB, jobs, rules, free=free * MB, busy=busy)


def test_as_many_jobs_as_cores_compute_even_on_a_busy_machine() -> None:
    assert reason(500, busy=2.0) is None
    assert reason(500, job(State.RUNNING), busy=2.0) is None


@pytest.mark.parametrize(("busy", "why"), [(1.7, None), (1.8, "1.8 of 2 cores busy"), (2.0, "2.0 of 2 cores busy")])
def test_another_one_needs_idle_cores(busy: float, why: str | None) -> None:
    assert reason(500, job(State.RUNNING), job(State.STARTING), busy=busy) == why


def test_a_job_that_waits_for_its_peer_needs_no_core() -> None:
    waiting = [job(State.WAITING)] * 3
    assert reason(500, *waiting, busy=2.0) is None
    computing = [job(State.STARTING), job(State.RUNNING)]
    assert reason(500, *waiting[:1], *computing, busy=2.0) == "2.0 of 2 cores busy"


def test_more_memory_than_there_is_makes_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "here", lambda: Machine(2.0, 2000 * MB))
    assert doubt_about(RULES) is None
    much = "all jobs together may use 500.0 GB of memory, but this machine has only 2.0 GB; set less"
    assert doubt_about(Rules(4, 500_000 * MB, 2.0)) == much


def test_places() -> None:
    assert reason(100, *[job(State.WAITING, memory=100)] * 4) == "all 4 places are taken"
    assert reason(100, job(State.WAITING), rules=Rules(1, 2000 * MB, 2.0)) == "another job is running"


def test_memory_is_promised_to_jobs_that_wait() -> None:
    waiting = [job(State.WAITING)] * 3
    assert reason(500, *waiting) is None
    assert reason(501, *waiting) == "1.5 GB of 2.0 GB of memory are promised to 3 jobs"


def test_what_is_promised_must_be_free() -> None:
    """Else the machine would swap once all jobs take what they may."""
    running = [job(State.RUNNING, memory=500, holds=400), job(State.WAITING, memory=500, holds=150)]
    assert reason(500, *running, free=950) is None
    why = "949.0 MB of memory are free, and 2 jobs may still take 450.0 MB; it may take 500.0 MB"
    assert reason(500, *running, free=949) == why
    assert reason(500, free=499) == "499.0 MB of memory are free; it may take 500.0 MB"
    # A job that holds more than it may gives nothing back.
    assert reason(500, job(State.RUNNING, memory=500, holds=900), free=500) is None
