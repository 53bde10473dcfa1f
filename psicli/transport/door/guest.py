"""One connection that was accepted: its two sockets, and the octets on their way between them."""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from psicli.core.errors import PsicliError
from psicli.transport.door.owners import ends

if TYPE_CHECKING:
    from cryptography import x509

# The most octets that are on their way in one direction, apart from the kernel's buffers [bytes].
_CHUNK = 1 << 16
# How often octets are moved before the other guests have their turn.
_ROUNDS = 8
# Data that is not acknowledged within this time breaks a connection [ms], as gRPC's own option would have it.
_UNACKNOWLEDGED = 60_000
# A reachable machine acknowledges data within this time, even if its processes are stopped [ms].
_ACKNOWLEDGED_WITHIN = 10_000
# After this many unanswered probes of a closed window, the machine is unreachable.
_LOST_PROBES = 3
# Fields of Linux's tcp_info: unanswered probes, segments not acknowledged, time since the last acknowledgement [ms].
_TCP_INFO = struct.Struct("=3xB20xI28xI")
# Closing resets the connection.
_RESET = struct.pack("ii", 1, 0)

# What a socket without a delay raises when it cannot go on yet.
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Flow:
    """The octets that move from one socket to the other; nothing is read before what was read is written.

    inner: whichever of the two leads to gRPC. When gRPC closes it, what it wrote before must still reach the other end.
    """

    def __init__(self, source: socket.socket, goal: socket.socket, inner: socket.socket) -> None:
        self.held = memoryview(b"")
        # Whether nothing more comes from the source; whether nothing more can be written.
        self.ended = self.stopped = False
        self._source, self._goal, self._inner = source, goal, inner

    @property
    def over(self) -> bool:
        """Whether the source has ended and everything from it was written."""
        return self.ended and not self.held

    @property
    def reads(self) -> int:
        """The event of its source that it waits for, if any."""
        return 0 if self.held or self.ended or self.stopped else selectors.EVENT_READ

    @property
    def writes(self) -> int:
        """The event of its goal that it waits for, if any."""
        return selectors.EVENT_WRITE if self.held else 0

    def move(self) -> bool:
        """Move what can be moved now; return whether there may be more. Raises OSError if the other end is gone."""
        for _ in range(_ROUNDS):
            if self.stopped or self.over:
                return False
            try:
                if self.held:
                    self.held = self.held[self._goal.send(self.held) :]
                else:
                    octets = self._source.recv(_CHUNK)
                    self.held, self.ended = memoryview(octets), not octets
            except _NOT_YET:
                return False
            except OSError:
                if self.held and self._goal is self._inner:
                    self.stopped, self.held = True, memoryview(b"")
                elif not self.held and self._source is self._inner:
                    self.ended = True
                else:
                    raise
        return True


