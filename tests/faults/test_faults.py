"""Faults on purpose: killed, stopped, failing, or with a full disk at every point; a damaged wire; a peer that hangs.

What holds everywhere: each side has the right result, or a nonzero exit and its old output; it ends within its time;
and the next run succeeds and leaves nothing of the last one.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.processes.certificates import issue
from support.processes.expectations import OLD, check_output, csv_data, failed, succeeded, the_object
from support.processes.proxy import Proxy
from support.processes.runner import DIALER, LISTENER, PARTIES, SLOWLY, Pair, Result, Run, Side, free_ports, other

from psicli.core.failpoints import CARRYING, POINTS, VARIABLE

# From the death of a side to the end of the other, where they had met [s].
KILLED_WITHIN = 15.0
# Who still runs so long after the other has ended has not met it, and waits for it [s].
GRACE = 2.0
# Broadcast and one-sided, so that each party receives once and sends once.
BOTH, ALONE = "both", "alone"

SPOOL = tuple(point for point in POINTS if point.startswith("spool."))
# What is passed where finished bins are kept, and where the result of a task is.
BINS = tuple(point for point in POINTS if point.startswith("bins."))
STATE = tuple(point for point in POINTS if point.startswith("state."))
# What only one of the parties does in a good run of the job below, or none.
ONLY = {
    "port.bound": LISTENER, "commit.sending": LISTENER, "peer.dialled": DIALER, "commit.arrived": DIALER,
    "abort.sending": None, "abort.arrived": None, "reconnect.dialled": None, "reconnect.answered": None,
    "restart.sending": None, "restart.arrived": None, "working.sending": None, "working.arrived": None,
    **dict.fromkeys(SPOOL + BINS),
}  # fmt: skip
CASES = [(point, party) for point in POINTS for party in PARTIES if ONLY.get(point, party) == party]
BINS_CASES = [(point, party) for point in BINS for party in PARTIES]
RESUME_CASES = [*CASES, *BINS_CASES]
SPOOL_CASES = [(point, party) for point in SPOOL for party in PARTIES]

# Of what is the same on both sides, make test sees one.
ONE_SOON = [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)]
OUTPUTS = {LISTENER: [BOTH], DIALER: [BOTH, ALONE]}
# Leaves 5 of 384 MB for data: what 384MB are to larger inputs.
WITHOUT_MEMORY = """
from psicli.core import memory
memory.LIBRARIES = 379_000_000
from psicli.cli.main import main
main()
"""


# The job ---------------------------------------------------------------------------------------------------------


def job(pair: Pair, rows: int = 2500, **pipeline: object) -> Pair:
    """Two tasks of so many rows a party, three quarters of them in common, over outputs of a run before."""
    for party, start in zip(PARTIES, (0, rows // 4), strict=True):
        data = csv_data(["id"], ([f"row-{row}"] for row in range(start, start + rows)))
        pair.path(party, "in.csv").write_bytes(data)
        pair.jobs[party]["pipeline"] = pipeline or {"frame_items": 1024}
    for task, receiver, broadcast in ((BOTH, LISTENER, True), (ALONE, DIALER, False)):
        sides = [Side(["id"], "in.csv", f"out/{task}.csv" if task in OUTPUTS[party] else None) for party in PARTIES]
        pair.add(task, *sides, receiver=receiver, broadcast_result=broadcast)
    renew_outputs(pair)
    return pair


@pytest.fixture
def faulty(pair: Pair) -> Pair:
    """The job above."""
    return job(pair)


@pytest.fixture
def resuming(pair: Pair) -> Pair:
    """The same with tasks of four bins, which can be resumed."""
    return job(pair, 40_000, bin_items=16_384, frame_items=4096)


@pytest.fixture
def spooling(pair: Pair) -> Pair:
    """The same with more rows than the memory it is given holds."""
    pair.program = ("-c", WITHOUT_MEMORY)
    return job(pair, 16_000, memory="384MB")


def renew_outputs(pair: Pair) -> None:
    for party, tasks in OUTPUTS.items():
        for task in tasks:
            pair.path(party, f"out/{task}.csv").write_bytes(OLD)


def start_both(pair: Pair, party: str, failpoint: str) -> dict[str, Run]:
    """Start both parties, one of them with a failpoint."""
    return {each: pair.start(each, "--json", env={VARIABLE: failpoint} if each == party else {}) for each in PARTIES}


def ends(runs: dict[str, Run], party: str) -> tuple[Result, Result | None]:
    """Wait for the end of a party with a fault, and of the other: None where it waits for one that never came."""
    mine, peer = runs[party].result(), runs[other(party)]
    if not peer.said("in session with") and peer.lasts(GRACE):
        return mine, None
    theirs = peer.result()
    assert theirs.ended - mine.ended < KILLED_WITHIN
    return mine, theirs


def all_right(pair: Pair, results: dict[str, Result]) -> None:
    for result in results.values():
        assert result.code == 0, result.text
    for party, tasks in OUTPUTS.items():
        for task in tasks:
            check_output(pair, party, (BOTH, ALONE).index(task), f"out/{task}.csv")


def next_run_is_good(pair: Pair, waiting: dict[str, Run] | None = None) -> None:
    """Run again whoever does not wait already: all is right, and nothing is left of any run."""
    started = time.monotonic()
    waiting = waiting or {}
    runs = {party: waiting.get(party) or pair.start(party, "--json") for party in PARTIES}
    for run in waiting.values():
        result = run.result()
        if result.code:
            # It had met the one with the fault after all, and was slow to end.
            assert result.ended - started < KILLED_WITHIN
            for each in runs.values():
                each.kill()
            next_run_is_good(pair)
            return
    all_right(pair, {party: run.result() for party, run in runs.items()})
    pair.nothing_left()


def new_outputs(pair: Pair, party: str) -> set[str]:
    """Return the tasks whose output is the new one, which must be right; any other must be the old one."""
    found = set()
    for task in OUTPUTS[party]:
        name = f"out/{task}.csv"
        if pair.path(party, name).read_bytes() != OLD:
            check_output(pair, party, (BOTH, ALONE).index(task), name)
            found.add(task)
    return found


def check_survivor(pair: Pair, party: str, result: Result, codes: set[int]) -> None:
    """Check a side that had no fault of its own: done, or failed for the peer, and outputs as its report says."""
    report = the_object(result.stdout)
    done = {task["name"] for task in report["tasks"] if task["status"] == "done"}
    assert new_outputs(pair, party) == done & set(OUTPUTS[party]), result.text
    if done == {BOTH, ALONE}:
        assert result.code == 0, result.text
    else:
        assert result.code in codes, result.text
        failed(result, result.code, other(party))
        assert report["error"]["party"] == other(party)


# Killed at every point -------------------------------------------------------------------------------------------


def is_killed_there(pair: Pair, point: str, party: str, nth: int) -> bool:
    """Kill a party at the nth passage, and run again; return whether it came there."""
    renew_outputs(pair)
    runs = start_both(pair, party, f"{point}:kill:{nth}")
    victim, survivor = ends(runs, party)
    if victim.code == 0:
        assert survivor is not None
        all_right(pair, {party: victim, other(party): survivor})
        return False
    assert victim.code == -signal.SIGKILL, victim.text
    go_on(pair, runs, party, survivor)
    return True


def go_on(pair: Pair, runs: dict[str, Run], party: str, survivor: Result | None) -> None:
    """Check what a party that was killed has left, and run again."""
    new_outputs(pair, party)
    if survivor is None:
        next_run_is_good(pair, {other(party): runs[other(party)]})
    else:
        check_survivor(pair, other(party), survivor, {69})
        next_run_is_good(pair)


def until_not_reached(pair: Pair, point: str, party: str) -> None:
    """Kill at the first passage, the second, …: all of a point that is passed a few times, ever fewer of the others."""
    assert is_killed_there(pair, point, party, 1)
    nth = 2
    while is_killed_there(pair, point, party, nth):
        nth += 1 + nth // 4


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), CASES)
def test_killed_at_every_passage_of_every_point(faulty: Pair, point: str, party: str) -> None:
    until_not_reached(faulty, point, party)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), SPOOL_CASES)
def test_killed_at_every_passage_of_the_spool(spooling: Pair, point: str, party: str) -> None:
    until_not_reached(spooling, point, party)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), RESUME_CASES)
def test_killed_at_every_passage_where_tasks_are_resumed(resuming: Pair, point: str, party: str) -> None:
    until_not_reached(resuming, point, party)


@pytest.mark.parametrize(("point", "party"), random.Random(6).sample(RESUME_CASES, 2))
def test_killed_at_some_points_where_tasks_are_resumed(resuming: Pair, point: str, party: str) -> None:
    assert is_killed_there(resuming, point, party, 1)


@pytest.mark.parametrize(("point", "party"), random.Random(5).sample(CASES, 3))
def test_killed_at_some_points(faulty: Pair, point: str, party: str) -> None:
    assert is_killed_there(faulty, point, party, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), [("abort.sending", DIALER), ("abort.arrived", LISTENER)])
def test_killed_while_a_failure_is_told(faulty: Pair, point: str, party: str) -> None:
    away = faulty.path(DIALER, "in.csv").rename(faulty.path(DIALER, "away.csv"))
    runs = start_both(faulty, party, f"{point}:kill")
    assert runs[party].result().code == -signal.SIGKILL
    if party == LISTENER:
        failed(runs[DIALER].result(), 66, "no such file")
    away.rename(faulty.path(DIALER, "in.csv"))
    assert [new_outputs(faulty, each) for each in PARTIES] == [set(), set()]
    next_run_is_good(faulty, {LISTENER: runs[LISTENER]} if party == DIALER else None)


@pytest.mark.parametrize(
    ("point", "leftover"),
    [("input.checked", "stdin.csv"), pytest.param("output.synced", "*stdout.csv*", marks=pytest.mark.slow)],
)
def test_killed_while_standard_input_and_output_are_put_aside(faulty: Pair, point: str, leftover: str) -> None:
    task = faulty.jobs[DIALER]["tasks"][0]
    task.update(input_path={DIALER: "-"}, output_path={DIALER: "-"})
    given = faulty.path(DIALER, "in.csv").read_bytes()
    # Of its own, so that the other side does not remove what is looked for here.
    state = faulty.folder / "own"
    how: dict[str, Any] = {"stdin": given, "env": {"PSICLI_STATE_DIR": str(state)}}
    killed = {"stdin": given, "env": {**how["env"], VARIABLE: f"{point}:kill"}}
    runs = {LISTENER: faulty.start(LISTENER), DIALER: faulty.start(DIALER, **killed)}
    victim, survivor = ends(runs, DIALER)
    assert victim.code == -signal.SIGKILL
    assert len(list(state.glob(f"run-*/{leftover}"))) == 1
    alice = runs[LISTENER] if survivor is None else faulty.start(LISTENER)
    succeeded([faulty.start(DIALER, **how).result(), alice.result()])
    assert list(state.glob("run-*")) == []
    faulty.nothing_left()


# Killed at any moment --------------------------------------------------------------------------------------------


def kill_at_random(pair: Pair, rounds: int, seed: int, good_run_every: int) -> None:
    """Kill a side at a random moment from its start on, again and again."""
    draw = random.Random(seed)
    for number in range(1, rounds + 1):
        renew_outputs(pair)
        runs = {party: pair.start(party, "--json") for party in PARTIES}
        party = draw.choice(PARTIES)
        if draw.random() < 0.7:
            runs[party].wait_for("in session with")
            runs[party].lasts(draw.uniform(0.0, 0.5))
        else:
            runs[party].lasts(draw.uniform(0.0, 1.5))
        runs[party].send(signal.SIGKILL)
        victim, survivor = ends(runs, party)
        assert victim.code in (0, -signal.SIGKILL)
        if survivor is None or number % good_run_every == 0:
            go_on(pair, runs, party, survivor)
        else:
            new_outputs(pair, party)
            check_survivor(pair, other(party), survivor, {69})


def test_five_random_kills_in_a_row(faulty: Pair) -> None:
    kill_at_random(faulty, 5, 1, good_run_every=5)


@pytest.mark.slow
def test_two_hundred_random_kills_in_a_row(faulty: Pair) -> None:
    kill_at_random(faulty, 200, 2, good_run_every=1)


@pytest.mark.slow
def test_two_hundred_random_kills_where_tasks_are_resumed(resuming: Pair) -> None:
    kill_at_random(resuming, 200, 3, good_run_every=2)


# An exception or a full disk at every point ----------------------------------------------------------------------

# The codes of a full disk where something is written; anywhere else nobody expects one.
NO_SPACE = {
    "ledger.appended": 74, "ledger.synced": 74, "output.created": 73, "output.written": 74, "output.synced": 74,
    "output.renamed": 74, "output.kept": 74, "report.written": 74, "spool.created": 73, "spool.reserved": 74,
    "spool.written": 74, "spool.read": 74,
}  # fmt: skip
# The new output is in place and whole when this fails.
IN_PLACE = {"output.renamed", "output.kept", "done.sending", "bins.wiped", *STATE}
# What a full disk leaves no room for is not kept, and the run goes on.
GIVEN_UP = {*BINS, *STATE}
# Where the listener takes whoever is there for a stranger, and the dialer tries again.
STRANGER = {("hello.arrived", LISTENER), ("hello.sending", LISTENER), ("link.arriving", LISTENER)}


def fail_at(pair: Pair, point: str, party: str, action: str) -> None:
    """Both sides end in time, say the first cause, and leave nothing."""
    runs = start_both(pair, party, f"{point}:{action}")
    mine, theirs = ends(runs, party)
    if (point, party) in STRANGER or (action == "enospc" and point in GIVEN_UP):
        assert theirs is not None
        all_right(pair, {party: mine, other(party): theirs})
        assert point not in GIVEN_UP or "cannot be resumed: no space left on device" in mine.stderr
    else:
        check_failed(pair, point, party, mine, action)
        if theirs is None:
            next_run_is_good(pair, {other(party): runs[other(party)]})
        else:
            check_survivor(pair, other(party), theirs, {69, 80})
    pair.nothing_left()


def check_failed(pair: Pair, point: str, party: str, result: Result, action: str) -> None:
    """Check a side that failed by itself: its code, its first cause, and outputs as its report says."""
    code = NO_SPACE.get(point, 70) if action == "enospc" else 70
    assert result.code == code, result.text
    if point == "report.written":
        return
    report = the_object(result.stdout)
    unexpected = "an unexpected " + {"raise": "RuntimeError", "enospc": "OSError"}[action]
    assert (unexpected if code == 70 else "no space left on device") in report["error"]["message"]
    done = {task["name"] for task in report["tasks"] if task["status"] == "done"} & set(OUTPUTS[party])
    new = new_outputs(pair, party)
    assert new == done or (point in IN_PLACE and new > done)


FAILURES = [(*case, action) for case in CASES for action in ("raise", "enospc")]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party", "action"), FAILURES)
def test_a_failure_at_every_point(faulty: Pair, point: str, party: str, action: str) -> None:
    fail_at(faulty, point, party, action)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), SPOOL_CASES)
@pytest.mark.parametrize("action", ["raise", "enospc"])
def test_a_failure_at_every_point_of_the_spool(spooling: Pair, point: str, party: str, action: str) -> None:
    fail_at(spooling, point, party, action)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), [*BINS_CASES, *((point, party) for point in STATE for party in PARTIES)])
@pytest.mark.parametrize("action", ["raise", "enospc"])
def test_a_failure_where_bins_are_kept(resuming: Pair, point: str, party: str, action: str) -> None:
    fail_at(resuming, point, party, action)


@pytest.mark.parametrize(("point", "party", "action"), random.Random(10).sample(FAILURES, 3))
def test_a_failure_at_some_points(faulty: Pair, point: str, party: str, action: str) -> None:
    fail_at(faulty, point, party, action)


# Another byte ----------------------------------------------------------------------------------------------------


def flip_at(pair: Pair, point: str, party: str, nth: int = 1) -> tuple[Result, Result]:
    """Change a byte that this party sends or takes in; return its own result and the other's."""
    results = {each: run.result() for each, run in start_both(pair, party, f"{point}:flip:{nth}").items()}
    pair.nothing_left()
    for each in PARTIES:
        new_outputs(pair, each)
    return results[party], results[other(party)]


