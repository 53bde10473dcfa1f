"""Checkpoints that must not be resumed: the next run starts afresh or fails."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.jobs.resumed import (
    FIRST,
    MIDDLE,
    SECOND,
    answers,
    files,
    job,
    killed,
    manifests,
    opened,
    resumed_share,
    run_again,
    shares,
    sids,
    start,
)
from support.processes.expectations import OLD, check_output
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, other

from psicli.exchange.finished import Manifest

# The other of the two similar cases is for `make test-slow`.
ONE_SOON = [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)]


@pytest.fixture
def alone(pair: Pair) -> Pair:
    """Return a job of one-sided tasks."""
    return job(pair)


# Checkpoints that must not be resumed ----------------------------------------------------------------------------


def spoil_input(pair: Pair, party: str = LISTENER) -> None:
    with open(pair.path(party, "in.csv"), "a") as file:
        file.write("another\n")


def touch_input(pair: Pair) -> None:
    path = pair.path(LISTENER, "in.csv")
    path.write_bytes(path.read_bytes())


def another_output(pair: Pair) -> None:
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "out/other.csv"}


def another_form(pair: Pair) -> None:
    for each in pair.jobs.values():
        each["tasks"][0]["key_form"] = "trim"


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
    "job": (another_output, "the job file or the version of psicli has changed since"),
    "form": (another_form, "the job file or the version of psicli has changed since"),
    "larger bins": (larger_bins, "the other party does not resume from it"),
    "meta": (damage("meta"), "it is damaged"),
    "bins": (damage("bins"), "it is damaged"),
    "no meta": (remove("meta"), "it cannot be read: no such file or directory"),
    "a sender's bins": (remove_bins_of_the_sender, "the other party does not resume from it"),
    "old": (age(24 * 3600 + 1), "it is more than 24 hours old"),
    "from the future": (age(-3600), "its date is in the future by this machine's clock"),
}
SOON = ("input", "form", "bins")


@pytest.mark.more
@pytest.mark.parametrize(
    "case", [case if case in SOON else pytest.param(case, marks=pytest.mark.slow) for case in SPOILT]
)
def test_a_doubtful_checkpoint_is_not_resumed(alone: Pair, case: str) -> None:
    killed(alone, DIALER, MIDDLE[DIALER], f"--only={FIRST}")
    assert len(files(alone, "bins")) == 2
    old = {each.partition_sid for each in manifests(alone).values()}
    spoil, why = SPOILT[case]
    spoil(alone)
    results = run_again(alone, f"--only={FIRST}")
    # A run removes old and damaged checkpoints when it starts, and finds other mismatches when it offers the task.
    said = re.compile(rf"(removed the checkpoint in|not resuming from) .*: {re.escape(why)}")
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
    assert "an earlier run: this run does not resume the task" in results[party].stderr
    assert "an earlier run: the other party does not resume from it" in results[other(party)].stderr
    assert shares(results, FIRST) == [None, None]


@pytest.mark.more
def test_a_side_that_never_resumes_keeps_nothing(alone: Pair) -> None:
    runs = {each: start(alone, each, MIDDLE[DIALER] * (each == DIALER), "--resume=never") for each in PARTIES}
    # The run never reaches the failpoint, since it keeps no checkpoint.
    for run in runs.values():
        assert run.result().code == 0
    assert files(alone, "lock") == []
    killed(alone, DIALER, "received.arrived:kill:2", "--resume=never")
    assert files(alone, "lock") == []
    assert sum(answers(alone).values()) == 0


@pytest.mark.more
@pytest.mark.parametrize("party", [DIALER, pytest.param(LISTENER, marks=pytest.mark.slow)])
def test_an_input_that_changes_after_the_offer_ends_the_run(alone: Pair, party: str) -> None:
    """By then the party has told its peer that the input is unchanged."""
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
    assert "in.csv: the file was changed or replaced while psicli was reading it" in result.stderr
    assert runs[other(party)].result().code == 80
    assert alone.path(LISTENER, "out/first.csv").read_bytes() == OLD
    assert shares(run_again(alone, f"--only={FIRST}"), FIRST) == [None, None]


@pytest.mark.more
def test_after_a_protocol_violation_nothing_is_resumed(alone: Pair) -> None:
    runs = {party: start(alone, party, "frame.sending:flip:40" if party == DIALER else "") for party in PARTIES}
    for run in runs.values():
        assert run.result().code == 76
    assert [*(alone.folder / "state").glob("task-*")] == []


@pytest.mark.more
@pytest.mark.parametrize(
    ("point", "said"),
    [
        (
            "bins.writing:enospc:2",
            "dropped the checkpoint, so this task cannot be resumed: no space left on device",
        ),
        pytest.param(
            "bins.written:enospc:3",
            "dropped the checkpoint, so this task cannot be resumed: no space left on device",
            marks=pytest.mark.slow,
        ),
        ("state.writing:enospc", "cannot write a checkpoint, so this task cannot be resumed: no space left on device"),
    ],
)
@pytest.mark.parametrize("party", ONE_SOON)
def test_with_a_full_disk_a_run_continues_without_a_checkpoint(alone: Pair, party: str, point: str, said: str) -> None:
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
    assert "dropped the checkpoint" in results[party].stderr
    check_output(alone, LISTENER, 0, "out/first.csv")


@pytest.mark.slow
def test_a_signal_keeps_the_finished_bins(alone: Pair) -> None:
    # Stop before the fourth bin begins.
    runs = {party: start(alone, party, "received.arrived:stop:2" if party == DIALER else "") for party in PARTIES}
    os.waitid(os.P_PID, runs[DIALER].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    runs[LISTENER].send(signal.SIGTERM)
    assert runs[LISTENER].result().code == 143
    runs[DIALER].kill()
    assert 0 < resumed_share(run_again(alone), FIRST) < 1