class Guest:
    """A connection that was accepted; outer: the socket to the other end, inner: the one to gRPC, once it is served."""

    def __init__(self, outer: socket.socket, came_at: float) -> None:
        """came_at: when it was accepted [s, monotonic]. Raises OSError if the connection has broken already."""
        outer.setblocking(False)
        self.near, self.far = ends(outer)
        self.came_at = came_at
        # What to do when octets arrive or can be sent.
        self.proceed: Callable[[Guest], None] = lambda guest: None
        # The name of the inner socket.
        self.name = ""
        # The certificate of the other end, None without TLS, or why it is not our peer's.
        self.certificate: x509.Certificate | None = None
        self.refusal: PsicliError | None = None
        # How many streams it has carried; whether it is the peer's, and ever was.
        self.streams = 0
        self.admitted = self.was_admitted = False
        # Whether the other end only has to read our last octets.
        self.is_leaving = False
        self._outer = outer
        self._inner: socket.socket | None = None
        self._inward: _Flow | None = None
        self._outward: _Flow | None = None
        # The events of each socket that the selector reports.
        self._watched: dict[socket.socket, int] = {}

    @property
    def host(self) -> str:
        return self.far[0]

    @property
    def has_stream(self) -> bool:
        return self.streams > 0

    @property
    def is_closed(self) -> bool:
        return self._outer.fileno() < 0

    def has_gone(self) -> bool:
        """Return whether the other end has closed the connection before it sent anything."""
        try:
            return not self._outer.recv(1, socket.MSG_PEEK)
        except _NOT_YET:
            return False

    @property
    def chain(self) -> list[x509.Certificate]:
        """The certificate of the other end and those it depends on; raises ValueError."""
        # Imported late, as everything about certificates.
        from psicli.transport.tls import verified_chain

        assert isinstance(self._outer, ssl.SSLSocket)
        return verified_chain(self._outer)

    def tune(self) -> None:
        """Set the options that gRPC would set for its own connections."""
        self._outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)

    def begin_tls(self, context: ssl.SSLContext) -> None:
        self._outer = context.wrap_socket(
            self._outer, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )

    def shake_hands(self) -> bool:
        """Go on with the TLS handshake and return whether it has ended; raises OSError when it fails."""
        assert isinstance(self._outer, ssl.SSLSocket)
        try:
            self._outer.do_handshake()
        except _NOT_YET:
            return False
        return True

    def connect(self, inner: socket.socket) -> None:
        """Relay octets through this socket from now on."""
        self._inner = inner
        self._inward, self._outward = _Flow(self._outer, inner, inner), _Flow(inner, self._outer, inner)

    def relay(self) -> bool:
        """Move octets in both directions; return whether there may be more. Raises OSError if a connection breaks."""
        assert self._inward is not None
        assert self._outward is not None
        return self._inward.move() | self._outward.move()

    @property
    def has_left(self) -> bool:
        """Whether the other end has closed the connection."""
        return self._inward is not None and self._inward.over

    @property
    def was_served(self) -> bool:
        """Whether gRPC has closed the connection, and all its octets are sent."""
        return self._outward is not None and self._outward.over

    def say_goodbye(self) -> None:
        """End our direction; the other end reads what was sent, which it could lose if the connection were closed."""
        self.is_leaving = True
        if self._inner is not None:
            self._inner.close()
        with suppress(OSError):
            if isinstance(self._outer, ssl.SSLSocket):
                # Sends the last alert of TLS, and then waits in vain for the other end's.
                self._outer.unwrap()
        with suppress(OSError):
            self._outer.shutdown(socket.SHUT_WR)

    def has_ended(self) -> bool:
        """Discard what has arrived; return whether the connection has ended."""
        try:
            return not self._outer.recv(_CHUNK)
        except _NOT_YET:
            return False
        except OSError:
            return True

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Let the selector report what this connection waits for."""
        inward, outward = self._inward, self._outward
        if inward is None or outward is None or self.is_leaving:
            self._set(selector, self._outer, selectors.EVENT_READ)
            return
        assert self._inner is not None
        self._set(selector, self._outer, inward.reads | outward.writes)
        self._set(selector, self._inner, outward.reads | inward.writes)

    def ignore(self, selector: selectors.BaseSelector) -> None:
        """Let the selector report nothing more about this connection."""
        for each in list(self._watched):
            self._set(selector, each, 0)

    def _set(self, selector: selectors.BaseSelector, which: socket.socket, events: int) -> None:
        before = self._watched.get(which, 0)
        if events == before:
            return
        if not before:
            selector.register(which, events, self)
        elif events:
            selector.modify(which, events, self)
        else:
            selector.unregister(which)
        self._watched[which] = events

    def close(self, *, reset: bool) -> None:
        """Close both sockets; reset: leave nothing behind in the kernel, and discard what was not sent yet."""
        if reset:
            with suppress(OSError):
                self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for each in (self._outer, self._inner):
            if each is not None:
                each.close()

    def is_unanswered(self) -> bool:
        """Return whether the machine of the other end no longer acknowledges what is sent; False if unknown.

        This tells a broken network from a stopped process: a stopped process does not read, but its machine still
        acknowledges.
        """
        # A failed look-up is no reason to end a session.
        with suppress(OSError):
            info = self._outer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            probes, unacknowledged, silence = _TCP_INFO.unpack(info)
            return bool(probes >= _LOST_PROBES or (unacknowledged and silence >= _ACKNOWLEDGED_WITHIN))
        return False
