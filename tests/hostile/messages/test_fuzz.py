"""Fuzzing: a peer that sends arbitrary sequences of messages, or a recorded session with damaged octets.

Whatever arrives, a party ends cleanly: either with the correct result, or with an error that a peer can cause and
without an output. A failing round reports its seed; `damaged(recording, Random(seed))` reproduces it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.machines import BIN_ITEMS, FRAME_ITEMS, PATIENCE, TASK, MachineEnd, MachinePair
from support.memory.messages import any_message, offered
from support.memory.pair import ExchangeEnd, KnownExchange, exchange_end, items_of, matched_items, run_exchanges
from support.memory.rr22.known_draws import known_draws
from support.memory.sessions import ALICE, BOB, Party, Plan, TapLink, both, joined, numbers, run

from psicli.core.errors import PsicliError
from psicli.core.peer_errors import PeerGoneError
from psicli.protocol.messages import RR22, Frame, Kept, Message, Restart, TaskMessage, Working
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import TaskParty
from psicli.protocol.wire import decode, encode
from psicli.protocol.work import Compute, KeepBits, KeepTokens, MaskPeer
from psicli.session.session import Session
from psicli.transport.endpoint import outgoing, pump
from psicli.transport.window import Outgoing

# The exit codes that a peer can cause: it went away, broke the protocol, disagreed, or reported a failure.
CODES = {69, 76, 78, 80}
OTHER_TASK_SID = bytes(range(32, 64))
SLOW_ROUNDS = 26_000
# Rounds with a task of eight bins or by RR22, which take longer.
LONG_ROUNDS = 2_000

roles = pytest.mark.parametrize("role", [Receiver, Sender])
modes = pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
ONE, EIGHT = "one bin", "eight bins"
kinds = pytest.mark.parametrize("kind", [ONE, EIGHT, RR22])

# Messages against a machine --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """The item counts of the receiver (n) and the sender (m), the sizes of frames and bins, and the protocol."""

    n: int
    m: int
    frame_items: int = FRAME_ITEMS
    bin_items: int = BIN_ITEMS
    protocol: str = ""

    def pair(self, broadcast: bool) -> MachinePair:
        sizes = {"frame_items": self.frame_items, "bin_items": self.bin_items}
        return MachinePair(self.n, self.m, broadcast=broadcast, protocol=self.protocol, **sizes)


# Sixty items with at most 59 per bin make eight bins with a capacity of 59.
several_sizes = st.builds(Sizes, st.sampled_from([0, 5, 8, 21]), st.sampled_from([0, 7, 16, 20])) | st.sampled_from(
    [
        *(Sizes(60, 50, 32, 59), Sizes(9, 60, 32, 59), Sizes(1000, 700, 256, 768)),
        *(Sizes(20, 9, 1024, protocol=RR22), Sizes(1100, 1200, 1024, protocol=RR22), Sizes(60, 50, 1024, 59, RR22)),
    ]
)


@cache
def whole_run(sizes: Sizes, broadcast: bool) -> MachinePair:
    pair = sizes.pair(broadcast)
    pair.run()
    return pair


def other_value(value: Any) -> st.SearchStrategy[Any]:
    if value is None or isinstance(value, Kept):
        return st.none() | offered()
    if isinstance(value, bytes):
        return st.binary(min_size=len(value), max_size=len(value)) | st.binary(max_size=300)
    return st.integers(0, 4) | st.integers(0, 2**64 - 1)


@st.composite
def edited(draw: st.DrawFn, honest: Sequence[TaskMessage]) -> list[Message]:
    """Return an honest peer's messages with a few changes."""
    made: list[Message] = list(honest)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(made)))
        match draw(st.sampled_from(["insert", "restart", "repeat", "move", "drop", "change"])):
            case "insert":
                made.insert(at, draw(any_message))
            case "restart":
                made.insert(at, Restart(TASK, draw(st.integers(0, 3)), draw(st.integers(0, 2))))
            case "repeat":
                made.insert(at, draw(st.sampled_from(list(honest))))
            case "move" if at < len(made):
                made.insert(draw(st.integers(0, len(made) - 1)), made.pop(at))
            case "drop" if at < len(made):
                made.pop(at)
            case "change" if at < len(made) and fields(made[at]):
                name = draw(st.sampled_from([each.name for each in fields(made[at])]))
                made[at] = replace(made[at], **{name: draw(other_value(getattr(made[at], name)))})
    return made


