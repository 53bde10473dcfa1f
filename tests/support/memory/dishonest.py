"""A peer that forges its points and tokens, against one honest exchange in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.memory.machines import TASK_SID, setup
from support.memory.pair import ExchangeEnd, PeerChannel, exchange_end, items_of, records

from psicli import curve
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.messages import (
    bin_session_id,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import Place
from psicli.protocol.task import TaskParty
from psicli.protocol.work import GatherMatches, MaskOwn, MaskPeer, SliceBitmap, Work

# 95 to 97 items per party make 4 bins with a capacity of 93 or 94 points.
MANY: dict[str, Any] = {"frame_items": 32, "bin_items": 94}
BIN_SID = bin_session_id(TASK_SID, 0, 0)
WIPED = bytes(32)
OWN = [b"mine-%d" % i for i in range(11)]
ITEMS = [b"item-%d" % i for i in range(20)]


def scalars_of(end: ExchangeEnd) -> set[bytes]:
    """Return the scalars that a party's workers hold now; a wiped scalar is all zeros."""
    return {bytes(each._scalar) for each in end.exchange.workers.values()}


class DishonestPeer:
    """A peer that follows the protocol's order and counts but forges its points and tokens.

    forge: given all its honest points and all of the other party's, returns the points to send. forge_tokens: the same
    for each frame of tokens. The peer sends points only after it has received all of the other party's.
    """

    def __init__(
        self,
        role: type[TaskParty],
        count: int,
        *,
        forge: Callable[[list[bytes], list[bytes]], list[bytes]] = lambda own, theirs: own,
        forge_tokens: Callable[[bytes], bytes] = lambda tokens: tokens,
        broadcast: bool = False,
    ) -> None:
        self.machine = role(setup(broadcast=broadcast, probe=curve.probe(TASK_SID)))
        self.scalar = b"\x5d" * 32
        self.items = items_of(ITEMS)
        self.theirs: list[bytes] = []
        self._count = count
        self._forge = forge
        self._forge_tokens = forge_tokens
        self._forged: list[bytes] = []

    def answer(self, work: Work, place: Place | None) -> bytes:
        match work:
            case MaskPeer(_, points):
                self.theirs += records(points, 32)
                products, _ = curve.mask(points, self.scalar)
                return b"" if self.machine.receives else self._forge_tokens(curve.tokens(products, BIN_SID))
            case MaskOwn(start, stop):
                return b"".join(self._points()[start:stop])
            case GatherMatches():
                return bytes(8)
            case SliceBitmap(_, start, stop):
                return bytes(-(-(stop - start) // 8))
        return b""

    def may_work(self) -> bool:
        """Return whether the peer may work; it sends its own points only after masking all of the other party's."""
        party = self.machine.bins.get(0)
        if party is None or not party._prepared or len(self.theirs) == self._count:
            return True
        party._own_turn = False
        return bool(party._pending)

    def channel(self, *, limit: int | None = None) -> PeerChannel:
        return PeerChannel(self.machine, len(ITEMS), self.answer, may_work=self.may_work, limit=limit)

    def _points(self) -> list[bytes]:
        if not self._forged:
            honest = records(curve.hash_and_mask(self.items, BIN_SID, self.scalar), 32)
            self._forged = self._forge(honest, list(self.theirs))
            assert len(self._forged) == len(ITEMS)
        return self._forged


def against(peer: DishonestPeer, items: list[bytes], *, broadcast: bool = False) -> ExchangeEnd:
    """Run the honest party against such a peer until it ends or fails."""
    honest = Sender if isinstance(peer.machine, Receiver) else Receiver
    end = exchange_end(honest, items_of(items), peer.channel(), broadcast=broadcast)
    try:
        end.drive()
    except PeerProtocolError as exc:
        end.failure = exc
    return end
