"""The traffic of a run as an observer on the network sees it."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from support.processes.expectations import (
    MARK,
    csv_data,
    marked,
    marked_pair,
    shape,
    succeeded,
)
from support.processes.runner import DIALER, LISTENER, Pair, Side, Tap

from psicli.protocol import wire
from psicli.protocol.messages import Frame, Stream


def run_tapped(pair: Pair, port: int) -> tuple[bytes, list[Any]]:
    """Run both parties; return all bytes and all messages between them."""
    tap = Tap(port, pair.port)
    try:
        succeeded(pair.run())
        octets = b"".join(tap.octets())
        return octets, [wire.decode(message) for side in tap.messages() for message in side]
    finally:
        tap.close()


def framed(messages: Iterable[Any], *streams: Stream, task: int = 0) -> bytes:
    """Return the data of all frames in these streams of a task."""
    found = [m for m in messages if isinstance(m, Frame) and m.stream in streams and m.task == task]
    return b"".join(frame.data for frame in found)


def records(data: bytes, width: int) -> set[bytes]:
    return {data[start : start + width] for start in range(0, len(data), width)}


def test_the_wire_reveals_no_values_names_or_duplicates(tapped: tuple[Pair, int]) -> None:
    pair, port = tapped
    marked_pair(pair)
    secret_column = f"{MARK}column"
    pair.path(LISTENER, f"{MARK}.csv").write_bytes(marked(1, 2, 3, column=secret_column))
    pair.jobs[LISTENER]["tasks"][0].update(keys={LISTENER: [secret_column]}, input_path={LISTENER: f"{MARK}.csv"})
    octets, once = run_tapped(pair, port)
    assert len(framed(once, Stream.RECEIVER_POINTS)) == 3 * 32
    assert len(framed(once, Stream.SENDER_POINTS)) == 3 * 32
    assert MARK.encode() not in octets
    assert str(pair.path(LISTENER).parent).encode() not in octets
    assert hashlib.sha256(f"{MARK}-3".encode()).digest() not in octets
    # Repeating every row a thousand times gives the same messages of the same sizes, but no common point or token.
    pair.path(LISTENER, f"{MARK}.csv").write_bytes(marked(*[1, 2, 3] * 1000, column=secret_column))
    _, often = run_tapped(pair, port)
    assert Counter(map(shape, once)) == Counter(map(shape, often))
    for streams, width in (((Stream.RECEIVER_POINTS, Stream.SENDER_POINTS), 32), ((Stream.TOKENS,), 16)):
        first, second = (records(framed(messages, *streams), width) for messages in (once, often))
        assert len(first) == len(second) == 3 * len(streams)
        assert not first & second


@pytest.mark.more
def test_the_order_on_the_wire_reveals_no_file_key_or_hash_order(tapped: tuple[Pair, int]) -> None:
    """The common keys are the first half of the sender's by position, key or hash; the bitmap must not show it."""
    pair, port = tapped
    count = 400
    draw = random.Random(9)
    keys = [f"{draw.getrandbits(64):016x}" for _ in range(count)]
    in_order = {
        "file": keys,
        "key": sorted(keys),
        "hash": sorted(keys, key=lambda k: hashlib.sha256(k.encode()).digest()),
    }
    for name, order in in_order.items():
        pair.path(LISTENER, f"{name}.csv").write_bytes(csv_data(["id"], [[key] for key in order[: count // 2]]))
        pair.path(DIALER, f"{name}.csv").write_bytes(csv_data(["id"], [[key] for key in keys]))
        side = Side(["id"], f"{name}.csv", f"out/{name}.csv")
        pair.add(name, side, side, broadcast_result=True)
    _, messages = run_tapped(pair, port)
    halves = []
    for task in range(3):
        bitmap = int.from_bytes(framed(messages, Stream.BITMAP, task=task), "little")
        assert bitmap.bit_count() == count // 2
        halves.append((bitmap & (1 << count // 2) - 1).bit_count())
    # The test expects 100 of 200 with a standard deviation of 5; eight deviations occur once in 10^15 runs.
    assert all(60 <= half <= 140 for half in halves), halves
