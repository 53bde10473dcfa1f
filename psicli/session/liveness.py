"""Signs of life: those this side gives, and how long it waits for the peer's."""

from __future__ import annotations

import logging
import threading
import time

from psicli.core import errors
from psicli.protocol.messages import Working
from psicli.transport.link import Link

logger = logging.getLogger(__name__)

# How often a side says that it still works while it sends nothing else [s].
HEARTBEAT_INTERVAL = 15.0
SHORTEST_HEARTBEAT = 0.1
# How often a side that hears nothing says so [s].
SILENCE_LINE_INTERVAL = 60.0
# A peer that says so long that it works, and nothing else, while this side has nothing to do, is stuck [recv_timeouts].
STUCK_AFTER = 24
# Words that the peer works that may come before their time: as many as a connection holds back for ten seconds.
SPARE_WORDS = 100


def beat(link: Link, peer_timeout_ms: int, closed: threading.Event) -> None:
    """Say now and then that this side still works; the same whatever it does, so it tells of nothing."""
    # Often enough for what the other side puts up with, but not as often as it may like to say.
    interval = max(peer_timeout_ms / 4000, SHORTEST_HEARTBEAT)
    while not closed.wait(min(HEARTBEAT_INTERVAL, interval)):
        link.send(Working())


class PeerWatch:
    """How long the peer says nothing, or nothing but that it works. timeout: how long it may say nothing [s]."""

    def __init__(self, link: Link, peer: str, timeout: float) -> None:
        self._link = link
        self._peer = peer
        self._timeout = timeout
        self._began = self._moved = time.monotonic()
        self._words = 0

    def moved(self) -> None:
        """Take note that the session gets on."""
        self._moved = time.monotonic()

    def count_word(self) -> None:
        """Take note of a word that the peer works; refuses them without end: one now and then is due."""
        self._words += 1
        beats = (time.monotonic() - self._began) / SHORTEST_HEARTBEAT
        if self._words > beats + SPARE_WORDS:
            raise errors.PeerProtocolError(detail="it says without end that it still works")

    def wait(self, *, for_message: bool, room_for: int | None) -> None:
        """Wait for whatever comes first.

        Raises PeerSilentError when the peer says nothing for the timeout, PeerStuckError when for much longer it has
        said nothing but that it works.
        """
        stuck = STUCK_AFTER * self._timeout
        if time.monotonic() - self._moved >= stuck:
            raise errors.PeerStuckError(seconds=stuck)
        left = min(max(self._timeout - self._link.silence, 0.0), SILENCE_LINE_INTERVAL)
        woken = self._link.wait(for_message=for_message, room_for=room_for, timeout=left)
        silence = self._link.silence
        if not woken and silence >= self._timeout:
            raise errors.PeerSilentError(seconds=self._timeout)
        if not woken and silence >= SILENCE_LINE_INTERVAL:
            logger.info("%s has said nothing for %.0f s; %.0f s are the limit", self._peer, silence, self._timeout)

    def await_end(self) -> None:
        """Wait until the peer has said everything too, for the timeout at most."""
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            self._link.finish(min(left, SILENCE_LINE_INTERVAL))
            if self._link.ended:
                return
            logger.info("%s has not ended the session yet; %.0f s are the limit", self._peer, self._timeout)
