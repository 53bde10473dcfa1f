"""What a listener remembers about connections that did not lead to its peer."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)

# A connection, or a TLS handshake, that is not followed by a stream within this time has failed [s].
GRACE = 1.5
# How many different strangers are logged, and how many machines are remembered, at most.
MAX_STRANGERS = 16


class Strangers:
    """Failed TLS handshakes, other programs, and whoever was refused."""

    def __init__(self) -> None:
        # TLS handshakes that began since the last one that led to a stream.
        self.handshakes = 0
        # What was logged.
        self.told: list[str] = []
        # The machines of these handshakes, and of connections that gRPC closed because they spoke no HTTP/2.
        self._hosts: set[str] = set()
        self._handshake_at = 0.0
        self._failures = 0

    def note_handshake(self, host: str) -> None:
        self.handshakes += 1
        self._handshake_at = time.monotonic()
        self.note_host(host)

    def note_host(self, host: str) -> None:
        if len(self._hosts) < MAX_STRANGERS:
            self._hosts.add(host)

    def note_stream(self) -> None:
        self.handshakes = 0
        self._hosts.clear()

    def note(self, words: str) -> None:
        """Log who was refused, once."""
        if words not in self.told and len(self.told) < MAX_STRANGERS:
            self.told.append(words)
            logger.warning("%s", words)

    def note_failure(self, host: str, exc: Exception) -> None:
        """Log, for developers, why a connection was dropped, as often as there may be strangers."""
        if self._failures < MAX_STRANGERS:
            self._failures += 1
            logger.debug("dropped a connection from %s: %s", host, exc)

    @property
    def hosts(self) -> set[str]:
        return set(self._hosts)

    @property
    def handshake_ago(self) -> float:
        """Time since the last handshake began [s]."""
        return time.monotonic() - self._handshake_at

    @property
    def fail_in_tls(self) -> bool:
        return self.handshakes > 0 and self.handshake_ago >= GRACE
