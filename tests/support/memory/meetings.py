"""A listener and a dialer in this process, joined by a real connection."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from support.processes.runner import DIALER, LISTENER, free_ports
from support.waiting import DEADLINE

from psicli.protocol.messages import Hello
from psicli.protocol.wire import encode_hello
from psicli.transport.dialer import Dialer
from psicli.transport.endpoint import Endpoint
from psicli.transport.link import Link
from psicli.transport.listener import Listener
from psicli.transport.tls import TlsCredentials


class Clock:
    """A clock for the listener that a test can put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def put_forward(self, seconds: float) -> None:
        self._ahead += seconds


def hello(party: str) -> bytes:
    return encode_hello(Hello("0", party, "job", (), 1024, 1 << 14, os.urandom(32)))


class Meeting:
    """A listener `alice` and a dialer `bob` in this process, joined by a real connection."""

    def __init__(self, stack: ExitStack, clock: Clock) -> None:
        self._clock = clock
        (self.port,) = stack.enter_context(free_ports(1))
        self._stack = stack
        self._pool = stack.enter_context(ThreadPoolExecutor(4))

    def listen(self, tls_files: TlsCredentials | None, timeout: float = DEADLINE) -> Future[Link]:
        listening = Listener(Endpoint("127.0.0.1", self.port, DIALER, tls_files))
        self._stack.callback(listening.close)
        return self._pool.submit(listening.meet, lambda: hello(LISTENER), timeout)

    def give_up(self) -> None:
        """Make the listener's wait time out."""
        self._clock.put_forward(DEADLINE)

    def dial(self, tls_files: TlsCredentials | None, timeout: float = DEADLINE, port: int = 0) -> Link:
        dialling = Dialer(Endpoint("127.0.0.1", port or self.port, LISTENER, tls_files), 0.05)
        self._stack.callback(dialling.close)
        found = dialling.meet(lambda: hello(DIALER), timeout)
        self._stack.callback(found.end)
        return found
