"""psicli batch and psicli retry, with an engine that only says how the jobs end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from click.testing import CliRunner, Result

from psicli.batch.plan import Limits, Plan
from psicli.batch.record import Record, Start, last_batch
from psicli.cli.main import cli
from psicli.report.batch import BatchReport, JobState, State, Watcher


class Engine:
    """Ends each job at once: as `codes` says, or else done."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.plans: list[Plan] = []
        self.limits = Limits()
        self.report_dir: Path | None = None

    @property
    def ran(self) -> dict[str, tuple[str, ...]]:
        """The jobs of the last run, and those for which they wait."""
        return {planned.name: planned.after for planned in self.plans[-1].jobs}

    def run_batch(self, plan: Plan, limits: Limits, watchers: Sequence[Watcher], folder: Path | None) -> BatchReport:
        self.plans.append(plan)
        self.limits, self.report_dir = limits, folder
        jobs = [JobState(planned.name, planned.job.peer, str(planned.entry.config), 1) for planned in plan.jobs]
        for job in jobs:
            code = self.codes.get(job.name, 0)
            job.state, job.exit_code, job.starts = State.FAILED if code else State.DONE, code, 1
            job.why = "it had to" if code else ""
            for watcher in watchers:
                watcher.changed(job, jobs)
        return BatchReport(plan.batch.name, jobs, "", next((job.exit_code for job in jobs if job.exit_code), 0))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    module = ModuleType("psicli.batch.engine")
    module.run_batch = made.run_batch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "psicli.batch.engine", module)
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch of three jobs, the last of which comes after the others."""
    monkeypatch.setenv("PSICLI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for port, name in enumerate(("one", "two", "three"), 18_561):
        job = {
            "job": name,
            "cluster": {"nodes": [{"party": "alice", "address": f"127.0.0.1:{port}"}, {"party": "bob"}]},
            "psi": {"receiver": "alice"},
            "tasks": [
                {
                    "name": "people",
                    "keys": {"alice": ["id"], "bob": ["id"]},
                    "input_path": {"alice": "${WHERE}/in.csv", "bob": "in.csv"},
                    "output_path": {"alice": f"out/{name}.csv"},
                }
            ],
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(job))
    write_batch(tmp_path, "one", "two", "three")
    return tmp_path


def write_batch(folder: Path, *names: str) -> None:
    jobs = [{"config": f"{name}.yaml", **({"after": ["one", "two"]} if name == "three" else {})} for name in names]
    (folder / "nightly.yaml").write_text(yaml.safe_dump({"jobs": jobs, "party": "alice"}))


def call(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=False)
    assert result.return_value == code, result.output
    return result


def first_run(engine: Engine, *arguments: str, codes: dict[str, int] | None = None) -> None:
    engine.codes = {"two": 65} if codes is None else codes
    call("batch", "nightly.yaml", "--set", "WHERE=here", *arguments, code=next(iter(engine.codes.values()), 0))
    engine.codes = {}


def test_a_retry_runs_what_failed_and_then_nothing_is_left(folder: Path, engine: Engine) -> None:
    first_run(engine)
    assert engine.ran == {"one": (), "two": (), "three": ("one", "two")}
    result = call("retry")
    assert engine.ran == {"two": ()}
    assert " INFO nightly: continuing the batch of 20" in result.stderr
    assert ": 1 of 3 jobs to run\n" in result.stderr
    again = call("retry", "nightly.yaml")
    assert len(engine.plans) == 2
    assert again.stdout.startswith("nightly: nothing is left to run of the batch of 20")
    assert again.stderr == ""
    assert call("retry", "-q").output == ""
    told = json.loads(call("retry", "--json").stdout)
    assert (told["batch"], told["exit_code"], told["jobs"]) == ("nightly", 0, [])


def test_the_report_says_how_to_go_on(folder: Path, engine: Engine) -> None:
    engine.codes = {"two": 65}
    shown = call("batch", "nightly.yaml", "--set", "WHERE=here", code=65).stdout
    assert shown.splitlines()[0] == "nightly: 2 of 3 jobs done, 1 failed, after 0.0 s, exit code 65"
    assert shown.endswith("  psicli retry nightly.yaml\n")
    assert call("batch", "one.yaml", "two.yaml", "--party", "alice", "--set", "WHERE=x", code=65).stdout.endswith(
        "  psicli retry\n"
    )
    told = json.loads(call("batch", "nightly.yaml", "--set", "WHERE=here", "--json", code=65).stdout)
    assert [(job["name"], job["state"]) for job in told["jobs"]] == [
        ("one", "done"),
        ("two", "failed"),
        ("three", "done"),
    ]


def test_a_retry_uses_the_options_of_that_time_from_any_folder(
    folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_run(engine, "--jobs", "3", "--retries", "7", "--fail-fast", "--deadline", "4h", "--report-dir", "reports")
    monkeypatch.chdir("/")
    call("retry", "--jobs", "1", "--set", "OTHER=x")
    assert engine.report_dir == folder / "reports"
    # No job can have this name.
    assert json.loads((folder / "reports" / "_batch.json").read_text())["batch"] == "nightly"
    limits = engine.limits
    assert (limits.jobs, limits.retries, limits.fail_fast, limits.deadline) == (1, 7, True, 14_400)
    (planned,) = engine.plans[-1].jobs
    assert planned.job.tasks[0].input.paths[0] == folder / "here" / "in.csv"
    # What was given now holds for the next retry, too.
    past = last_batch()
    assert past is not None
    assert past.start.options["jobs"] == 1
    assert past.start.options["settings"] == ["WHERE=here", "OTHER=x"]


def test_a_retry_of_some_of_the_jobs(folder: Path, engine: Engine) -> None:
    first_run(engine, codes={"one": 66, "two": 65})
    call("retry", "--only", "two")
    assert [*engine.ran] == ["two"]
    call("retry", "--only", "two")
    assert len(engine.plans) == 2
    call("retry")
    assert [*engine.ran] == ["one"]
    assert "--only: 'four' was not a job of this batch" in call("retry", "--only", "four", code=2).stderr


def test_a_retry_after_a_kill_runs_what_was_not_done(folder: Path, engine: Engine) -> None:
    """A job that was done counts as done for the one after it."""
    first_run(engine)
    plan, start = engine.plans[0], Start(str(folder), (str(folder / "nightly.yaml"),), {"settings": ["WHERE=x"]})
    with Record(plan, start) as kept:
        jobs = [JobState(name, "bob", "", 1) for name in ("one", "two", "three")]
        for job, state in zip(jobs, (State.DONE, State.RUNNING), strict=False):
            job.state = state
            kept.changed(job, jobs)
    call("retry", "--only", "three")
    assert engine.ran == {"three": ()}
    past = last_batch()
    assert past is not None
    assert [(job.state, job.why) for job in past.jobs] == [
        (State.DONE, ""),
        (State.NOT_RUN, "the batch was stopped before"),
        (State.DONE, ""),
    ]
    call("retry")
    assert engine.ran == {"two": ()}


def test_a_retry_uses_the_batch_file_as_it_is_now(folder: Path, engine: Engine) -> None:
    first_run(engine, codes={"one": 65, "two": 66})
    (folder / "four.yaml").write_text(
        (folder / "one.yaml").read_text().replace("one", "four").replace("18561", "18564")
    )
    write_batch(folder, "two", "four")
    result = call("retry")
    assert [*engine.ran] == ["two"]
    assert "WARNING nightly: no longer in the batch, and so not run: one\n" in result.stderr
    assert "not part of that run of the batch, and so not run by a retry: four\n" in result.stderr
    # The next retry has forgotten it.
    assert call("retry").stderr == ""


def test_nothing_is_left_if_no_failed_job_is_in_the_batch_any_more(folder: Path, engine: Engine) -> None:
    first_run(engine)
    write_batch(folder, "one")
    result = call("retry")
    assert "no longer in the batch, and so not run: two" in result.stderr
    assert "nothing is left to run" in result.stdout
    assert len(engine.plans) == 1


def test_why_nothing_can_be_retried(folder: Path, engine: Engine) -> None:
    assert "no batch has left a record here" in call("retry", code=66).stderr
    first_run(engine)
    missing = call("retry", "weekly.yaml", "--json", code=66)
    assert "weekly.yaml: no batch of these files has left a record" in missing.stderr
    told = json.loads(missing.stdout)
    assert (told["batch"], told["exit_code"], told["jobs"]) == (None, 66, [])
    assert told["error"]["class"] == "InputMissingError"
    past = last_batch()
    assert past is not None
    with Record(engine.plans[0], past.start):
        busy = call("retry", code=75)
    assert f"batch nightly still runs (pid {os.getpid()}, since 20" in busy.stderr
    assert len(engine.plans) == 1


def test_a_second_run_runs_no_hook(folder: Path, engine: Engine) -> None:
    first_run(engine)
    file = folder / "nightly.yaml"
    file.write_text(file.read_text() + "hooks: {before: [[touch, hooked]]}\n")
    file.chmod(0o600)
    past = last_batch()
    assert past is not None
    with Record(engine.plans[0], past.start):
        busy = call("batch", "nightly.yaml", "--set", "WHERE=here", code=75)
    assert f"batch nightly still runs (pid {os.getpid()}, since 20" in busy.stderr
    assert (len(engine.plans), (folder / "hooked").exists()) == (1, False)
    call("batch", "nightly.yaml", "--set", "WHERE=here")
    assert (folder / "hooked").exists()


def test_a_dry_run_of_a_retry_starts_nothing(folder: Path, engine: Engine) -> None:
    first_run(engine)
    told = json.loads(call("retry", "--dry-run", "--json").stdout)
    assert [job["name"] for job in told["jobs"]] == ["two"]
    assert len(engine.plans) == 1
    past = last_batch()
    assert past is not None
    assert past.unfinished == ["two"]
