"""Metrics made from the facts of a run and of a batch, as a parser of Prometheus reads them."""

from __future__ import annotations

from datetime import datetime

import pytest
from support.monitoring.examples import BEGAN, STARTED, WHO, a_batch, a_run
from support.monitoring.metrics import Metrics, check_tasks

from psicli.core.errors import MalformedInputError
from psicli.report.batch import State
from psicli.report.batch.summary import facts_of as facts_of_batch
from psicli.report.metrics.batch import batch_to_text
from psicli.report.metrics.run import run_to_text
from psicli.report.report import facts_of


def test_metrics_of_a_run_are_its_facts() -> None:
    facts = a_run()
    metrics = Metrics(run_to_text(facts, 1234.5))
    assert metrics.value("run_info", **WHO, version="0.1.0", peer_version="0.1.0", backend="native avx2") == 1
    assert metrics.value("run_exit_code", **WHO) == 0
    assert metrics.value("run_duration_seconds", **WHO) == 2.25
    assert metrics.value("run_peak_memory_bytes", **WHO) == 231_000_000
    assert metrics.value("run_end_timestamp_seconds", **WHO) == BEGAN + 2.25
    assert metrics.value("run_last_success_timestamp_seconds", **WHO) == 1234.5
    assert metrics.value("run_warnings", **WHO) == 1
    check_tasks(metrics, facts, **WHO)
    assert metrics.values("task_warnings", "task") == {"customers": 2, "planes": 0}
    assert metrics.value("task_match_ratio", task="customers") == 3 / 9
    assert metrics.values("task_drift_distance", "measure") == {"rows": 5.25}
    expires = datetime.fromisoformat("2026-12-13T02:00:02+00:00").timestamp()
    assert metrics.values("certificate_expiry_timestamp_seconds", "whose") == {"own": expires}
    assert metrics.values("certificate_days_left", "whose") == {"own": pytest.approx(14.0, abs=1e-4)}


def test_what_this_party_does_not_know_is_absent() -> None:
    """Neither an unknown success, nor a sender's matches, nor disk space that would tell of them is 0."""
    sender = a_run(matched=None)
    assert {name for name in Metrics(run_to_text(sender, None)).names if "match" in name} == set()
    metrics = Metrics(run_to_text(sender, None))
    assert metrics.value("run_last_success_timestamp_seconds") is None
    assert metrics.value("run_peak_disk_bytes") is None
    assert metrics.value("task_output_rows", task="customers") is None
    assert metrics.value("task_rows", task="planes") is None


def test_with_whole_percent_the_share_is_all_there_is() -> None:
    metrics = Metrics(run_to_text(a_run(matched_percent=33), None))
    assert {name for name in metrics.names if "match" in name} == {"psicli_task_match_ratio"}
    assert metrics.values("task_match_ratio", "task") == {"customers": 0.33}


def test_a_run_that_never_began_has_an_exit_code() -> None:
    facts = facts_of(None, MalformedInputError(place="a", fault="b", advice="c"))
    metrics = Metrics(run_to_text({**facts, "started": STARTED}, 12.0))
    assert metrics.value("run_exit_code", job="", party="", peer="") == 65
    assert metrics.value("run_last_success_timestamp_seconds") == 12
    assert metrics.value("run_end_timestamp_seconds") == BEGAN
    assert {name.removeprefix("psicli_") for name in metrics.names} == {
        "run_exit_code", "run_last_success_timestamp_seconds", "run_end_timestamp_seconds", "run_warnings",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ['a"b', "a\\b", "a\\nb", "a\nb", 'x"} 1\npsicli_run_exit_code{job="y', "Ü名 {}#", "\\"]
)
def test_every_label_comes_back_as_it_was(name: str) -> None:
    facts = a_run()
    facts["tasks"][0]["name"] = facts["peer"] = name
    metrics = Metrics(run_to_text(facts, None))
    assert metrics.value("run_exit_code", peer=name) == 0
    assert metrics.value("task_rows", peer=name, task=name) == 10


def test_metrics_of_a_batch_are_its_facts() -> None:
    batch = a_batch("one", "two", "three")
    failure = MalformedInputError(place="a", fault="b", advice="c")
    batch.jobs[0].report = a_run()
    batch.jobs[1].state, batch.jobs[1].exit_code, batch.jobs[1].report = State.FAILED, 65, a_run(failure)
    batch.jobs[1].starts, batch.jobs[1].failures = 3, 2
    batch.jobs[2].state, batch.jobs[2].exit_code, batch.jobs[2].starts = State.NOT_RUN, None, 0
    for job in batch.jobs[:2]:
        job.waited, job.peak_memory = 0.5, 4000
    metrics = Metrics(batch_to_text(facts_of_batch(batch), 77.0))
    assert metrics.value("batch_exit_code", batch="all") == 65
    assert metrics.value("batch_duration_seconds", batch="all") == 4
    assert metrics.value("batch_cpu_seconds", batch="all") == 3
    assert metrics.value("batch_peak_memory_bytes", batch="all") == 9000
    assert metrics.value("batch_last_success_timestamp_seconds", batch="all") == 77
    assert metrics.value("batch_end_timestamp_seconds") == datetime.fromisoformat(batch.started).timestamp() + 4
    assert metrics.value("batch_warnings") == 1
    assert metrics.values("batch_jobs", "state") == {"done": 1, "failed": 1, "not run": 1}
    assert metrics.values("batch_job_exit_code", "job") == {"one": 0, "two": 65}
    assert metrics.values("batch_job_starts", "job") == {"one": 1, "two": 3, "three": 0}
    assert metrics.values("batch_job_failures", "job") == {"one": 0, "two": 2, "three": 0}
    # What no process has used is unknown.
    assert metrics.values("batch_job_wait_seconds", "job") == {"one": 0.5, "two": 0.5}
    assert metrics.values("batch_job_peak_memory_bytes", "job") == {"one": 4000, "two": 4000}
    assert metrics.values("batch_job_matched_rows", "job") == {"one": 4, "two": 4}
    for job, state in (("one", "done"), ("two", "failed"), ("three", "not run")):
        states = {each: metrics.value("batch_job_state", batch="all", job=job, state=each) for each in State}
        assert [each for each, value in states.items() if value] == [state]
    for job in ("one", "two"):
        check_tasks(metrics, a_run(), job=job, party="alice", peer="bob")


def test_the_same_job_may_be_in_a_batch_twice() -> None:
    """A batch gives its jobs different names, and so no two samples have the same labels."""
    batch = a_batch("nightly", "nightly-2")
    for job in batch.jobs:
        job.report = a_run()
    metrics = Metrics(batch_to_text(facts_of_batch(batch), None))
    assert {metrics.value("task_rows", job=job, task="customers") for job in ("nightly", "nightly-2")} == {10}
    assert metrics.value("batch_last_success_timestamp_seconds") is None
