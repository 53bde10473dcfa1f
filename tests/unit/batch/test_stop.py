"""How a batch ends when a signal stops it, with processes that only pretend to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.batch_files import job, load, write_jobs

from psicli.batch import engine
from psicli.batch.machine import Machine
from psicli.batch.plan import Limits, Planned, make_plan
from psicli.core.errors import TerminatedBySignal
from psicli.report.batch import JobState, State
from psicli.report.batch.summary import to_text

HINT = "Wait for the other run to end."


class FakeChild:
    """A process that ends at once with 75 if its job is called fails-bob, else when it gets a signal."""

    pid, holds, pipes, killed_by = 1, 0, (), None
    computed = delayed = 0.0
    peak_memory = 0
    errors = ("stopped",)

    def __init__(self, planned: Planned, **_: Any) -> None:
        self.code: int | None = 75 if planned.name == "fails-bob" else None

    def end(self, _: int) -> None:
        self.code = self.code or 143

    def reap(self) -> bool:
        return self.code is not None

    def report(self) -> dict[str, Any]:
        return {"error": {"message": "the port is taken", "hint": HINT}}

    def look(self) -> None: ...

    def close(self) -> None: ...


class Seen:
    """Notes the states and reasons of all jobs."""

    def __init__(self) -> None:
        self.states: list[tuple[str, State]] = []
        self.whys: list[str] = []

    def changed(self, job: JobState, jobs: Sequence[JobState]) -> None:
        self.states.append((job.name, job.state))
        self.whys.append(job.why)

    def progressed(self, jobs: Sequence[JobState]) -> None: ...

    def said(self, job: JobState, level: int, line: str) -> None: ...


def test_a_signal_while_one_job_pauses_one_runs_and_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, told = Seen(), list[bool]()

    @contextmanager
    def allowed() -> Iterator[None]:
        pauses = any(why.startswith("tries again") for why in seen.whys)
        if pauses and ("runs-bob", State.STARTING) in seen.states and not told:
            told.append(True)
            raise TerminatedBySignal
        yield

    monkeypatch.setattr(engine, "Child", FakeChild)
    # Other programs may have the memory of this machine.
    monkeypatch.setattr(engine, "free_memory", lambda: Machine.here().memory)
    monkeypatch.setattr(engine.signals, "allowed", allowed)
    jobs = {}
    for name, port in (("fails-bob", 18_560), ("runs-bob", 18_561), ("waits-bob", 18_561)):
        nodes = [{"party": "bob", "address": f"127.0.0.1:{port}"}, {"party": "alice"}]
        jobs[name] = job(name, cluster={"nodes": nodes})
    write_jobs(tmp_path, jobs)
    plan = make_plan(load(tmp_path, yaml.safe_dump({"jobs": [f"{name}.yaml" for name in jobs]})))
    report = engine.run_batch(plan, Limits(), [seen])
    assert report.exit_code == 143
    why = "the batch was stopped by SIGTERM"
    # Also the job that was in a pause has the code of the signal, and not none at all.
    assert [(each.state, each.exit_code, each.why) for each in report.jobs] == [
        (State.FAILED, 143, why),
        (State.FAILED, 143, why),
        (State.NOT_RUN, 143, why),
    ]
    # Nor is the hint of its attempt before that the way on.
    assert HINT not in to_text(report)
    assert "runs-bob uses the connection to 127.0.0.1:18561" in seen.whys
