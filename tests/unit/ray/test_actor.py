"""The actor of bins, without Ray: what it returns, in which order it computes, and what it forgets."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from support.memory.pair import items_of
from support.waiting import DEADLINE, wait_until

from psicli import curve
from psicli.core.errors import LocalProtocolError, SelfCheckError
from psicli.exchange.worker import Worker
from psicli.items.encoding import encode_items
from psicli.ray import actor
from psicli.ray.actor import BinActor, Cores, Header, number_of_parts, octets_of, parts_of, unsealed

SID = bytes(32)
FRAME_ITEMS = 1024
HOW = {"receives": True, "strict": False}


@pytest.fixture
def made() -> Iterator[BinActor]:
    threads = curve.threads()
    try:
        yield BinActor(1)
    finally:
        curve.set_threads(threads)


def begin(made: BinActor, number: int, count: int, **how: bool) -> None:
    items = encode_items([items_of([f"item-{i}" for i in range(count)]).cast("large_string")])
    given = [octets_of(items)[start : start + 1000] for start in range(0, len(octets_of(items)), 1000)]
    # They may arrive in any order.
    for place in reversed(range(len(given))):
        octets(made.give(number, place, given[place]))
    octets(made.begin(number, SID, (count, count, FRAME_ITEMS), HOW | how, partial(actor.items_of, count)))


def octets(reply: Any) -> bytes:
    """Return what a call that went well has returned, having travelled as Ray lets it travel."""
    header, *parts = pickle.loads(pickle.dumps(reply if isinstance(reply, list) else [reply]))
    assert header.failure is None
    return b"".join(parts)


def own_points(made: BinActor, number: int, count: int) -> list[bytes]:
    frames = [(start, min(start + FRAME_ITEMS, count)) for start in range(0, count, FRAME_ITEMS)]
    return [octets(made.mask_own(number, start, number_of_parts(32 * (stop - start)))) for start, stop in frames]


@pytest.mark.parametrize("count", [1, 3, FRAME_ITEMS, 3 * FRAME_ITEMS + 7])
def test_a_receiver_and_a_sender_on_actors_find_what_both_have(made: BinActor, count: int) -> None:
    begin(made, 1, count)
    begin(made, 2, count, receives=False)
    receivers, senders = own_points(made, 1, count), own_points(made, 2, count)
    for seq, (own, theirs) in enumerate(zip(receivers, senders, strict=True)):
        tokens = octets(made.mask_peer(2, seq, number_of_parts(len(own) // 2), *parts_of(own)))
        assert octets(made.keep_tokens(1, seq * FRAME_ITEMS, *parts_of(tokens))) == b""
        assert octets(made.mask_peer(1, seq, 0, *parts_of(theirs))) == b""
    for number in (1, 2):
        octets(made.check(number))
    bits = -(-count // 8)
    found = octets(made.match(1, number_of_parts(2 * bits)))
    assert len(found) == 2 * bits
    assert np.unpackbits(np.frombuffer(found[:bits], np.uint8), count=count).all()
    assert np.unpackbits(np.frombuffer(found[bits:], np.uint8), count=count, bitorder="little").all()


def test_an_error_comes_as_its_class_and_its_facts(made: BinActor) -> None:
    begin(made, 1, 5)
    header, *rest = made.mask_peer(1, 0, 2, bytes(64))
    # Ray expects as many results as the head has asked for.
    assert len(rest) == 2
    assert header.failure is not None
    name, facts = header.failure
    assert name == "PeerProtocolError"
    assert facts["detail"] == "it sent a frame with 2 invalid points"


def test_an_unexpected_error_comes_as_its_class_alone(made: BinActor) -> None:
    assert made.check(7).failure == ("", {"kind": "KeyError"})


def test_a_failure_while_masking_ahead_is_told_to_who_asks_for_a_frame(
    made: BinActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise SelfCheckError(backend="x", detail="it failed")

    monkeypatch.setattr(Worker, "mask_own", fail)
    begin(made, 1, 5)
    header = made.mask_own(1, 0, 1)[0]
    assert header.failure[0] == "SelfCheckError"
    # The masking goes on with the next bin.
    monkeypatch.undo()
    begin(made, 2, 5)
    assert len(octets(made.mask_own(2, 0, 1))) == 5 * 32


def test_a_forgotten_bin_is_wiped_and_lets_nobody_wait(made: BinActor, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()
    real = Worker.mask_own

    def slow(self: Worker, start: int, stop: int) -> bytes:
        assert may_go_on.wait(DEADLINE)
        return real(self, start, stop)

    asked = threading.Event()
    frame = actor._Bin.frame

    def asking(self: actor._Bin, start: int) -> Any:
        asked.set()
        return frame(self, start)

    monkeypatch.setattr(Worker, "mask_own", slow)
    monkeypatch.setattr(actor._Bin, "frame", asking)
    begin(made, 1, 3 * FRAME_ITEMS)
    worker = made._bins[1].worker
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(made.mask_own, 1, 0, 2)
        # A call that comes later finds no bin.
        assert asked.wait(DEADLINE)
        made.forget(1)
        made.forget(1)
        assert waiting.result(DEADLINE)[0].failure[0] == "LocalProtocolError"
    assert bytes(worker._scalar) == bytes(32)
    assert made.mask_own(1, 0, 1)[0].failure == ("", {"kind": "KeyError"})
    may_go_on.set()
    wait_until(lambda: not made._to_mask, "the end of the masking")


def test_no_frame_leaves_while_a_bin_is_wiped(made: BinActor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that is masked after the wiping has a scalar that everybody knows."""
    begin(made, 1, 5)
    wait_until(lambda: not made._to_mask, "the end of the masking")
    ended, wiped = made._bins[1], []

    def wipe(_: Worker) -> None:
        with pytest.raises(LocalProtocolError):
            ended.frame(0)
        wiped.append(1)

    monkeypatch.setattr(Worker, "wipe", wipe)
    made.forget(1)
    assert wiped