@pytest.mark.parametrize("party", ONE_SOON)
def test_a_frame_with_another_byte_is_found(faulty: Pair, party: str) -> None:
    mine, theirs = flip_at(faulty, "frame.sending", party, 2)
    # The one sees it in the digest of the stream, the other in what is confirmed; whoever is first says so.
    failed(mine, 76, "broke the protocol")
    failed(theirs, 76, "broke the protocol")
    assert [new_outputs(faulty, each) for each in PARTIES] == [set(), set()]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), [case for case in CASES if case[0] in CARRYING and case not in STRANGER])
def test_any_message_with_another_byte_is_found(faulty: Pair, point: str, party: str) -> None:
    mine, theirs = flip_at(faulty, point, party)
    assert {mine.code, theirs.code} == {76} or 78 in (mine.code, theirs.code), mine.text + theirs.text


# A peer that hangs, and a wire that breaks -----------------------------------------------------------------------

# A stopped process, and a wire that loses all, are found by pings within this time [s].
FOUND_WITHIN = 90.0
# So long a test lets a side hear nothing before it gives up, where that is not what is measured [ms].
IMPATIENT = 2000
# So long it waits for a connection that broke, where it is to come back or to be given up for a better reason [ms].
PATIENT = 600_000
# Rows that keep a run busy while a test breaks the wire; fewer, where it is broken at once and run to its end.
BUSY_ROWS = 40_000
SOME_ROWS = 6_000


