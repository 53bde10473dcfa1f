"""Measure the link to the peer, for `psicli check`: a bounded probe that both parties agree to.

The dialer measures first, then the listener. Who measures asks for random bytes, and the other party answers each Ask
at once. So the one who measures decides how much is on its way, and sees when it arrives: no buffer between the two can
make a slow link look fast, or keep it busy for longer than the probe may take.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from psicli.core import peer_errors
from psicli.core.records import dataclass
from psicli.protocol.messages import MACHINE_BYTES, Abort, Ask, Filler, Measured, Message
from psicli.transport.link import Link
from psicli.transport.window import WINDOW_BYTES

# What a party asks for in all, and for how long it asks; whichever is reached first ends its turn [bytes, s].
PROBE_BYTES = 4 << 20
PROBE_SECONDS = 2.0
# How long what was asked for may be late: the link may have become slower meanwhile [s].
LATE = 2.0
# The most that one Ask asks for [bytes], and the most Asks of a turn; psicli needs about sixty of them.
MOST_OCTETS = 1 << 18
MOST_ASKS = 256
# How much is asked for before anything has arrived, and the least that an Ask asks for [bytes]: a modem needs seconds
# for it, and TCP sends about as much at first.
_FIRST_BYTES = 1 << 14
_LEAST_OCTETS = 1 << 12
# How often the round trip is measured, and after which time it is not measured again [s].
_TRIPS = 5
_TRIPS_SECONDS = 0.5
# The operations of the kernel that a peer is told about.
_OPERATIONS = "hash_and_mask", "mask"
# When a probe must be over, both turns together [s].
LONGEST_PROBE = 15.0
# An answer that takes this much longer than two round trips has waited for others on the link, and not only for a busy
# machine [s].
_BUSY = 0.05
# A random number of this boot of the machine, the same in all of its containers and networks.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# What takes no time took this long: nothing divides by 0 [s].
_TICK = 1e-6


@dataclass(frozen=True)
class LinkSpeed:
    """What the probe found out about the link, and what the peer says about its machine.

    round_trip: the shortest time of a message and its answer [s]. sending, receiving: the bandwidth in each direction
    [bytes per second], at most what the window of a link allows for this round trip; None if it was not measured.
    peer_rates: how fast the peer's kernel is, by operation [points per second]; None if it does not say. one_machine:
    whether both parties run on one machine, and so share its cores.
    """

    round_trip: float
    sending: float | None = None
    receiving: float | None = None
    peer_rates: Mapping[str, float] | None = None
    one_machine: bool = False

    def __str__(self) -> str:
        ways = (("there", self.sending), ("back", self.receiving))
        each = [f"{_in_bits(rate)} {way}" for way, rate in ways if rate is not None]
        return ", ".join([*each, f"round trip {self.round_trip * 1e3:,.1f} ms"])

    @property
    def figures(self) -> dict[str, Any]:
        """The same for programs, by names that end in the unit."""
        rates = self.peer_rates
        return {
            "round_trip_seconds": self.round_trip,
            "sending_bytes_per_second": self.sending,
            "receiving_bytes_per_second": self.receiving,
            "peer_points_per_second": None if rates is None else dict(rates),
            "one_machine": self.one_machine,
        }


def probe(link: Link, *, listens: bool, sid: bytes, rates: Mapping[str, float] | None) -> LinkSpeed:
    """Measure the link together with the peer; both Hellos agree to it, and nothing else was sent.

    sid: the session's id. rates: how fast this party's kernel is, by operation [points per second]; the peer learns two
    digits of each. Raises PeerProtocolError if the peer does not keep to the rules, ProbeTooLongError if it takes too
    long, and the reason why the link ended.
    """
    machine = _machine_id(sid)
    turns = _Turns(link, rates or {}, machine)
    if listens:
        theirs, ours = turns.answer(), turns.measure()
    else:
        ours, theirs = turns.measure(), turns.answer()
    said = {name: float(getattr(theirs, name)) for name in _OPERATIONS}
    return LinkSpeed(
        turns.round_trip,
        sending=_bounded(theirs.bytes_per_second, turns.round_trip),
        receiving=_bounded(ours.bytes_per_second, turns.round_trip),
        peer_rates=said if all(said.values()) else None,
        one_machine=bool(machine) and theirs.machine == machine,
    )


def _machine_id(sid: bytes) -> bytes:
    """Return 16 bytes that the other party has too if it runs on this machine, and that tell it nothing else.

    They are a hash of a random number, which the machine draws when it starts, and of the session. Empty if the system
    has no such number.
    """
    try:
        boot = _BOOT_ID.read_bytes()
    except OSError:
        return b""
    return hashlib.sha256(b"psicli/v1/machine\0" + sid + boot).digest()[:MACHINE_BYTES]


def _bounded(rate: float, round_trip: float) -> float | None:
    """Return a bandwidth, at most a window for each round trip [bytes per second]; None if it is 0."""
    return min(rate, WINDOW_BYTES / round_trip) or None


def _in_bits(rate: float) -> str:
    """Return a bandwidth [bytes per second] for people, in bits."""
    bits = 8 * rate
    unit, size = next((each for each in (("Gbit/s", 1e9), ("Mbit/s", 1e6)) if bits >= each[1]), ("kbit/s", 1e3))
    return f"{bits / size:.3g} {unit}"


def _rounded(rate: float) -> int:
    """Return a rate with two digits: enough to estimate, and little to recognise a machine by."""
    return int(float(f"{rate:.1e}"))


class _Turns:
    """The two turns of a probe, over a link that carries nothing else."""

    def __init__(self, link: Link, rates: Mapping[str, float], machine: bytes) -> None:
        self._link = link
        self._rates, self._machine = rates, machine
        self._over_at = monotonic() + LONGEST_PROBE
        # The sizes of the Fillers that the peer owes, in order [bytes].
        self._owed: deque[int] = deque()
        # The shortest time from an Ask to its answer, as far as it is known [s].
        self.round_trip = math.inf

    def measure(self) -> Measured:
        """Take this party's turn: measure, tell the peer what was found, and return it."""
        self._note(self._round_trip())
        own, peer = (_rounded(self._rates.get(name, 0.0)) for name in _OPERATIONS)
        found = Measured(round(self.round_trip * 1e6), round(self._bandwidth()), own, peer, self._machine)
        self._link.send(found)
        return found

    def answer(self) -> Measured:
        """Let the peer take its turn: answer what it asks, and return what it has found out."""
        left, asks = PROBE_BYTES, 0
        while True:
            match self._next(self._over_at):
                case Measured(round_trip_us) as found:
                    # What arrives late in the peer's turn makes round trips of the next one longer.
                    if round_trip_us:
                        self._note(round_trip_us / 1e6)
                    return found
                case Ask(octets) if octets <= min(left, MOST_OCTETS) and asks < MOST_ASKS:
                    left, asks = left - octets, asks + 1
                    # Random, because a link that compresses must not look fast.
                    self._link.send(Filler(os.urandom(octets)))
                case Ask():
                    raise peer_errors.PeerProtocolError(detail="it asked for too much to measure the link")
                case None:
                    raise peer_errors.ProbeTooLongError(seconds=LONGEST_PROBE)
                case Filler():
                    # It was late for this party's own turn.
                    pass
                case other:
                    raise _misplaced(other)

    def _note(self, round_trip: float) -> None:
        """Note how long a message and its answer have taken [s]."""
        self.round_trip = max(min(self.round_trip, round_trip), _TICK)

    def _round_trip(self) -> float:
        """Return the shortest time from an Ask to its answer [s]."""
        trips: list[float] = []
        began = monotonic()
        while len(trips) < _TRIPS and monotonic() - began < _TRIPS_SECONDS:
            asked = monotonic()
            self._ask(0)
            if self._filler(self._over_at) is None:
                raise peer_errors.ProbeTooLongError(seconds=LONGEST_PROBE)
            trips.append(monotonic() - asked)
        return min(trips)

    def _bandwidth(self) -> float:
        """Return how fast Fillers arrive [bytes per second]; 0 if none does.

        What is on its way doubles with each round trip, as it does in TCP, as long as all of it can arrive in time.
        """
        # Nothing can arrive before this.
        began = monotonic() + self.round_trip
        end = began + PROBE_SECONDS
        # When how much had arrived [s, bytes], and since which of these the link has been full.
        marks, full = [(began, 0)], math.inf
        # When the Fillers that the peer owes were asked for [s].
        asked_at: deque[float] = deque()
        asked = arrived = 0
        while True:
            window = _FIRST_BYTES + arrived
            # How long a byte takes [s].
            pace = max(monotonic() - began, _TICK) / arrived if arrived else 0.0
            while asked < min(arrived + window, PROBE_BYTES) and monotonic() + (asked - arrived) * pace < end:
                octets = min(max(window // 4, _LEAST_OCTETS), MOST_OCTETS, PROBE_BYTES - asked)
                self._ask(octets)
                asked_at.append(monotonic())
                asked += octets
            filler = self._filler(min(end + LATE, self._over_at)) if asked > arrived else None
            if filler is None:
                return _rate(marks, full) if arrived else 0.0
            arrived += filler
            marks.append((monotonic(), arrived))
            if monotonic() - asked_at.popleft() > 2 * self.round_trip + _BUSY:
                # It has waited for others.
                full = min(full, len(marks) - 1)

    def _ask(self, octets: int) -> None:
        self._owed.append(octets)
        self._link.send(Ask(octets))

    def _filler(self, deadline: float) -> int | None:
        """Return the size of the next Filler [bytes]; None if none arrives by the deadline [s, monotonic]."""
        match self._next(deadline):
            case None:
                return None
            case Filler(data):
                return len(data)
            case other:
                raise _misplaced(other)

    def _next(self, deadline: float) -> Message | None:
        """Return the next message; None if none arrives by the deadline [s, monotonic]. An expected Filler is due."""
        message = self._link.first(max(deadline - monotonic(), 0.0))
        if isinstance(message, Abort):
            raise peer_errors.failure_of_peer(message.failure_class)
        if isinstance(message, Filler) and not (self._owed and self._owed.popleft() == len(message.data)):
            raise peer_errors.PeerProtocolError(detail="it sent other data to measure the link than it was asked for")
        return message


def _rate(marks: Sequence[tuple[float, int]], full: float) -> float:
    """Return how fast data arrived once the link was full, at the latest for the last half of it [bytes per second].

    marks: when how much had arrived [s, bytes]; full: since which of them the link was full. A lost packet holds back
    what follows it, so a longer time is better.
    """
    end, total = marks[-1]
    half = next(place for place, (_, arrived) in enumerate(marks) if 2 * arrived >= total)
    since, before = marks[int(min(full, half, len(marks) - 2))]
    return (total - before) / max(end - since, _TICK)


def _misplaced(message: Message) -> peer_errors.PeerProtocolError:
    kind = type(message).__name__.removesuffix("Octets")
    return peer_errors.PeerProtocolError(detail=f"it sent {kind} while the link was measured")
