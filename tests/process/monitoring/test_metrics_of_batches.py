"""`psicli batch --metrics` with a job that fails, and what `psicli retry` makes of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.many.batches import BAD
from support.many.parties import Parties, all_done, jobs_of
from support.monitoring.metrics import Metrics, check_tasks
from support.processes.runner import DIALER, LISTENER, Result, free_ports

from psicli.report.metrics.families import seconds_of


def check_batch(path: Path, result: Result) -> Metrics:
    """Check that metrics of a batch say what its report says."""
    metrics, report = Metrics.of(path), json.loads(result.stdout)
    batch = {"batch": "batch"}
    assert metrics.value("batch_exit_code", **batch) == report["exit_code"] == result.code
    assert metrics.value("batch_duration_seconds", **batch) == report["seconds"]
    assert metrics.value("batch_cpu_seconds", **batch) == report["computed"]
    assert metrics.value("batch_peak_memory_bytes", **batch) == report["peak_memory"]
    for name, job in jobs_of(result).items():
        of_job = {**batch, "job": name}
        for metric, fact in (
            ("exit_code", "exit_code"),
            ("starts", "starts"),
            ("failures", "failures"),
            ("duration_seconds", "seconds"),
            ("wait_seconds", "waited"),
            ("matched_rows", "matched_rows"),
        ):
            assert metrics.value(f"batch_job_{metric}", **of_job) == job[fact], (name, fact)
        assert metrics.value("batch_job_state", **of_job, state=job["state"]) == 1
        if job["report"] is not None:
            check_tasks(metrics, job["report"], job=name)
    return metrics


@pytest.fixture
def two(parties: Parties) -> Iterator[Parties]:
    """Return two parties with two jobs, and a batch of both for one of them."""
    with free_ports(2) as ports:
        for number, port in enumerate(ports):
            parties.add(f"job-{number}", LISTENER, DIALER, port)
        parties.batch(LISTENER)
        yield parties


@pytest.mark.more
def test_a_batch_with_a_job_that_fails_and_its_retry(two: Parties) -> None:
    """The jobs' processes, which inherit the variable, leave the file to the batch."""
    path = two.folder / LISTENER / "batch.prom"
    environment = {"PSICLI_METRICS": str(path)}
    good, bad = two.deals
    two.input(bad, LISTENER).write_bytes(BAD)
    mine = two.start_batch(LISTENER, "--retries=0", env=environment)
    peers = [two.start_job(deal, DIALER) for deal in (good, bad)]
    result = mine.result()
    assert [peer.result().code for peer in peers] == [0, 80]
    metrics = check_batch(path, result)
    assert metrics.values("batch_jobs", "state") == {"done": 1, "failed": 1, "not run": 0}
    assert metrics.value("batch_exit_code") == metrics.value("batch_job_exit_code", job=bad.name) == 65
    assert "psicli_batch_last_success_timestamp_seconds" not in metrics.names
    assert not [name for name in metrics.names if name.startswith("psicli_run_")]
    # A retry uses the same file, and what it says is about the whole batch.
    two.next_night()
    retry = two.start(LISTENER, "retry", "--json")
    assert two.start_job(bad, DIALER).result().code == 0
    all_done(again := retry.result())
    assert [*jobs_of(again)] == [bad.name]
    metrics = check_batch(path, again)
    assert metrics.values("batch_jobs", "state") == {"done": 2, "failed": 0, "not run": 0}
    success, ended = (metrics.value(f"batch_{name}_timestamp_seconds") for name in ("last_success", "end"))
    assert success is not None
    assert ended is not None
    assert abs(success - ended) < 2
    # It survives a batch that does not begin.
    two.batch(LISTENER, ["no-such-job"])
    assert two.start_batch(LISTENER, env=environment).result().code == 78
    metrics = Metrics.of(path)
    assert metrics.value("batch_exit_code", batch="batch") == 78
    assert metrics.value("batch_last_success_timestamp_seconds", batch="batch") == success
    two.nothing_left()


@pytest.mark.more
def test_metrics_that_cannot_be_written_stop_the_batch_before_it_starts(two: Parties) -> None:
    path = two.folder / "notes.prom"
    path.write_text("my notes\n")
    result = two.start_batch(LISTENER, f"--metrics={path}").result()
    assert result.code == 73
    assert "notes.prom: cannot write here: there is a file that does not hold metrics of psicli" in result.stderr
    assert json.loads(result.stdout)["error"]["class"] == "CannotCreateError"
    assert path.read_text() == "my notes\n"
    assert seconds_of(json.loads(result.stdout)["started"]) is not None
    two.nothing_left()
