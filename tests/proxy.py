"""A wire between the parties that breaks when a test says so: what networks do, on one machine."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

from runner import DEADLINE

_LINGER_NOT = struct.pack("ii", 1, 0)


class Proxy:
    """Dial `port`, and all goes on to the listener at `target`, until something is done to it."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._delay = 0.0
        self._swallows = threading.Event()
        self._closed = threading.Event()
        # Octets that still pass from the dialer unharmed; None: all of them.
        self._until_flip: int | None = None
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._start(self._accept)

    # What a test can do to it

    def delay(self, seconds: float) -> None:
        """Hold everything back for so long [s] from now on."""
        self._delay = seconds

    def blackhole(self) -> None:
        """Lose everything from now on, without a word to anybody."""
        self._swallows.set()

    def reset(self) -> None:
        """Reset every connection, and take no new one."""
        self._refuse()
        for each in self._sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            # The descriptor alone would be kept open by whoever is reading.
            each.shutdown(socket.SHUT_RD)
            each.close()

    def half_close(self) -> None:
        """End what the dialer sends, and let the listener's words through; take no new connection."""
        self._refuse()
        for far in self._sockets[1::2]:
            far.shutdown(socket.SHUT_WR)

    def flip_after(self, octets: int) -> None:
        """Flip a bit of what the dialer sends, once so many octets have passed from now on."""
        self._until_flip = octets

    @property
    def flipped(self) -> bool:
        return self._until_flip is not None and self._until_flip < 0

    def close(self) -> None:
        self._refuse()
        self._closed.set()
        for each in self._sockets:
            each.close()
        for thread in self._threads:
            thread.join(DEADLINE)

    # How it works

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _refuse(self) -> None:
        try:
            self._server.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except ConnectionRefusedError:
                near.close()
                continue
            for each in (near, far):
                # Else two parties that speak in turns wait for each other's acknowledgements.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [near, far]
            self._start(self._copy, near, far, self._damaged)
            self._start(self._copy, far, near, bytes)

    def _copy(self, source: socket.socket, goal: socket.socket, damaged: Callable[[bytes], bytes]) -> None:
        try:
            while octets := source.recv(1 << 16):
                if self._delay and self._closed.wait(self._delay):
                    return
                if not self._swallows.is_set():
                    goal.sendall(damaged(octets))
            if not self._swallows.is_set():
                goal.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _damaged(self, octets: bytes) -> bytes:
        left = self._until_flip
        if left is None or left < 0:
            return octets
        self._until_flip = left - len(octets)
        if self._until_flip >= 0:
            return octets
        return octets[:left] + bytes([octets[left] ^ 0x10]) + octets[left + 1 :]
