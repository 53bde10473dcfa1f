"""Runs that continue where one was killed: real processes, real kills, and what must not be continued."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.processes.expectations import OLD, check_output, csv_data, failed, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Run, Side, other
from support.processes.tapped import altered

from psicli.core.failpoints import VARIABLE
from psicli.exchange.finished import Manifest

# Items of each side, in 4 bins; a bin has 6 frames of points each way, and as many of tokens.
ROWS, BINS, BIN_FRAMES = 40_000, 4, 6
PIPELINE = {"bin_items": 16_384, "frame_items": 2048}
FIRST, SECOND = "first", "second"
# A party masks the peer's points frame by frame: near the end of the second task, when the first is done.
IN_SECOND = f"peer.masked:stop:{2 * BINS * BIN_FRAMES - 3}"
# So many frames arrive at a receiver of a bin; a frame more than of two bins comes after `Received` of the first one.
ARRIVING = 2 * BIN_FRAMES
# Where each party is killed in the first task, when some bins are finished and some are not: a receiver keeps a bin's
# result, a sender keeps that it answers a bin, and that the receiver has it.
MIDDLE = {LISTENER: "bins.written:kill:2", DIALER: "bins.written:kill:5"}


def job(pair: Pair, *, broadcast: bool = False, rows: int = ROWS) -> Pair:
    """Two tasks, of which alice receives the first and bob the second; three quarters of the rows are in common."""
    for party, start in zip(PARTIES, (0, rows // 4), strict=True):
        data = csv_data(["id"], ([f"row-{row}"] for row in range(start, start + rows)))
        pair.path(party, "in.csv").write_bytes(data)
        pair.jobs[party]["pipeline"] = dict(PIPELINE)
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


def start(pair: Pair, party: str, failpoint: str = "", *arguments: str, **how: Any) -> Run:
    env = {VARIABLE: failpoint} if failpoint else {}
    return pair.start(party, "--json", "-v", *arguments, env=env, **how)


def killed(pair: Pair, party: str, failpoint: str, *arguments: str) -> None:
    """Kill a party at a failpoint; the other one ends by itself."""
    runs = {each: start(pair, each, failpoint if each == party else "", *arguments) for each in PARTIES}
    assert runs[party].result().code == -signal.SIGKILL
    assert runs[other(party)].result().code in (0, 69)


def killed_in_second(pair: Pair, party: str) -> None:
    """Kill a party near the end of the second task, when both are through with the first one."""
    runs = {each: start(pair, each, IN_SECOND if each == DIALER else "") for each in PARTIES}
    for run in runs.values():
        run.wait_for(f"{FIRST}: done in")
    os.waitid(os.P_PID, runs[DIALER].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    runs[party].send(signal.SIGKILL)
    runs[DIALER].send(signal.SIGCONT)
    assert runs[party].result().code == -signal.SIGKILL
    assert runs[other(party)].result().code == 69


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
    assert_no_bin_was_answered_thrice(pair)
    return results


def reports(results: dict[str, Result]) -> dict[str, dict[str, Any]]:
    """Return what each party reports of each task."""
    return {
        party: {task["name"]: task for task in the_object(result.stdout)["tasks"]} for party, result in results.items()
    }


def shares(results: dict[str, Result], task: str) -> list[float | None]:
    return [reports(results)[party][task]["resumed"] for party in PARTIES]


def resumed_share(results: dict[str, Result], task: str) -> float:
    """Return how much of a task was done before, which both must say alike."""
    mine, theirs = shares(results, task)
    assert mine == theirs
    assert mine is not None
    return mine


def sids(results: dict[str, Result], task: str) -> set[str]:
    return {report[task]["task_sid"] for report in reports(results).values()}


def files(pair: Pair, name: str) -> list[Path]:
    found = [path / name for path in (pair.folder / "state").glob("task-*")]
    return [path for path in found if path.exists()]


def manifests(pair: Pair) -> dict[tuple[str, str], Manifest]:
    """Return what is kept, by party and task."""
    found = [Manifest.from_octets(path.read_bytes()) for path in files(pair, "meta")]
    return {(each.bound_to["party"], each.bound_to["task"]): each for each in found}


def shown(pair: Pair) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what `psicli status` says is kept, by party and task: how many bins are finished, of how many."""
    kept = json.loads(pair.start_command("status", "--json").result().stdout)["kept"]
    return {(each["party"], each["task"]): (each["finished_bins"], each["bins"]) for each in kept}


