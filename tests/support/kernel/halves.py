"""Attempts at a bin with both halves in memory, and random digests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from support.kernel.ole import blocks_of

from psicli.ole.blocks import Blocks, Digests
from psicli.ole.vectors import ReceiverVectors, SenderVectors
from psicli.protocol.rr22.sizes import sizes

SID = bytes(range(32))


def digests_of(*items: str | int) -> Digests:
    return np.concatenate([blocks_of(str(item), 2).reshape(1, 4) for item in items])


class Attempt(NamedTuple):
    """What an attempt sent, and what each half computed of its own items."""

    keys: bytes
    choices: bytes
    sums: bytes
    vector: bytes
    of_receiver: Blocks
    of_sender: Blocks

    @property
    def messages(self) -> tuple[bytes, ...]:
        return self[:4]


def attempt(own: Digests, peer: Digests, sid: bytes = SID) -> Attempt:
    """Run both halves; own: the digests of the receiver, peer: those of the sender."""
    receiver, sender = ReceiverVectors(sid, sizes(len(own))), SenderVectors(sid, sizes(len(own)))
    receiver.encode(own)
    keys = sender.keys()
    choices = receiver.choices(keys)
    sums = sender.sums(choices)
    vector = receiver.vector(sums)
    return Attempt(keys, choices, sums, vector, receiver.evaluate(), sender.evaluate(vector, peer))
