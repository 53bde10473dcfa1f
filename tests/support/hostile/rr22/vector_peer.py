"""A hostile peer in a task by RR22: it takes the steps of psicli's own halves, and is honest until a script cheats."""

from __future__ import annotations

import os

import numpy as np
from support.hostile.peer import HostilePeer, stage
from support.memory.pair import items_of, records

from psicli import ole
from psicli.curve import POINT_BYTES
from psicli.ole.vectors import ReceiverVectors, SenderVectors
from psicli.protocol.messages import Message, Stream, bin_session_id
from psicli.protocol.rr22.sizes import Sizes, sizes, token_bytes
from psicli.protocol.streams import StreamShape


class VectorPeer(HostilePeer):
    """A peer whose bins are exchanged by RR22; the stages of a bin are named after its streams.

    The cheat's `points` forges those of KEYS, or the one at the beginning of CHOICES, and `tokens` those of TOKENS.
    """

    @property
    def token_size(self) -> int:
        return token_bytes(*(self.bins * each for each in self.capacities))

    @property
    def vectors(self) -> Sizes:
        return sizes(self.capacities[0 if self.setting.receives else 1])

    def shape(self, stream: Stream) -> StreamShape:
        if stream is Stream.TOKENS:
            count = self.capacities[1 if self.setting.receives else 0]
            return StreamShape(stream, count, self.frame_items, 8 * self.token_size)
        if stream >= Stream.KEYS:
            return StreamShape(stream, getattr(self.vectors, stream.name.lower()), self.frame_items)
        return super().shape(stream)

    def play_bin(self, number: int, attempt: int = 0) -> None:
        sid = bin_session_id(self.task_sid, number, attempt)
        if self.setting.receives:
            half = ReceiverVectors(sid, self.vectors)
            half.encode(self.digests(number, sid))
            choices = half.choices(self.heard_stream(Stream.KEYS, number, attempt))
            forged = self.cheat.points(self, [choices[:POINT_BYTES]])
            self.say_stream(Stream.CHOICES, b"".join(forged) + choices[POINT_BYTES:], number, attempt)
            vector = half.vector(self.heard_stream(Stream.SUMS, number, attempt))
            self.say_stream(Stream.VECTOR, vector, number, attempt)
            self._own_tokens = ole.tokens(half.evaluate(), sid, self.token_size)
            self.await_end(number, Stream.TOKENS, attempt)
            self.say_received(number, attempt)
            return
        sender = SenderVectors(sid, self.vectors)
        keys = self.cheat.points(self, records(sender.keys(), POINT_BYTES))
        self.say_stream(Stream.KEYS, b"".join(keys), number, attempt)
        sums = sender.sums(self.heard_stream(Stream.CHOICES, number, attempt))
        self.say_stream(Stream.SUMS, sums, number, attempt)
        blocks = sender.evaluate(self.heard_stream(Stream.VECTOR, number, attempt), self.digests(number, sid))
        tokens = self.cheat.tokens(self, records(ole.tokens(blocks, sid, self.token_size), self.token_size))
        self.say_stream(Stream.TOKENS, b"".join(tokens), number, attempt)
        self.hear_received(number)

    def digests(self, number: int, sid: bytes) -> ole.Digests:
        """Return the digests of a bin, padding last."""
        items = self.items_of_bin(number)
        padding = os.urandom(ole.DIGEST_BYTES * (self.capacities[0] - len(items)))
        found = ole.item_digests(items_of(items), sid).tobytes()
        return np.frombuffer(found + padding, "<u8").reshape(-1, ole.DIGEST_BYTES // 8)

    def say_stream(self, stream: Stream, octets: bytes, number: int = 0, attempt: int = 0) -> None:
        self.say(stage(stream.name.lower(), number, attempt), self.stream(stream, [octets], number, attempt))

    def heard_stream(self, stream: Stream, number: int = 0, attempt: int = 0) -> bytes:
        """Return the whole of a stream of our side."""
        self.await_end(number, stream, attempt)
        return self.data[number, attempt, stream]

    def made_up(self, stream: Stream) -> list[Message]:
        """Return a stream of random bytes, which has nothing to do with what came before."""
        shape = self.shape(stream)
        return self.stream(stream, [os.urandom(shape.bytes_of(shape.count))])

    def found(self, number: int, attempt: int = 0) -> list[bool]:
        own = {*records(self._own_tokens, self.token_size)}
        return [token in own for token in records(self.data[number, attempt, Stream.TOKENS], self.token_size)]
