"""`psicli run --metrics`: both parties of real runs, and runs that fail at different moments."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.monitoring.metrics import Metrics, check_tasks
from support.processes.certificates import issue, with_tls
from support.processes.expectations import failed, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, other

from psicli.report.metrics.families import seconds_of
from psicli.storage.ledger import Ledger

NIGHT = "night.prom"


def who(party: str) -> dict[str, str]:
    return {"job": "overlap", "party": party, "peer": other(party)}


def watched(pair: Pair, party: str) -> Metrics:
    return Metrics.of(pair.path(party, NIGHT))


def run_both(pair: Pair, *arguments: str) -> list[dict[str, object]]:
    """Run both parties with metrics over a shared state folder; return their reports."""
    runs = [pair.start(party, "--json", "--metrics", str(pair.path(party, NIGHT)), *arguments) for party in PARTIES]
    results = [run.result() for run in runs]
    succeeded(results)
    return [the_object(result.stdout) for result in results]


def test_metrics_of_both_parties_are_their_reports(pair: Pair) -> None:
    issue(pair.folder, {party: party for party in PARTIES})
    with_tls(marked_pair(pair, broadcast=False))
    del pair.jobs[DIALER]["tasks"][0]["output_path"]
    for party, report in zip(PARTIES, run_both(pair), strict=True):
        metrics = watched(pair, party)
        assert metrics.value("run_exit_code", **who(party)) == 0
        assert metrics.value("run_duration_seconds", **who(party)) == report["seconds"]
        assert metrics.value("run_peak_memory_bytes") == report["peak_memory"]
        assert metrics.value("run_peak_disk_bytes") == report["spool_bytes"]
        assert metrics.value("run_warnings") == len(report["warnings"]) == 2  # type: ignore[arg-type]
        ends = seconds_of(str(report["started"])) + float(str(report["seconds"]))  # type: ignore[operator]
        assert metrics.value("run_end_timestamp_seconds") == pytest.approx(ends, abs=1e-3)
        assert metrics.value("run_last_success_timestamp_seconds") == pytest.approx(ends, abs=1.5)
        check_tasks(metrics, report, **who(party))
        for whose, name in (("own", "certificate_expires"), ("peer", "peer_certificate_expires")):
            expires = seconds_of(report[name])  # type: ignore[arg-type]
            assert metrics.value("certificate_expiry_timestamp_seconds", whose=whose, **who(party)) == expires
            # The certificates of a test are valid for an hour.
            assert 0 < (metrics.value("certificate_days_left", whose=whose) or 0) <= 1 / 24
    assert watched(pair, LISTENER).values("task_matched_items", "task") == {"people": 2}
    assert not [name for name in watched(pair, DIALER).names if "match" in name or "output" in name]
    # The two certificates differ, and each party has the other's.
    own, peer = (watched(pair, party).values("certificate_expiry_timestamp_seconds", "whose") for party in PARTIES)
    assert (own["own"], own["peer"]) == (peer["peer"], peer["own"])
    pair.nothing_left()


@pytest.mark.more
def test_the_last_success_survives_runs_that_fail(pair: Pair) -> None:
    """It is that of this job and this party, and the file says why an alarm should ring."""
    marked_pair(pair)
    run_both(pair)
    good = watched(pair, DIALER).value("run_last_success_timestamp_seconds")
    of_ledger = [run.closed for run in Ledger(pair.folder / "state").history().runs if run.party == DIALER]
    assert good == pytest.approx(seconds_of(of_ledger[-1]), abs=1.5)
    path = pair.path(DIALER, NIGHT)
    job = pair.jobs[DIALER]
    for spoil, code in (
        (lambda: pair.path(DIALER, "in.csv").unlink(), 66),
        (lambda: job["tasks"][0].update(nonsense=1), 78),
    ):
        spoil()
        job["cluster"]["link_desc"]["connect_retry_times"] = 1
        result = pair.start(DIALER, "--metrics", str(path)).result()
        assert result.code == code, result.text
        metrics = Metrics.of(path)
        assert metrics.value("run_exit_code", **who(DIALER)) == code
        success = metrics.value("run_last_success_timestamp_seconds", **who(DIALER))
        assert success == seconds_of(of_ledger[-1])
        assert (metrics.value("run_end_timestamp_seconds") or 0) > success
        assert "psicli_task_matched_items" not in metrics.names


@pytest.mark.more
def test_a_run_that_finds_its_port_busy_says_so(pair: Pair) -> None:
    marked_pair(pair)
    waiting = pair.start(LISTENER)
    waiting.wait_for("listening on")
    path = pair.path(LISTENER, NIGHT)
    result = pair.start(LISTENER, "--json", env={"PSICLI_METRICS": str(path)}).result()
    failed(result, 75, "is in use by job overlap")
    metrics = Metrics.of(path)
    assert metrics.value("run_exit_code", **who(LISTENER)) == the_object(result.stdout)["exit_code"] == 75
    assert "psicli_run_last_success_timestamp_seconds" not in metrics.names


@pytest.mark.more
@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("night.txt", 2, r"'--metrics'.*: the name must end in \.prom, because node_exporter reads no others"),
        ("none/night.prom", 73, r"night\.prom: cannot write here: its folder does not exist"),
        ("out/people.prom", 73, "there is a file that does not hold metrics of psicli"),
    ],
)
def test_metrics_that_cannot_be_written_stop_the_run_before_it_begins(
    pair: Pair, name: str, code: int, sentence: str
) -> None:
    marked_pair(pair)
    kept = pair.path(LISTENER, "out/people.prom")
    kept.write_text("my notes\n")
    result = pair.start(LISTENER, "--metrics", str(pair.path(LISTENER, name))).result()
    assert result.code == code
    failed(result, code, sentence) if code == 73 else None
    assert "listening" not in result.stderr
    assert kept.read_text() == "my notes\n"
    assert not (pair.folder / "state").exists()


@pytest.mark.more
def test_metrics_that_can_no_longer_be_written_are_a_warning(pair: Pair, tmp_path: Path) -> None:
    """The result is in place, so the run has not failed; the old moment of success will ring the alarm."""
    marked_pair(pair)
    folder = pair.path(LISTENER, "metrics")
    folder.mkdir()
    alice = pair.start(LISTENER, "--json", "--metrics", str(folder / NIGHT))
    alice.wait_for("listening on")
    folder.rmdir()
    succeeded([pair.start(DIALER).result(), result := alice.result()])
    warning = f"the metrics of this run are not written: {folder / NIGHT}: cannot write here: its folder does not exist"
    assert the_object(result.stdout)["warnings"] == [warning]
    assert f"WARNING overlap: {warning}\n" in result.stderr
    pair.nothing_left()
