"""Tests of the probe that measures the link: on simulated links of any speed, and with peers that break its rules.

No test takes as long as the probe: the clock is part of the simulation.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.messages import any_message
from support.memory.sessions import TapLink, connect

from psicli.core.errors import PsicliError
from psicli.core.peer_errors import (
    PeerAccusesError,
    PeerGoneError,
    PeerProtocolError,
    PeerStoppedError,
    ProbeTooLongError,
)
from psicli.protocol.messages import (
    MACHINE_BYTES,
    Abort,
    Ask,
    Bye,
    Filler,
    HelloOctets,
    Measured,
    Message,
    Ready,
    Working,
)
from psicli.session import probe as module
from psicli.session.probe import LONGEST_PROBE, MOST_ASKS, MOST_OCTETS, PROBE_BYTES, PROBE_SECONDS, LinkSpeed, probe
from psicli.transport.link import Link
from psicli.transport.window import WINDOW_BYTES

RATES = {"hash_and_mask": 98_765.4, "mask": 123_456.7}
SID = bytes(range(32))
DONE = Measured(10_000, 1_000_000, 98_000, 120_000)


class Simulated:
    """A link to a simulated peer, with a clock of its own.

    rate: of the direction to this party [bytes per second]. trip: the round trip of a small message [s]. peer: what the
    peer answers to each message.
    """

    def __init__(self, rate: float, trip: float, peer: Callable[[Message], Iterable[Message]]) -> None:
        self.now = 0.0
        self.sent: list[Message] = []
        self._rate, self._trip, self._peer = rate, trip, peer
        # When the direction to this party has transmitted all that is queued.
        self._free = 0.0
        self._order = itertools.count()
        self._arriving: list[tuple[float, int, Message]] = []

    def send(self, message: Message) -> int:
        self.sent.append(message)
        self.deliver(self._peer(message), self.now + self._trip / 2)
        return 0

    def deliver(self, messages: Iterable[Message], at: float = 0.0) -> None:
        """Let the peer send messages at a time [s]."""
        for message in messages:
            octets = len(message.data) if isinstance(message, Filler) else 0
            self._free = max(self._free, at) + octets / self._rate
            heapq.heappush(self._arriving, (self._free + self._trip / 2, next(self._order), message))

    def first(self, timeout: float) -> Message | None:
        if self._arriving and self._arriving[0][0] <= self.now + timeout:
            at, _, message = heapq.heappop(self._arriving)
            self.now = max(self.now, at)
            if isinstance(message, Bye):
                raise PeerGoneError(reason="it closed the connection")
            return message
        self.now += timeout
        return None

    @property
    def asked(self) -> list[int]:
        return [message.octets for message in self.sent if isinstance(message, Ask)]


def honest(message: Message) -> Iterator[Message]:
    """Answer each Ask with a Filler, and the end of this party's turn with a turn of the peer."""
    match message:
        case Ask(octets):
            yield Filler(bytes(octets))
        case Measured(round_trip_us):
            yield from (Ask(0), Ask(1 << 14), replace(DONE, round_trip_us=round_trip_us))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LinkSpeed]:
    """Return a function that runs a probe as the dialer, or as the listener, over a simulated link."""

    def run(link: Simulated, *, listens: bool = False) -> LinkSpeed:
        monkeypatch.setattr(module, "monotonic", lambda: link.now)
        return probe(cast("Link", link), listens=listens, sid=SID, rates=RATES)

    return run


# Speeds ----------------------------------------------------------------------------------------------------------

KBIT, MBIT = 125.0, 125_000.0


@pytest.mark.parametrize("trip", [0.0002, 0.02, 0.1], ids=lambda trip: f"{trip * 1e3:g} ms")
@pytest.mark.parametrize("rate", [256 * KBIT, 2 * MBIT, 10 * MBIT, 100 * MBIT], ids=lambda r: f"{r / MBIT:g} Mbit/s")
def test_what_is_measured_is_how_fast_the_link_is(measured: Callable[..., LinkSpeed], rate: float, trip: float) -> None:
    link = Simulated(rate, trip, honest)
    speed = measured(link)
    assert speed.round_trip == pytest.approx(trip)
    assert speed.receiving == pytest.approx(rate, rel=0.1)
    assert speed.sending == DONE.bytes_per_second
    assert speed.peer_rates == {"hash_and_mask": 98_000, "mask": 120_000}
    # The round trips, the time for which it asks, and the answers that are on their way then.
    assert link.now < 1 + PROBE_SECONDS + 0.5


