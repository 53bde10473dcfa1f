"""Runs that resume a killed run, with real processes and real kills."""

from __future__ import annotations

import json
import signal

import pytest
from support.jobs.resumed import (
    ARRIVING,
    BIN_FRAMES,
    BINS,
    FIRST,
    MIDDLE,
    ROWS,
    SECOND,
    answers,
    assert_no_bin_was_answered_thrice,
    files,
    job,
    killed,
    killed_in_second,
    manifests,
    opened,
    reports,
    resumed_share,
    run_again,
    shares,
    shown,
    sids,
    start,
)
from support.processes.altered import forget_received, program
from support.processes.expectations import OLD, failed, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, failing_at, other

# The other of the two similar cases is for `make test-slow`.
ONE_SOON = [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)]


@pytest.fixture(params=["ecdh", "rr22"])
def protocol(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=[False, True], ids=["one-sided", "broadcast"])
def resumable(pair: Pair, request: pytest.FixtureRequest, protocol: str) -> Pair:
    return job(pair, broadcast=request.param, protocol=protocol)


@pytest.fixture
def alone(pair: Pair, protocol: str) -> Pair:
    """Return a job of one-sided tasks."""
    return job(pair, protocol=protocol)


# Resumed tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.more
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
        assert f"{FIRST}: resuming an earlier run at {100 * share:.0f} %" in results[each].stderr
    # The next run starts afresh.
    assert shares(run_again(resumable), FIRST) == [None, None]


@pytest.mark.sample(1)
def test_the_finished_bins_are_not_exchanged_again(alone: Pair) -> None:
    killed(alone, LISTENER, MIDDLE[LISTENER], f"--only={FIRST}")
    before = answers(alone)
    results = run_again(alone, f"--only={FIRST}")
    again = answers(alone) - before
    share = resumed_share(results, FIRST)
    # The run exchanges the bins after those that the receiver had finished, in order.
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
    """Kill a receiver when a bin's result is on disk, or a sender when the receiver has confirmed the bin."""
    point = f"bins.written:kill:{number}" if party == LISTENER else f"received.arrived:kill:{number}"
    killed(resumable, party, point)
    share = resumed_share(run_again(resumable), FIRST)
    assert share >= (number if party == LISTENER else number - 1) / BINS


