"""A crowd of strangers: a process that holds very many connections to a port, and opens each one again at once.

python -m support.hostile.crowd PORT SILENT HALF_OPEN
"""

from __future__ import annotations

import itertools
import os
import resource
import selectors
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACK = b"\0\0\0\x04\0\0\0\0\0", b"\0\0\0\x04\x01\0\0\0\0"
# How often a slow stranger sends its next octet [s].
DRIP = 0.5


def client_hello() -> bytes:
    """Return the first message of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="alice").do_handshake()
    return outgoing.read()


# What the half-open connections send: a handshake or HTTP/2 that does not go on, or the same octet by octet.
OPENINGS = {"hello": client_hello(), "preface": PREFACE, "settings": PREFACE + SETTINGS + ACK, "drip": b""}


class Crowd:
    """The connections of the crowd, each with what it sends first."""

    def __init__(self, port: int, user: int) -> None:
        self._port, self._user = port, user
        self._selector = selectors.DefaultSelector()
        self._dripping: dict[socket.socket, Iterator[bytes]] = {}

    def come(self, opening: str) -> None:
        stranger = socket.socket()
        stranger.setblocking(False)
        os.fchown(stranger.fileno(), self._user, -1)
        with suppress(BlockingIOError):
            stranger.connect(("127.0.0.1", self._port))
        self._selector.register(stranger, selectors.EVENT_WRITE if opening else selectors.EVENT_READ, opening)

    def stay(self) -> None:
        """Keep all connections open, until the process is killed."""
        drip_at = time.monotonic()
        while True:
            for key, events in self._selector.select(DRIP):
                stranger, opening = key.fileobj, key.data
                assert isinstance(stranger, socket.socket)
                try:
                    if events & selectors.EVENT_WRITE:
                        self._open(stranger, opening)
                    elif not stranger.recv(1 << 16):
                        raise ConnectionResetError
                except BlockingIOError:
                    pass
                except OSError:
                    self._come_back(stranger, opening)
            if time.monotonic() >= drip_at:
                drip_at = time.monotonic() + DRIP
                for stranger, octets in list(self._dripping.items()):
                    with suppress(OSError):
                        stranger.send(next(octets))

    def _open(self, stranger: socket.socket, opening: str) -> None:
        if opening == "drip":
            self._dripping[stranger] = (bytes([octet]) for octet in itertools.cycle(OPENINGS["hello"]))
        stranger.send(OPENINGS[opening])
        self._selector.modify(stranger, selectors.EVENT_READ, opening)

    def _come_back(self, stranger: socket.socket, opening: str) -> None:
        self._dripping.pop(stranger, None)
        self._selector.unregister(stranger)
        stranger.close()
        self.come(opening)


@contextmanager
def crowd(port: int, silent: int, half_open: int, user: int | None = None) -> Iterator[None]:
    """Let a crowd besiege a port; user: to whom its sockets belong, which only root can choose."""
    tests = str(Path(__file__).parents[2])
    arguments = [
        sys.executable,
        "-m",
        "support.hostile.crowd",
        *map(str, (port, silent, half_open, os.geteuid() if user is None else user)),
    ]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": tests}, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        yield
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    port, silent, half_open, user = map(int, sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    besiegers = Crowd(port, user)
    kinds = itertools.cycle(OPENINGS)
    for opening in [""] * silent + [next(kinds) for _ in range(half_open)]:
        besiegers.come(opening)
    print("here", flush=True)
    besiegers.stay()


if __name__ == "__main__":
    main()
