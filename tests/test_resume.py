"""Runs that go on from where one was killed: real processes, real kills, and what must not be gone on from."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from runner import ALWAYS, DIALER, LISTENER, PARTIES, SAVING_AT_ONCE, Pair, Result, Run, Side, other
from test_run import OLD, check_output, csv_data, the_object

from psicli.failpoints import VARIABLE

ROWS = 400
# So many files are replaced when a checkpoint begins; every further one is a save after a piece of work: more of them
# than one side can be ahead of the other.
BEGUN = 3
MIDDLE = BEGUN + 40
FIRST, SECOND = "first", "second"
# A task has 50 frames of points each way: near the end of those of the second one, long after the first was through.
IN_SECOND = "peer.masked:kill:95"


def job(pair: Pair, *, broadcast: bool = False) -> Pair:
    """Two tasks, of which alice receives the first and bob the second; three quarters of the rows are in common."""
    pair.environment, pair.program = dict(ALWAYS), ("-c", SAVING_AT_ONCE)
    for party, start in zip(PARTIES, (0, ROWS // 4), strict=True):
        rows = ([f"row-{row}"] for row in range(start, start + ROWS))
        pair.path(party, "in.csv").write_bytes(csv_data(["id"], rows))
        pair.jobs[party]["pipeline"] = {"chunk_items": 8}
    for task, receiver in ((FIRST, LISTENER), (SECOND, DIALER)):
        sides = [
            Side(["id"], "in.csv", f"out/{task}.csv" if broadcast or party == receiver else None) for party in PARTIES
        ]
        pair.add(task, *sides, receiver=receiver, broadcast_result=broadcast)
    return pair


# Of what is much the same, make test sees one.
ONE_SOON = [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)]


@pytest.fixture(params=[False, True], ids=["one-sided", "broadcast"])
def resumable(pair: Pair, request: pytest.FixtureRequest) -> Pair:
    return job(pair, broadcast=request.param)


@pytest.fixture
def alone(pair: Pair) -> Pair:
    """One-sided tasks."""
    return job(pair)


def start(pair: Pair, party: str, failpoint: str = "", *arguments: str) -> Run:
    env = {VARIABLE: failpoint} if failpoint else {}
    return pair.start(party, "--json", "-v", *arguments, env=env)


def killed(pair: Pair, party: str, failpoint: str) -> None:
    """Kill a party at a failpoint; the other one ends by itself."""
    runs = {each: start(pair, each, failpoint if each == party else "") for each in PARTIES}
    assert runs[party].result().code == -signal.SIGKILL
    assert runs[other(party)].result().code in (0, 69)


def run_again(pair: Pair, *arguments: str) -> dict[str, Result]:
    """Run both, check that all outputs are right, and that nothing but a sender's mark is left."""
    runs = {party: start(pair, party, "", *arguments) for party in PARTIES}
    results = {party: run.result() for party, run in runs.items()}
    for result in results.values():
        assert result.code == 0, result.text
    for party in PARTIES:
        for index, task in enumerate(pair.jobs[party]["tasks"]):
            if "output_path" in task and reports(results)[party].get(task["name"]):
                check_output(pair, party, index, task["output_path"][party])
    pair.nothing_left()
    for folder in (pair.folder / "state").glob("task-*"):
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "meta"]
        assert b'"result": {' in (folder / "meta").read_bytes()
    return results


def reports(results: dict[str, Result]) -> dict[str, dict[str, Any]]:
    """Return what each party reports of each task."""
    return {
        party: {task["name"]: task for task in the_object(result.stdout)["tasks"]} for party, result in results.items()
    }


def shares(results: dict[str, Result], task: str) -> list[float | None]:
    return [reports(results)[party][task]["resumed"] for party in PARTIES]


def files(pair: Pair, name: str) -> list[Path]:
    found = [path / name for path in (pair.folder / "state").glob("task-*")]
    return [path for path in found if path.exists()]


