"""Tests against peers that follow the order of the protocol but forge the data."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import pytest
from support.kernel.points import SMALL_ORDER, P, add, as_octets, replaced
from support.memory.dishonest import ITEMS, OWN, WIPED, DishonestPeer, against, scalars_of
from support.memory.machines import TASK_SID
from support.memory.pair import items_of, records

from psicli import curve
from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.messages import (
    End,
    Received,
    Stream,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import TaskParty

pytestmark = pytest.mark.usefixtures("backend")

roles = pytest.mark.parametrize("role", [Receiver, Sender])


Forge = Callable[[list[bytes], list[bytes]], list[bytes]]
FORGERIES: dict[str, tuple[Forge, str]] = {
    **{
        f"of {name}": (lambda own, _, small=small: replaced(own, 13, small), "invalid")
        for name, small in {**SMALL_ORDER, "order 4 of the twist": as_octets(P - 1)}.items()
    },
    **{
        f"not canonical {name}": (lambda own, _, u=u: replaced(own, 3, as_octets(u)), "invalid")
        for name, u in {
            "p": P,
            "p + 1": P + 1,
            "p + 9": P + 9,
            "2^255 - 1": 2**255 - 1,
            "2^256 - 1": 2**256 - 1,
        }.items()
    },
    "bit 255": (lambda own, _: replaced(own, 19, own[19][:31] + bytes([own[19][31] | 0x80])), "invalid"),
    "twist": (lambda own, _: replaced(own, 10, as_octets(2)), "not on the curve"),
    "no hash to the curve": (
        lambda own, _: [curve.mask(sha256(item).digest()[:31] + b"\0", b"\x5d" * 32)[0] for item in ITEMS],
        "not on the curve",
    ),
    "reflected": (lambda own, theirs: replaced(own, 19, theirs[0]), "own points back"),
    "all reflected": (lambda own, theirs: replaced(own, 5, *theirs), "own points back"),
    "twice in a frame": (lambda own, _: replaced(own, 1, own[0]), "the same item"),
    "twice in two frames": (lambda own, _: replaced(own, 19, own[0]), "the same item"),
    **{
        f"plus one of {name}": (lambda own, _, small=small: replaced(own, 17, add(own[2], small)), "the same item")
        for name, small in SMALL_ORDER.items()
    },
}


@pytest.mark.sample(42)
@pytest.mark.parametrize("name", FORGERIES)
@roles
def test_forged_points(role: type[TaskParty], name: str) -> None:
    """role: the dishonest party's."""
    forge, reason = FORGERIES[name]
    end = against(DishonestPeer(role, len(OWN), forge=forge), OWN)
    assert isinstance(end.failure, PeerProtocolError)
    assert end.failure.code == 76
    assert reason in str(end.failure)
    assert scalars_of(end) == {WIPED}
    # A party that refuses a list must not send the end of the tokens, or Received.
    assert not any(isinstance(message, Received) for message in end.channel.sent)
    assert Stream.TOKENS not in [message.stream for message in end.channel.sent if isinstance(message, End)]


@roles
def test_without_forgery_the_same_peer_is_fine(role: type[TaskParty]) -> None:
    """The tests above are only meaningful if this passes."""
    end = against(DishonestPeer(role, len(OWN)), OWN)
    assert end.failure is None
    if role is Sender:
        assert end.matches().count == 0


def test_points_of_small_order_do_not_change_a_product() -> None:
    point = curve.hash_and_mask(items_of(["a"]), TASK_SID, b"\x77" * 32)
    product, _ = curve.mask(point, b"\x5d" * 32)
    for small in SMALL_ORDER.values():
        assert curve.on_curve(small)
        other = add(point, small)
        assert other != point
        assert curve.on_curve(other)
        assert curve.mask(other, b"\x5d" * 32) == (product, [])


@pytest.mark.parametrize("at", [(0, 1), (0, 10)], ids=["in a frame", "in two frames"])
def test_duplicate_tokens(at: tuple[int, int]) -> None:
    seen: list[bytes] = []

    def forge(data: bytes) -> bytes:
        tokens = records(data, 16)
        start = len(seen)
        seen.extend(tokens)
        if at[1] in range(start, start + len(tokens)):
            tokens[at[1] - start] = seen[at[0]]
        return b"".join(tokens)

    end = against(DishonestPeer(Sender, len(OWN), forge_tokens=forge), OWN)
    assert isinstance(end.failure, PeerProtocolError)
    assert "two equal tokens" in str(end.failure)
    assert not any(isinstance(message, Received) for message in end.channel.sent)


def test_a_dishonest_sender_learns_nothing_from_a_refused_list() -> None:
    """The party sends the same messages before the failure, whether items match or not, so there is no oracle."""
    seen = []
    for own in (OWN, ITEMS[:11]):
        peer = DishonestPeer(Sender, len(own), forge=FORGERIES["twice in two frames"][0], broadcast=True)
        end = against(peer, own, broadcast=True)
        assert isinstance(end.failure, PeerProtocolError)
        assert end.data(Stream.BITMAP) == []
        seen.append((str(end.failure), [type(message) for message in end.channel.sent]))
        assert end.output.staged is None
    assert seen[0] == seen[1]
