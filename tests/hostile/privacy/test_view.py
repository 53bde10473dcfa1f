"""A one-sided sender observes the same messages, pace, exit code and report whether everything matches or nothing.

With broadcast_result, a sender learns only that the receiver failed between the last point and the result, not why.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.kernel.samples import TASK_SID
from support.memory.machines import BIN_ITEMS, FRAME_ITEMS, setup
from support.memory.pair import PeerChannel, exchange_end, items_of, prepared_of
from support.processes import altered
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Side
from support.processes.tapped import Recording, record, tapped_pair
from support.waiting import wait_until

from psicli import curve
from psicli.exchange.vector_worker import VectorSender
from psicli.exchange.worker import Worker
from psicli.protocol.bins import number_of_bins
from psicli.protocol.messages import RR22, Message, Received, Stream, Working
from psicli.protocol.receiver import Receiver
from psicli.protocol.rr22.bins import token_bytes
from psicli.protocol.rr22.sizes import sizes
from psicli.protocol.sender import Sender
from psicli.protocol.streams import Place
from psicli.protocol.wire import encode
from psicli.protocol.work import CheckLists, Compute, ComputeAhead, MaskOwn, MaskPeer, Work

COUNT = 300
# This many items make two bins of the smallest size that a job file allows.
COUNT_OF_TWO_BINS = 17_000


@pytest.fixture
def tapped(tmp_path: Path) -> Iterator[tuple[Pair, int]]:
    with tapped_pair(tmp_path) as found:
        yield found


def shape(message: Message) -> tuple[str, int, int]:
    """Return the parts of a message that are not random: its kind, stream and size."""
    return type(message).__name__, getattr(message, "stream", 0), len(encode(message))


# One-sided tasks in which everything or nothing matches ----------------------------------------------------------


@pytest.mark.sample(2)
@pytest.mark.parametrize("protocol", ["", RR22], ids=["ecdh", RR22])
@pytest.mark.parametrize(("count", "bin_items", "bins"), [(40, BIN_ITEMS, 1), (200, 128, 8)], ids=["one bin", "8 bins"])
@pytest.mark.parametrize("share", ["nothing", "one", "everything"])
def test_a_receiver_sends_the_same_messages_whatever_matches(
    share: str, count: int, bin_items: int, bins: int, protocol: str
) -> None:
    """The receiver sends several frames, in an order that does not depend on threads."""
    common = {"nothing": 0, "one": 1, "everything": count}[share]
    assert number_of_bins(count, count, bin_items) == bins
    assert messages_to_a_sender(common, count, bin_items, protocol) == messages_to_a_sender(
        0, count, bin_items, protocol
    )


def messages_to_a_sender(common: int, count: int, bin_items: int, protocol: str) -> list[tuple[str, int, int]]:
    """Run a receiver against a scripted sender with the same number of items; return the shapes of its messages.

    common: the number of common items.
    """
    own = items_of(f"k{number}" for number in range(count))
    theirs = prepared_of(items_of(f"k{number}" for number in range(count - common, 2 * count - common)), TASK_SID).items
    # Vectors have many more blocks than a bin has items.
    how: dict[str, Any] = {
        "bin_items": bin_items,
        "protocol": protocol,
        "frame_items": 1024 if protocol else FRAME_ITEMS,
    }
    sender = Sender(setup(probe=curve.probe(TASK_SID), **how))
    workers: dict[Place, Any] = {}

    def answer(work: Work, place: Place | None) -> bytes:
        assert place is not None
        if place not in workers:
            items = theirs.bin(place.bin, sender.number_of_bins, 1 << 30)
            own, peer = sender.capacities
            workers[place] = (
                VectorSender(place.sid, items, own, token_bytes(sender.sizes), sizes(peer))
                if protocol
                else Worker(place.sid, items, own, peer, FRAME_ITEMS, receives=False)
            )
        match work:
            case MaskOwn(start, stop):
                return bytes(workers[place].mask_own(start, stop))
            case MaskPeer(seq, points):
                return workers[place].mask_peer(seq, points) or b""
            case Compute(stream, received):
                return bytes(workers[place].compute(stream, received))
            case ComputeAhead(Stream.KEYS):
                workers[place].compute_ahead(Stream.KEYS)
            case CheckLists():
                workers[place].check()
        return b""

    channel = PeerChannel(sender, count, answer)
    end = exchange_end(Receiver, own, channel, **how)
    end.drive()
    assert end.matches().count == common
    assert sum(isinstance(message, Received) for message in channel.sent) == sender.number_of_bins
    return [shape(message) for message in channel.sent]


def two_tasks(pair: Pair, name: str, *, full: bool, count: int = COUNT) -> None:
    """Write inputs that match completely or not at all; the sender's inputs are the same in both cases."""
    for party in PARTIES:
        first = 0 if full or party == DIALER else count
        rows = "".join(f"k{number:06},note\n" for number in range(first, first + count))
        pair.path(party, "in.csv").write_text("id,note\n" + rows)
        pair.jobs[party]["tasks"] = []
    for task in ("one", "two"):
        pair.add(task, Side(["id"], "in.csv", f"out/{name}-{task}.csv"), Side(["id"], "in.csv"))


