"""What a one-sided sender sees is the same whether everything matches or nothing: messages, pace, exit code, report.

And with broadcast_result: of the receiver's failures between the last point and the result it sees that there was one.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pair import TASK_SID, PeerChannel, exchange_end, items_of, setup
from runner import DEADLINE, DIALER, LISTENER, PARTIES, Pair, Result, Side
from tapped import Recording, record, tapped_pair

from psicli import curve
from psicli.protocol import Ack, MaskOwn, MaskPeer, Message, Receiver, Sender, Work
from psicli.wire import encode

COUNT = 300


@pytest.fixture
def tapped(tmp_path: Path) -> Iterator[tuple[Pair, int]]:
    with tapped_pair(tmp_path) as found:
        yield found


def shape(message: Message) -> tuple[str, int, int]:
    """What of a message is no random number: its kind, stream and size."""
    return type(message).__name__, getattr(message, "stream", 0), len(encode(message))


# One-sided: everything or nothing matches ------------------------------------------------------------------------


@pytest.mark.parametrize("common", [0, 1, 40], ids=["nothing", "one", "everything"])
def test_what_a_receiver_sends_is_the_same_message_by_message(common: int) -> None:
    """Several frames, in an order that no thread decides."""
    assert messages_to_a_sender(common) == messages_to_a_sender(0)


def messages_to_a_sender(common: int) -> list[tuple[str, int, int]]:
    """Run a receiver of 40 items against a scripted sender, who has so many of them."""
    own = items_of(f"k{number}" for number in range(40))
    theirs = items_of(f"k{number}" for number in range(40 - common, 80 - common))
    scalar = bytes([7]) * 32

    def answer(work: Work) -> bytes:
        match work:
            case MaskOwn(start, stop):
                return curve.hash_and_mask(theirs.slice(start, stop - start), TASK_SID, scalar)
            case MaskPeer(_, points):
                return curve.tokens(curve.mask(points, scalar)[0], TASK_SID)
        return b""

    channel = PeerChannel(Sender(setup(40, probe=curve.probe(TASK_SID))), answer)
    end = exchange_end(Receiver, own, channel)
    end.drive()
    assert int(end.exchange.match().sum()) == common
    return [shape(message) for message in channel.sent]


def two_tasks(pair: Pair, name: str, *, full: bool) -> None:
    """Write inputs of which everything or nothing matches; the sender's are the same either way."""
    for party in PARTIES:
        first = 0 if full or party == DIALER else COUNT
        rows = "".join(f"k{number:06},note\n" for number in range(first, first + COUNT))
        pair.path(party, "in.csv").write_text("id,note\n" + rows)
        pair.jobs[party]["tasks"] = []
    for task in ("one", "two"):
        pair.add(task, Side(["id"], "in.csv", f"out/{name}-{task}.csv"), Side(["id"], "in.csv"))


def test_a_sender_sees_the_same_run(tapped: tuple[Pair, int]) -> None:
    pair, port = tapped
    views = []
    for name, full in (("full", True), ("empty", False)):
        two_tasks(pair, name, full=full)
        recording = record(pair, port, "--json", "--verbose")
        lines = [pair.path(LISTENER, f"out/{name}-{task}.csv").read_text().count("\n") for task in ("one", "two")]
        assert lines == [1 + COUNT * full] * 2
        views.append(view_of(recording, DIALER))
    assert views[0] == views[1]


def view_of(recording: Recording, party: str) -> dict[str, Any]:
    """What a party got to know but for times: messages by task, its exit code, report and log."""
    result = recording.results[party]
    report = json.loads(result.stdout)
    for each in (report, *report["tasks"]):
        for name in ("session_id", "task_sid", "seconds", "stages", "peak_memory"):
            each.pop(name, None)
    messages = {sender: messages_by_task(recording, sender) for sender in PARTIES}
    return {"messages": messages, "code": result.code, "report": report, "log": log_of(result)}


def messages_by_task(recording: Recording, sender: str) -> list[list[tuple[str, int, int]]]:
    """The first task's Hello, then each task's own messages: where the second one's Open falls between is chance."""
    sent = [m for m in recording.sent[sender] if not (isinstance(m, Ack) and m.stream == 0)]
    return [[shape(m) for m in sent if getattr(m, "task", None) == task] for task in (None, 0, 1)]