@pytest.mark.slow
@pytest.mark.parametrize("party", PARTIES)
def test_a_party_that_is_stopped_is_found(faulty: Pair, party: str) -> None:
    for each in PARTIES:
        faulty.link(each, recv_timeout_ms=300_000, reconnect_window_ms=PATIENT)
    runs = start_both(faulty, party, "frame.sending:stop:2")
    survivor = runs[other(party)]
    survivor.lasts(FOUND_WITHIN)
    result = survivor.result()
    assert result.ended - survivor.started < FOUND_WITHIN
    check_survivor(faulty, other(party), result, {69})
    runs[party].send(signal.SIGCONT)
    failed(runs[party].result(), 69, f"{other(party)} went away")
    next_run_is_good(faulty)


@contextmanager
def proxied(folder: Path, rows: int = BUSY_ROWS, **link: int) -> Iterator[tuple[Pair, Proxy]]:
    """A job whose dialer goes through a proxy; it takes its time."""
    with free_ports(2) as ports:
        pair = job(Pair(folder, ports[0]), rows, frame_items=1024)
        pair.environment = SLOWLY
        pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{ports[1]}"
        for party in PARTIES:
            pair.link(party, **link)
        proxy = Proxy(ports[1], ports[0])
        try:
            yield pair, proxy
        finally:
            pair.kill()
            proxy.close()


