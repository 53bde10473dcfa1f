"""The file with metrics: what it may replace, who may read it, and what it still knows after a failure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.monitoring.metrics import Metrics

from psicli.core.errors import CannotCreateError, JobFileError, PsicliError
from psicli.report.batch import BatchReport
from psicli.report.batch.summary import facts_of as facts_of_batch
from psicli.report.metrics.families import seconds_of
from psicli.report.metrics.file import check_metrics_file, save_batch, save_run
from psicli.report.report import facts_of
from psicli.storage.ledger import Ledger

WHO = {"job": "nightly", "party": "alice", "peer": "bob"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PSICLI_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nightly.prom"


def facts(error: PsicliError | None = None, **names: Any) -> dict[str, Any]:
    began = {"started": "2026-11-29T02:00:00+00:00", "seconds": 2.0} if error is None else {}
    return {**facts_of(None, error), **began, **(names or WHO)}


def an_error() -> JobFileError:
    return JobFileError(mistakes="job.yaml:1: a fault")


def runs(state: Path, *outcomes: PsicliError | None, **names: str) -> None:
    """Record runs that end in these ways."""
    for outcome in outcomes:
        ledger = Ledger(state)
        ledger.begin(*{**WHO, **names}.values(), "0.1.0", "127.0.0.1:9560")
        ledger.end(outcome)


@pytest.mark.parametrize("content", [b"id,v\n", b"job: nightly\n", b"# HELP go_info Go.\n", b"#"])
def test_only_metrics_of_psicli_are_replaced(path: Path, content: bytes) -> None:
    """So no input, output or job file is lost, whatever somebody names by mistake."""
    path.write_bytes(content)
    with pytest.raises(CannotCreateError, match=r"nightly\.prom: cannot write here: .* does not hold metrics"):
        check_metrics_file(path)
    (warning,) = save_run(path, facts())
    assert warning.startswith("the metrics of this run are not written: ")
    batch = facts_of_batch(BatchReport("all", [], "2026-11-29T02:00:00+00:00"))
    assert save_batch(path, batch, None) == [warning]
    assert path.read_bytes() == content


def test_an_empty_file_and_earlier_metrics_are_replaced(path: Path) -> None:
    path.touch()
    for _ in range(2):
        check_metrics_file(path)
        assert save_run(path, facts()) == []
        assert Metrics.of(path).value("run_exit_code", **WHO) == 0
    assert [each.name for each in path.parent.iterdir() if each.name != "state"] == ["nightly.prom"]


def test_a_folder_that_is_missing_is_named_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(CannotCreateError, match="its folder does not exist"):
        check_metrics_file(tmp_path / "none" / "x.prom")
    os.mkfifo(tmp_path / "pipe.prom")
    with pytest.raises(CannotCreateError, match="it is not a regular file"):
        check_metrics_file(tmp_path / "pipe.prom")


def test_the_file_is_private_until_its_owner_shares_it(path: Path) -> None:
    save_run(path, facts())
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    save_run(path, facts())
    assert path.stat().st_mode & 0o777 == 0o644


def last_success(path: Path) -> float | None:
    return Metrics.of(path).value("run_last_success_timestamp_seconds")


def test_the_last_success_comes_from_the_ledger_after_a_failure(path: Path, state: Path) -> None:
    save_run(path, facts(an_error()))
    assert last_success(path) is None
    runs(state, None, an_error())
    runs(state, None, job="another")
    runs(state, None, peer="carol")
    save_run(path, facts(an_error()))
    (good, *_) = (run for run in Ledger(state).history().runs if run.outcome == "done")
    assert good.closed is not None
    assert last_success(path) == seconds_of(good.closed)


def test_a_good_run_is_a_success_without_a_ledger(path: Path) -> None:
    save_run(path, facts())
    assert last_success(path) == seconds_of("2026-11-29T02:00:02+00:00")


def test_a_run_that_does_not_know_its_job_keeps_the_labels_of_the_file(path: Path, state: Path) -> None:
    """An alarm about a job would otherwise end when its file becomes wrong."""
    runs(state, None)
    save_run(path, facts())
    unknown = facts(an_error(), job=None, party=None, peer=None)
    save_run(path, unknown)
    metrics = Metrics.of(path)
    assert metrics.value("run_exit_code", **WHO) == 78
    assert last_success(path) is not None
    path.write_text("# HELP psicli_run_exit_code x\npsicli_run_exit_code{job=")
    save_run(path, unknown)
    assert Metrics.of(path).value("run_exit_code", job="", party="", peer="") == 78
