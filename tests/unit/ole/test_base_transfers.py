"""Tests of the base transfers and of their extension."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from support.kernel.halves import SID, blocks_of
from support.kernel.points import LOW_ORDER, SMALL_ORDER, P, as_octets

from psicli import curve, ole
from psicli.core.peer_errors import PeerProtocolError
from psicli.curve import reference as openssl
from psicli.ole import base, extension
from psicli.ole.blocks import Blocks, bits, masks
from psicli.protocol.rr22.sizes import DELTA_BITS, DELTA_DEPTH, DELTA_TREES

# Both extensions need so many.
CHOICES = blocks_of("choices", 2)
COUNT = 2 * DELTA_BITS


@cache
def chosen() -> tuple[bytes, base.Scalars]:
    return base.choose(SID, CHOICES)


def side(pairs: Blocks, places: np.ndarray) -> Blocks:
    return pairs.reshape(COUNT, 2, -1)[np.arange(COUNT), places]


def test_the_chooser_gets_one_key_of_each_pair() -> None:
    points, scalars = chosen()
    own, both = base.offer(SID, points)
    keys = base.open_chosen(SID, points, scalars, own)
    places = bits(CHOICES)
    assert (side(both, places) == keys).all()
    assert len({key.tobytes() for key in both}) == 2 * COUNT


def test_the_chooser_knows_the_scalar_of_the_chosen_point() -> None:
    points, scalars = chosen()
    pairs, places = np.frombuffer(points, np.uint8), bits(CHOICES)
    known = [openssl.mask(memoryview(as_octets(9)), scalar.data)[0] for scalar in scalars]
    assert side(pairs, places).tobytes() == b"".join(known)
    hashed = side(pairs, 1 - places)
    assert curve.on_curve(hashed.tobytes())
    assert {point.tobytes() for point in hashed}.isdisjoint(known)
    assert len({point.tobytes() for point in pairs.reshape(-1, 32)}) == 2 * COUNT


def test_keys_depend_on_the_attempt_and_the_place() -> None:
    points, scalars = chosen()
    own, _ = base.offer(SID, points)
    keys = base.open_chosen(SID, points, scalars, own)
    assert not (base.open_chosen(SID[::-1], points, scalars, own) == keys).all(axis=1).any()
    # The same point and scalar everywhere give a key of its own everywhere.
    same = points[:64] * COUNT
    alike = np.repeat(scalars[:1], COUNT, axis=0)
    assert len({key.tobytes() for key in base.open_chosen(SID, same, alike, own)}) == COUNT


TWIST = as_octets(2)
BAD = {
    **SMALL_ORDER,
    **{f"low order {at}": bytes.fromhex(point) for at, point in enumerate(LOW_ORDER)},
    "not canonical": as_octets(P + 9),
    "a set high bit": as_octets(9 + 2**255),
    "on the twist": TWIST,
}


@pytest.mark.parametrize("point", BAD.values(), ids=BAD)
def test_points_of_no_honest_peer_are_refused(point: bytes) -> None:
    good, scalars = chosen()
    with pytest.raises(PeerProtocolError, match="an invalid point for an oblivious transfer") as caught:
        base.open_chosen(SID, good, scalars, point)
    assert caught.value.code == 76
    for at in (0, COUNT, 2 * COUNT - 1):
        with pytest.raises(PeerProtocolError, match="an invalid point for an oblivious transfer"):
            base.offer(SID, good[: 32 * at] + point + good[32 * (at + 1) :])


# The extension ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 552])
def test_planes_differ_where_delta_and_the_choice_are_set(ole_backend: ole.Backend, count: int) -> None:
    delta, both, choice = blocks_of("delta", 1), blocks_of("keys", 2 * DELTA_BITS), blocks_of("choice", count)
    places = bits(extension.base_choices(delta))
    keys = both.reshape(DELTA_BITS, 2, 2)[np.arange(DELTA_BITS), places]
    masked, corrections, planes = extension.extend(both, choice)
    assert (len(masked), len(corrections)) == (2 * DELTA_TREES * DELTA_DEPTH, DELTA_TREES * count)
    others = extension.extend_chosen(keys, delta, masked, corrections)
    difference = (planes ^ others).reshape(DELTA_BITS, count, 2)
    assert (difference == (masks(bits(delta))[:, None, None] & choice)).all()


def test_corrections_hide_the_choice() -> None:
    """Each tree adds a stream of its own to the same choice."""
    both, choice = blocks_of("keys", 2 * DELTA_BITS), np.zeros((3, 2), np.uint64)
    seen = {block.tobytes() for _ in range(2) for part in extension.extend(both, choice)[:2] for block in part}
    assert len(seen) == 2 * (2 * DELTA_TREES * DELTA_DEPTH + 3 * DELTA_TREES)
