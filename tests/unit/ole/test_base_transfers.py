"""Tests of the base transfers and of their extension."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from support.kernel.halves import SID, blocks_of
from support.kernel.points import LOW_ORDER, SMALL_ORDER, P, add, as_octets
from support.kernel.samples import split

from psicli import curve, ole
from psicli.core.peer_errors import PeerProtocolError
from psicli.curve import reference as openssl
from psicli.ole import base, extension
from psicli.ole.blocks import Blocks, bits, masks
from psicli.protocol.rr22.sizes import DELTA_BITS, DELTA_DEPTH, DELTA_TREES

# The order of the base point.
ORDER = 2**252 + 27742317777372353535851937790883648493
# Both extensions need so many.
CHOICES = blocks_of("choices", 2)
COUNT = 2 * DELTA_BITS


@cache
def chosen() -> tuple[bytes, base.Scalars]:
    return base.choose(SID, CHOICES)


def side(pairs: Blocks, places: np.ndarray) -> Blocks:
    return pairs.reshape(COUNT, 2, -1)[np.arange(COUNT), places]


def test_the_chooser_gets_one_key_of_each_pair(backend: curve.Backend) -> None:
    points, scalars = base.choose(SID, CHOICES)
    own, both = base.offer(SID, points)
    keys = base.open_chosen(SID, points, CHOICES, scalars, own)
    places = bits(CHOICES)
    assert (side(both, places) == keys).all()
    assert len({key.tobytes() for key in both}) == 2 * COUNT


def test_the_chooser_knows_the_scalar_of_the_chosen_point() -> None:
    points, scalars = chosen()
    pairs, places = np.frombuffer(points, np.uint8), bits(CHOICES)
    known = [openssl.mask(memoryview(as_octets(9)), scalar.data)[0] for scalar in scalars]
    assert side(pairs, places).tobytes() == b"".join(known)
    others = side(pairs, 1 - places)
    assert curve.on_curve(others.tobytes())
    assert {point.tobytes() for point in others}.isdisjoint(known)
    assert len({point.tobytes() for point in pairs.reshape(-1, 32)}) == 2 * COUNT


def partner(point: bytes, sign: int) -> bytes:
    return bytes(openssl.partners(memoryview(point), curve.point_of_bin(SID), bytes([sign])))


def test_the_other_point_is_the_sum_or_the_difference_with_the_point_of_the_bin() -> None:
    points, scalars = chosen()
    middle = curve.point_of_bin(SID)
    for at, scalar in enumerate(scalars):
        pair, own = split(points[64 * at : 64 * (at + 1)]), base._own_point(scalar.data)
        pair.remove(own)
        assert pair[0] in (partner(own, 0), partner(own, 1))
        # The support's formula gives either of them.
        assert add(own, middle) in (partner(own, 0), partner(own, 1))


@pytest.mark.sample(2)
@pytest.mark.parametrize("choice", [0, 2**64 - 1])
def test_nothing_tells_which_point_was_drawn(backend: curve.Backend, choice: int) -> None:
    """Neither point is the other one's partner by a certain sign more often than by chance.

    Each of these numbers is off by chance once in 10^9 runs.
    """
    points, scalars = base.choose(SID, np.full_like(CHOICES, choice))
    pairs = [split(points[64 * at : 64 * (at + 1)]) for at in range(COUNT)]
    drawn = [base._own_point(scalar.data) for scalar in scalars]
    assert [pair[choice & 1] for pair in pairs] == drawn
    for one, other in ((0, 1), (1, 0)):
        assert 77 < sum(partner(pair[one], 0) == pair[other] for pair in pairs) < 179
    # As numbers, the point that was drawn is as often the larger one.
    assert 77 < sum(pair[0][::-1] < pair[1][::-1] for pair in pairs) < 179


def test_what_is_secret_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The points before they are placed, and the signs."""
    partners, seen = curve.partners, []

    def watched(points: bytearray, other: bytes, signs: bytearray) -> bytearray:
        made = partners(points, other, signs)
        assert all(map(any, (points, made, signs)))
        seen.extend([points, made, signs])
        return made

    monkeypatch.setattr(curve, "partners", watched)
    base.choose(SID, CHOICES)
    assert len(seen) == 3
    assert not any(map(any, seen))