@pytest.mark.parametrize("party", ONE_SOON)
def test_a_task_goes_on_where_it_was_killed(resumable: Pair, party: str) -> None:
    killed(resumable, party, f"checkpoint.kept:kill:{MIDDLE}")
    sids = {json.loads(path.read_bytes().splitlines()[1])["task_sid"] for path in files(resumable, "meta")}
    results = run_again(resumable)
    mine, theirs = shares(results, FIRST)
    assert mine == theirs
    assert mine is not None
    assert 0 < mine < 1
    assert shares(results, SECOND) == [None, None]
    assert {report[FIRST]["task_sid"] for report in reports(results).values()} == sids
    # The next run is a run of its own.
    assert shares(run_again(resumable), FIRST) == [None, None]


@pytest.mark.slow
def test_both_sides_killed(resumable: Pair) -> None:
    runs = [start(resumable, party, f"checkpoint.kept:kill:{MIDDLE}") for party in PARTIES]
    assert -signal.SIGKILL in [run.result().code for run in runs]
    share = shares(run_again(resumable), FIRST)[0]
    assert share is not None
    assert 0 < share < 1


@pytest.mark.slow
def test_killed_again_and_again(alone: Pair) -> None:
    """Every run gets further, and no second one begins from nothing."""
    before = 0.0
    for party in (LISTENER, DIALER, LISTENER):
        killed(alone, party, "checkpoint.data:kill:20")
        marks = [json.loads(path.read_bytes().splitlines()[1])["marks"] for path in files(alone, "meta")]
        now = min(each["own"][0] + each["peer"][0] for each in marks)
        assert now > before
        before = now
    assert shares(run_again(alone), FIRST)[0] is not None


@pytest.mark.parametrize("party", ONE_SOON)
def test_a_task_that_is_done_is_not_run_again(resumable: Pair, party: str) -> None:
    """Its input is not even read: killed in the second task, the first one is only looked at."""
    killed(resumable, party, IN_SECOND)
    written = {path: path.stat().st_mtime_ns for path in resumable.folder.glob("*/out/first.csv")}
    assert written
    results = run_again(resumable)
    assert shares(results, FIRST) == [1.0, 1.0]
    for each in PARTIES:
        assert "done by an earlier run; input and output are unchanged" in results[each].stderr
        assert reports(results)[each][FIRST]["bytes_sent"] < 300
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert the_object(results[LISTENER].stdout)["tasks"][0]["matched"] == 3 * ROWS // 4


def test_a_last_word_that_is_not_heard_makes_no_difference(pair: Pair) -> None:
    """Both outputs of a broadcast are in place: a receiver that is killed before it knows need not run again."""
    job(pair, broadcast=True)
    killed(pair, LISTENER, "done.arrived:kill")
    assert shares(run_again(pair), FIRST) == [1.0, 1.0]


@pytest.mark.slow
def test_an_output_that_was_changed_is_made_again(alone: Pair) -> None:
    killed(alone, DIALER, IN_SECOND)
    alone.path(LISTENER, "out/first.csv").write_bytes(OLD)
    results = run_again(alone)
    assert "not used: the output has changed since" in results[LISTENER].stderr
    assert "not used: the other side does not go on from it" in results[DIALER].stderr
    assert shares(results, FIRST) == [None, None]


def test_a_receiver_killed_while_it_writes_needs_the_sender_no_more(alone: Pair) -> None:
    failpoints = {LISTENER: "output.synced:kill", DIALER: ""}
    runs = {party: start(alone, party, failpoints[party], "--only=first") for party in PARTIES}
    assert runs[LISTENER].result().code == -signal.SIGKILL
    assert runs[DIALER].result().code == 0
    # Nothing needs masking any more, on either side.
    assert files(alone, "scalar") == []
    results = run_again(alone, "--only=first")
    assert shares(results, FIRST) == [1.0, 1.0]
    assert reports(results)[DIALER][FIRST]["bytes_sent"] < 300


