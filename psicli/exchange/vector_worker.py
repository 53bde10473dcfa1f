"""The worker of a bin in RR22: computes the streams of one attempt, from the first secret to matching.

It runs in the session's process, even if the other workers run on a cluster, so its secrets never leave this process.
As a worker of points, it knows nothing of sessions and messages.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from psicli import ole
from psicli.core import errors
from psicli.core.errors import counted
from psicli.exchange.worker import ORDER_SECRET_BYTES, Match, secret_order
from psicli.items import records
from psicli.items.partitions import BinItems
from psicli.items.records import Words
from psicli.ole.blocks import wipe
from psicli.ole.vectors import ReceiverVectors, SenderVectors
from psicli.protocol.messages import Stream
from psicli.protocol.rr22.sizes import Sizes

logger = logging.getLogger(__name__)

# How many items are read at a time: those of a bin may be on disk, because there is no room for them [items].
_BATCH_ITEMS = 1 << 16
# Tokens are compared as records of this size [bytes].
_RECORD_BYTES = 16


class VectorWorker(ABC):
    """The computation of one attempt at one bin.

    own: the capacity of this party's bin [items]; token_bytes: the size of a token [bytes]; sizes: of the vectors.
    """

    # What can be computed while the peer makes its answer to a stream of ours.
    ahead: ClassVar[Mapping[Stream, str]]

    def __init__(self, bin_sid: bytes, items: BinItems, own: int, token_bytes: int) -> None:
        self.order_secret = os.urandom(ORDER_SECRET_BYTES)
        self._sid = bin_sid
        self._items = items
        self._own = own
        self._token_bytes = token_bytes

    @abstractmethod
    def compute(self, stream: Stream, received: bytes) -> bytes:
        """Return a stream of ours, given the peer's stream before it; raises PeerProtocolError."""

    @abstractmethod
    def compute_ahead(self, stream: Stream) -> None:
        """Compute what `ahead` names for a stream of ours."""

    def check(self) -> None:
        """Wipe the secrets; the peer waits for this, so its duration must not depend on the matches."""
        self.wipe()

    @abstractmethod
    def wipe(self) -> None:
        """Wipe the secrets; no stream can be computed after this."""

    def _digests(self) -> ole.Digests:
        """Return the digests of the bin's items, then random ones as padding. Constant time in the items."""
        count = len(self._items)
        digests = np.empty((self._own, ole.DIGEST_BYTES // 8), "<u8")
        for start in range(0, count, _BATCH_ITEMS):
            places = np.arange(start, min(start + _BATCH_ITEMS, count), dtype=np.uint32)
            digests[places] = ole.item_digests(self._items.take(places), self._sid)
        padding = os.urandom(ole.DIGEST_BYTES * (self._own - count))
        digests[count:] = np.frombuffer(padding, "<u8").reshape(-1, ole.DIGEST_BYTES // 8)
        return digests

    def _tokens(self, blocks: ole.Blocks) -> bytes:
        """Return the tokens of blocks, and wipe these."""
        tokens = ole.tokens(blocks, self._sid, self._token_bytes)
        wipe(blocks)
        return tokens


class VectorReceiver(VectorWorker):
    """The worker at the receiver."""

    ahead: ClassVar = {Stream.CHOICES: "encode items", Stream.VECTOR: "compute tokens"}

    def __init__(self, bin_sid: bytes, items: BinItems, own: int, token_bytes: int, sizes: Sizes) -> None:
        super().__init__(bin_sid, items, own, token_bytes)
        self._vectors = ReceiverVectors(bin_sid, sizes)
        self._own_tokens = self._peer_tokens = b""
        self._compared: records.Comparison | None = None

    def compute(self, stream: Stream, received: bytes) -> bytes:
        return self._vectors.choices(received) if stream is Stream.CHOICES else self._vectors.vector(received)

    def compute_ahead(self, stream: Stream) -> None:
        if stream is Stream.VECTOR:
            self._own_tokens = self._tokens(self._vectors.evaluate())
            return
        self._vectors.encode(self._digests())
        if self._vectors.retries:
            # Not for the peer: it says something about the items.
            logger.debug("a bin had to be encoded again, %s", counted(self._vectors.retries, "time"))

    def keep_tokens(self, start: int, tokens: bytes) -> None:
        """Keep the tokens of the peer's items, all at once."""
        self._peer_tokens = tokens

    def check(self) -> None:
        """Wipe the secrets and sort the tokens, which takes the same time whatever matches."""
        super().check()
        # Random padding has tokens, too, so that not even this party's own sizes show.
        self._compared = records.Comparison(self._records(self._own_tokens), self._records(self._peer_tokens))
        self._own_tokens = self._peer_tokens = b""

    def match(self, *, bitmap: bool = False) -> Match:
        """Return the result of a checked bin; bitmap: whether to include the bits for the peer's tokens."""
        if self._compared is None:
            raise errors.LocalProtocolError(detail="a bin was matched before it was checked")
        found = self._compared.found()[: len(self._items)]
        bits = self._compared.found(in_other=True) if bitmap else np.empty(0, np.bool_)
        return Match(found, np.packbits(bits, bitorder="little").tobytes())

    def wipe(self) -> None:
        self._vectors.wipe()

    def _records(self, tokens: bytes) -> Words:
        """Return tokens as records, which end with zeros."""
        packed = np.frombuffer(tokens, np.uint8).reshape(-1, self._token_bytes)
        wide = np.zeros((len(packed), _RECORD_BYTES), np.uint8)
        wide[:, : self._token_bytes] = packed
        return wide.view("<u8")


class VectorSender(VectorWorker):
    """The worker at the sender."""

    ahead: ClassVar = {Stream.KEYS: "hash items", Stream.SUMS: "compress noise"}

    def __init__(self, bin_sid: bytes, items: BinItems, own: int, token_bytes: int, sizes: Sizes) -> None:
        super().__init__(bin_sid, items, own, token_bytes)
        self._vectors = SenderVectors(bin_sid, sizes)
        self._hashed: ole.Digests | None = None

    def compute(self, stream: Stream, received: bytes) -> bytes:
        match stream:
            case Stream.KEYS:
                return self._vectors.keys()
            case Stream.SUMS:
                return self._vectors.sums(received)
        return self._answer(received)

    def compute_ahead(self, stream: Stream) -> None:
        if stream is Stream.SUMS:
            self._vectors.compress()
            return
        self._hashed = self._digests()

    def _answer(self, vector: bytes) -> bytes:
        """Return the tokens of our items in the secret order."""
        digests, self._hashed = self._hashed, None
        if digests is None:
            raise errors.LocalProtocolError(detail="a bin was answered before its items were hashed")
        tokens = np.frombuffer(self._tokens(self._vectors.evaluate(vector, digests)), np.uint8)
        return tokens.reshape(-1, self._token_bytes)[secret_order(self.order_secret, self._own)].tobytes()

    def keep_tokens(self, start: int, tokens: bytes) -> None:
        raise errors.LocalProtocolError(detail="a sender has no tokens to keep")

    def match(self, *, bitmap: bool = False) -> Match:
        raise errors.LocalProtocolError(detail="a sender has nothing to match")

    def wipe(self) -> None:
        self._vectors.wipe()