def exchanging(pair: Pair, party: str = "", failpoint: str = "") -> dict[str, Run]:
    """Start both parties, one of them with a failpoint, and wait until points flow."""
    runs = start_both(pair, party, failpoint)
    for run in runs.values():
        run.wait_for("exchanging")
    return runs


def both_lost(pair: Pair, runs: dict[str, Run], within: float, sentence: str) -> None:
    """Both sides end in time with 69, and their old outputs are there."""
    broken = time.monotonic()
    for run in runs.values():
        run.lasts(within)
    for party, run in runs.items():
        result = run.result()
        failed(result, 69, f"{other(party)} {sentence}")
        assert result.ended - broken < within
        assert new_outputs(pair, party) == set()
    pair.nothing_left()


def test_a_wire_that_loses_everything(tmp_path: Path) -> None:
    with proxied(tmp_path, recv_timeout_ms=IMPATIENT) as (pair, proxy):
        runs = exchanging(pair)
        proxy.blackhole()
        both_lost(pair, runs, 10.0, "sent nothing for 2 s")


@pytest.mark.slow
def test_a_wire_that_takes_everything_and_loses_it_is_found_by_pings(tmp_path: Path) -> None:
    """Something between the two that still acknowledges looks like a peer that is stopped."""
    with proxied(tmp_path, recv_timeout_ms=300_000, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair)
        proxy.blackhole()
        both_lost(pair, runs, FOUND_WITHIN, "went away")