def test_a_run_is_counted_once_however_often_it_is_resumed(alone: Pair) -> None:
    for party in PARTIES:
        alone.jobs[party]["policy"] = {"max_runs_per_day": 1}
    killed(alone, DIALER, f"checkpoint.kept:kill:{MIDDLE}")
    results = run_again(alone, "--only=first")
    assert shares(results, FIRST)[0] is not None
    ledger = alone.start_command("ledger", "--json").result()
    entries = [entry for entry in json.loads(ledger.stdout)["tasks"] if entry["task"] == FIRST]
    assert [entry["outcome"] for entry in entries] == ["done", "done"]
    again = [start(alone, party, "", "--only=first") for party in PARTIES]
    assert {run.result().code for run in again} & {79}


# What must not be gone on from -----------------------------------------------------------------------------------


def spoil_input(pair: Pair, party: str = LISTENER) -> None:
    with open(pair.path(party, "in.csv"), "a") as file:
        file.write("another\n")


def touch_input(pair: Pair) -> None:
    path = pair.path(LISTENER, "in.csv")
    path.write_bytes(path.read_bytes())


def rename_task(pair: Pair) -> None:
    for party in PARTIES:
        pair.jobs[party]["tasks"][0]["output_path"] = {party: "out/other.csv"} if party == LISTENER else {}
        if party == DIALER:
            del pair.jobs[party]["tasks"][0]["output_path"]


def smaller_chunks(pair: Pair) -> None:
    pair.jobs[DIALER]["pipeline"] = {"chunk_items": 16}
    pair.jobs[LISTENER]["pipeline"] = {"chunk_items": 16}