@pytest.mark.more
@pytest.mark.parametrize("protocol", ["ecdh", RR22])
@pytest.mark.parametrize(("count", "bins"), [(COUNT, 1), (COUNT_OF_TWO_BINS, 2)], ids=["one bin", "two bins"])
def test_a_sender_sees_the_same_run(tapped: tuple[Pair, int], count: int, bins: int, protocol: str) -> None:
    pair, port = tapped
    for party in PARTIES:
        pair.jobs[party]["psi"]["protocol"] = protocol
        pair.jobs[party]["pipeline"] = {"bin_items": 16_384}
    views = []
    for name, full in (("full", True), ("empty", False)):
        two_tasks(pair, name, full=full, count=count)
        # Use separate state folders, since this test does not compare the sender's checkpoints.
        pair.environment = {"PSICLI_STATE_DIR": str(pair.folder / name)}
        recording = record(pair, port, "--json", "--verbose")
        lines = [pair.path(LISTENER, f"out/{name}-{task}.csv").read_text().count("\n") for task in ("one", "two")]
        assert lines == [1 + count * full] * 2
        view = view_of(recording, DIALER)
        # The order of two bins under way, and of a party's points and tokens, varies from run to run.
        view["messages"] = {sender: [sorted(each) for each in tasks] for sender, tasks in view["messages"].items()}
        views.append(view)
    assert views[0] == views[1]
    assert [task["bins"] for task in views[0]["report"]["tasks"]] == [bins] * 2


def view_of(recording: Recording, party: str) -> dict[str, Any]:
    """Return what a party observed, without times: messages by task, exit code, report and log."""
    result = recording.results[party]
    report = json.loads(result.stdout)
    for each in (report, *report["tasks"]):
        for name in ("session_id", "task_sid", "run", "started", "seconds", "stages", "timeline"):
            each.pop(name, None)
    for name in ("peak_memory", "ledger_head", "ledger_line"):
        report.pop(name)
    messages = {sender: messages_by_task(recording, sender) for sender in PARTIES}
    return {"messages": messages, "code": result.code, "report": report, "log": log_of(result)}


def messages_by_task(recording: Recording, sender: str) -> list[list[tuple[str, int, int]]]:
    """Return the messages of no task, then of each task; the order among tasks varies from run to run."""
    sent = [m for m in recording.sent[sender] if not isinstance(m, Working)]
    return [[part for m in sent if getattr(m, "task", None) == task for part in shapes(m)] for task in (None, 0, 1)]


def shapes(message: Message) -> list[tuple[str, int, int]]:
    """Return the shape of a message, with a digest apart: the last Received has it, whichever bin ended last."""
    if not isinstance(message, Received) or not message.digest:
        return [shape(message)]
    return [shape(replace(message, digest=b"")), ("digest", 0, len(message.digest))]