def test_a_connection_that_breaks_for_good(tmp_path: Path) -> None:
    with proxied(tmp_path, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair)
        proxy.refuse()
        proxy.reset()
        both_lost(pair, runs, 10.0, "went away")


@pytest.mark.parametrize(
    "fault", ["reset", *(pytest.param(each, marks=pytest.mark.slow) for each in ("half_close", "lose_the_dialer"))]
)
def test_a_connection_that_breaks_is_mended(tmp_path: Path, fault: str) -> None:
    with proxied(tmp_path, SOME_ROWS, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair)
        for _ in range(3):
            made = proxy.made
            getattr(proxy, fault)()
            while proxy.made == made and any(run.lasts(0.02) for run in runs.values()):
                pass
        results = {party: run.result() for party, run in runs.items()}
        all_right(pair, results)
        assert "alice is back after" in results[DIALER].stderr
        assert proxy.made > 1
        pair.nothing_left()


RECONNECTING = [("reconnect.dialled", DIALER), ("reconnect.answered", DIALER), ("reconnect.answered", LISTENER)]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), RECONNECTING)
def test_killed_while_it_reconnects(tmp_path: Path, point: str, party: str) -> None:
    with proxied(tmp_path, SOME_ROWS, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair, party, f"{point}:kill")
        proxy.reset()
        victim = runs[party].result()
        # Where nobody listens any more, a network takes no connection.
        proxy.refuse()
        pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{pair.port}"
        survivor = runs[other(party)].result()
        assert victim.code == -signal.SIGKILL
        assert survivor.ended - victim.ended < KILLED_WITHIN
        go_on(pair, runs, party, survivor)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "party"), RECONNECTING)
