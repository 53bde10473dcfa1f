"""The hostile end of a stream: a plain gRPC client or server that uses psicli's messages but not its link."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import grpc

from psicli.protocol.messages import (
    Bye,
    Taken,
)
from psicli.protocol.wire import decode, encode
from psicli.transport.endpoint import METHOD, SERVICE

# Longer than any single step may take [s].
DEADLINE = 30.0
# Longer than a whole session; each step has its own deadline [s].
LONGEST = 600.0
# The hostile peer confirms what it has read once per this many messages.
CONFIRM_EVERY = 4
BACKOFFS = ("initial", "min", "max")
PATH = f"/{SERVICE}/{METHOD}"


class Wire:
    """The hostile end of a stream; it sends whatever it is given without checking it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        # The connection, if this end dialled; it may outlive the stream.
        self.channel: Any = None
        self._out: SimpleQueue[bytes | Iterator[bytes] | None] = SimpleQueue()
        self._in: SimpleQueue[bytes | None] = SimpleQueue()
        # Our side stops sending if its messages are not confirmed. While an iterator is being sent, the confirmations
        # wait here; otherwise they go out with the other messages.
        self._confirmed: SimpleQueue[bytes] = SimpleQueue()
        self._flooding = False
        self._guard = threading.Lock()
        # The number of the peer's messages that our side has confirmed.
        self.taken = 0

    def send(self, octets: bytes | Iterator[bytes]) -> None:
        """Send a message, or all messages of an iterator, which may be infinite."""
        self._out.put(octets)

    def close(self) -> None:
        """End this direction of the stream."""
        self._out.put(None)

    def receive(self, timeout: float = DEADLINE) -> bytes | None:
        """Return the next message, None at the end of the stream; raise Empty after the timeout.

        This end ends its direction, too, but not before a script has learned of it: so all that it has sent goes out.
        """
        octets = self._in.get(timeout=timeout)
        if octets is None:
            self.close()
        return octets

    def outgoing(self) -> Iterator[bytes]:
        for item in iter(self._out.get, None):
            if isinstance(item, bytes):
                yield item
                continue
            self._flooding = True
            for octets in item:
                if self.over.is_set():
                    break
                yield octets
                while not self._confirmed.empty():
                    yield self._confirmed.get()
            with self._guard:
                self._flooding = False
            while not self._confirmed.empty():
                yield self._confirmed.get()

    def _messages(self, incoming: Iterable[bytes]) -> Iterator[bytes]:
        """Yield only messages that are not about the link itself."""
        for octets in incoming:
            match decode(octets):
                case Taken(messages):
                    self.taken = messages
                case Bye():
                    pass
                case _:
                    yield octets

    def pump(self, incoming: Iterable[bytes]) -> None:
        try:
            for number, octets in enumerate(self._messages(incoming), 1):
                self._in.put(octets)
                if number % CONFIRM_EVERY == 0:
                    with self._guard:
                        (self._confirmed if self._flooding else self._out).put(encode(Taken(number)))
        except grpc.RpcError:
            pass
        self.over.set()
        self._in.put(None)


def dial(port: int, stack: ExitStack, compression: Any = None) -> Wire:
    """Connect to our side, waiting until it listens."""
    wire = Wire()
    options = [("grpc.max_send_message_length", -1), *((f"grpc.{name}_reconnect_backoff_ms", 100) for name in BACKOFFS)]
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options))
    wire.channel = channel
    stream = channel.stream_stream(PATH)
    call = stream(wire.outgoing(), wait_for_ready=True, timeout=LONGEST, compression=compression)
    threading.Thread(target=wire.pump, args=(call,), daemon=True).start()
    stack.callback(call.cancel)
    stack.callback(wire.close)
    stack.callback(wire.over.set)
    return wire


def listen(port: int, stack: ExitStack, compression: Any = None) -> Wire:
    """Wait for our side to connect."""
    wire = Wire()

    def serve(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if compression is not None:
            context.set_compression(compression)
        threading.Thread(target=wire.pump, args=(requests,), daemon=True).start()
        yield from wire.outgoing()

    handlers = grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(serve)})
    threads = stack.enter_context(ThreadPoolExecutor(4))
    server = grpc.server(threads, [handlers], options=[("grpc.max_send_message_length", -1)])
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    stack.callback(lambda: server.stop(0).wait(DEADLINE))
    stack.callback(wire.close)
    stack.callback(wire.over.set)
    return wire