def answers(pair: Pair) -> Counter[tuple[str, str, int]]:
    """Return how often each bin was answered: by partition, peer, and bin."""
    lines = map(json.loads, (pair.folder / "state" / "ledger.jsonl").read_text().splitlines())
    return Counter((line["task_sid"], line["peer"], line["bin"]) for line in lines if line["event"] == "answer")


def assert_no_bin_was_answered_thrice(pair: Pair) -> None:
    assert max(answers(pair).values(), default=0) <= 2


def opened(pair: Pair, task: str = FIRST) -> list[str]:
    """Return the runs of a task that one party's ledger counts."""
    lines = map(json.loads, (pair.folder / "state" / "ledger.jsonl").read_text().splitlines())
    return [
        line["task_sid"]
        for line in lines
        if (line["event"], line.get("task"), line["peer"]) == ("open", task, LISTENER)
    ]


# What is continued -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", ONE_SOON)
def test_a_task_continues_where_it_was_killed(resumable: Pair, party: str) -> None:
    killed(resumable, party, MIDDLE[party])
    kept = manifests(resumable)
    bins = shown(resumable)
    assert {each[1] for each in bins.values()} == {BINS}
    assert 0 < bins[LISTENER, FIRST][0] <= bins[DIALER, FIRST][0] <= BINS
    results = run_again(resumable)
    share = resumed_share(results, FIRST)
    assert 0 < share < 1
    assert share >= bins[LISTENER, FIRST][0] / BINS
    assert shares(results, SECOND) == [None, None]
    assert sids(results, FIRST) == {kept[LISTENER, FIRST].partition_sid}
    first, second = (reports(results)[party][task] for task in (FIRST, SECOND))
    assert first["bytes_sent"] + first["bytes_received"] < (1 - share) * 1.05 * (
        second["bytes_sent"] + second["bytes_received"]
    )
    for each in PARTIES:
        assert f"{FIRST}: continues from {100 * share:.0f} % of an earlier run" in results[each].stderr
    # The next run is a run of its own.
    assert shares(run_again(resumable), FIRST) == [None, None]


def test_the_finished_bins_are_not_exchanged_again(alone: Pair) -> None:
    killed(alone, LISTENER, MIDDLE[LISTENER], f"--only={FIRST}")
    before = answers(alone)
    results = run_again(alone, f"--only={FIRST}")
    again = answers(alone) - before
    share = resumed_share(results, FIRST)
    # Those of the receiver, in order from the first one on.
    assert [number for _, _, number in sorted(again)] == [*range(int(share * BINS), BINS)]


@pytest.mark.slow
@pytest.mark.parametrize("broadcast", [False, True])
def test_outputs_are_those_of_a_run_that_was_not_killed(pair: Pair, broadcast: bool) -> None:
    job(pair, broadcast=broadcast)
    run_again(pair)
    outputs = {path: path.read_bytes() for path in pair.folder.glob("*/out/*.csv")}
    assert len(outputs) == (4 if broadcast else 2)
    for path in outputs:
        path.write_bytes(OLD)
    killed(pair, DIALER, MIDDLE[DIALER])
    resumed_share(run_again(pair), FIRST)
    assert {path: path.read_bytes() for path in outputs} == outputs


@pytest.mark.slow
def test_both_sides_killed(resumable: Pair) -> None:
    runs = [start(resumable, party, MIDDLE[party]) for party in PARTIES]
    assert -signal.SIGKILL in [run.result().code for run in runs]
    assert 0 < resumed_share(run_again(resumable), FIRST) < 1


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, BINS + 1))
@pytest.mark.parametrize("party", PARTIES)
def test_killed_at_any_bin(resumable: Pair, party: str, number: int) -> None:
    """A receiver where a bin's result is on disk, a sender where the receiver has said that it has the bin."""
    point = f"bins.written:kill:{number}" if party == LISTENER else f"received.arrived:kill:{number}"
    killed(resumable, party, point)
    share = resumed_share(run_again(resumable), FIRST)
    assert share >= (number if party == LISTENER else number - 1) / BINS


