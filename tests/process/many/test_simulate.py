"""`psicli simulate`: all parties of a job on one machine, with one command."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.jobs.batches import batch, check_task, learns, one_task, whole_job
from support.processes.expectations import OLD, check_output, failed, succeeded, the_object
from support.processes.runner import (
    DIALER,
    LISTENER,
    PARTIES,
    Pair,
    Run,
    Side,
    other,
    processes_below,
)

from psicli.batch import simulate
from psicli.core.errors import NoPortError


def test_simulate_runs_both_parties_and_prints_both_reports(pair: Pair) -> None:
    batch(pair, 3)
    result = pair.start_command("simulate", "--config", whole_job(pair)).result()
    succeeded([result])
    text = result.stdout.decode()
    assert re.findall(r"^overlap: (\w+) with (\w+), ", text, re.MULTILINE) == [("alice", "bob"), ("bob", "alice")]
    assert len(re.findall(r"^task-\d .* done  ", text, re.MULTILINE)) == 6
    for party in PARTIES:
        for task in range(3):
            if learns(pair, party, task):
                output = pair.jobs[party]["tasks"][task]["output_path"][party]
                check_output(pair, party, task, output)
    pair.nothing_left()
    # A simulation writes no ledger entry.
    assert [path.name for path in (pair.folder / "state").iterdir()] == ["lock"]


@pytest.mark.more
def test_simulate_traces_every_party(pair: Pair) -> None:
    batch(pair, 1)
    trace = pair.folder / "run.trace.json"
    env = {"PSICLI_TRACE": str(trace)}
    assert pair.start_command("simulate", "--config", whole_job(pair), env=env).result().code == 0
    assert not trace.exists()
    for party in PARTIES:
        told = json.loads((pair.folder / f"run.trace.{party}.json").read_text())
        assert told["otherData"]["party"] == party
        assert told["traceEvents"][0]["args"] == {"name": party}


@pytest.mark.sample(1)
@pytest.mark.parametrize("trace", ["absent/t.json", ".", "/"])
def test_simulate_starts_nothing_where_a_trace_cannot_be_written(pair: Pair, trace: str) -> None:
    batch(pair, 1)
    result = pair.start_command("simulate", "--config", whole_job(pair), "--trace", trace).result()
    assert result.code == 73
    assert "listening" not in result.stderr


@pytest.mark.more
def test_simulate_as_json_and_some_tasks(pair: Pair) -> None:
    batch(pair, 3)
    result = pair.start_command("simulate", "--config", whole_job(pair), "--json", "--only", "task-1").result()
    succeeded([result])
    parties = the_object(result.stdout)["parties"]
    assert list(parties) == list(PARTIES)
    for party, report in parties.items():
        assert (report["party"], report["exit_code"]) == (party, 0)
        (task,) = report["tasks"]
        check_task(pair, party, 1, task)
    assert parties[LISTENER]["session_id"] == parties[DIALER]["session_id"]


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_simulate_ends_with_the_code_of_the_party_at_fault(pair: Pair, party: str) -> None:
    one_task(pair)
    pair.path(party, "in.csv").unlink()
    result = pair.start_command("simulate", "--config", whole_job(pair), "--json").result()
    assert result.code == 66, result.text
    parties = the_object(result.stdout)["parties"]
    assert {each: report["exit_code"] for each, report in parties.items()} == {party: 66, other(party): 80}
    assert {report["error"]["party"] for report in parties.values()} == {party}
    pair.nothing_left()


@pytest.mark.more
def test_arrow_and_json_lines_in_and_out(pair: Pair) -> None:
    pair.add(
        "rows",
        Side(["id"], "in.arrow", "out/rows.jsonl"),
        Side(["code"], "in.jsonl.gz", "out/rows.feather"),
        broadcast_result=True,
    )
    table = pa.table({"id": pa.array([3, 1, None, 2]), "when": pa.array([1, 2, 3, 4], pa.timestamp("s", "UTC"))})
    with pa.ipc.new_file(pair.path(LISTENER, "in.arrow"), table.schema) as writer:
        writer.write_table(table)
    lines = b'{"code": 2, "price": 1.10}\n{"code": "3"}\n{"code": null}\n{"code": 4}\n'
    pair.path(DIALER, "in.jsonl.gz").write_bytes(gzip.compress(lines))
    succeeded([pair.start_command("simulate", "--config", whole_job(pair)).result()])
    written = pair.path(LISTENER, "out/rows.jsonl").read_text()
    assert written == '{"id":2,"when":"1970-01-01T00:00:04Z"}\n{"id":3,"when":"1970-01-01T00:00:01Z"}\n'
    found = pa.ipc.open_file(pair.path(DIALER, "out/rows.feather").read_bytes()).read_all()
    assert found.to_pylist() == [{"code": "2", "price": "1.10"}, {"code": "3", "price": None}]
    pair.path(LISTENER, "in.arrow").write_bytes(pair.path(LISTENER, "in.arrow").read_bytes()[:-100])
    result = pair.start_command("simulate", "--config", whole_job(pair)).result()
    assert result.code == 65
    assert "in.arrow: the file is damaged, or not Arrow" in result.stderr


def _standard_input(job: dict[str, Any]) -> None:
    job["tasks"][0]["input_path"][DIALER] = "-"


def _standard_output(job: dict[str, Any]) -> None:
    job["tasks"][0]["output_path"][LISTENER] = "-"


def _same_output(job: dict[str, Any]) -> None:
    job["tasks"][0]["output_path"] = dict.fromkeys(PARTIES, "alice/out/people.csv")


def _input_of_the_other(job: dict[str, Any]) -> None:
    job["tasks"][0]["output_path"][LISTENER] = "alice/../bob/in.csv"


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_standard_input, "standard input and output cannot be shared"),
        (_standard_output, "standard input and output cannot be shared"),
        (_same_output, r"output_path\.bob: is the same file as tasks\[0\]\.output_path\.alice \(line \d+\)"),
        (_input_of_the_other, r"output_path\.alice: is the same file as tasks\[0\]\.input_path\.bob \(line \d+\)"),
    ],
)
def test_simulate_refuses_what_needs_two_machines(
    pair: Pair, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    one_task(pair)
    result = pair.start_command("simulate", "--config", whole_job(pair, change)).result()
    failed(result, 78, sentence)
    assert pair.files(LISTENER).keys() | pair.files(DIALER).keys() == {"in.csv"}


def started(pair: Pair, run: Run) -> None:
    """Wait until both parties of a simulation are in session."""
    run.wait_for("in session with alice")
    run.wait_for("in session with bob")


@pytest.mark.more
@pytest.mark.parametrize(
    ("whole_group", "number", "code"),
    [(True, signal.SIGINT, 130), (False, signal.SIGTERM, 143), (False, signal.SIGINT, 130)],
    ids=["Ctrl-C", "SIGTERM", "SIGINT"],
)
def test_simulate_that_is_stopped_leaves_nothing(
    pair: Pair, whole_group: bool, number: signal.Signals, code: int
) -> None:
    one_task(pair, 40_000)
    for party in PARTIES:
        pair.path(party, "out/people.csv").write_bytes(OLD)
    # A terminal sends Ctrl-C to the whole group.
    run = pair.start_command("simulate", "--config", whole_job(pair), start_new_session=True)
    started(pair, run)
    if whole_group:
        os.killpg(run.pid, number)
    else:
        run.send(number)
    result = run.result()
    assert result.code == code, result.text
    assert "Traceback" not in result.text
    # Both parties had time to log why they ended.
    errors = [line.split(" ERROR ")[1] for line in result.stderr.splitlines() if " ERROR " in line]
    assert {party for party in PARTIES if any(line.startswith(f"{party}: ") for line in errors)} == {*PARTIES}
    assert processes_below(pair.folder) == []
    for party in PARTIES:
        assert pair.files(party).keys() == {"in.csv", "out/people.csv"}
        assert pair.path(party, "out/people.csv").read_bytes() == OLD
    assert [path.name for path in (pair.folder / "state").iterdir()] == ["lock"]
    pair.nothing_left()


@pytest.mark.more
def test_simulate_that_is_stopped_while_it_starts(pair: Pair) -> None:
    one_task(pair, 40_000)
    for lines in (0, 3):
        run = pair.start_command("simulate", "--config", whole_job(pair))
        run.wait_for_lines(lines)
        run.send(signal.SIGTERM)
        result = run.result()
        # A signal that arrives before Python has started kills the process.
        assert result.code in ((143,) if lines else (143, -signal.SIGTERM)), result.text
        assert processes_below(pair.folder) == []


class Portless(socket.socket):
    """A socket on a system that has no port left."""

    def bind(self, address: object, /) -> None:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def test_a_simulation_without_a_free_port_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("psicli.batch.simulate.socket.socket", Portless)
    with pytest.raises(NoPortError, match="the system gives the simulation no port: address already in use") as caught:
        simulate._run({}, tmp_path, tmp_path)
    assert caught.value.code == 75


@pytest.mark.more
def test_two_csv_files_written_differently(pair: Pair) -> None:
    """No setting fits both, so the advice of each party alone would lead in a circle."""
    one_task(pair)
    pair.path("bob", "in.csv").write_text("id;name\n1;Ben\n")
    result = pair.start_command("simulate", "--config", whole_job(pair)).result()
    assert result.code == 66, result.text
    assert "run each party with a job file of its own" in result.stderr
