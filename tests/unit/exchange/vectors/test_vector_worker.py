"""Tests of the workers of a bin by RR22 alone: their order, their padding, and that they show and keep no secret."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.memory.machines import TASK_SID
from support.memory.pair import items_of, prepared_of, records

from psicli import ole
from psicli.core.errors import LocalProtocolError
from psicli.exchange.vector_worker import VectorReceiver, VectorSender, VectorWorker
from psicli.exchange.worker import Match, apply_bitmap, secret_order
from psicli.items.partitions import BinItems
from psicli.protocol.messages import Stream
from psicli.protocol.rr22.sizes import sizes, token_bytes

T = bytes(range(32))
# Each party's capacity of a bin, which holds fewer items.
OWN, PEER = 12, 10
SIZE = token_bytes(OWN, PEER)


def bin_of(values: list[bytes]) -> BinItems:
    return prepared_of(items_of(values), TASK_SID).items.bin(0, 1, 1 << 30)


def values_of(items: BinItems) -> list[bytes]:
    found: list[bytes] = items.take(np.arange(len(items), dtype=np.uint32)).to_pylist()
    return found


def named(name: str, count: int) -> list[bytes]:
    return [b"%s-%d" % (name.encode(), number) for number in range(count)]


def exchanged(ours: BinItems, theirs: BinItems) -> tuple[VectorReceiver, VectorSender, bytes]:
    """Let a receiver and a sender exchange a bin; return them, and the tokens."""
    receiver, sender = VectorReceiver(T, ours, OWN, SIZE, sizes(OWN)), VectorSender(T, theirs, PEER, SIZE, sizes(OWN))
    choices = receiver.compute(Stream.CHOICES, sender.compute(Stream.KEYS, b""))
    sender.compute_ahead(Stream.KEYS)
    receiver.compute_ahead(Stream.CHOICES)
    vector = receiver.compute(Stream.VECTOR, sender.compute(Stream.SUMS, choices))
    receiver.compute_ahead(Stream.VECTOR)
    tokens = sender.compute(Stream.TOKENS, vector)
    receiver.keep_tokens(0, tokens)
    for worker in (receiver, sender):
        worker.check()
    return receiver, sender, tokens


def test_blocks_are_wiped_once_they_have_become_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    made, tokens = [], ole.tokens

    def noted(blocks: ole.Blocks, *others: Any) -> bytes:
        made.append((blocks, blocks.any()))
        return tokens(blocks, *others)

    monkeypatch.setattr(ole, "tokens", noted)
    exchanged(bin_of(named("i", 7)), bin_of(named("i", 5)))
    assert [(len(blocks), bool(before), bool(blocks.any())) for blocks, before in made] == [
        (OWN, True, False),
        (PEER, True, False),
    ]


def test_the_bitmap_is_in_the_order_of_the_tokens() -> None:
    """What the receiver says of each token leads the sender to its items."""
    ours, theirs = bin_of(named("i", 7)), bin_of(named("i", 5) + named("S", 3))
    receiver, sender, tokens = exchanged(ours, theirs)
    match = receiver.match(bitmap=True)
    assert dict(zip(values_of(ours), match.found.tolist(), strict=True)) == {
        each: each in named("i", 5) for each in named("i", 7)
    }
    found = apply_bitmap(match.bitmap, sender.order_secret, len(theirs), PEER)
    assert dict(zip(values_of(theirs), found.tolist(), strict=True)) == {
        each: each in named("i", 5) for each in values_of(theirs)
    }
    assert len(tokens) == PEER * SIZE


def test_the_order_of_the_tokens_is_the_secret_one() -> None:
    theirs = bin_of(named("i", PEER))
    _, sender, tokens = exchanged(bin_of(named("i", OWN)), theirs)
    receiver, other, more = exchanged(bin_of(named("i", OWN)), theirs)
    assert sender.order_secret != other.order_secret
    bits = np.unpackbits(np.frombuffer(receiver.match(bitmap=True).bitmap, np.uint8), count=PEER, bitorder="little")
    assert bits.all()
    # Of many, since two orders of ten items are equal once in some million runs.
    orders = [secret_order(each.order_secret, 10 * PEER).tolist() for each in (sender, other)]
    assert orders[0] != orders[1]
    assert not {*records(tokens, SIZE)} & {*records(more, SIZE)}


def test_without_a_bitmap_there_is_none() -> None:
    receiver, _, _ = exchanged(bin_of(named("i", 1)), bin_of(named("i", 1)))
    assert receiver.match().bitmap == b""
    assert receiver.match().found.tolist() == [True]


def test_padding_is_new_in_each_worker_and_matches_nothing() -> None:
    items = bin_of([])
    makers: list[Callable[[], VectorWorker]] = [
        lambda: VectorReceiver(T, items, OWN, SIZE, sizes(OWN)),
        lambda: VectorSender(T, items, PEER, SIZE, sizes(OWN)),
    ]
    digests = [make()._digests() for make in makers for _ in range(2)]
    assert [each.shape for each in digests] == [(OWN, 4), (OWN, 4), (PEER, 4), (PEER, 4)]
    seen = {row.tobytes() for each in digests for row in each}
    assert len(seen) == 2 * (OWN + PEER)
    receiver, _, tokens = exchanged(items, items)
    assert receiver.match(bitmap=True).bitmap == bytes(2)
    assert len({*records(tokens, SIZE)}) == PEER


def test_the_digests_are_those_of_the_items_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The items are read in parts."""
    monkeypatch.setattr("psicli.exchange.vector_worker._BATCH_ITEMS", 3)
    items = bin_of(named("i", 10))
    digests = VectorReceiver(T, items, OWN, SIZE, sizes(OWN))._digests()
    assert digests[:10].tobytes() == ole.item_digests(items_of(values_of(items)), T).tobytes()