@pytest.mark.parametrize("rate", [1 * KBIT, 10 * KBIT, 256 * KBIT, 10 * MBIT, 1e12], ids=lambda r: f"{r:g}")
@pytest.mark.parametrize("trip", [0.0, 0.05, 0.6, 3.0], ids=lambda trip: f"{trip:g} s")
def test_a_probe_is_bounded_on_any_link(measured: Callable[..., LinkSpeed], rate: float, trip: float) -> None:
    link = Simulated(rate, trip, honest)
    try:
        speed = measured(link)
        assert speed.receiving is None or 0 < speed.receiving <= WINDOW_BYTES / speed.round_trip
    except ProbeTooLongError:
        assert rate < 256 * KBIT
    assert link.now <= LONGEST_PROBE + 1e-6
    assert sum(link.asked) <= PROBE_BYTES
    assert len(link.asked) <= MOST_ASKS / 2
    assert max(link.asked) <= MOST_OCTETS


def test_what_is_on_its_way_does_not_outlast_the_turn(measured: Callable[..., LinkSpeed]) -> None:
    """Of a slow link, a party asks only for what can arrive in time, whatever the buffers between the two hold."""
    for rate in (64 * KBIT, 256 * KBIT, 1 * MBIT):
        link = Simulated(rate, 0.01, honest)
        measured(link)
        assert sum(link.asked) <= rate * (PROBE_SECONDS + 0.6)


def test_a_link_that_stalls_is_measured_by_what_arrived(measured: Callable[..., LinkSpeed]) -> None:
    """The answers to the last Asks arrive in the turn of the peer, where they harm nothing."""
    answers = itertools.count()

    def stalls(message: Message) -> Iterator[Message]:
        if isinstance(message, Ask) and next(answers) == 30:
            link._free += 6.0
        yield from honest(message)

    link = Simulated(10 * MBIT, 0.02, stalls)
    speed = measured(link)
    assert speed.receiving == pytest.approx(10 * MBIT, rel=0.1)
    assert speed.sending == DONE.bytes_per_second


def test_the_peer_is_told_two_digits_of_what_this_machine_computes(measured: Callable[..., LinkSpeed]) -> None:
    link = Simulated(10 * MBIT, 0.02, honest)
    measured(link)
    told = next(message for message in link.sent if isinstance(message, Measured))
    assert (told.hash_and_mask, told.mask) == (99_000, 120_000)
    assert told.round_trip_us == 20_000


def test_a_peer_that_says_nothing_about_itself(measured: Callable[..., LinkSpeed]) -> None:
    silent = Measured(0, 0)
    link = Simulated(10 * MBIT, 0.02, lambda sent: [silent] if isinstance(sent, Measured) else honest(sent))
    speed = measured(link)
    assert (speed.sending, speed.peer_rates) == (None, None)
    assert speed.receiving is not None


def test_the_listener_measures_second(measured: Callable[..., LinkSpeed]) -> None:
    """The peer's round trip was measured on a link that carried nothing else, so the shorter one is right."""
    link = Simulated(10 * MBIT, 0.05, honest)
    link.deliver([Ask(0), Ask(MOST_OCTETS), DONE])
    speed = measured(link, listens=True)
    assert [type(message) for message in link.sent[:3]] == [Filler, Filler, Ask]
    assert len(cast("Filler", link.sent[1]).data) == MOST_OCTETS
    assert speed.round_trip == DONE.round_trip_us / 1e6
    assert speed.receiving == pytest.approx(10 * MBIT, rel=0.1)


def test_fillers_are_random(measured: Callable[..., LinkSpeed]) -> None:
    link = Simulated(10 * MBIT, 0.05, honest)
    link.deliver([Ask(1 << 12), Ask(1 << 12), DONE])
    measured(link, listens=True)
    one, other = (message.data for message in link.sent if isinstance(message, Filler))
    assert one != other
    assert min(len(set(one)), len(set(other))) > 200


