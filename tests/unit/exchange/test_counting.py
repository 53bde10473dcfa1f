"""Workers of tasks whose receiver only counts: the second secret order, and what the receiver can know."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from support.chance import check_unrelated, chi_square_limit
from support.memory.machines import TASK_SID
from support.memory.pair import items_of, prepared_of, records

from psicli import curve
from psicli.core.errors import LocalProtocolError
from psicli.core.peer_errors import PeerProtocolError
from psicli.exchange.worker import Worker
from psicli.protocol.bins import capacity

T, FRAME_ITEMS = bytes(range(32)), 1024


def worker(values: Iterable[str], own: int, peer: int, *, receives: bool, counts: bool = True) -> Worker:
    items = prepared_of(items_of(values), TASK_SID).items.bin(0, 1, 1 << 30)
    assert len(items) == own == capacity(own, 1)
    return Worker(T, items, own, peer, FRAME_ITEMS, receives=receives, counts=counts)


def exchanged(own: list[str], theirs: list[str], *, counts: bool = True) -> tuple[Worker, Worker, list[bytes]]:
    """Exchange all points of one frame each; return both checked workers, and the tokens in the order of sending."""
    n, m = len(own), len(theirs)
    receiver = worker(own, n, m, receives=True, counts=counts)
    sender = worker(theirs, m, n, receives=False, counts=counts)
    answer = sender.mask_peer(0, receiver.mask_own(0, n))
    assert receiver.mask_peer(0, sender.mask_own(0, m)) is None
    sender.check()
    if counts:
        assert answer is None
        answer = sender.permuted_tokens(0, n)
    assert answer is not None
    receiver.keep_tokens(0, answer)
    receiver.check()
    return receiver, sender, records(answer, 16)


def names(start: int, stop: int) -> list[str]:
    return [f"name-{number}" for number in range(start, stop)]


@pytest.mark.parametrize(("start", "stop", "count"), [(0, 50, 50), (50, 90, 0), (20, 90, 30), (49, 50, 1)])
def test_the_count(start: int, stop: int, count: int) -> None:
    receiver, _, _ = exchanged(names(0, 50), names(start, stop))
    assert receiver.count() == count
    with pytest.raises(LocalProtocolError):
        receiver.match()


def test_each_side_answers_only_once_it_has_checked() -> None:
    sender, receiver = (worker(["a"], 1, 1, receives=receives) for receives in (False, True))
    with pytest.raises(LocalProtocolError, match="answered before it was checked"):
        sender.permuted_tokens(0, 1)
    with pytest.raises(LocalProtocolError, match="counted before it was checked"):
        receiver.count()


def test_a_receiver_of_rows_does_not_count_and_its_sender_permutes_nothing() -> None:
    receiver, sender, _ = exchanged(["a", "b"], ["a"], counts=False)
    for call in (receiver.count, lambda: sender.permuted_tokens(0, 1)):
        with pytest.raises(LocalProtocolError):
            call()
    assert receiver.match().found.sum() == 1


def test_equal_tokens_are_refused() -> None:
    receiver, sender = (worker(["a", "b"], 2, 2, receives=receives) for receives in (True, False))
    receiver.mask_own(0, 2)
    receiver.mask_peer(0, sender.mask_own(0, 2))
    receiver.keep_tokens(0, bytes(range(16)) * 2)
    with pytest.raises(PeerProtocolError, match="two equal tokens"):
        receiver.check()


def test_two_equal_points_are_refused_before_any_token() -> None:
    sender = worker(["a", "b"], 2, 2, receives=False)
    points = records(worker(["c", "d"], 2, 2, receives=True).mask_own(0, 2), 32)
    sender.mask_own(0, 2)
    sender.mask_peer(0, points[0] * 2)
    with pytest.raises(PeerProtocolError, match="two points of the same item"):
        sender.check()
    with pytest.raises(LocalProtocolError):
        sender.permuted_tokens(0, 1)


# The scalars of the receiver and of the sender, where a test knows them.
SCALARS = b"\x77" * 32, b"\x5d" * 32


def places_of_items(receiver: Worker, tokens: list[bytes]) -> list[int]:
    """Return where on the wire the token of each of the receiver's items is, as only both scalars together tell."""
    own = receiver._items.take(np.arange(len(tokens), dtype=np.uint32))
    products, _ = curve.mask(curve.hash_and_mask(own, T, SCALARS[0]), SCALARS[1])
    place = {token: at for at, token in enumerate(tokens)}
    return [place[token] for token in records(curve.tokens(products, T), 16)]