def test_keys_depend_on_the_attempt_and_the_place() -> None:
    points, scalars = chosen()
    own, _ = base.offer(SID, points)
    keys = base.open_chosen(SID, points, CHOICES, scalars, own)
    assert not (base.open_chosen(SID[::-1], points, CHOICES, scalars, own) == keys).all(axis=1).any()
    # The same point and scalar everywhere give a key of its own everywhere.
    same = points[:64] * COUNT
    alike = np.repeat(scalars[:1], COUNT, axis=0)
    assert len({key.tobytes() for key in base.open_chosen(SID, same, CHOICES, alike, own)}) == COUNT


def test_the_keys_of_a_pair_differ_even_if_its_products_do_not(backend: curve.Backend) -> None:
    """A chooser that halves the point of the bin can send a pair that belongs together and has one product."""
    # The multiple of eight that halves a point, or its negative: OpenSSL multiplies by such numbers from 2^254 on.
    halving = next(k for k in range((ORDER + 1) // 2, 8 * ORDER, ORDER) if k % 8 == 0)
    halving = max(halving, 8 * ORDER - halving)
    half, bad = openssl.mask(memoryview(curve.point_of_bin(SID)), halving.to_bytes(32, "little"))
    assert not bad
    eighth = SMALL_ORDER["order 8"]
    for pair in (half + half, add(half, eighth) + add(half, eighth, -1)):
        _, both = base.offer(SID, pair * COUNT)
        assert len({key.tobytes() for key in both}) == 2 * COUNT
        scalar = bytes(32)
        assert openssl.mask(memoryview(pair), scalar)[0] == 2 * openssl.mask(memoryview(half), scalar)[0]


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
        base.open_chosen(SID, good, CHOICES, scalars, point)
    assert caught.value.code == 76
    for at in (0, COUNT, 2 * COUNT - 1):
        with pytest.raises(PeerProtocolError, match="an invalid point for an oblivious transfer"):
            base.offer(SID, good[: 32 * at] + point + good[32 * (at + 1) :])


def pairs_that_do_not_belong_together() -> dict[str, bytes]:
    points, scalars = chosen()
    first, second = split(points[:64])
    own, other = (base._own_point(scalar.data) for scalar in scalars[:2])
    middle = curve.point_of_bin(SID)
    hashed = curve.hash_and_mask(curve.packed_items([b"any"]), SID, bytes(32))
    return {
        "both scalars known": own + other,
        "one scalar known, the other point hashed": own + hashed,
        "the same point twice": own + own,
        "the point of the bin twice": middle + middle,
        "the first and the point of the bin": own + middle,
        "the second of another pair": first + points[96:128],
        "the first of another pair": points[64:96] + second,
        "the partner with the point of another bin": own
        + bytes(curve.partners(own, curve.point_of_bin(SID[::-1]), b"\0")),
        "the partner with the base point": own + bytes(curve.partners(own, as_octets(9), b"\0")),
        "one of them with a point of order two": first + as_octets(pow(int.from_bytes(second, "little"), -1, P)),
        "one of them with a point of order eight": add(first, SMALL_ORDER["order 8"]) + second,
    }


def test_pairs_that_do_not_belong_together_are_refused() -> None:
    """A chooser that knows both scalars of a pair would get both keys."""
    good, _ = chosen()
    for name, pair in pairs_that_do_not_belong_together().items():
        for at, wrong in [(0, pair), (COUNT // 2, pair[32:] + pair[:32]), (COUNT - 1, pair)]:
            with pytest.raises(PeerProtocolError, match="two points for an oblivious transfer that do not") as caught:
                base.offer(SID, good[: 64 * at] + wrong + good[64 * (at + 1) :])
            assert caught.value.code == 76, name


def test_points_of_another_bin_are_refused() -> None:
    points, _ = base.choose(SID[::-1], CHOICES)
    with pytest.raises(PeerProtocolError, match="do not belong together"):
        base.offer(SID, points)


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