def test_a_bin_of_another_id_has_other_tokens() -> None:
    items = items_of([b"a"])
    assert ole.item_digests(items, T).tobytes() != ole.item_digests(items, TASK_SID[::-1]).tobytes()


def test_work_out_of_order_is_an_internal_error() -> None:
    items = bin_of(named("i", 3))
    receiver, sender = VectorReceiver(T, items, OWN, SIZE, sizes(OWN)), VectorSender(T, items, PEER, SIZE, sizes(OWN))
    early: list[Callable[[], object]] = [
        receiver.match,
        lambda: receiver.compute(Stream.VECTOR, bytes(16 * sizes(OWN).sums)),
        lambda: receiver.compute_ahead(Stream.VECTOR),
        lambda: sender.compute(Stream.SUMS, bytes(16 * sizes(OWN).choices)),
        lambda: sender.compute(Stream.TOKENS, bytes(16 * sizes(OWN).vector)),
        sender.match,
        lambda: sender.keep_tokens(0, b""),
    ]
    for each in early:
        with pytest.raises(LocalProtocolError):
            each()


@pytest.mark.parametrize("receives", [True, False], ids=["receiver", "sender"])
def test_nothing_is_computed_after_the_wipe(receives: bool) -> None:
    items = bin_of(named("i", 3))
    if receives:
        worker: VectorWorker = VectorReceiver(T, items, OWN, SIZE, sizes(OWN))
        stream, received = Stream.CHOICES, VectorSender(T, items, PEER, SIZE, sizes(OWN)).compute(Stream.KEYS, b"")
    else:
        worker, stream, received = VectorSender(T, items, PEER, SIZE, sizes(OWN)), Stream.KEYS, b""
    worker.wipe()
    with pytest.raises(LocalProtocolError):
        worker.compute(stream, received)


def test_no_repr_of_a_worker_shows_a_secret() -> None:
    receiver, sender, tokens = exchanged(bin_of(named("i", 7)), bin_of(named("i", 5)))
    for worker in (receiver, sender):
        for text in (repr(worker), str(worker), repr(receiver.match()), repr(Match(np.zeros(1, np.bool_)))):
            assert worker.order_secret.hex() not in text
            assert repr(worker.order_secret)[2:-1] not in text
            assert tokens.hex() not in text


def test_another_encoding_is_told_to_this_party_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel finds no store at first. The log says so, and the messages have the same sizes."""
    failures = [False]

    class Failing:
        def __init__(self, kernel: object) -> None:
            self._kernel = kernel

        def __getattr__(self, name: str) -> object:
            return getattr(self._kernel, name)

        def encode(self, *arguments: object) -> object:
            return self._kernel.encode(*arguments) if not failures else failures.pop()  # type: ignore[attr-defined]

    monkeypatch.setattr("psicli.ole.store.kernel", lambda kernel=ole.kernel: Failing(kernel()))
    with caplog.at_level(logging.DEBUG):
        receiver, _, tokens = exchanged(bin_of(named("i", 7)), bin_of(named("i", 5)))
    assert failures == []
    assert [record.message for record in caplog.records] == ["a bin had to be encoded again, 1 time"]
    assert receiver.match().found.sum() == 5
    assert len(tokens) == PEER * SIZE