def test_a_failure_while_it_reconnects(tmp_path: Path, point: str, party: str) -> None:
    with proxied(tmp_path, SOME_ROWS, reconnect_window_ms=PATIENT) as (pair, proxy):
        runs = exchanging(pair, party, f"{point}:raise")
        proxy.reset()
        mine, theirs = (runs[each].result() for each in (party, other(party)))
        assert theirs.ended - mine.ended < KILLED_WITHIN
        if party == LISTENER:
            # Whoever that was, it is let go, and comes again.
            all_right(pair, {party: mine, other(party): theirs})
        else:
            check_failed(pair, point, party, mine, "raise")
            check_survivor(pair, other(party), theirs, {69, 80})
        pair.nothing_left()


def test_a_slow_wire(tmp_path: Path) -> None:
    with proxied(tmp_path, 200) as (pair, proxy):
        proxy.delay(0.05)
        runs = {party: pair.start(party) for party in PARTIES}
        all_right(pair, {party: run.result() for party, run in runs.items()})


def flip_on_the_wire(folder: Path, octets: int, *, tls: bool) -> set[int]:
    """Flip a bit so many octets after points began to flow; return both exit codes, after a look at the outputs."""
    with proxied(folder, SOME_ROWS, recv_timeout_ms=5 * IMPATIENT, reconnect_window_ms=PATIENT) as (pair, proxy):
        if tls:
            issue(folder, {party: party for party in PARTIES})
            files = {"ca_file": "../ca.pem", "certificate_file": "../{}.pem", "private_key_file": "../{}.key"}
            for party in PARTIES:
                own = {field: name.format(party) for field, name in files.items()}
                pair.jobs[party]["cluster"]["tls"] = own
        runs = exchanging(pair)
        proxy.flip_after(octets)
        results = {party: run.result() for party, run in runs.items()}
        assert proxy.flipped
        codes = {result.code for result in results.values()}
        if codes == {0}:
            all_right(pair, results)
        else:
            assert [new_outputs(pair, each) for each in PARTIES] == [set(), set()]
        pair.nothing_left()
        return codes