def kept(end: MachineEnd) -> dict[tuple[type, int], bytes]:
    """Return the data of the peer's lists that reached the work, by kind of work and bin."""
    found: dict[tuple[type, int], bytes] = {}
    for place, work in end.placed:
        match work:
            case MaskPeer(_, data) | KeepTokens(_, data) | KeepBits(_, data) | Compute(_, data):
                key = type(work), work.bin if isinstance(work, KeepBits) else place.bin if place else -1
                found[key] = found.get(key, b"") + data
    return found


@pytest.mark.more
@roles
@modes
@settings(max_examples=150, deadline=None)
@given(data=st.data(), sizes=several_sizes)
def test_any_messages(role: type[TaskParty], broadcast: bool, data: st.DataObject, sizes: Sizes) -> None:
    honest = whole_run(sizes, broadcast)
    pair = sizes.pair(broadcast)
    end = pair.end(role)
    failure: PsicliError | None = None
    try:
        for message in data.draw(edited(honest.end(role).received)):
            while pair.work(end):
                pass
            # Like the session, pass on only messages about this task, and only while the task is under way.
            if end.party.finished or getattr(message, "task", None) != TASK:
                break
            end.receive(message)  # type: ignore[arg-type]
            while pair.work(end):
                pass
    except PsicliError as exc:
        failure = exc
    assert failure is None or failure.code in CODES, repr(failure)
    if end.party.finished:
        assert kept(end) == kept(honest.end(role))
        assert end.party.peer_count == honest.end(role).party.peer_count


# Damaged octets against an exchange ------------------------------------------------------------------------------

COMMON = 7


def values(role: type[TaskParty], kind: str) -> list[str]:
    own = (53 if kind == EIGHT else 13) if role is Receiver else (41 if kind == EIGHT else 11)
    return [f"both-{i}" for i in range(COMMON)] + [f"{role.__name__}-{i}" for i in range(own)]


SETTINGS: dict[str, dict[str, Any]] = {
    ONE: {},
    EIGHT: {"frame_items": 32, "bin_items": 59},
    RR22: {"frame_items": 1024, "protocol": RR22},
}
ROUNDS_OF = {ONE: 500, EIGHT: 60, RR22: 40}
SCALARS = {Receiver: b"\x77" * 32, Sender: b"\x5d" * 32}


@dataclass(frozen=True)
class Recording:
    """The messages one party received in a successful session, and valid messages from another session."""

    octets: tuple[bytes, ...]
    foreign: tuple[bytes, ...]


@cache
def recording(role: type[TaskParty], broadcast: bool, kind: str) -> Recording:
    sids = {"octets": bytes(range(32)), "foreign": OTHER_TASK_SID}
    found = {}
    for name, sid in sids.items():
        with known_draws():
            ends = run_exchanges(
                items_of(values(Receiver, kind)),
                items_of(values(Sender, kind)),
                broadcast=broadcast,
                task_sid=sid,
                scalars=(SCALARS[Receiver], SCALARS[Sender]),
                **SETTINGS[kind],
            )
        assert ends[0].party.number_of_bins == (8 if kind == EIGHT else 1)
        found[name] = tuple(encode(message) for message in ends[role is Receiver].channel.sent)
    return Recording(**found)


def damaged(recorded: Recording, draw: Random) -> tuple[list[bytes], int]:
    """Return the messages with a few of them damaged, and the number of damaged messages."""
    made, changed = list(recorded.octets), 0
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(made))
        other = draw.choice((*recorded.octets, *recorded.foreign))
        changed += 1
        match draw.choice(("flip", "flip", "drop", "repeat", "swap", "cut", "grow", "splice", "foreign", "junk")):
            case "flip":
                made[at] = flipped(made[at], draw)
            case "drop":
                made[at : at + 1] = []
            case "repeat":
                made.insert(draw.randrange(len(made)), made[at])
            case "swap":
                with_ = draw.randrange(len(made))
                made[at], made[with_] = made[with_], made[at]
                changed += with_ != at
            case "cut":
                made[at] = made[at][: draw.randrange(len(made[at]) + 1)]
            case "grow":
                made[at] += draw.randbytes(draw.randrange(1, 40))
            case "splice":
                made[at] = made[at][: draw.randrange(len(made[at]) + 1)] + other[draw.randrange(len(other) + 1) :]
            case "foreign":
                made[at] = other
            case "junk":
                made.insert(at, draw.randbytes(draw.randrange(60)))
        if not made:
            break
    return made, changed