@pytest.mark.slow
@pytest.mark.parametrize("party", PARTIES)
def test_killed_again_and_again(pair: Pair, party: str) -> None:
    """Every run gets further, and no second one begins from nothing."""
    bins = 16
    job(pair, rows=bins * ROWS // BINS)
    before, partitions = 0, set()
    for _ in range(4):
        # A frame of the fourth bin of a run comes when the first two are received.
        own = 3 * ARRIVING + 1 if party == LISTENER else 3 * BIN_FRAMES + 1
        killed(pair, party, f"frame.arrived:kill:{own}", f"--only={FIRST}")
        partitions |= {each.partition_sid for each in manifests(pair).values()}
        now, of = shown(pair)[LISTENER, FIRST]
        assert before + 2 <= now
        assert of == bins
        before = now
    assert resumed_share(run_again(pair, f"--only={FIRST}"), FIRST) >= before / bins
    assert len(partitions) == 1
    assert opened(pair) == [*partitions]


@pytest.mark.slow
def test_frames_may_be_of_another_size_and_memory_and_threads_too(alone: Pair) -> None:
    killed(alone, DIALER, MIDDLE[DIALER])
    alone.jobs[DIALER]["pipeline"].update(frame_items=1024, threads=1)
    alone.jobs[LISTENER]["pipeline"].update(memory="384MB", depth=1)
    assert 0 < resumed_share(run_again(alone), FIRST) < 1


# What is done ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", ONE_SOON)
def test_a_task_that_is_done_is_not_run_again(resumable: Pair, party: str) -> None:
    """Its input is not even read: killed in the second task, the first one is only looked at."""
    killed_in_second(resumable, party)
    written = {path: path.stat().st_mtime_ns for path in resumable.folder.glob("*/out/first.csv")}
    assert written
    kept = shown(resumable)
    assert kept[LISTENER, FIRST] == kept[DIALER, FIRST] == (BINS, BINS)
    results = run_again(resumable)
    assert shares(results, FIRST) == [1.0, 1.0]
    assert 0 < resumed_share(results, SECOND) < 1
    for each in PARTIES:
        assert "done by an earlier run; input and output are unchanged" in results[each].stderr
        assert f"{FIRST}: reading" not in results[each].stderr
        assert reports(results)[each][FIRST]["bytes_sent"] < 300
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert the_object(results[LISTENER].stdout)["tasks"][0]["matched"] == 3 * ROWS // 4
    # After a run that ended with 0 all is run again.
    again = run_again(resumable)
    assert shares(again, FIRST) == shares(again, SECOND) == [None, None]
    assert f"{FIRST}: reading" in again[LISTENER].stderr
    assert {path for path, at in written.items() if path.stat().st_mtime_ns == at} == set()


def test_a_small_task_that_is_done_is_not_run_again_either(pair: Pair) -> None:
    """One bin is no reason to keep anything of a task under way; its result counts like any other."""
    job(pair, rows=1000)
    killed(pair, DIALER, "frame.arrived:kill:1", f"--only={FIRST}")
    assert files(pair, "meta") == []
    runs = {each: start(pair, each, "peer.masked:stop:2" if each == DIALER else "") for each in PARTIES}
    for run in runs.values():
        run.wait_for(f"{FIRST}: done in")
    for run in runs.values():
        run.send(signal.SIGKILL)
        run.result()
    assert shown(pair) == {(party, FIRST): (1, 1) for party in PARTIES}
    results = run_again(pair)
    assert (shares(results, FIRST), shares(results, SECOND)) == ([1.0, 1.0], [None, None])


@pytest.mark.slow
def test_a_last_word_that_is_not_heard_makes_no_difference(pair: Pair) -> None:
    """Both outputs of a broadcast are in place: a receiver that is killed before it knows need not run again."""
    job(pair, broadcast=True)
    killed(pair, LISTENER, "done.arrived:kill")
    assert shares(run_again(pair), FIRST) == [1.0, 1.0]


@pytest.mark.slow
def test_an_output_that_was_changed_is_made_again(alone: Pair) -> None:
    killed_in_second(alone, DIALER)
    alone.path(LISTENER, "out/first.csv").write_bytes(OLD)
    results = run_again(alone)
    assert "not used: the output has changed since" in results[LISTENER].stderr
    assert "not used: the other side does not continue from it" in results[DIALER].stderr
    assert shares(results, FIRST) == [None, None]


@pytest.mark.parametrize("point", ["output.synced:kill", "matches.found:kill"])
def test_a_receiver_killed_after_its_last_word_needs_the_sender_no_more(alone: Pair, point: str) -> None:
    failpoints = {LISTENER: point, DIALER: ""}
    runs = {party: start(alone, party, failpoints[party], f"--only={FIRST}") for party in PARTIES}
    assert runs[LISTENER].result().code == -signal.SIGKILL
    assert runs[DIALER].result().code == 0
    before = answers(alone)
    results = run_again(alone, f"--only={FIRST}")
    assert shares(results, FIRST) == [1.0, 1.0]
    assert reports(results)[DIALER][FIRST]["bytes_sent"] < 300
    assert answers(alone) == before


# What counts as a run --------------------------------------------------------------------------------------------


def limit_runs(pair: Pair, *parties: str) -> None:
    for party in parties:
        pair.jobs[party]["policy"] = {"max_runs_per_day": 1}


def refused(pair: Pair, party: str) -> None:
    """Run once more: this party does not allow it."""
    runs = {each: start(pair, each, "", f"--only={FIRST}") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    assert {each: result.code for each, result in results.items()} == {party: 79, other(party): 80}
    failed(results[party], 79, "max_runs_per_day")


def test_a_run_is_counted_once_however_often_it_is_resumed(alone: Pair) -> None:
    limit_runs(alone, *PARTIES)
    killed(alone, DIALER, MIDDLE[DIALER], f"--only={FIRST}")
    resumed_share(run_again(alone, f"--only={FIRST}"), FIRST)
    ledger = alone.start_command("ledger", "--json").result()
    entries = [entry for entry in json.loads(ledger.stdout)["tasks"] if entry["task"] == FIRST]
    assert [entry["outcome"] for entry in entries] == ["done", "done"]
    again = [start(alone, party, "", f"--only={FIRST}") for party in PARTIES]
    assert {run.result().code for run in again} & {79}


@pytest.mark.parametrize("broadcast", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_receiver_that_is_killed_after_each_bins_tokens_is_answered_twice(pair: Pair, broadcast: bool) -> None:
    """The third time the task starts afresh, and that is another run: one more than the sender allows."""
    job(pair, broadcast=broadcast)
    limit_runs(pair, DIALER)
    for times in (1, 2):
        killed(pair, LISTENER, "lists.checked:kill:1", f"--only={FIRST}")
        asked = {number: count for (_, peer, number), count in answers(pair).items() if peer == LISTENER}
        assert (asked[0], max(asked.values())) == (times, times)
    assert len(opened(pair)) == 1
    refused(pair, DIALER)
    del pair.jobs[DIALER]["policy"]
    results = run_again(pair, f"--only={FIRST}")
    assert shares(results, FIRST) == [None, None]
    assert len(opened(pair)) == 2


@pytest.mark.slow
def test_each_bin_is_answered_twice_at_most_however_a_receiver_is_killed(pair: Pair) -> None:
    """After the tokens of the first bin, of the second, …: the ledger counts every fresh start."""
    job(pair)
    for nth in (1, 2, 3, 4, 4, 3, 2, 1, 1, 2):
        point = f"lists.checked:kill:{nth}"
        runs = {each: start(pair, each, point * (each == LISTENER), f"--only={FIRST}") for each in PARTIES}
        for run in runs.values():
            run.result()
        assert_no_bin_was_answered_thrice(pair)
    assert len(opened(pair)) > 2
    assert {sid for sid, peer, _ in answers(pair) if peer == LISTENER} >= {*opened(pair)}
    run_again(pair)


# A receiver that asks again about what it has said it has received: it offers these bins alone as finished.
FORGETFUL = """
import os
from dataclasses import replace
from psicli.job.resume import Resume
find = Resume.find
def forget(self):
    kept = find(self)
    return None if kept is None else replace(kept, finished=int(os.environ["TEST_FINISHED"]))
Resume.find = forget
from psicli.cli.main import main
main()
"""


@pytest.mark.slow
def test_a_receiver_that_forgets_what_it_has_received_is_answered_twice(pair: Pair) -> None:
    job(pair, rows=80_000)
    limit_runs(pair, DIALER)

    def run(finished: int, failpoint: str) -> dict[str, Result]:
        env = {"TEST_FINISHED": str(finished), **({VARIABLE: failpoint} if failpoint else {})}
        only = f"--only={FIRST}"
        hostile = pair.start(LISTENER, "--json", "-v", only, env=env, program=("-c", FORGETFUL))
        runs = {DIALER: start(pair, DIALER, "", only), LISTENER: hostile}
        return {party: run.result() for party, run in runs.items()}

    # The first two bins are received when a frame of the fourth comes; nothing of the others is.
    assert run(0, f"frame.arrived:kill:{3 * ARRIVING + 1}")[DIALER].code == 69
    # Then the first one again, and new ones: it is received again when a frame of the third bin of this run comes.
    assert run(0b1110, f"frame.arrived:kill:{2 * ARRIVING + 1}")[DIALER].code == 69
    asked = answers(pair)
    assert {count for (_, _, number), count in asked.items() if number == 0} == {2}
    result = run(0b11110, "")[DIALER]
    failed(result, 79, "task first: alice asks a third time about items it was answered twice")
    # At most the bin that was under way beside it is answered.
    assert {number for _, _, number in answers(pair) - asked} <= {5}
    assert_no_bin_was_answered_thrice(pair)
    # Nothing is left to continue from: the next one is another run.
    refused(pair, DIALER)


def test_a_sender_that_dies_at_the_bitmaps_is_told_twice(pair: Pair) -> None:
    """In a broadcast the receiver answers, too: with the bits of the result."""
    job(pair, broadcast=True)
    limit_runs(pair, LISTENER)
    # All of the receiver's points come before the first bits; then they are all that comes.
    for frame in (BINS * BIN_FRAMES + 1, 1):
        killed(pair, DIALER, f"frame.arrived:kill:{frame}", f"--only={FIRST}")
    assert {count for (_, _, number), count in answers(pair).items() if number < 0} == {2}
    refused(pair, LISTENER)
    del pair.jobs[LISTENER]["policy"]
    assert shares(run_again(pair, f"--only={FIRST}"), FIRST) == [None, None]


# What must not be continued --------------------------------------------------------------------------------------


def spoil_input(pair: Pair, party: str = LISTENER) -> None:
    with open(pair.path(party, "in.csv"), "a") as file:
        file.write("another\n")


def touch_input(pair: Pair) -> None:
    path = pair.path(LISTENER, "in.csv")
    path.write_bytes(path.read_bytes())


def another_output(pair: Pair) -> None:
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "out/other.csv"}


def larger_bins(pair: Pair) -> None:
    pair.jobs[DIALER]["pipeline"] = {"bin_items": 32_768}
    pair.jobs[LISTENER]["pipeline"] = {"bin_items": 32_768}


def damage(name: str) -> Callable[[Pair], None]:
    def spoil(pair: Pair) -> None:
        for path in files(pair, name):
            octets = bytearray(path.read_bytes())
            octets[len(octets) // 2] ^= 1
            path.write_bytes(octets)

    return spoil


def remove(name: str) -> Callable[[Pair], None]:
    def spoil(pair: Pair) -> None:
        for path in files(pair, name):
            path.unlink()

    return spoil


def remove_bins_of_the_sender(pair: Pair) -> None:
    for path in files(pair, "meta"):
        if Manifest.from_octets(path.read_bytes()).bound_to["party"] == DIALER:
            path.with_name("bins").unlink()


def age(seconds: float) -> Callable[[Pair], None]:
    def spoil(pair: Pair) -> None:
        for path in files(pair, "meta"):
            kept = Manifest.from_octets(path.read_bytes())
            path.write_bytes(replace(kept, created=time.time() - seconds).to_octets())

    return spoil


SPOILT = {
    "input": (spoil_input, "the input has changed since"),
    "touched": (touch_input, "the input has changed since"),
    "job": (another_output, "the job file or psicli is another one since"),
    "larger bins": (larger_bins, "the other side does not continue from it"),
    "meta": (damage("meta"), "it is damaged"),
    "bins": (damage("bins"), "it is damaged"),
    "no meta": (remove("meta"), "it cannot be read: no such file or directory"),
    "a sender's bins": (remove_bins_of_the_sender, "the other side does not continue from it"),
    "old": (age(24 * 3600 + 1), "it is more than 24 hours old"),
    "from the future": (age(-3600), "it is from the future, by this machine's clock"),
}
SOON = ("input", "bins")


@pytest.mark.parametrize(
    "case", [case if case in SOON else pytest.param(case, marks=pytest.mark.slow) for case in SPOILT]
)
def test_what_is_in_doubt_is_not_continued(alone: Pair, case: str) -> None:
    killed(alone, DIALER, MIDDLE[DIALER], f"--only={FIRST}")
    assert len(files(alone, "bins")) == 2
    old = {each.partition_sid for each in manifests(alone).values()}
    spoil, why = SPOILT[case]
    spoil(alone)
    results = run_again(alone, f"--only={FIRST}")
    # What is old or damaged is swept at the start, the rest is found when the task is offered.
    said = re.compile(rf"what an earlier run has left (in \S+ is removed|is not used): {re.escape(why)}")
    assert any(said.search(result.stderr) for result in results.values()), results[LISTENER].stderr
    assert shares(results, FIRST) == [None, None]
    assert not sids(results, FIRST) & old
    assert len(opened(alone)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("party", PARTIES)
def test_a_side_that_never_resumes_starts_both_afresh(alone: Pair, party: str) -> None:
    killed(alone, DIALER, MIDDLE[DIALER])
    runs = {each: start(alone, each, "", *["--resume=never"] * (each == party)) for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    assert [result.code for result in results.values()] == [0, 0]
    assert "not used: this run is not to resume" in results[party].stderr
    assert "not used: the other side does not continue from it" in results[other(party)].stderr
    assert shares(results, FIRST) == [None, None]


def test_a_side_that_never_resumes_keeps_nothing(alone: Pair) -> None:
    runs = {each: start(alone, each, MIDDLE[DIALER] * (each == DIALER), "--resume=never") for each in PARTIES}
    # What the point stands for is never reached, for there is nothing to keep.
    for run in runs.values():
        assert run.result().code == 0
    assert files(alone, "lock") == []
    killed(alone, DIALER, "received.arrived:kill:2", "--resume=never")
    assert files(alone, "lock") == []
    assert sum(answers(alone).values()) == 0


@pytest.mark.parametrize("party", [DIALER, pytest.param(LISTENER, marks=pytest.mark.slow)])
def test_an_input_that_changes_after_the_offer_ends_the_run(alone: Pair, party: str) -> None:
    """The other side was told that it is the same."""
    killed(alone, DIALER, MIDDLE[DIALER], f"--only={FIRST}")
    alone.path(LISTENER, "out/first.csv").write_bytes(OLD)
    runs = {
        each: start(alone, each, "offer.sending:stop" if each == party else "", f"--only={FIRST}") for each in PARTIES
    }
    os.waitid(os.P_PID, runs[party].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    spoil_input(alone, party)
    runs[party].send(signal.SIGCONT)
    result = runs[party].result()
    assert result.code == 65, result.text
    assert "in.csv: the file was changed or replaced while it was read" in result.stderr
    assert runs[other(party)].result().code == 80
    assert alone.path(LISTENER, "out/first.csv").read_bytes() == OLD
    assert shares(run_again(alone, f"--only={FIRST}"), FIRST) == [None, None]


def test_a_protocol_violation_ends_what_could_be_resumed(alone: Pair) -> None:
    runs = {party: start(alone, party, "frame.sending:flip:40" if party == DIALER else "") for party in PARTIES}
    for run in runs.values():
        assert run.result().code == 76
    assert [*(alone.folder / "state").glob("task-*")] == []


@pytest.mark.parametrize(
    ("point", "said"),
    [
        (
            "bins.writing:enospc:2",
            "what is kept of this task is given up, it cannot be resumed: no space left on device",
        ),
        pytest.param(
            "bins.written:enospc:3",
            "what is kept of this task is given up, it cannot be resumed: no space left on device",
            marks=pytest.mark.slow,
        ),
        ("state.writing:enospc", "no bins can be kept, this task cannot be resumed: no space left on device"),
    ],
)
@pytest.mark.parametrize("party", ONE_SOON)
def test_on_a_full_disk_nothing_is_kept_and_the_run_goes_on(alone: Pair, party: str, point: str, said: str) -> None:
    runs = {each: start(alone, each, point if each == party else "") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    assert [result.code for result in results.values()] == [0, 0]
    assert f"{FIRST}: {said}" in results[party].stderr
    for index, (receiver, task) in enumerate(((LISTENER, FIRST), (DIALER, SECOND))):
        check_output(alone, receiver, index, f"out/{task}.csv")
    alone.nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("party", PARTIES)
def test_a_disk_that_is_full_while_a_task_is_resumed(alone: Pair, party: str) -> None:
    killed(alone, DIALER, MIDDLE[DIALER])
    runs = {each: start(alone, each, "bins.writing:enospc" if each == party else "") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    assert [result.code for result in results.values()] == [0, 0]
    assert 0 < resumed_share(results, FIRST) < 1
    assert "given up" in results[party].stderr
    check_output(alone, LISTENER, 0, "out/first.csv")


@pytest.mark.slow
def test_a_signal_keeps_what_there_is(alone: Pair) -> None:
    # Before the fourth bin begins.
    runs = {party: start(alone, party, "received.arrived:stop:2" if party == DIALER else "") for party in PARTIES}
    os.waitid(os.P_PID, runs[DIALER].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    runs[LISTENER].send(signal.SIGTERM)
    assert runs[LISTENER].result().code == 143
    runs[DIALER].kill()
    assert 0 < resumed_share(run_again(alone), FIRST) < 1


# What is on disk -------------------------------------------------------------------------------------------------

# Notes every secret order apart, since a broadcast's sender may keep them, and all points and tokens.
WATCHED = """
import os
from psicli import curve
from psicli.exchange import worker
words = open(os.environ["TEST_DRAWS"] + ".words", "ab", buffering=0)
orders = open(os.environ["TEST_DRAWS"] + ".orders", "ab", buffering=0)
def watch(name, part=lambda result: result):
    real = getattr(curve, name)
    def watched(*arguments):
        result = real(*arguments)
        words.write(part(result))
        return result
    setattr(curve, name, watched)
watch("hash_and_mask")
watch("mask", lambda result: result[0])
watch("tokens")
begin = worker.Worker.__init__
def noted(self, *arguments, **more):
    begin(self, *arguments, **more)
    orders.write(self.order_secret)
worker.Worker.__init__ = noted
"""
# The length of a token; a point is two of them [bytes].
WORD = 16


def pieces(octets: bytes, size: int = WORD) -> set[bytes]:
    return {octets[at : at + size] for at in range(0, len(octets) - size + 1, size)}


def words_in(octets: bytes) -> Iterator[bytes]:
    """Give every word that octets hold, as they are or as hex digits, wherever it begins."""
    yield from (octets[at : at + WORD] for at in range(len(octets) - WORD + 1))
    for digits in re.findall(rb"[0-9a-fA-F]{32,}", octets):
        for at in range(len(digits) - 2 * WORD + 1):
            yield bytes.fromhex(digits[at : at + 2 * WORD].decode())


def run_watched(pair: Pair, party: str, failpoint: str) -> tuple[bool, set[bytes]]:
    """Kill a party at a failpoint; return whether it came there, and all that neither may have on disk [words]."""
    secret: set[bytes] = set()
    runs = {}
    for each in PARTIES:
        env = {"TEST_DRAWS": str(pair.folder / f"{each}.draws"), **({VARIABLE: failpoint} if each == party else {})}
        runs[each] = pair.start(each, "--json", f"--only={FIRST}", env=env, program=altered(WATCHED))
    codes = {each: run.result().code for each, run in runs.items()}
    assert codes[party] in (-signal.SIGKILL, 0)
    assert codes[other(party)] in (69, 0)
    for each in PARTIES:
        noted = pair.folder / f"{each}.draws"
        drawn = [bytes.fromhex(line) for line in noted.read_text().split()]
        words, orders = (Path(f"{noted}.{kind}").read_bytes() for kind in ("words", "orders"))
        mine = pieces(words) | {word for draw in drawn for word in pieces(draw)}
        if pair.jobs[each]["tasks"][0]["broadcast_result"] and each == DIALER:
            mine -= pieces(orders)
        secret |= mine
    return codes[party] != 0, secret


POINTS = ("bins.writing", "bins.written", "bins.wiped", "state.writing", "state.written", "state.synced",
          "state.renamed", "state.kept")  # fmt: skip


def search_after(pair: Pair, party: str, failpoint: str) -> bool:
    """Search every file of the state folder; return whether the party came to the failpoint."""
    reached, secret = run_watched(pair, party, failpoint)
    found = [path for path in (pair.folder / "state").rglob("*") if path.is_file()]
    assert {path.name for path in found} >= {"ledger.jsonl"}
    for path in found:
        assert not secret & {*words_in(path.read_bytes())}, path
    return reached


@pytest.mark.parametrize("broadcast", [False, True])
def test_no_secret_is_on_disk_where_bins_are_kept(pair: Pair, broadcast: bool) -> None:
    """Not at the point where most is there: neither scalar, nor point, nor token, nor an order it need not have."""
    job(pair, broadcast=broadcast)
    assert search_after(pair, LISTENER, "bins.written:kill:3")
    assert len(files(pair, "bins")) == 2
    assert all((pair.folder / f"{party}.draws.words").stat().st_size > ROWS * WORD for party in PARTIES)
    # The search would find it.
    kept = manifests(pair)[DIALER, FIRST]
    octets = next(path for path in files(pair, "bins") if path.stat().st_size <= kept.slot_bytes * BINS).read_bytes()
    orders = pieces((pair.folder / f"{DIALER}.draws.orders").read_bytes())
    assert bool(orders & {*words_in(octets)}) is broadcast


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize("broadcast", [False, True])
def test_no_secret_is_on_disk_at_any_passage(pair: Pair, broadcast: bool, party: str, point: str) -> None:
    job(pair, broadcast=broadcast)
    nth = 1
    while search_after(pair, party, f"{point}:kill:{nth}"):
        nth += 1
        # Each run is one of its own.
        for path in (*(pair.folder / "state").glob("task-*/*"), *pair.folder.glob("*.draws*")):
            path.unlink()
    assert nth > 1 or (point, broadcast, party) == ("bins.wiped", False, LISTENER)


def test_what_is_kept_has_a_size_that_tells_nothing(pair: Pair) -> None:
    """All match, half do, or none: the files are as long, byte for byte."""
    sizes: list[dict[str, int]] = []
    for common in (ROWS, ROWS // 2, 0):
        for party, first in zip(PARTIES, (0, ROWS - common), strict=True):
            data = csv_data(["id"], ([f"row-{row:06}"] for row in range(first, first + ROWS)))
            pair.path(party, "in.csv").write_bytes(data)
            pair.jobs[party]["pipeline"] = dict(PIPELINE)
            pair.jobs[party]["tasks"] = []
        sides = [Side(["id"], "in.csv", "out/first.csv") for _ in PARTIES]
        pair.add(FIRST, *sides, receiver=LISTENER, broadcast_result=True)
        # Where the first bits are about to leave: all bins are there.
        killed(pair, LISTENER, "ledger.synced:kill:2")
        assert shown(pair) == {(party, FIRST): (BINS, BINS) for party in PARTIES}
        names = {path: Manifest.from_octets(path.with_name("meta").read_bytes()) for path in files(pair, "bins")}
        sizes.append({kept.bound_to["party"]: path.stat().st_size for path, kept in names.items()})
        for path in (pair.folder / "state").rglob("task-*/*"):
            path.unlink()
    assert sizes[0] == sizes[1] == sizes[2]