def test_two_parties_measure_the_same_link() -> None:
    """Over two real links in memory: what one receives is what the other sends."""
    ends = TapLink(), TapLink()
    connect(*ends)
    connect(*ends[::-1])
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(probe, end, listens=bool(n), sid=SID, rates=RATES) for n, end in enumerate(ends)]
        speeds = [run.result(LONGEST_PROBE) for run in runs]
    for own, peer in (speeds, speeds[::-1]):
        assert own.receiving == pytest.approx(peer.sending, rel=0.01)
        assert own.peer_rates == {"hash_and_mask": 99_000, "mask": 120_000}
        assert own.one_machine
    for end in ends:
        end.end()


# For people and programs -------------------------------------------------------------------------------------------


def test_a_speed_in_words_and_in_figures() -> None:
    speed = LinkSpeed(0.0214, 1_250_000.0, 125_000_000.0, {"hash_and_mask": 1.0, "mask": 2.0})
    assert str(speed) == "10 Mbit/s there, 1 Gbit/s back, round trip 21.4 ms"
    assert speed.figures == {
        "round_trip_seconds": 0.0214,
        "sending_bytes_per_second": 1_250_000.0,
        "receiving_bytes_per_second": 125_000_000.0,
        "peer_points_per_second": {"hash_and_mask": 1.0, "mask": 2.0},
        "one_machine": False,
    }
    assert str(LinkSpeed(1.5, receiving=1_250.0)) == "10 kbit/s back, round trip 1,500.0 ms"
    assert LinkSpeed(1.5).figures["peer_points_per_second"] is None


def test_the_parties_find_out_whether_they_share_a_machine(
    measured: Callable[..., LinkSpeed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def peer(machine: bytes) -> Callable[[Message], Iterable[Message]]:
        return lambda message: [replace(DONE, machine=machine)] if isinstance(message, Measured) else honest(message)

    link = Simulated(MBIT, 0.01, honest)
    assert not measured(link).one_machine
    (told,) = {message.machine for message in link.sent if isinstance(message, Measured)}
    assert len(told) == MACHINE_BYTES
    assert measured(Simulated(MBIT, 0.01, peer(told))).one_machine
    assert not measured(Simulated(MBIT, 0.01, peer(bytes(MACHINE_BYTES)))).one_machine
    # Without a number of the machine, nothing is said, and two that say nothing need not be one.
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "none")
    link = Simulated(MBIT, 0.01, peer(b""))
    assert not measured(link).one_machine
    assert {message.machine for message in link.sent if isinstance(message, Measured)} == {b""}


# Peers that break the rules ----------------------------------------------------------------------------------------


@dataclass
class Cheat:
    """What a peer answers to each message, or sends without being asked; how the probe ends."""

    answers: Callable[[Message], Iterable[Message]] = lambda message: ()
    sends: tuple[Message, ...] = ()
    error: type[PsicliError] = PeerProtocolError
    sentence: str = "while the link was measured"


def resized(by: int) -> Callable[[Message], Iterable[Message]]:
    return lambda message: [Filler(bytes(max(message.octets + by, 0)))] if isinstance(message, Ask) else []


OTHER_DATA = "other data to measure the link than it was asked for"
CHEATS = {
    "more than was asked for": Cheat(resized(1), sentence=OTHER_DATA),
    "less than was asked for": Cheat(lambda sent: [Filler(b"")] if isinstance(sent, Ask) else [], sentence=OTHER_DATA),
    "two answers": Cheat(lambda sent: [*honest(sent)] * 2, sentence=OTHER_DATA),
    "data that nobody asked for": Cheat(sends=(Filler(b"x"),), sentence=OTHER_DATA),
    "nothing": Cheat(error=ProbeTooLongError, sentence="was not over after 15 s"),
    "its turn too early": Cheat(sends=(DONE,), sentence="it sent Measured"),
    "an Ask in this party's turn": Cheat(sends=(Ask(1),), sentence="it sent Ask"),
    "a heartbeat": Cheat(sends=(Working(),), sentence="it sent Working"),
    "a message of a task": Cheat(sends=(Ready(0),), sentence="it sent Ready"),
    "a second Hello": Cheat(sends=(HelloOctets(b""),), sentence="it sent Hello "),
    "Bye": Cheat(sends=(Bye(),), error=PeerGoneError, sentence="it closed the connection"),
    "an Abort": Cheat(sends=(Abort(130),), error=PeerStoppedError, sentence="stopped"),
    "an accusation": Cheat(sends=(Abort(76),), error=PeerAccusesError, sentence="protocol"),
}


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS)
def test_a_cheat_in_the_turn_of_this_party(measured: Callable[..., LinkSpeed], cheat: Cheat) -> None:
    link = Simulated(10 * MBIT, 0.02, cheat.answers)
    link.deliver(cheat.sends)
    with pytest.raises(cheat.error, match=cheat.sentence):
        measured(link)
    assert link.now <= LONGEST_PROBE + 1e-6


