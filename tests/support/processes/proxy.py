"""A proxy between the parties that simulates network faults when a test asks for them."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from support.waiting import DEADLINE

_LINGER_NOT = struct.pack("ii", 1, 0)


class _Connection:
    """One connection through the proxy: the socket near the dialer and the one far from it, at the listener."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.lossy = False
        for each in (near, far):
            # Without this, parties that send in turns wait for each other's delayed acknowledgements.
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self, *ends: socket.socket) -> None:
        for each in ends or (self.near, self.far):
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                # A thread that reads from the socket would keep it open if it were only closed.
                each.shutdown(socket.SHUT_RD)
            each.close()

    def half_close(self) -> None:
        with suppress(OSError):
            self.far.shutdown(socket.SHUT_WR)


def give(connection: socket.socket, user: int | None) -> None:
    """Let a socket belong to a user, so that to the kernel it is one of this user's processes."""
    if user is not None:
        os.fchown(connection.fileno(), user, -1)


def connected(port: int, user: int | None = None) -> socket.socket:
    """Connect to a port with a socket that belongs to a user."""
    connection = socket.socket()
    give(connection, user)
    try:
        connection.connect(("127.0.0.1", port))
    except OSError:
        connection.close()
        raise
    return connection


class Proxy:
    """A proxy that forwards connections to `port` to the listener at `target`, until a test breaks it."""

    def __init__(self, port: int, target: int, *, dials_as: int | None = None, listens_as: int | None = None) -> None:
        """dials_as, listens_as: to whom the sockets belong, if not to this user; only root can give them away."""
        self.port = port
        self._target = target
        self._dials_as, self._listens_as = dials_as, listens_as
        self._delay = 0.0
        self._lossy = False
        self._closed = threading.Event()
        self._passes = threading.Event()
        self._passes.set()
        # The number of octets from the dialer that still pass unchanged; None for all.
        self._until_flip: int | None = None
        self._connections: list[_Connection] = []
        # The number of connections made so far.
        self.made = 0
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", port))
        give(self._server, listens_as)
        self._acceptor = self._start(self._accept)

    # Faults that a test can cause

    def delay(self, seconds: float) -> None:
        """Delay all data by this time from now on [s]."""
        self._delay = seconds

    def hold(self) -> None:
        """Hold all data back until `restore`; data sent in the meantime arrives then."""
        self._passes.clear()

    def blackhole(self) -> None:
        """Silently lose all data until `restore`; connections made before the restoration keep losing data."""
        self._lossy = True
        for each in self._connections:
            each.lossy = True

    def restore(self) -> None:
        self._lossy = False
        self._passes.set()

    def reset(self) -> None:
        """Reset every connection."""
        for each in self._forget():
            each.reset()

    def lose_the_dialer(self) -> None:
        """Reset the dialer's end of every connection; the listener only sees silence."""
        for each in self._connections:
            each.lossy = True
            each.reset(each.near)

    def half_close(self) -> None:
        """End the dialer's direction of every connection; the listener's direction continues."""
        for each in self._connections:
            each.half_close()

    def refuse(self) -> None:
        """Accept no more connections."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def flip_after(self, octets: int) -> None:
        """Flip a bit that the dialer sends, after this many further octets."""
        self._until_flip = octets

    @property
    def flipped(self) -> bool:
        return self._until_flip is not None and self._until_flip < 0

    def close(self) -> None:
        self.refuse()
        # It may be making a last connection, which must be closed too.
        self._acceptor.join(DEADLINE)
        self._closed.set()
        self._passes.set()
        for each in self._forget():
            each.reset()
        for thread in self._threads:
            thread.join(DEADLINE)

    # Implementation

    def _forget(self) -> list[_Connection]:
        found, self._connections = self._connections, []
        return found

    def _start(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()
        return self._threads[-1]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            give(near, self._listens_as)
            try:
                far = connected(self._target, self._dials_as)
            except ConnectionRefusedError:
                near.close()
                continue
            connection = _Connection(near, far)
            connection.lossy = self._lossy
            self._connections.append(connection)
            self.made += 1
            self._start(self._copy, connection, near, far, self._damaged)
            self._start(self._copy, connection, far, near, bytes)

    def _copy(
        self, connection: _Connection, source: socket.socket, goal: socket.socket, damaged: Callable[[bytes], bytes]
    ) -> None:
        with suppress(OSError):
            while octets := source.recv(1 << 16):
                if self._delay and self._closed.wait(self._delay):
                    return
                self._passes.wait()
                if not connection.lossy:
                    goal.sendall(damaged(octets))
            self._passes.wait()
            if not connection.lossy:
                goal.shutdown(socket.SHUT_WR)

    def _damaged(self, octets: bytes) -> bytes:
        left = self._until_flip
        if left is None or left < 0:
            return octets
        self._until_flip = left - len(octets)
        if self._until_flip >= 0:
            return octets
        return octets[:left] + bytes([octets[left] ^ 0x10]) + octets[left + 1 :]
