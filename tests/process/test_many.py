"""Many files in one session, many jobs on one machine: batches, ports, status, simulate."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.processes.expectations import check_counts, check_output, csv_data, failed, succeeded, the_object
from support.processes.runner import (
    DIALER,
    LISTENER,
    PARTIES,
    SLOWLY,
    Pair,
    Run,
    Side,
    free_ports,
    other,
    processes_below,
)

NOBODY = 65534
# How long a run that finds its port taken may take [s]: alone half a second, but tests share their machine.
REFUSED_WITHIN = 6.0
SUFFIXES = ("csv", "tsv", "csv.gz", "parquet", "tsv.gz")
OLD = b"what the run before left\n"


def write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """Write rows in the format of the suffix; in Parquet the first column holds integers."""
    if path.suffix == ".parquet":
        columns = [*zip(*rows, strict=True)] or [()] * len(header)
        arrays = [pa.array([int(value) for value in columns[0]], pa.int64()), *map(pa.array, columns[1:])]
        pq.write_table(pa.table(dict(zip(header, arrays, strict=True))), path)
        return
    octets = csv_data(header, rows, "\t" if ".tsv" in path.suffixes else ",")
    path.write_bytes(gzip.compress(octets) if path.suffix == ".gz" else octets)


def batch(pair: Pair, tasks: int = 12) -> None:
    """Add tasks that differ in everything tasks can differ in: formats, key columns, receivers, broadcast, sizes."""
    for task in range(tasks):
        draw = random.Random(task)
        sides = {}
        for party, shift in zip(PARTIES, (0, 2), strict=True):
            kind, out = SUFFIXES[(task + shift) % 5], SUFFIXES[(task + 2 * shift + 1) % 5]
            keys = [f"{party}-id", "day"] if task % 3 == 0 else [f"{party}-id"]
            rows = [
                [str(draw.randrange(90)), draw.choice(["mon", "tue", 'w"e,d', "ß"]), f"row {row} of {party}"]
                for row in range(draw.randrange(30, 120) if task != 5 else 0)
            ]
            name = f"in-{task}.{kind}"
            write(pair.path(party, name), [f"{party}-id", "day", "note"], rows)
            sides[party] = Side(keys, name, f"out/{task}.{out}")
        terms = {"receiver": PARTIES[task % 2], "broadcast_result": task % 4 == 1}
        pair.add(f"task-{task}", sides[LISTENER], sides[DIALER], **terms)


def learns(pair: Pair, party: str, task: int) -> bool:
    terms = pair.jobs[party]["tasks"][task]
    return bool(terms["receiver"] == party or terms["broadcast_result"])


def check_task(pair: Pair, party: str, task: int, reported: dict[str, Any]) -> None:
    """Compare what one party reports and has of a task with the oracle."""
    assert reported["status"] == "done"
    output = pair.path(party, pair.jobs[party]["tasks"][task]["output_path"][party])
    if learns(pair, party, task):
        check_output(pair, party, task, str(output))
        check_counts(pair, party, task, reported)
    else:
        assert not output.exists()
        assert [reported[name] for name in ("output", "output_rows", "matched")] == [None] * 3


def one_task(pair: Pair, rows: int = 20) -> Pair:
    for party in PARTIES:
        write(pair.path(party, "in.csv"), ["id"], [[str(row)] for row in range(rows)])
    side = Side(["id"], "in.csv", "out/people.csv")
    pair.add("people", side, side, broadcast_result=True)
    pair.environment = SLOWLY
    return pair


def check_people(pair: Pair) -> None:
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")


# A batch in one session ------------------------------------------------------------------------------------------


def test_twelve_tasks_in_one_session_on_one_port(pair: Pair) -> None:
    batch(pair)
    runs = [pair.start(party, "--json") for party in PARTIES]
    results = [run.result() for run in runs]
    succeeded(results)
    reports = [the_object(result.stdout) for result in results]
    for party, report in zip(PARTIES, reports, strict=True):
        for task, reported in enumerate(report["tasks"]):
            check_task(pair, party, task, reported)
    assert [task["name"] for task in reports[0]["tasks"]] == [f"task-{task}" for task in range(12)]
    assert sum(task["matched"] or 0 for report in reports for task in report["tasks"]) > 100
    # All of them once: the meeting, the session, the port.
    assert len({report["session_id"] for report in reports}) == 1
    for result, peer in zip(results, PARTIES[::-1], strict=True):
        assert result.stderr.count(f"in session with {peer}") == 1
    assert results[0].stderr.count(f"listening on 127.0.0.1:{pair.port}") == 1
    assert results[1].stderr.count("connecting to") == 1
    pair.nothing_left()


@pytest.mark.parametrize("party", PARTIES)
def test_a_bad_row_in_the_middle_of_twelve(pair: Pair, party: str) -> None:
    """The tasks before it are done on both sides, the ones after it nowhere, and both reports say so."""
    batch(pair)
    bad = 6
    pair.path(party, "bad.csv").write_bytes(csv_data(["id", "day"], [["1", "mon"], ["2"]]))
    pair.jobs[party]["tasks"][bad].update(input_path={party: "bad.csv"}, keys={party: ["id", "day"]})
    for each in PARTIES:
        for task in range(bad, 12):
            pair.path(each, pair.jobs[each]["tasks"][task]["output_path"][each]).write_bytes(OLD)
    runs = {each: pair.start(each, "--json") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    failed(results[party], 65, r"bad\.csv:3: the row has 1 fields, the header 2")
    failed(results[other(party)], 80, f"{party} failed")
    for each, result in results.items():
        tasks = the_object(result.stdout)["tasks"]
        for task in range(bad):
            check_task(pair, each, task, tasks[task])
        statuses = [task["status"] for task in tasks[bad:]]
        assert statuses == ["failed"] + ["not started"] * (11 - bad)
        for task in range(bad, 12):
            assert pair.path(each, pair.jobs[each]["tasks"][task]["output_path"][each]).read_bytes() == OLD
    pair.nothing_left()


def test_an_output_that_cannot_be_written_is_its_owners_affair(pair: Pair) -> None:
    """The peer of a one-sided task sees nothing of it, and the tasks after it are done on both sides."""
    for party in PARTIES:
        for name, rows in (("long", 400), ("short", 3)):
            write(pair.path(party, f"{name}.csv"), ["id", "note"], [[str(row), "note " * 5] for row in range(rows)])
    for name in ("long", "short"):
        pair.add(name, Side(["id"], f"{name}.csv", f"out/{name}.csv"), Side(["id"], f"{name}.csv"))
    pair.path(LISTENER, "out/long.csv").write_bytes(OLD)
    # Files of 8 blocks at most, which the one output is and the other is not.
    alice = pair.start(LISTENER, "--json", before="ulimit -f 8")
    bob = pair.start(DIALER, "--json")
    results = [alice.result(), bob.result()]
    failed(results[0], 74, r"out/long\.csv: .*file too large")
    succeeded(results[1:])
    statuses = [[task["status"] for task in the_object(result.stdout)["tasks"]] for result in results]
    assert statuses == [["failed", "done"], ["done", "done"]]
    assert pair.path(LISTENER, "out/long.csv").read_bytes() == OLD
    check_output(pair, LISTENER, 1, "out/short.csv")
    pair.nothing_left()


def test_only_some_tasks(pair: Pair) -> None:
    batch(pair, 4)
    flags = ["--only", "task-3", "--only", "task-1"]
    runs = [pair.start(LISTENER, "--json", *flags), pair.start(DIALER, "--json", *reversed_pairs(flags))]
    results = [run.result() for run in runs]
    succeeded(results)
    for party, result in zip(PARTIES, results, strict=True):
        # In the order of the job file, whatever the order of the flags.
        tasks = the_object(result.stdout)["tasks"]
        assert [task["name"] for task in tasks] == ["task-1", "task-3"]
        for task, reported in zip((1, 3), tasks, strict=True):
            check_task(pair, party, task, reported)
        assert all(path.stem.split(".")[0] in ("1", "3") for path in pair.path(party, "out").iterdir())


def reversed_pairs(flags: list[str]) -> list[str]:
    return [*flags[2:], *flags[:2]]


def test_only_is_part_of_the_agreement(pair: Pair) -> None:
    batch(pair, 3)
    alice, bob = pair.start(LISTENER, "--only", "task-0"), pair.start(DIALER)
    for result, row in (
        (alice.result(), "tasks task-0 task-0, task-1, task-2"),
        (bob.result(), "tasks task-0, task-1, task-2 task-0"),
    ):
        failed(result, 78, "the two job files disagree")
        assert [" ".join(line.split()) for line in result.below("disagree")] == ["field ours theirs", row]
    unknown = pair.start(LISTENER, "--only", "task-7").result()
    failed(unknown, 78, "task-7")


# Two runs on one port --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", PARTIES)
def test_a_second_run_is_refused_by_name(pair: Pair, party: str) -> None:
    one_task(pair)
    first = pair.start(party)
    first.wait_for("listening on" if party == LISTENER else "connecting to")
    second = pair.start(party, "--json")
    result = second.result()
    assert result.ended - second.started < REFUSED_WITHIN
    what = f"port {pair.port}" if party == LISTENER else rf"bob to 127\.0\.0\.1:{pair.port}"
    named = rf"{what} is taken by job overlap of {party} \(pid {first.pid}, \S+, since 20[-0-9]+T[:0-9]+\+00:00\)"
    failed(result, 75, named)
    refusal = the_object(result.stdout)
    assert (refusal["exit_code"], refusal["error"]["class"]) == (75, "LockHeldError")
    # The first one has not noticed.
    peer = pair.start(other(party))
    succeeded([first.result(), peer.result()])
    check_people(pair)
    pair.nothing_left()


def test_both_parties_started_twice_at_once(pair: Pair) -> None:
    one_task(pair)
    results = [run.result() for run in [pair.start(party) for party in (*PARTIES, *PARTIES)]]
    for mine in (results[::2], results[1::2]):
        codes = sorted(result.code for result in mine)
        assert codes == [0, 75], [result.text for result in mine]
    check_people(pair)
    pair.nothing_left()


def test_a_run_that_waits_for_its_turn(pair: Pair) -> None:
    one_task(pair)
    first = pair.start(LISTENER)
    first.wait_for("listening on")
    second = pair.start(LISTENER, "--lock-timeout", "60")
    second.wait_for(f"waiting: port {pair.port} is taken by job overlap of alice (pid {first.pid}, ")
    succeeded([pair.start(DIALER).result(), first.result()])
    second.wait_for("listening on")
    check_people(pair)
    succeeded([pair.start(DIALER).result(), second.result()])
    check_people(pair)
    pair.nothing_left()


def test_a_wait_that_is_in_vain(pair: Pair) -> None:
    one_task(pair)
    first = pair.start(LISTENER)
    first.wait_for("listening on")
    second = pair.start(LISTENER, "--lock-timeout", "1")
    result = second.result()
    failed(result, 75, f"is taken by job overlap of alice .pid {first.pid}")
    assert result.ended - second.started > 1.0


def test_a_killed_holder_makes_room_at_once(pair: Pair) -> None:
    one_task(pair)
    first = pair.start(LISTENER)
    first.wait_for("listening on")
    second = pair.start(LISTENER, "--lock-timeout", "60")
    second.wait_for("waiting: ")
    first.send(signal.SIGKILL)
    second.wait_for("listening on")
    succeeded([pair.start(DIALER).result(), second.result()])
    check_people(pair)


def test_a_wait_for_another_program(pair: Pair) -> None:
    one_task(pair)
    with socket.create_server(("127.0.0.1", pair.port)):
        at_once = pair.start(LISTENER)
        result = at_once.result()
        failed(result, 75, f"127.0.0.1:{pair.port}: the port is in use by another program")
        assert result.ended - at_once.started < REFUSED_WITHIN
        waiting = pair.start(LISTENER, "--lock-timeout", "60")
        waiting.wait_for("waiting: ")
    succeeded([pair.start(DIALER).result(), waiting.result()])
    check_people(pair)


# Everything is loaded before the change of user: the new one may not be allowed to read where Python lives.
AS_NOBODY = f"""
import encodings.idna, os, psicli.batch.simulate, psicli.cli.main, psicli.job.run, psicli.report.report
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
psicli.cli.main.main()
"""


@pytest.fixture
def shared_pair() -> Iterator[Pair]:
    """A pair in a folder that every user may use."""
    if os.geteuid() != 0:
        pytest.skip("only root can run psicli as another user")
    with tempfile.TemporaryDirectory() as folder, free_ports(1) as ports:
        pair = Pair(Path(folder), ports[0])
        for path in (pair.folder, pair.temp, *(pair.path(party, "out") for party in PARTIES)):
            path.chmod(0o777)
        try:
            yield pair
        finally:
            pair.kill()


@pytest.mark.parametrize("first_is_root", [True, False], ids=["root first", "nobody first"])
def test_a_run_of_another_user_is_seen(shared_pair: Pair, first_is_root: bool) -> None:
    pair = one_task(shared_pair)
    state = {"PSICLI_STATE_DIR": str(pair.folder / "state-of-nobody")}
    users: list[dict[str, Any]] = [{}, {"program": ("-c", AS_NOBODY), "cwd": "/", "env": state}]
    first_user, second_user = users if first_is_root else users[::-1]
    first = pair.start(LISTENER, **first_user)
    first.wait_for("listening on")
    second = pair.start(LISTENER, **second_user)
    result = second.result()
    failed(
        result, 75, rf"is taken by job overlap of alice \(pid {first.pid}, {'root' if first_is_root else 'nobody'}, "
    )
    assert result.ended - second.started < REFUSED_WITHIN
    assert f"pid {first.pid}, " in pair.start_command("status", **second_user).result().text
    # And the other way round: the lock's file is there already, and is the other user's.
    first.send(signal.SIGTERM)
    assert first.result().code == 143
    again = pair.start(LISTENER, **second_user)
    succeeded([pair.start(DIALER, **first_user).result(), again.result()])
    check_people(pair)


# Jobs side by side -----------------------------------------------------------------------------------------------


def rounds_of_four(folder: Path, rounds: int) -> None:
    """Four jobs at once, each its own port and its own two processes, again and again on the same ports."""
    with free_ports(4) as ports:
        pair = Pair(folder, ports[0])
        try:
            one_task(pair)
            for party in PARTIES:
                pair.jobs[party]["tasks"][0]["output_path"] = {party: "out/${JOB}.csv"}
            for number in range(rounds):
                runs = [
                    pair.start(party, f"--port-offset={port - ports[0]}", f"--set=JOB={number}-{job}")
                    for job, port in enumerate(ports)
                    for party in PARTIES
                ]
                succeeded(run.result() for run in runs)
                for job in range(len(ports)):
                    for party in PARTIES:
                        check_output(pair, party, 0, f"out/{number}-{job}.csv")
                pair.nothing_left(*ports)
        finally:
            pair.kill()


def test_four_jobs_on_four_ports(tmp_path: Path) -> None:
    rounds_of_four(tmp_path, 3)


@pytest.mark.slow
def test_four_jobs_on_four_ports_twenty_times(tmp_path: Path) -> None:
    rounds_of_four(tmp_path, 20)


# Status ----------------------------------------------------------------------------------------------------------


def status(pair: Pair) -> dict[int, dict[str, Any]]:
    result = pair.start_command("status", "--json").result()
    assert result.code == 0, result.text
    return {each["pid"]: each for each in the_object(result.stdout)["running"]}


def test_status_says_who_where_and_how_far(pair: Pair) -> None:
    one_task(pair, 8_000)
    for party in PARTIES:
        # Small frames: it is told early that the first of many are through.
        pair.jobs[party]["pipeline"] = {"frame_items": 1024}
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    waiting = status(pair)[alice.pid]
    assert {name: waiting[name] for name in ("job", "party", "where", "task", "phase")} == {
        "job": "overlap",
        "party": "alice",
        "where": f"127.0.0.1:{pair.port}",
        "task": "",
        "phase": "starting",
    }
    bob = pair.start(DIALER)
    for run in (alice, bob):
        run.wait_for("exchanging")
    while not {0} < {(running := status(pair))[run.pid]["percent"] for run in (alice, bob)} | {0}:
        assert alice.lasts(0.05)
    for run in (alice, bob):
        assert (running[run.pid]["task"], running[run.pid]["phase"]) == ("people", "exchanging")
        assert 0 <= running[run.pid]["percent"] <= 100
    assert running[bob.pid]["where"] == f"to 127.0.0.1:{pair.port}"
    # One of them held up, so that both still run when the answer comes.
    os.kill(bob.pid, signal.SIGSTOP)
    text = pair.start_command("status").result().stdout.decode()
    os.kill(bob.pid, signal.SIGCONT)
    where = re.escape(f"127.0.0.1:{pair.port}")
    assert re.search(
        rf"^overlap \(alice, {where}\), pid {alice.pid}, \S+, since \S+, people: exchanging \d+ %$", text, re.MULTILINE
    )
    succeeded([alice.result(), bob.result()])
    assert not {alice.pid, bob.pid} & status(pair).keys()


# Simulate --------------------------------------------------------------------------------------------------------


def whole_job(pair: Pair, change: Callable[[dict[str, Any]], object] = lambda job: None) -> Path:
    """Write one job file that serves both parties."""
    job = json.loads(json.dumps(pair.jobs[LISTENER]))
    del job["self_party"]
    for task, theirs in zip(job["tasks"], pair.jobs[DIALER]["tasks"], strict=True):
        for field in ("keys", "input_path", "output_path"):
            task.setdefault(field, {}).update(theirs.get(field, {}))
            if field != "keys":
                task[field] = {party: f"{party}/{name}" for party, name in task[field].items()}
    job["cluster"]["nodes"][1]["address"] = "bob.example.com:1"
    job["cluster"]["nodes"][0].update(address="alice.example.com:18560", listen_address="0.0.0.0:18560")
    job["cluster"]["tls"] = {"ca_file": "a", "certificate_file": "b", "private_key_file": "c"}
    job["policy"] = {"min_peer_items": 10**9, "max_match_rate": 0.000001}
    change(job)
    path = pair.folder / "whole.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_simulate_runs_every_party_and_prints_every_report(pair: Pair) -> None:
    batch(pair, 3)
    result = pair.start_command("simulate", "--config", whole_job(pair)).result()
    succeeded([result])
    text = result.stdout.decode()
    assert re.findall(r"^overlap: (\w+) with (\w+), ", text, re.MULTILINE) == [("alice", "bob"), ("bob", "alice")]
    assert text.count(": done\n") == 6
    for party in PARTIES:
        for task in range(3):
            if learns(pair, party, task):
                output = pair.jobs[party]["tasks"][task]["output_path"][party]
                check_output(pair, party, task, output)
    pair.nothing_left()
    # What is only tried out is in no ledger.
    assert [path.name for path in (pair.folder / "state").iterdir()] == ["lock"]


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


@pytest.mark.parametrize("trace", ["absent/t.json", ".", "/"])
def test_simulate_starts_nothing_where_a_trace_cannot_be_written(pair: Pair, trace: str) -> None:
    batch(pair, 1)
    result = pair.start_command("simulate", "--config", whole_job(pair), "--trace", trace).result()
    assert result.code == 73
    assert "listening" not in result.stderr


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


@pytest.mark.parametrize("party", PARTIES)
def test_simulate_ends_with_the_code_of_the_party_that_failed_by_itself(pair: Pair, party: str) -> None:
    one_task(pair)
    pair.path(party, "in.csv").unlink()
    result = pair.start_command("simulate", "--config", whole_job(pair), "--json").result()
    assert result.code == 66, result.text
    parties = the_object(result.stdout)["parties"]
    assert {each: report["exit_code"] for each, report in parties.items()} == {party: 66, other(party): 80}
    assert {report["error"]["party"] for report in parties.values()} == {party}
    pair.nothing_left()


def _standard_input(job: dict[str, Any]) -> None:
    job["tasks"][0]["input_path"][DIALER] = "-"


def _standard_output(job: dict[str, Any]) -> None:
    job["tasks"][0]["output_path"][LISTENER] = "-"


def _same_output(job: dict[str, Any]) -> None:
    job["tasks"][0]["output_path"] = dict.fromkeys(PARTIES, "alice/out/people.csv")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_standard_input, "standard input and output cannot be shared"),
        (_standard_output, "standard input and output cannot be shared"),
        (_same_output, "is an output of two parties"),
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
    """Wait until both parties of a simulation exchange."""
    run.wait_for("in session with alice")
    run.wait_for("in session with bob")


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
    # Both parties had the time to say why they end.
    assert sum(" ERROR overlap: " in line and "hint: " not in line for line in result.stderr.splitlines()) == 2
    assert processes_below(pair.folder) == []
    for party in PARTIES:
        assert pair.files(party).keys() == {"in.csv", "out/people.csv"}
        assert pair.path(party, "out/people.csv").read_bytes() == OLD
    assert [path.name for path in (pair.folder / "state").iterdir()] == ["lock"]
    pair.nothing_left()


def test_simulate_that_is_stopped_while_it_starts(pair: Pair) -> None:
    one_task(pair, 40_000)
    for lines in (0, 3):
        run = pair.start_command("simulate", "--config", whole_job(pair))
        run.wait_for_lines(lines)
        run.send(signal.SIGTERM)
        result = run.result()
        # Before Python itself is up, a signal ends it as any process.
        assert result.code in ((143,) if lines else (143, -signal.SIGTERM)), result.text
        assert processes_below(pair.folder) == []
