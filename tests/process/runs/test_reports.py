"""The report of a run as text and JSON, and its standard streams."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import time
from pathlib import Path

import pytest
from support.processes.expectations import (
    MARK,
    check_counts,
    check_output,
    failed,
    marked,
    marked_pair,
    succeeded,
    the_object,
)
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side, failing_at
from support.waiting import DEADLINE

from psicli import __version__, curve


def test_a_report_as_json(pair: Pair) -> None:
    marked_pair(pair, broadcast=False)
    del pair.jobs[DIALER]["tasks"][0]["output_path"]
    runs = [pair.start(party, "--json") for party in PARTIES]
    succeeded(results := [run.result() for run in runs])
    alice, bob = (the_object(result.stdout) for result in results)
    assert {name: alice[name] for name in ("job", "party", "peer", "version", "peer_version", "backend")} == {
        "job": "overlap",
        "party": "alice",
        "peer": "bob",
        "version": __version__,
        "peer_version": __version__,
        "backend": next(iter(curve.BACKENDS)),
    }
    assert alice["exit_code"] == 0
    assert alice["error"] is None
    assert re.fullmatch("[0-9a-f]{64}", alice["session_id"])
    assert alice["session_id"] == bob["session_id"]
    assert 0 < alice["tasks"][0]["seconds"] <= alice["seconds"] < DEADLINE
    stages = [report["tasks"][0]["stages"] for report in (alice, bob)]
    assert [*stages[0]] == ["reading", "computing", "waiting_for_peer", "waiting_for_room", "matching", "writing"]
    assert all(0 <= seconds <= alice["seconds"] for seconds in stages[0].values())
    assert stages[0]["reading"] > 0
    assert stages[0]["writing"] > 0
    assert stages[1]["writing"] == 0
    for report, seconds in zip((alice, bob), stages, strict=True):
        timeline = report["tasks"][0]["timeline"]
        # The time of a stage may round to nothing.
        assert {stage for stage, took in seconds.items() if took} <= {stage for stage, *_ in timeline} <= set(seconds)
        assert all(0 <= begin <= end <= report["seconds"] for _, begin, end in timeline)
        assert [begin for _, begin, _ in timeline] == sorted(begin for _, begin, _ in timeline)
    assert all(report["spool_bytes"] == 0 for report in (alice, bob))
    assert all(50_000_000 < report["peak_memory"] < 2_000_000_000 for report in (alice, bob))
    (ours,), (theirs,) = alice["tasks"], bob["tasks"]
    assert (ours["name"], ours["status"]) == ("people", "done")
    check_counts(pair, LISTENER, 0, ours)
    assert Path(ours["output"]) == pair.path(LISTENER, "out/people.csv")
    assert (theirs["status"], theirs["rows"], theirs["peer_items"]) == ("done", 3, 4)
    assert [theirs[name] for name in ("matched", "output_rows", "output")] == [None, None, None]
    assert ours["output_sha256"] == hashlib.sha256(Path(ours["output"]).read_bytes()).hexdigest()
    assert theirs["output_sha256"] is None
    assert ours["task_sid"] == theirs["task_sid"]
    assert (ours["bytes_sent"], ours["bytes_received"]) == (theirs["bytes_received"], theirs["bytes_sent"])
    assert ours["bytes_sent"] > 4 * 32


@pytest.mark.more
def test_a_wait_for_the_end_is_a_wait_for_the_peer(pair: Pair) -> None:
    """The sender stops when all is exchanged, and only the end of the connection is missing."""
    marked_pair(pair, broadcast=False)
    alice, bob = pair.start(LISTENER, "--json"), pair.start(DIALER, env=failing_at("received.arrived:stop"))
    bob.wait_until_stopped()
    began = time.monotonic()
    assert pair.start_command("status").result().code == 0
    stopped = time.monotonic() - began
    bob.send(signal.SIGCONT)
    succeeded(results := [alice.result(), bob.result()])
    task = the_object(results[0].stdout)["tasks"][0]
    assert task["stages"]["waiting_for_peer"] > stopped / 2
    assert max(end - begin for name, begin, end in task["timeline"] if name == "waiting_for_peer") > stopped / 2


@pytest.mark.more
def test_a_failure_as_json(pair: Pair) -> None:
    marked_pair(pair)
    side = Side(["id"], "second.csv", "out/second.csv")
    pair.add("second", side, side)
    pair.path(LISTENER, "second.csv").write_bytes(marked(1) + b"ragged\n")
    pair.path(DIALER, "second.csv").write_bytes(marked(1))
    runs = [pair.start(party, "--json") for party in PARTIES]
    results = [run.result() for run in runs]
    alice, bob = (the_object(result.stdout) for result in results)
    assert [result.code for result in results] == [alice["exit_code"], bob["exit_code"]] == [65, 80]
    for report in (alice, bob):
        assert {"job", "party", "peer", "session_id", "version", "backend", "seconds", "tasks", "error"} <= set(report)
        assert [task["status"] for task in report["tasks"]] == ["done", "failed"]
        assert set(report["error"]) == {"code", "class", "message", "hint", "party"}
        # The party that has to act.
        assert report["error"]["party"] == "alice"
    assert (alice["error"]["code"], alice["error"]["class"]) == (65, "MalformedInputError")
    assert alice["error"]["message"].endswith("second.csv:3: the row has 1 field, but the header has 2")
    assert (bob["error"]["code"], bob["error"]["class"]) == (80, "PeerFailedError")
    # A finished task keeps its output.
    check_output(pair, LISTENER, 0, "out/people.csv")
    assert not pair.path(LISTENER, "out/second.csv").exists()


def test_an_error_in_the_job_file_as_json(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["psi"]["recever"] = LISTENER
    result = pair.start(LISTENER, "--json").result()
    report = the_object(result.stdout)
    assert result.code == report["exit_code"] == report["error"]["code"] == 78
    assert report["tasks"] == []
    assert "psi.recever: unknown field; did you mean receiver?" in report["error"]["message"]


@pytest.mark.more
def test_an_error_is_shown_once_for_each_place_where_the_output_goes(pair: Pair) -> None:
    """Standard output and standard error tell the whole story each, unless both go to one terminal, file or mail."""
    marked_pair(pair)
    pair.path(LISTENER, "in.csv").unlink()
    runs = [pair.start(LISTENER, shell="2>&1"), pair.start(DIALER)]
    alice, bob = (run.result() for run in runs)
    text = alice.stdout.decode()
    assert alice.stderr == ""
    assert text.count("/in.csv: no such file") == text.count("hint: ") == 1
    assert re.search(r"^overlap: alice with bob, failed after \S+ s, exit code 66$", text, re.MULTILINE)
    assert text.rstrip().endswith("  not started")
    for stream in (bob.stdout.decode(), bob.stderr):
        assert stream.count("alice failed: ") == stream.count("hint: ") == 1


@pytest.mark.more
def test_quiet_prints_nothing_and_verbose_prints_no_value(pair: Pair) -> None:
    marked_pair(pair)
    runs = [pair.start(LISTENER, "--quiet"), pair.start(DIALER, "--verbose")]
    alice, bob = (run.result() for run in runs)
    succeeded([alice, bob])
    assert alice.text == ""
    assert "in session with alice" in bob.stderr
    assert "  matched   2 distinct items\n" in bob.stdout.decode()
    assert MARK not in bob.text
    # Prove that the inputs hold marked values.
    assert MARK in pair.path(DIALER, "out/people.csv").read_text()


@pytest.mark.more
def test_quiet_shows_every_warning_once(pair: Pair) -> None:
    """Whoever runs psicli at night sees only what a quiet run prints."""
    marked_pair(pair)
    succeeded([run.result() for run in [pair.start(party, "--quiet") for party in PARTIES]])
    state = pair.folder / "state" / "ledger.jsonl"
    lines = state.read_bytes().splitlines(keepends=True)
    state.write_bytes(b"".join(lines[:2] + lines[3:]))
    alice, bob = pair.start(LISTENER, "--quiet"), pair.start(DIALER, "--quiet", "--json")
    results = [alice.result(), bob.result()]
    succeeded(results)
    assert results[0].stdout == b""
    lines = [line for result in results for line in result.stderr.splitlines()]
    # Both parties share a state folder: the first run to record the break warns.
    (warning,) = lines
    assert " WARNING overlap: the ledger " in warning
    assert "is not as psicli left it (removed: line 3)" in warning
    succeeded(pair.run("--quiet"))


def test_standard_input_and_output(pair: Pair) -> None:
    marked_pair(pair)
    for party in PARTIES:
        pair.jobs[party]["tasks"][0]["input_path"] = {party: "-"}
        pair.jobs[party]["tasks"][0]["output_path"] = {party: "-"}
    runs = [
        pair.start(LISTENER, stdin=marked(2, 3, 1)),
        pair.start(DIALER, "--json", stdin=marked(9, 3, 2, 2, column="code")),
    ]
    alice, bob = (run.result() for run in runs)
    succeeded([alice, bob])
    assert alice.stdout == marked(2, 3)
    assert bob.stdout == marked(2, 2, 3, column="code")
    assert re.search(r"^people +2 +3  done +standard output$", alice.stderr, re.MULTILINE)
    assert MARK not in alice.stderr + bob.stderr
    assert json.loads(bob.stderr[bob.stderr.index("{") :])["tasks"][0]["output_rows"] == 3


@pytest.mark.more
def test_bad_standard_input_and_no_rows_out(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0].update(input_path={LISTENER: "-"}, output_path={LISTENER: "-"})
    runs = [pair.start(LISTENER, stdin=marked(1) + b'"never closed\n'), pair.start(DIALER)]
    alice, bob = (run.result() for run in runs)
    failed(alice, 65, r"standard input:3: a quote opened in this row is never closed")
    failed(bob, 80, "alice failed")
    assert alice.stdout == b""


@pytest.mark.sample(1)
@pytest.mark.parametrize("closed", [("<&-", ">&-"), ("2>&-", "<&- >&- 2>&-")], ids=["stdin, stdout", "stderr, all"])
def test_closed_standard_streams(pair: Pair, closed: tuple[str, str]) -> None:
    marked_pair(pair)
    runs = [pair.start(party, shell=redirection) for party, redirection in zip(PARTIES, closed, strict=True)]
    succeeded(run.result() for run in runs)
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")


@pytest.mark.more
def test_a_report_that_the_terminal_cannot_show_fails_no_run(pair: Pair) -> None:
    marked_pair(pair)
    for party in PARTIES:
        pair.jobs[party]["tasks"][0]["output_path"] = {party: "out/m\u00fcller.csv"}
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    runs = [pair.start(LISTENER, env=ascii_only), pair.start(DIALER, "--json", env=ascii_only)]
    alice, bob = (run.result() for run in runs)
    succeeded([alice, bob])
    assert b"out/m\\xfcller.csv" in alice.stdout
    assert json.loads(bob.stdout)["tasks"][0]["output"].endswith("out/m\u00fcller.csv")


@pytest.mark.more
def test_standard_output_that_cannot_be_written(pair: Pair) -> None:
    """A run fails without a traceback when it cannot write its rows or its report."""
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "-"}
    runs = [pair.start(party, shell=">/dev/full") for party in PARTIES]
    for result in [run.result() for run in runs]:
        failed(result, 74, "standard output: .*no space left")


def test_rows_for_a_standard_output_that_is_closed(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "-"}
    runs = [pair.start(LISTENER, shell=">&-"), pair.start(DIALER)]
    assert runs[0].result().code != 0
