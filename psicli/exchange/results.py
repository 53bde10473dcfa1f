"""The results of a task's bins, from this run and from those that it resumes."""

from __future__ import annotations

import numpy as np

from psicli.exchange.checkpoint import Checkpoint
from psicli.exchange.worker import Match, apply_bitmap
from psicli.items.partitions import Items, Matches
from psicli.protocol.task import TaskParty


class Results:
    """Which of our items matched, or how many, and the bitmaps of a broadcast; starts from the data of the checkpoint.

    bitmaps: the bits of each bin, which a receiver sends to its peer and a sender gets. order_secrets: per bin, the
    secret that a sender needs to map these bits to its items.
    """

    def __init__(self, party: TaskParty, items: Items, checkpoint: Checkpoint) -> None:
        # Where the receiver only counts, `matches` stays without a match, and this is the whole result.
        self.count = 0
        self.matches = Matches(items.starts(party.number_of_bins))
        self.bitmaps: dict[int, bytes] = {}
        self.order_secrets: dict[int, bytes] = {}
        self._own, _ = party.capacities
        for number, data in checkpoint.begin(party).items():
            if party.receives:
                self._restore(number, data)
            else:
                self.order_secrets[number] = data

    def _restore(self, number: int, data: bytes) -> None:
        octets = -(-self._own // 8)
        found = np.unpackbits(np.frombuffer(data[:octets], np.uint8), count=self.matches.size(number))
        self.put(number, Match(found.astype(np.bool_), data[octets:]))

    def put(self, number: int, match: Match) -> None:
        """Add a receiver's result of a bin."""
        self.matches.put(number, match.found)
        self.bitmaps[number] = match.bitmap

    def apply_bitmaps(self) -> None:
        """Compute a sender's matches from the peer's bitmaps; raises PeerProtocolError."""
        for number, bits in self.bitmaps.items():
            size = self.matches.size(number)
            self.matches.put(number, apply_bitmap(bits, self.order_secrets[number], size, self._own))
