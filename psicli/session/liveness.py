"""Liveness of the peer: heartbeats, and the limits on a peer that is silent, slow, or says more than it may."""

from __future__ import annotations

import logging
import threading
from time import monotonic

from psicli.core import peer_errors
from psicli.core.errors import PsicliError
from psicli.protocol.messages import Abort, Commit, Done, Offer, Open, Ready, Skip, TaskMessage, Working
from psicli.session.agreement import Terms
from psicli.transport.link import Link

logger = logging.getLogger(__name__)

# The longest interval between heartbeats (Working) [s].
HEARTBEAT_INTERVAL = 15.0
SHORTEST_HEARTBEAT = 0.1
# The interval between log lines while the peer is silent [s].
SILENCE_LINE_INTERVAL = 60.0
# How long this party waits for a peer that is alive, without the next step of a task or enough data [recv_timeouts].
STUCK_AFTER = 24
# Less data than this makes no progress: half of what a modem of 10 kbit/s transfers [bytes per second].
LEAST_PACE = 500
# The steps of a task that may take a peer long: it reads its input before some, and writes its output before others.
_STEPS = Offer | Skip | Open | Ready | Commit | Done
# Heartbeats may arrive in a burst after a stall of the network: this many are ten seconds' worth.
SPARE_HEARTBEATS = 100


def beat(link: Link, peer_timeout_ms: int, closed: threading.Event) -> None:
    """Send heartbeats until the session closes; the interval is fixed, so it reveals nothing about the work."""
    # Four per timeout of the peer, but the peer cannot demand more than one per SHORTEST_HEARTBEAT.
    interval = max(peer_timeout_ms / 4000, SHORTEST_HEARTBEAT)
    while not closed.wait(min(HEARTBEAT_INTERVAL, interval)):
        link.send(Working())


class PeerWatch:
    """Watches for a peer that is silent or slow, and for the time when the exchange must be over.

    A peer that is not silent has a stock of time. It shrinks while this party waits with nothing to do; data that the
    peer sends or reads adds to it at LEAST_PACE, and each step of a task fills it up.
    """

    def __init__(self, link: Link, terms: Terms) -> None:
        self._link = link
        self._terms = terms
        self._began = self._at = monotonic()
        self._heartbeats = 0
        # How much of the stock is used up [s]; how much data has moved since it was full [bytes].
        self._waited = 0.0
        self._data = 0
        self._confirmed = 0

    @property
    def _timeout(self) -> float:
        """How long the peer may be silent [s]."""
        return self._terms.recv_timeout_ms / 1000

    @property
    def _stock(self) -> float:
        """The full stock [s]; it outlasts a broken connection."""
        return max(STUCK_AFTER * self._timeout, self._terms.longest_break)

    def check_deadline(self) -> None:
        """Raise DurationError if the exchange must be over."""
        self._terms.deadline.check()

    def progressed(self, message: TaskMessage, octets: int) -> None:
        """Note that the peer sent a message of a task, of this size [bytes]."""
        if isinstance(message, _STEPS):
            self._waited, self._data = 0.0, 0
        self._move(octets)

    def ignored(self) -> None:
        """Note that the peer sent something that this party ignores; raises like check_progress."""
        self._pass(waiting=True)
        self.check_progress()

    def count_heartbeat(self) -> None:
        """Count a heartbeat of the peer; raises PeerProtocolError if they come too fast."""
        self._heartbeats += 1
        due = (monotonic() - self._began) / SHORTEST_HEARTBEAT
        if self._heartbeats > due + SPARE_HEARTBEATS:
            raise peer_errors.PeerProtocolError(detail="it sends heartbeats too often")

    def check_progress(self) -> None:
        """Raise PeerStuckError or PeerSlowError if the stock is used up."""
        confirmed, self._confirmed = self._confirmed, self._link.confirmed
        self._move(self._confirmed - confirmed)
        if self._waited >= self._stock:
            kind = peer_errors.PeerSlowError if self._data else peer_errors.PeerStuckError
            raise kind(seconds=self._stock, pace=LEAST_PACE)

    def _move(self, octets: int) -> None:
        self._data += octets
        self._waited = max(self._waited - octets / LEAST_PACE, 0.0)
        if not self._waited:
            self._data = 0

    def _pass(self, *, waiting: bool) -> None:
        """Take the time since the last call as one of waiting for the peer, or of own work."""
        now = monotonic()
        if waiting:
            self._waited += now - self._at
        self._at = now

    def wait(self, *, for_message: bool, room_for: int | None, idle: bool) -> None:
        """Wait for a message, for room to send, or for Link.wake.

        idle: whether this party has nothing to do meanwhile. Raises PeerSilentError if the peer sends nothing for the
        timeout, and like check_progress.
        """
        self._pass(waiting=False)
        self.check_progress()
        left = min(max(self._timeout - self._link.silence, 0.0), SILENCE_LINE_INTERVAL, self._terms.deadline.left)
        if idle:
            left = min(left, self._stock - self._waited)
        woken = self._link.wait(for_message=for_message, room_for=room_for, timeout=left)
        self._pass(waiting=idle)
        silence = self._link.silence
        if not woken and silence >= self._timeout:
            raise peer_errors.PeerSilentError(seconds=self._timeout)
        if not woken and silence >= SILENCE_LINE_INTERVAL:
            logger.info("%s has sent nothing for %.0f s; the limit is %.0f s", self._terms.peer, silence, self._timeout)

    def await_end(self) -> None:
        """End our direction, and wait until the peer ends the session too, at most for the timeout.

        Raises LateMessageError if the peer sends anything more about a task.
        """
        deadline, line = monotonic() + self._timeout, monotonic() + SILENCE_LINE_INTERVAL
        # A breach that has arrived by now can still be told to the peer: nothing follows our last message.
        self._refuse_late()
        self._link.close_outgoing()
        while (left := deadline - monotonic()) > 0 and not self._link.ended:
            self._link.wait(for_message=True, room_for=None, timeout=min(left, SILENCE_LINE_INTERVAL))
            self._refuse_late()
            if monotonic() >= line and not self._link.ended:
                logger.info("%s has not ended the session yet; the limit is %.0f s", self._terms.peer, self._timeout)
                line += SILENCE_LINE_INTERVAL
        self._link.finish(max(deadline - monotonic(), 0.0))

    def _refuse_late(self) -> None:
        """Read what has arrived after the last task: heartbeats, and how the peer ended."""
        try:
            while (arrived := self._link.poll()) is not None:
                message, _ = arrived
                if isinstance(message, Working):
                    self.count_heartbeat()
                elif not isinstance(message, Abort):
                    raise peer_errors.LateMessageError(kind=type(message).__name__.removesuffix("Octets"))
        except peer_errors.PeerProtocolError:
            raise
        except PsicliError:
            # The link has ended, in whatever way: this party has all that it needs.
            if self._link.dropped_frames:
                raise peer_errors.LateMessageError(kind="Frame") from None
