"""PSICLI_LOG=json: each line of standard error is one object, for every command and however it ends."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.jobs.batches import one_task, whole_job
from support.many.batches import BAD
from support.many.parties import Parties
from support.monitoring.logs import log_lines, told
from support.processes import altered
from support.processes.expectations import MARK, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, free_ports, other

JSON = {"PSICLI_LOG": "json"}


@pytest.mark.more
def test_a_run_of_both_parties(pair: Pair) -> None:
    """The texts are those of the usual log."""
    marked_pair(pair)
    pair.environment = JSON
    results = pair.run("-v")
    succeeded(results)
    for party, result in zip(PARTIES, results, strict=True):
        lines = log_lines(result.stderr)
        assert {(line["job"], line["party"]) for line in lines} == {("overlap", party)}
        assert told(lines, "in session with")["message"] == f"in session with {other(party)}"
        assert {line["task"] for line in lines if "task" in line} == {"people"}
        assert told(lines, "will learn how many distinct items")["level"] == "DEBUG"
        assert b"overlap: " in result.stdout


@pytest.mark.more
def test_a_failure_has_its_hint_on_a_line_of_its_own(pair: Pair) -> None:
    marked_pair(pair).path(LISTENER, "in.csv").unlink()
    result = pair.start(LISTENER, "--json", env=JSON).result()
    error = the_object(result.stdout)["error"]
    lines = [line for line in log_lines(result.stderr) if line["level"] == "ERROR"]
    assert [(line["message"], line.get("hint")) for line in lines] == [
        (error["message"], None),
        (error["hint"], True),
    ]
    assert result.code == 66


@pytest.mark.more
@pytest.mark.parametrize("as_json", [False, True])
def test_the_report_is_a_line_where_rows_go_to_standard_output(pair: Pair, as_json: bool) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0]["output_path"][LISTENER] = "-"
    alice = pair.start(LISTENER, *["--json"] * as_json, env=JSON)
    succeeded([pair.start(DIALER).result(), result := alice.result()])
    assert result.stdout.startswith(b"id,note\n")
    report = log_lines(result.stderr)[-1]
    assert (report["message"], report["level"], report["job"]) == ("the report", "INFO", "overlap")
    assert report["report"]["tasks"][0]["matched"] == 2


@pytest.mark.more
def test_an_unexpected_failure_has_a_traceback_without_the_text_of_the_exception(pair: Pair) -> None:
    marked_pair(pair, broadcast=False)
    del pair.jobs[DIALER]["tasks"][0]["output_path"]
    pair.environment = {**JSON, "TEST_VALUE": f"{MARK} 77"}
    alice = pair.start(LISTENER, program=altered.program(altered.fail_to_write))
    succeeded([pair.start(DIALER).result()])
    result = alice.result()
    assert result.code == 70
    line = told(log_lines(result.stderr), "unexpected failure")
    assert (line["level"], line["job"], line["party"]) == ("ERROR", "overlap", LISTENER)
    assert line["traceback"][0] == "Traceback (most recent call last):"
    assert line["traceback"][-1] == "ValueError"
    assert MARK not in result.stderr


@pytest.mark.more
def test_a_batch_writes_objects_and_reads_the_text_of_its_jobs(parties: Parties) -> None:
    """The lines about a job have its name; its own log is text."""
    with free_ports(1) as (port,):
        deal = parties.add("job-0", LISTENER, DIALER, port)
        parties.batch(LISTENER)
        parties.input(deal, LISTENER).write_bytes(BAD)
        kept = parties.folder / LISTENER / "reports"
        batch = parties.start_batch(LISTENER, "--retries=0", f"--report-dir={kept}", env=JSON)
        assert parties.start_job(deal, DIALER).result().code == 80
        result = batch.result()
    assert result.code == 65
    lines = log_lines(result.stderr)
    assert {line["batch"] for line in lines} == {"batch"}
    of_job = [line for line in lines if line.get("job") == "job-0"]
    error = the_object(result.stdout)["jobs"][0]["report"]["error"]
    assert error["message"] in told(of_job, "the row has 3 fields")["message"]
    assert told(of_job, "in session with bob")["level"] == "INFO"
    assert "task" not in {name for line in lines for name in line}
    assert " ERROR job-0: " in (kept / "job-0.log").read_text()
    parties.nothing_left()


@pytest.mark.more
def test_a_simulation_names_job_and_party_on_each_line(pair: Pair) -> None:
    one_task(pair)
    result = pair.start_command("simulate", whole_job(pair), env=JSON).result()
    succeeded([result])
    lines = log_lines(result.stderr)
    assert {(line["job"], line["party"]) for line in lines} == {("overlap", party) for party in PARTIES}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["run", "--nonsense"], 2, "No such option", "Type `psicli run --help` for help."),
        (["rnu"], 2, "No such command 'rnu'.", "Type `psicli --help` for help."),
        (["run", "absent.yaml"], 66, "absent.yaml: no such job file", "Check the path of the job file"),
        (["certs", "show", "absent.pem"], 77, "absent.pem", ""),
        (["ledger", "--head", "x"], 2, "--head: it needs --verify", "Give the 64 digits"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_an_object(
    pair: Pair, arguments: list[str], code: int, message: str, hint: str
) -> None:
    result = pair.start_command(*arguments, env=JSON).result()
    assert result.code == code, result.text
    error, *hints = log_lines(result.stderr)
    assert message in error["message"]
    assert error["level"] == "ERROR"
    assert [line["hint"] for line in hints if hint in line["message"]] == [True] * len(hints)
    assert bool(hint) <= bool(hints)


@pytest.mark.more
def test_an_unknown_form_of_the_log_is_refused(pair: Pair) -> None:
    result = pair.start_command("status", env={"PSICLI_LOG": "xml"}).result()
    assert result.code == 78
    assert result.stderr == "PSICLI_LOG is 'xml'\nhint: Set it to json or text, or unset PSICLI_LOG.\n"
    assert pair.start_command("status", env={"PSICLI_LOG": "text"}).result().code == 0


@pytest.mark.more
def test_a_terminal_shows_no_bars(pair: Pair, tmp_path: Path) -> None:
    """Standard error holds objects alone, also where a person could watch it."""
    marked_pair(pair)
    ours, theirs = pty.openpty()
    environment = {**os.environ, **JSON, "PSICLI_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "psicli", "run", pair.job_file(LISTENER)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as alice:
        os.close(theirs)
        succeeded([pair.start(DIALER).result()])
        text = b""
        try:
            while octets := os.read(ours, 1 << 16):
                text += octets
        except OSError:
            # The other end of the terminal is closed.
            pass
        assert alice.wait() == 0
    os.close(ours)
    assert told(log_lines(text.decode().replace("\r\n", "\n")), "in session with bob")["party"] == LISTENER