def log_of(result: Result) -> list[str]:
    """The lines of a log but for times; each task has its own order."""
    lines = [re.sub(r"\d+\.\d+ s|^\S+ |127\.0\.0\.1:\d+", "", line) for line in result.stderr.splitlines()]
    return sorted(lines)


WAITING_WRITER = """
from psicli.job import TaskRun
finish_alone = TaskRun.finish_alone
def wait_and_finish(self, matched):
    with open(os.path.join(os.environ["TEST_GATES"], self.name)) as gate:
        gate.read()
    finish_alone(self, matched)
TaskRun.finish_alone = wait_and_finish
"""


def test_a_sender_is_through_and_the_port_is_free_before_a_row_is_written(pair: Pair) -> None:
    """Every task, the end of the session and the port itself: none of them waits for the receiver's writing."""
    two_tasks(pair, "gated", full=True)
    gates = [pair.temp / task for task in ("one", "two")]
    for gate in gates:
        os.mkfifo(gate)
    alice = pair.start(
        LISTENER,
        program=("-c", f"import os{WAITING_WRITER}from psicli.cli import main\nmain()"),
        env={"TEST_GATES": str(pair.temp)},
    )
    bob = pair.start(DIALER).result()
    assert bob.code == 0, bob.text
    wait_until_refused(pair.port)
    assert list(pair.path(LISTENER, "out").iterdir()) == []
    for gate in gates:
        gate.write_text("go on")
    result = alice.result()
    assert result.code == 0, result.text
    assert len(list(pair.path(LISTENER, "out").iterdir())) == 2


def wait_until_refused(port: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except ConnectionRefusedError:
            return
        except OSError:
            continue
    raise AssertionError(f"port {port} is still open")


# Broadcast: the receiver fails before the result -----------------------------------------------------------------

# How the receiver fails while it compares, and its exit code.
FAILURES = {
    "disk full": ("raise StorageError(path='spool', reason='no space left on device')", 74),
    "no memory": ("raise MemoryError", 70),
    "stopped": ("os.kill(os.getpid(), signal.SIGTERM)", 143),
}
FAILING_MATCH = """
import signal
from psicli.errors import StorageError
from psicli.pipeline import TaskExchange
def fail(self):
    {failure}
TaskExchange._match_both = fail
"""


def test_a_senders_view_of_a_receiver_that_fails_before_the_result(tapped: tuple[Pair, int]) -> None:
    """What fails, and whether anything had matched by then, makes no difference to any byte or to the exit code."""
    pair, port = tapped
    views = []
    for (failure, code), full in zip(FAILURES.values(), (True, False, True), strict=True):
        two_tasks(pair, "out", full=full)
        for party in PARTIES:
            pair.jobs[party]["tasks"] = pair.jobs[party]["tasks"][:1]
            pair.jobs[party]["tasks"][0].update(broadcast_result=True, output_path={party: "out/o.csv"})
        recording = record(pair, port, "--json", code={LISTENER: FAILING_MATCH.format(failure=failure)})
        assert recording.results[LISTENER].code == code, recording.results[LISTENER].text
        views.append(view_of(recording, DIALER))
    assert views[0] == views[1] == views[2]
    assert views[0]["code"] == 69
    assert views[0]["messages"][LISTENER][0][-1][0] == "Abort"


# Pace ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("tasks", "rows"), [(1, 20_000), (8, 4_000)])
def test_a_sender_takes_as_long_for_everything_as_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int, rows: int
) -> None:
    """The receiver has wide rows, so that writing them all takes long; a sender that waited would take as much longer.

    Both parties share this machine, so with many tasks the writing takes cores from the sender itself: a part of its
    time may show, which on two machines would be less.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "bench"))
    from view import compare

    found = compare(tmp_path, tasks=tasks, rows=rows, width=8000, runs=5)
    if found.writing < 3 * found.noise:
        pytest.skip(f"the machine is too busy: quartile range {found.noise:.2f} s, writing {found.writing:.2f} s")
    assert found.difference < found.writing / 2, found