@pytest.mark.slow
@pytest.mark.parametrize("party", PARTIES)
def test_killed_again_and_again(pair: Pair, party: str) -> None:
    """Every run gets further than the one before, and only the first starts afresh."""
    bins = 16
    job(pair, rows=bins * ROWS // BINS)
    before, partitions = 0, set()
    for _ in range(4):
        # The first frame of a run's fourth bin arrives only when the first two bins are received.
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
def test_frame_size_memory_and_threads_may_change(alone: Pair) -> None:
    killed(alone, DIALER, MIDDLE[DIALER])
    alone.jobs[DIALER]["pipeline"].update(frame_items=1024, threads=1)
    alone.jobs[LISTENER]["pipeline"].update(memory="384MB", depth=1)
    assert 0 < resumed_share(run_again(alone), FIRST) < 1


# Finished tasks --------------------------------------------------------------------------------------------------


@pytest.mark.more
@pytest.mark.parametrize("party", ONE_SOON)
def test_a_task_that_is_done_is_not_run_again(resumable: Pair, party: str) -> None:
    """When a run is killed in the second task, the next run does not even read the first task's input."""
    killed_in_second(resumable, party)
    written = {path: path.stat().st_mtime_ns for path in resumable.folder.glob("*/out/first.csv")}
    assert written
    kept = shown(resumable)
    assert kept[LISTENER, FIRST] == kept[DIALER, FIRST] == (BINS, BINS)
    results = run_again(resumable)
    assert shares(results, FIRST) == [1.0, 1.0]
    # If the sender had already sent everything, the second task is complete too: the receiver finished it alone.
    assert resumed_share(results, SECOND) > 0
    for each in PARTIES:
        assert "done by an earlier run; input and output are unchanged" in results[each].stderr
        assert f"{FIRST}: reading" not in results[each].stderr
        assert reports(results)[each][FIRST]["bytes_sent"] < 300
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert the_object(results[LISTENER].stdout)["tasks"][0]["matched"] == 3 * ROWS // 4
    # After a run that exited with 0, the next run runs every task again.
    again = run_again(resumable)
    assert shares(again, FIRST) == shares(again, SECOND) == [None, None]
    assert f"{FIRST}: reading" in again[LISTENER].stderr
    assert {path for path, at in written.items() if path.stat().st_mtime_ns == at} == set()


@pytest.mark.more
def test_a_small_task_that_is_done_is_not_run_again_either(pair: Pair) -> None:
    """An unfinished task of one bin has no checkpoint, but its result is kept like that of any other task."""
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
def test_a_lost_last_message_makes_no_difference(pair: Pair) -> None:
    """Both outputs of a broadcast are in place, so a receiver that is killed before Done arrives need not run again."""
    job(pair, broadcast=True)
    killed(pair, LISTENER, "done.arrived:kill")
    assert shares(run_again(pair), FIRST) == [1.0, 1.0]


@pytest.mark.slow
def test_an_output_that_was_changed_is_written_again(alone: Pair) -> None:
    killed_in_second(alone, DIALER)
    alone.path(LISTENER, "out/first.csv").write_bytes(OLD)
    results = run_again(alone)
    assert "an earlier run: the output has changed since" in results[LISTENER].stderr
    assert "an earlier run: the other party does not resume from it" in results[DIALER].stderr
    assert shares(results, FIRST) == [None, None]


@pytest.mark.more
@pytest.mark.parametrize("point", ["output.synced:kill", "matches.found:kill"])
def test_a_receiver_killed_after_its_last_message_does_not_need_the_sender(alone: Pair, point: str) -> None:
    failpoints = {LISTENER: point, DIALER: ""}
    runs = {party: start(alone, party, failpoints[party], f"--only={FIRST}") for party in PARTIES}
    assert runs[LISTENER].result().code == -signal.SIGKILL
    assert runs[DIALER].result().code == 0
    before = answers(alone)
    results = run_again(alone, f"--only={FIRST}")
    assert shares(results, FIRST) == [1.0, 1.0]
    assert reports(results)[DIALER][FIRST]["bytes_sent"] < 300
    assert answers(alone) == before


# Which runs the ledger counts ------------------------------------------------------------------------------------


def limit_runs(pair: Pair, *parties: str) -> None:
    for party in parties:
        pair.jobs[party]["policy"] = {"max_runs_per_day": 1}


def refused(pair: Pair, party: str) -> None:
    """Run again and check that this party refuses."""
    runs = {each: start(pair, each, "", f"--only={FIRST}") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    assert {each: result.code for each, result in results.items()} == {party: 79, other(party): 80}
    failed(results[party], 79, "max_runs_per_day")


@pytest.mark.more
def test_a_run_is_counted_once_however_often_it_is_resumed(alone: Pair) -> None:
    limit_runs(alone, *PARTIES)
    killed(alone, DIALER, MIDDLE[DIALER], f"--only={FIRST}")
    resumed_share(run_again(alone, f"--only={FIRST}"), FIRST)
    ledger = alone.start_command("ledger", "--json").result()
    entries = [entry for entry in json.loads(ledger.stdout)["tasks"] if entry["task"] == FIRST]
    assert [entry["outcome"] for entry in entries] == ["done", "done"]
    again = [start(alone, party, "", f"--only={FIRST}") for party in PARTIES]
    assert {run.result().code for run in again} & {79}


@pytest.mark.more
@pytest.mark.parametrize("broadcast", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_receiver_that_is_killed_after_each_bins_tokens_is_answered_twice(pair: Pair, broadcast: bool) -> None:
    """The third time the task starts afresh, which counts as another run and exceeds the sender's limit."""
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
    """The test kills the receiver after the tokens of different bins; the ledger counts every fresh start."""
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


@pytest.mark.slow
def test_a_receiver_that_forgets_what_it_has_received_is_answered_twice(pair: Pair) -> None:
    job(pair, rows=80_000)
    limit_runs(pair, DIALER)

    def run(finished: int, failpoint: str) -> dict[str, Result]:
        env = {"TEST_FINISHED": str(finished), **failing_at(failpoint)}
        only = f"--only={FIRST}"
        hostile = pair.start(LISTENER, "--json", "-v", only, env=env, program=program(forget_received))
        runs = {DIALER: start(pair, DIALER, "", only), LISTENER: hostile}
        return {party: run.result() for party, run in runs.items()}

    # When a frame of the fourth bin arrives, the first two bins are received and no others.
    assert run(0, f"frame.arrived:kill:{3 * ARRIVING + 1}")[DIALER].code == 69
    # This run asks for the first bin again. When a frame of the run's fifth bin arrives, its first three bins are
    # received: 0, 2 and 3.
    assert run(0b10, f"frame.arrived:kill:{4 * ARRIVING + 1}")[DIALER].code == 69
    asked = answers(pair)
    assert {count for (_, _, number), count in asked.items() if number == 0} == {2}
    result = run(0b1110, "")[DIALER]
    failed(result, 79, "task first: alice asked a third time about items for which it already got two answers")
    # The sender answers at most one other bin, which was under way at the same time.
    assert {number for _, _, number in answers(pair) - asked} <= {4}
    assert_no_bin_was_answered_thrice(pair)
    # No checkpoint is left, so the next run counts as another one.
    refused(pair, DIALER)


@pytest.mark.more
def test_a_sender_that_is_killed_at_the_bitmaps_is_answered_twice(pair: Pair) -> None:
    """In a broadcast the receiver answers too, with the bits of the result."""
    job(pair, broadcast=True)
    limit_runs(pair, LISTENER)
    # In the first run all of the receiver's points arrive before the first bits; the second run sends only the bits.
    for frame in (BINS * BIN_FRAMES + 1, 1):
        killed(pair, DIALER, f"frame.arrived:kill:{frame}", f"--only={FIRST}")
    assert {count for (_, _, number), count in answers(pair).items() if number < 0} == {2}
    refused(pair, LISTENER)
    del pair.jobs[LISTENER]["policy"]
    assert shares(run_again(pair, f"--only={FIRST}"), FIRST) == [None, None]