TURNS = {
    "nothing": Cheat(error=ProbeTooLongError, sentence="was not over after 15 s"),
    "too much at once": Cheat(sends=(Ask(MOST_OCTETS + 1),), sentence="asked for too much"),
    "the most of the schema": Cheat(sends=(Ask(2**32 - 1),), sentence="asked for too much"),
    "too much in all": Cheat(sends=(Ask(MOST_OCTETS),) * 17, sentence="asked for too much"),
    "too often": Cheat(sends=(Ask(0),) * (MOST_ASKS + 1), sentence="asked for too much"),
    "data that nobody asked for": Cheat(sends=(Filler(b""),), sentence=OTHER_DATA),
    "a heartbeat": Cheat(sends=(Ask(0), Working()), sentence="it sent Working"),
    "Bye": Cheat(sends=(Ask(0), Bye()), error=PeerGoneError, sentence="it closed the connection"),
}


@pytest.mark.parametrize("cheat", TURNS.values(), ids=TURNS)
def test_a_cheat_in_the_turn_of_the_peer(measured: Callable[..., LinkSpeed], cheat: Cheat) -> None:
    link = Simulated(10 * MBIT, 0.02, cheat.answers)
    link.deliver(cheat.sends)
    with pytest.raises(cheat.error, match=cheat.sentence):
        measured(link, listens=True)
    sent = [len(message.data) for message in link.sent if isinstance(message, Filler)]
    assert sum(sent) <= PROBE_BYTES
    assert len(sent) <= MOST_ASKS


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
def test_no_number_of_the_peer_makes_nonsense(measured: Callable[..., LinkSpeed], number: int) -> None:
    lie = Measured(number, number**2, number, number)
    link = Simulated(10 * MBIT, 0.02, honest)
    link.deliver([lie])
    speed = measured(link, listens=True)
    assert 0 < speed.round_trip <= 0.02 + 1e-9
    assert speed.sending is None or 0 < speed.sending <= WINDOW_BYTES / speed.round_trip
    assert link.now < 5
    assert str(speed)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), strange=st.lists(any_message, max_size=4), listens=st.booleans())
def test_no_peer_makes_a_probe_hang_or_fail_unexpectedly(seed: int, strange: list[Message], listens: bool) -> None:
    """A peer that answers, answers late, not at all or with anything, in any order."""
    chance = random.Random(seed)

    def answers(message: Message) -> Iterator[Message]:
        if chance.random() < 0.9:
            yield from honest(message)
        if strange and chance.random() < 0.1:
            yield chance.choice(strange)
        link._free += chance.choice([0, 0, 0, 0.1, 5])

    link = Simulated(chance.choice([1e3, 1e5, 1e7]), chance.choice([0, 0.01, 1]), answers)
    link.deliver([Ask(chance.choice([0, 1 << 12, MOST_OCTETS])) for _ in range(3)] if listens else [])
    link.deliver([DONE] if listens else [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "monotonic", lambda: link.now)
        with suppress(PsicliError):
            assert probe(cast("Link", link), listens=listens, sid=SID, rates=None).round_trip > 0
    assert link.now <= LONGEST_PROBE + 1e-6
    assert sum(link.asked) <= PROBE_BYTES