def damage(name: str) -> Any:
    def spoil(pair: Pair) -> None:
        for path in files(pair, name):
            octets = bytearray(path.read_bytes())
            octets[len(octets) // 2] ^= 1
            path.write_bytes(octets)

    return spoil


def remove(name: str) -> Any:
    def spoil(pair: Pair) -> None:
        for path in files(pair, name):
            path.unlink()

    return spoil


SPOILT = {
    "input": (spoil_input, "the input has changed since"),
    "touched": (touch_input, "the input has changed since"),
    "job": (rename_task, "the job file or psicli is another one since"),
    "chunks": (smaller_chunks, "the other side does not go on from it"),
    "meta": (damage("meta"), "it is damaged"),
    "scalar": (damage("scalar"), "it is damaged"),
    "order": (damage("order"), "it is damaged"),
    "own": (damage("own-points"), "it is damaged"),
    "peer": (damage("peer-points"), "it is damaged"),
    "products": (damage("products"), "it is damaged"),
    "tokens": (damage("tokens"), "it is damaged"),
    "no meta": (remove("meta"), "it cannot be read: no such file or directory"),
    "no scalar": (remove("scalar"), "a part of it is missing"),
    "no points": (remove("peer-points"), "a part of it is missing"),
}


SOON = ("input", "meta")


@pytest.mark.parametrize(
    "case", [case if case in SOON else pytest.param(case, marks=pytest.mark.slow) for case in SPOILT]
)
def test_what_is_in_doubt_is_not_gone_on_from(alone: Pair, case: str) -> None:
    killed(alone, DIALER, f"checkpoint.kept:kill:{MIDDLE}")
    assert len(files(alone, "scalar")) == 2
    old = {json.loads(path.read_bytes().splitlines()[1])["task_sid"] for path in files(alone, "meta")}
    spoil, why = SPOILT[case]
    spoil(alone)
    results = run_again(alone, "--only=first")
    assert any(f": {why}" in result.stderr for result in results.values()), results[LISTENER].stderr
    assert shares(results, FIRST) == [None, None]
    assert {report[FIRST]["task_sid"] for report in reports(results).values()} != old


@pytest.mark.slow
@pytest.mark.parametrize("party", PARTIES)
def test_a_side_that_never_resumes_starts_both_afresh(alone: Pair, party: str) -> None:
    killed(alone, DIALER, f"checkpoint.kept:kill:{MIDDLE}")
    runs = {each: start(alone, each, "", *["--resume=never"] * (each == party)) for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    assert [result.code for result in results.values()] == [0, 0]
    assert "not used: this run is not to resume" in results[party].stderr
    assert "not used: the other side does not go on from it" in results[other(party)].stderr
    assert shares(results, FIRST) == [None, None]


@pytest.mark.parametrize("party", [DIALER, pytest.param(LISTENER, marks=pytest.mark.slow)])
def test_an_input_that_changes_before_the_task_starts_afresh_ends_the_run(alone: Pair, party: str) -> None:
    """It is read twice then, and the other side was told how many items the first reading found."""
    killed(alone, DIALER, f"checkpoint.kept:kill:{MIDDLE}")
    alone.path(LISTENER, "out/first.csv").write_bytes(OLD)
    runs = {
        party: start(alone, party, "", "--only=first"),
        other(party): start(alone, other(party), "input.read:stop", "--only=first", "--resume=never"),
    }
    runs[party].wait_for(f"exchanging {ROWS} distinct items")
    os.waitid(os.P_PID, runs[other(party)].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    spoil_input(alone, party)
    runs[other(party)].send(signal.SIGCONT)
    result = runs[party].result()
    assert result.code == 65, result.text
    assert "in.csv: the file was changed or replaced while it was read" in result.stderr
    assert runs[other(party)].result().code == 80
    assert alone.path(LISTENER, "out/first.csv").read_bytes() == OLD


@pytest.mark.slow
def test_small_work_is_done_again_by_itself(alone: Pair) -> None:
    """With auto, nothing is kept of work that takes less than a minute, and nothing of it is used."""
    killed(alone, DIALER, f"checkpoint.kept:kill:{MIDDLE}")
    alone.environment = {}
    results = run_again(alone)
    for result in results.values():
        assert "not used: less than a minute of work would be saved" in result.stderr
    alone.environment = {}
    killed(alone, DIALER, "chunk.sending:kill:8")
    assert [*(alone.folder / "state").glob("task-*")] == []


def test_a_protocol_violation_ends_what_could_be_resumed(alone: Pair) -> None:
    runs = {party: start(alone, party, "chunk.sending:flip:20" if party == DIALER else "") for party in PARTIES}
    for run in runs.values():
        assert run.result().code == 76
    assert [*(alone.folder / "state").glob("task-*")] == []


@pytest.mark.slow
def test_a_checkpoint_on_a_full_disk_is_given_up_and_the_run_goes_on(alone: Pair) -> None:
    for point in ("checkpoint.appended", "checkpoint.writing", "checkpoint.data", "checkpoint.answered"):
        runs = {party: start(alone, party, f"{point}:enospc:4" if party == DIALER else "") for party in PARTIES}
        results = {party: run.result() for party, run in runs.items()}
        assert [result.code for result in results.values()] == [0, 0], point
        assert "this task could not be resumed: no space left on device" in results[DIALER].stderr, point
    alone.nothing_left()


def test_a_disk_that_is_still_full_leaves_what_there_is(alone: Pair) -> None:
    killed(alone, DIALER, f"checkpoint.kept:kill:{MIDDLE}")
    runs = {party: start(alone, party, "checkpoint.writing:enospc" if party == LISTENER else "") for party in PARTIES}
    result = runs[LISTENER].result()
    assert result.code == 74, result.text
    assert "no space left on device" in result.stderr
    assert runs[DIALER].result().code == 69
    assert shares(run_again(alone), FIRST)[0] is not None


@pytest.mark.slow
def test_a_signal_keeps_what_there_is(alone: Pair) -> None:
    runs = {party: start(alone, party, "chunk.sending:stop:30" if party == DIALER else "") for party in PARTIES}
    runs[LISTENER].wait_for("exchanging")
    runs[LISTENER].send(signal.SIGTERM)
    assert runs[LISTENER].result().code == 143
    runs[DIALER].kill()
    share = shares(run_again(alone), FIRST)[0]
    assert share is None or share < 1