def log_of(result: Result) -> list[str]:
    """Return the sorted lines of a log without times and ports, since tasks log in parallel.

    Whether a party has to try again until its peer has started is chance, and so is the order of the lines in the
    ledger that both parties share here.
    """
    chance = re.compile("; trying again until |ledger.* ends at line ")
    told = [line for line in result.stderr.splitlines() if not chance.search(line)]
    return sorted(re.sub(r"\d+\.\d+ s|^\S+ |127\.0\.0\.1:\d+", "", line) for line in told)


@pytest.mark.more
def test_a_sender_is_done_and_the_port_is_free_before_a_row_is_written(pair: Pair) -> None:
    """Tasks, the end of the session and the closing of the port do not wait for the receiver to write its rows."""
    two_tasks(pair, "gated", full=True)
    gates = [pair.temp / task for task in ("one", "two")]
    for gate in gates:
        os.mkfifo(gate)
    alice = pair.start(
        LISTENER,
        program=altered.program(altered.wait_to_write),
        env={"TEST_GATES": str(pair.temp)},
    )
    bob = pair.start(DIALER).result()
    assert bob.code == 0, bob.text
    wait_until(lambda: is_refused(pair.port), "the port is closed")
    assert list(pair.path(LISTENER, "out").iterdir()) == []
    for gate in gates:
        gate.write_text("go on")
    result = alice.result()
    assert result.code == 0, result.text
    assert len(list(pair.path(LISTENER, "out").iterdir())) == 2


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


# Broadcasts in which the receiver fails before the result --------------------------------------------------------

# Failures of the receiver while it compares, and their exit codes.
FAILURES = [(altered.match_with_full_disk, 74), (altered.match_without_memory, 74), (altered.match_and_be_stopped, 143)]


@pytest.mark.more
@pytest.mark.parametrize("protocol", ["ecdh", RR22])
def test_a_senders_view_of_a_receiver_that_fails_before_the_result(tapped: tuple[Pair, int], protocol: str) -> None:
    """The sender gets the same bytes and exit code, whatever fails and whether anything matched."""
    pair, port = tapped
    views = []
    for (failure, code), full in zip(FAILURES, (True, False, True), strict=True):
        two_tasks(pair, "out", full=full)
        for party in PARTIES:
            pair.jobs[party]["psi"]["protocol"] = protocol
            pair.jobs[party]["tasks"] = pair.jobs[party]["tasks"][:1]
            pair.jobs[party]["tasks"][0].update(broadcast_result=True, output_path={party: "out/o.csv"})
        recording = record(pair, port, "--json", alterations={LISTENER: [failure]})
        assert recording.results[LISTENER].code == code, recording.results[LISTENER].text
        view = view_of(recording, DIALER)
        # Whether the sender still sends its Bye after the receiver has hung up varies from run to run.
        own = view["messages"][DIALER][0]
        view["messages"][DIALER][0] = [each for each in own if each[0] != "Bye"]
        views.append(view)
    assert views[0] == views[1] == views[2]
    assert views[0]["code"] == 69
    assert views[0]["messages"][LISTENER][0][-1][0] == "Abort"


# Pace ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "rows"), [(1, 20_000), (8, 4_000)])
def test_a_sender_takes_as_long_for_everything_as_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int, rows: int
) -> None:
    """Writing the receiver's wide rows takes long, so a sender that waited for it would take longer by that much.

    Both parties share this machine, so with many tasks the writing takes cores from the sender and part of its time
    shows; on two machines the effect is smaller.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    from view import compare

    found = compare(tmp_path, tasks=tasks, rows=rows, width=8000, runs=5)
    if found.writing < 3 * found.noise:
        pytest.skip(f"the machine is too busy: quartile range {found.noise:.2f} s, writing {found.writing:.2f} s")
    assert found.difference < found.writing / 2, found