def flipped(octets: bytes, draw: Random) -> bytes:
    changed = bytearray(octets)
    for _ in range(draw.choice((1, 1, 1, 4))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def replay(end: ExchangeEnd, octets: Sequence[bytes], accepted: list[Message]) -> None:
    """Feed one party these messages until it ends; append those that it accepted to `accepted`."""
    for each in octets:
        while end.step(room=True) is not None:
            pass
        if end.party.finished:
            return
        message = decode(each)
        # The session refuses a message about any other task.
        if getattr(message, "task", None) != TASK:
            raise PeerGoneError(reason="it sent something else")
        end.exchange.receive(message)  # type: ignore[arg-type]
        accepted.append(message)
    while end.step(room=True) is not None:
        pass
    if not end.party.finished:
        raise PeerGoneError(reason="it closed the connection")


def frames(messages: Iterable[Message]) -> set[Frame]:
    return {each for each in messages if isinstance(each, Frame)}


def check_round(role: type[TaskParty], broadcast: bool, kind: str, octets: Sequence[bytes]) -> bool:
    """Check one round; return whether it produced a result."""
    items = items_of(values(role, kind))
    end = exchange_end(role, items, None, broadcast=broadcast, scalar=SCALARS[role], **SETTINGS[kind])
    failure: PsicliError | None = None
    accepted: list[Message] = []
    try:
        with known_draws():
            replay(end, octets, accepted)
    except PsicliError as exc:
        failure = exc
    assert failure is None or failure.code in CODES, repr(failure)
    finished = end.party.finished
    if finished:
        assert frames(accepted) == frames(map(decode, recording(role, broadcast, kind).octets))
    if finished and role is Receiver and not broadcast:
        end.output.staged = end.matches()
    if end.output.staged is not None:
        assert matched_items(end, end.output.staged) == {f"both-{i}".encode() for i in range(COMMON)}
    assert end.output.published <= (end.output.staged is not None)
    return finished


@pytest.mark.sample(2)
@roles
@modes
@kinds
def test_without_damage_a_recording_leads_to_its_result(role: type[TaskParty], broadcast: bool, kind: str) -> None:
    octets = recording(role, broadcast, kind).octets
    assert check_round(role, broadcast, kind, octets)
    assert not check_round(role, broadcast, kind, octets[:-3])


def rounds(role: type[TaskParty], broadcast: bool, kind: str, seeds: range) -> int:
    recorded, changed, results = recording(role, broadcast, kind), 0, 0
    for seed in seeds:
        octets, count = damaged(recorded, Random(seed))
        changed += count
        try:
            results += check_round(role, broadcast, kind, octets)
        except BaseException as exc:
            raise AssertionError(f"{role.__name__}, broadcast={broadcast}, {kind}, seed {seed}") from exc
    # Some damage does no harm (a message swapped with itself), but most of it does.
    assert results < len(seeds) / 2
    return changed


@pytest.mark.more
@roles
@modes
@kinds
def test_damaged_recordings(role: type[TaskParty], broadcast: bool, kind: str) -> None:
    count = ROUNDS_OF[kind]
    assert rounds(role, broadcast, kind, range(count)) > count


@pytest.mark.slow
@roles
@modes
def test_a_hundred_thousand_damaged_messages(role: type[TaskParty], broadcast: bool) -> None:
    """Each role and mode gets at least 25,000 damaged messages."""
    assert rounds(role, broadcast, ONE, range(10**6, 10**6 + SLOW_ROUNDS)) >= 25_000


@pytest.mark.slow
@roles
@modes
@pytest.mark.parametrize("kind", [EIGHT, RR22])
def test_thousands_of_damaged_messages_of_longer_tasks(role: type[TaskParty], broadcast: bool, kind: str) -> None:
    assert rounds(role, broadcast, kind, range(10**6, 10**6 + LONG_ROUNDS)) >= LONG_ROUNDS


# Damaged octets against a session --------------------------------------------------------------------------------


@pytest.fixture
def known_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a replayed session send the same points as the recorded one."""
    exchange_of = Session._exchange

    def exchange(session: Session, index: int, plan: Any) -> KnownExchange:
        made = exchange_of(session, index, plan)
        known = KnownExchange(made.party, made.pools, made.stages, session._storage)
        known.scalar = hashlib.sha256(f"{session.hellos.ours.party} {index}".encode()).digest()
        return known

    monkeypatch.setattr(Session, "_exchange", exchange)


def plans() -> tuple[list[Plan], list[Plan]]:
    """Return four tasks, the last with eight bins; each party learns the result of at least two of them."""
    pairs = [
        both("t0", numbers(0, 20), numbers(10, 28), receiver=ALICE),
        both("t1", numbers(0, 9), numbers(4, 12), receiver=BOB, broadcast=True),
        both("t2", numbers(0, 12), numbers(8, 30), receiver=BOB),
        both("t3", numbers(0, 60), numbers(50, 90), receiver=ALICE, broadcast=True),
    ]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


RESULTS = [set(numbers(10, 20)), set(numbers(4, 9)), set(numbers(8, 12)), set(numbers(50, 60))]
MOST_A_BIN = 59


@dataclass(frozen=True)
class SessionRecording:
    """The messages one party received in a session, and for each of them what its sender had received before."""

    hellos: tuple[bytes, bytes]
    octets: tuple[bytes, ...]
    heard: tuple[Counter[tuple[type, int, int, int]], ...]


class HearingLink(TapLink):
    """A link that records with each message it sends what it had received before."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Counter[tuple[type, int, int, int]]] = []

    def send(self, message: Message) -> int:
        self.heard.append(said(self.received))
        return super().send(message)


def said(messages: Sequence[Message]) -> Counter[tuple[type, int, int, int]]:
    """Count messages by kind, task, bin and stream, since the order among tasks differs from run to run."""
    counted = (each for each in messages if not isinstance(each, Working))
    about = ("task", "bin", "stream")
    return Counter((type(each), *(getattr(each, name, -1) for name in about)) for each in counted)  # type: ignore[misc]


def recorded_session() -> dict[str, SessionRecording]:
    ends = joined(*plans(), links=(HearingLink(), HearingLink()), bin_items=MOST_A_BIN)
    run(ends)
    assert [end.failure for end in ends] == [None, None]
    return {
        end.party: SessionRecording(
            (end.link.own_hello, end.link.peer_hello),
            tuple(encode(message) for message in other.link.sent),
            tuple(other.link.heard),  # type: ignore[attr-defined]
        )
        for end, other in (ends, ends[::-1])
    }


def play(party: str, recorded: SessionRecording, octets: Sequence[bytes], patience_of_peer: float = PATIENCE) -> Party:
    """Run one party of a session against a peer's messages, at about the pace of the recording."""
    end = joined(*plans(), bin_items=MOST_A_BIN)[party == BOB]
    end.link.own_hello, end.link.peer_hello = recorded.hellos
    over = threading.Event()

    def incoming() -> Iterator[bytes]:
        for number, each in enumerate(octets):
            due = recorded.heard[min(number, len(recorded.heard) - 1)]
            wait_for(lambda due=due: due <= said(end.link.sent))  # type: ignore[misc]
            yield each
        # Messages that the party has not read when the stream ends are lost.
        wait_for(lambda: end.link._outbox.state is not Outgoing.OPEN)

    def wait_for(there: Callable[[], bool]) -> None:
        # The party may itself wait for a message that was left out, so all waits share one time limit.
        nonlocal patience_of_peer
        began = time.monotonic()
        while not there() and not over.wait(0.001) and time.monotonic() - began < patience_of_peer:
            pass
        patience_of_peer -= time.monotonic() - began

    stream = end.link.stream
    assert stream is not None

    filling = threading.Thread(target=lambda: pump(stream, incoming()), daemon=True)
    draining = threading.Thread(target=lambda: list(outgoing(stream)), daemon=True)
    running = threading.Thread(target=end.run, name="psicli-test-side", daemon=True)
    for thread in (filling, draining, running):
        thread.start()
    running.join(PATIENCE)
    over.set()
    assert not running.is_alive(), "the party hangs"
    return end


def check_session(end: Party) -> bool:
    if end.failure is not None:
        assert isinstance(end.failure, PsicliError), repr(end.failure)
        assert end.failure.code in CODES, repr(end.failure)
    for plan, result in zip(end.plans, RESULTS, strict=True):
        assert plan.found in (None, result)
        if plan.output is not None and plan.output.published:
            assert plan.output.staged is not None
    return end.failure is None


def session_rounds(seeds: range) -> int:
    recordings = recorded_session()
    for party, recorded in recordings.items():
        assert check_session(play(party, recorded, recorded.octets))
    changed = 0
    for seed in seeds:
        party = (ALICE, BOB)[seed % 2]
        recorded = recordings[party]
        foreign = recordings[BOB if party == ALICE else ALICE].octets
        octets, count = damaged(Recording(recorded.octets, foreign), Random(seed))
        changed += count
        try:
            check_session(play(party, recorded, octets, 0.1))
        except BaseException as exc:
            raise AssertionError(f"{party}, seed {seed}") from exc
    return changed


@pytest.mark.more
def test_damaged_sessions(known_scalars: None) -> None:
    assert session_rounds(range(40)) >= 40


@pytest.mark.slow
def test_many_damaged_sessions(known_scalars: None) -> None:
    assert session_rounds(range(10**6, 10**6 + 1500)) >= 1500
