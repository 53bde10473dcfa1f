"""Liveness of the peer: this party sends heartbeats and enforces timeouts on the peer's silence."""

from __future__ import annotations

import logging
import threading
import time

from psicli.core import peer_errors
from psicli.protocol.messages import Working
from psicli.transport.link import Link

logger = logging.getLogger(__name__)

# The longest interval between heartbeats (Working) [s].
HEARTBEAT_INTERVAL = 15.0
SHORTEST_HEARTBEAT = 0.1
# The interval between log lines while the peer is silent [s].
SILENCE_LINE_INTERVAL = 60.0
# A peer that sends only heartbeats and messages that this party ignores for this long, while this party has nothing to
# do, is stuck [recv_timeouts].
STUCK_AFTER = 24
# Heartbeats may arrive in a burst after a stall of the network: this many are ten seconds' worth.
SPARE_HEARTBEATS = 100


def beat(link: Link, peer_timeout_ms: int, closed: threading.Event) -> None:
    """Send heartbeats until the session closes; the interval is fixed, so it reveals nothing about the work."""
    # Four per timeout of the peer, but the peer cannot demand more than one per SHORTEST_HEARTBEAT.
    interval = max(peer_timeout_ms / 4000, SHORTEST_HEARTBEAT)
    while not closed.wait(min(HEARTBEAT_INTERVAL, interval)):
        link.send(Working())


class PeerWatch:
    """Watches for a peer that is silent or stuck; timeout: how long the peer may be silent [s]."""

    def __init__(self, link: Link, peer: str, timeout: float) -> None:
        self._link = link
        self._peer = peer
        self._timeout = timeout
        self._began = self._moved = time.monotonic()
        self._heartbeats = 0

    def moved(self) -> None:
        """Note that the session made progress."""
        self._moved = time.monotonic()

    def count_heartbeat(self) -> None:
        """Count a heartbeat of the peer; raises PeerProtocolError if they come too fast."""
        self._heartbeats += 1
        due = (time.monotonic() - self._began) / SHORTEST_HEARTBEAT
        if self._heartbeats > due + SPARE_HEARTBEATS:
            raise peer_errors.PeerProtocolError(detail="it sends heartbeats too often")

    def check_progress(self) -> None:
        """Raise PeerStuckError if the session has made no progress for too long."""
        stuck = STUCK_AFTER * self._timeout
        if time.monotonic() - self._moved >= stuck:
            raise peer_errors.PeerStuckError(seconds=stuck)

    def wait(self, *, for_message: bool, room_for: int | None) -> None:
        """Wait for a message, for room to send, or for Link.wake.

        Raises PeerSilentError if the peer sends nothing for the timeout, and like check_progress.
        """
        self.check_progress()
        left = min(max(self._timeout - self._link.silence, 0.0), SILENCE_LINE_INTERVAL)
        woken = self._link.wait(for_message=for_message, room_for=room_for, timeout=left)
        silence = self._link.silence
        if not woken and silence >= self._timeout:
            raise peer_errors.PeerSilentError(seconds=self._timeout)
        if not woken and silence >= SILENCE_LINE_INTERVAL:
            logger.info("%s has sent nothing for %.0f s; the limit is %.0f s", self._peer, silence, self._timeout)

    def await_end(self) -> None:
        """Wait until the peer ends the session too, at most for the timeout."""
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            self._link.finish(min(left, SILENCE_LINE_INTERVAL))
            if self._link.ended:
                return
            logger.info("%s has not ended the session yet; the limit is %.0f s", self._peer, self._timeout)