# Somewhere in the frames, and not only in what is around them.
OFFSETS = [random.Random(seed).randrange(20_000, 100_000) for seed in range(5)]
# Found by the digest of the stream; or it hit what holds the connection together, which is made again.
FOUND_OR_MENDED = ({76}, {0})


@pytest.mark.slow
def test_a_flipped_bit_in_plain_text_is_found(tmp_path: Path) -> None:
    assert flip_on_the_wire(tmp_path, OFFSETS[0], tls=False) in FOUND_OR_MENDED


@pytest.mark.slow
@pytest.mark.parametrize("octets", OFFSETS)
def test_a_flipped_bit_in_tls_breaks_the_connection_which_is_mended(tmp_path: Path, octets: int) -> None:
    assert flip_on_the_wire(tmp_path, octets, tls=True) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("octets", OFFSETS[1:])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, octets: int) -> None:
    assert flip_on_the_wire(tmp_path, octets, tls=False) in FOUND_OR_MENDED


# A full disk -----------------------------------------------------------------------------------------------------


def on_a_small_disk(folder: Path, size: str) -> list[str]:
    """Return what to run a party under, so that a folder lies on a disk of its own; what is there at the end stays."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    script = f"""
        cp -a '{folder}' '{folder}.kept' && mount -t tmpfs -o size={size},mode=700 tmpfs '{folder}' || exit 99
        cp -a '{folder}.kept/.' '{folder}' && rm -rf '{folder}.kept/'*
        "$@"
        code=$?
        cp -a '{folder}/.' '{folder}.kept'
        exit $code
    """
    return ["unshare", "-rm", "sh", "-c", script, "sh"]


@pytest.mark.parametrize("party", ONE_SOON)
def test_a_full_disk_under_an_output(faulty: Pair, party: str) -> None:
    for each in PARTIES:
        faulty.path(each, "in.csv").write_bytes(csv_data(["id"], ([f"row-{row}"] for row in range(20_000))))
        faulty.jobs[each]["pipeline"] = {}
    out = faulty.path(party, "out")
    wrapper = on_a_small_disk(out, "64k")
    runs = {each: faulty.start(each, "--json", wrapper=wrapper if each == party else ()) for each in PARTIES}
    failed(runs[party].result(), 74, "both.csv: writing failed: no space left on device")
    check_survivor(faulty, other(party), runs[other(party)].result(), {69})
    kept = out.with_name("out.kept")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {f"{task}.csv": OLD for task in OUTPUTS[party]}
    next_run_is_good(faulty)


@pytest.mark.parametrize("party", ONE_SOON)
def test_a_full_disk_under_the_spool(spooling: Pair, party: str) -> None:
    state = spooling.folder / "small"
    state.mkdir(0o700)
    wrapper = on_a_small_disk(state, "2m")
    how: dict[str, Any] = {"wrapper": wrapper, "env": {"PSICLI_STATE_DIR": str(state)}}
    runs = {each: spooling.start(each, "--json", **(how if each == party else {})) for each in PARTIES}
    failed(runs[party].result(), 74, f"{state}: .* more would be needed there .* no space left on device")
    check_survivor(spooling, other(party), runs[other(party)].result(), {69})
    assert new_outputs(spooling, party) == set()
    assert {path.name for path in state.with_name("small.kept").iterdir()} == {"ledger.jsonl", "lock"}
    spooling.nothing_left()