def test_only_the_holder_of_the_key_opens_an_order_secret(made: BinActor) -> None:
    begin(made, 1, 5)
    key = X25519PrivateKey.generate()
    sealed = octets(made.sealed_order_secret(1, key.public_key().public_bytes_raw()))
    secret = made._bins[1].worker.order_secret
    assert secret not in sealed
    assert unsealed(sealed, key) == secret
    with pytest.raises(InvalidTag):
        unsealed(sealed, X25519PrivateKey.generate())
    with pytest.raises(InvalidTag):
        unsealed(sealed[:-1] + bytes([sealed[-1] ^ 1]), key)


def test_the_parts_of_octets() -> None:
    for size in (0, 1, actor.PART_BYTES, actor.PART_BYTES + 1):
        parts = parts_of(bytes(size))
        assert len(parts) == number_of_parts(size)
        assert b"".join(parts) == bytes(size)


def test_calls_compute_in_the_order_in_which_they_came() -> None:
    cores, order = Cores(1), []
    with ThreadPoolExecutor(5) as pool:
        with cores.turn():
            waiting = []
            for number in range(5):

                def compute(number: int = number) -> None:
                    with cores.turn():
                        order.append(number)

                waiting.append(pool.submit(compute))
                wait_until(lambda number=number: len(cores._waiting) == number + 1, "a call that waits")
        for each in waiting:
            each.result(DEADLINE)
    assert order == [*range(5)]


def test_the_clock_of_the_cores_runs_while_one_computes() -> None:
    cores = Cores(2)
    assert cores.busy == 0
    with cores.turn() as first, cores.turn() as second:
        assert {first.lane, second.lane} == {0, 1}
        before = cores.busy
        wait_until(lambda: cores.busy > before, "a later time")
    after = cores.busy
    assert after > before
    assert cores.busy == after
    assert first.span.ended >= first.span.began
    assert isinstance(Header(None, first.span, after), tuple)