def known(own: list[str], theirs: list[str], *, counts: bool = True) -> list[int]:
    """Run an exchange with known scalars; return where on the wire the token of each own item is."""
    n, m = len(own), len(theirs)
    receiver = worker(own, n, m, receives=True, counts=counts)
    sender = worker(theirs, m, n, receives=False, counts=counts)
    receiver._scalar[:], sender._scalar[:] = SCALARS
    answer = sender.mask_peer(0, receiver.mask_own(0, n))
    receiver.mask_peer(0, sender.mask_own(0, m))
    sender.check()
    tokens = records(sender.permuted_tokens(0, n) if counts else answer or b"", 16)
    return places_of_items(receiver, tokens)


def test_the_second_order_is_unrelated_to_the_items_and_to_the_first_order() -> None:
    """Two runs share nothing either. In a run for rows, the first order alone gives the places away."""
    own, theirs = names(0, 1000), names(500, 1500)
    one, other = known(own, theirs), known(own, theirs)
    check_unrelated(one)
    check_unrelated([two for _, two in sorted(zip(one, other, strict=True))])
    # The same with the order in which the points left, which the receiver knows.
    receiver = worker(own, 1000, 1000, receives=True)
    sender = worker(theirs, 1000, 1000, receives=False)
    receiver._scalar[:], sender._scalar[:] = SCALARS
    sender.mask_peer(0, receiver.mask_own(0, 1000))
    sender.mask_own(0, 1000)
    sender.check()
    places = places_of_items(receiver, records(sender.permuted_tokens(0, 1000), 16))
    check_unrelated([places[item] for item in receiver._order])


def test_a_search_by_the_first_order_finds_the_items_of_a_run_for_rows() -> None:
    """The control: the same search does find the mapping where the tokens come in the order of the points."""
    own = names(0, 1000)
    receiver = worker(own, 1000, 1000, receives=True, counts=False)
    sender = worker(names(500, 1500), 1000, 1000, receives=False, counts=False)
    receiver._scalar[:], sender._scalar[:] = SCALARS
    tokens = records(sender.mask_peer(0, receiver.mask_own(0, 1000)) or b"", 16)
    places = places_of_items(receiver, tokens)
    assert [places[item] for item in receiver._order] == [*range(1000)]


@pytest.mark.more
def test_the_matching_tokens_are_anywhere_over_many_small_runs() -> None:
    """Of four items, the first two match: each of the six pairs of places comes up equally often."""
    runs = 1200
    seen = Counter(tuple(sorted(known(names(0, 4), names(0, 2))[:2])) for _ in range(runs))
    pairs = [*itertools.combinations(range(4), 2)]
    assert set(seen) == set(pairs)
    mean = runs / len(pairs)
    assert sum((seen[each] - mean) ** 2 / mean for each in pairs) < chi_square_limit(len(pairs) - 1)


def test_a_receiver_holds_nothing_that_leads_from_a_token_to_an_item() -> None:
    """It has the order of its points, and the tokens in the order of their arrival, which is another one."""
    receiver, _, tokens = exchanged(names(0, 100), names(50, 150))
    assert receiver.count() == 50
    kept = receiver._lists
    assert (len(kept.own_points), len(kept.peer_points), len(kept.own_tokens)) == (0, 0, 0)
    assert kept.compared is not None
    assert kept.compared._lists[0].tobytes() == b"".join(tokens)
    assert bytes(receiver._scalar) == bytes(32)
