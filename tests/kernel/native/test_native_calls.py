"""Tests of calls of the kernel in C: wrong arguments, references, threads and the GIL."""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel import bounds

from psicli.curve import DST

try:
    from psicli.curve import _native
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("the kernel in C was not built", allow_module_level=True)
from support.kernel.native import (
    ALICE,
    NINE,
    PREFIX,
    SECRET,
    TEXT,
    P,
    Work,
    expected_hash,
    item_arguments,
    on_every_path,
    small_work,
    split,
    u_bytes,
)

# Wrong arguments ----------------------------------------------------------------------------------------------------

# Offsets, start, count, size of the data, and a part of the error message.
WRONG_OFFSETS: dict[str, Callable[[int], tuple[list[int], int, int, int, str]]] = {
    "descending": lambda top: ([0, 5, 3], 0, 2, 10, "ascend"),
    "descending to below zero": lambda top: ([0, 5, -1], 0, 2, 10, "ascend"),
    "negative": lambda top: ([-1, 2], 0, 1, 10, "ascend"),
    "the most negative": lambda top: ([-top - 1, 0], 0, 1, 10, "ascend"),
    "one beyond the data": lambda top: ([0, 11], 0, 1, 10, "within the data"),
    "far beyond the data": lambda top: ([0, top], 0, 1, 10, "within the data"),
    "both beyond the data": lambda top: ([top, top], 0, 1, 10, "within the data"),
    "beyond no data": lambda top: ([0, 1], 0, 1, 0, "within the data"),
    "no offset after the last item": lambda top: ([0, 1], 0, 2, 10, "too few"),
    "no offset at all": lambda top: ([], 0, 1, 10, "too few"),
    "start at the end": lambda top: ([0, 1, 2], 2, 1, 10, "too few"),
    "start beyond the end": lambda top: ([0, 1, 2], 3, 1, 10, "too few"),
    "start far beyond the end": lambda top: ([0, 1, 2], 2**62, 1, 10, "too few"),
    "negative start": lambda top: ([0, 1, 2], -1, 1, 10, "range"),
    "negative count": lambda top: ([0, 1, 2], 0, -1, 10, "range"),
    "start and count that overflow": lambda top: ([0, 1, 2], 2**63 - 1, 2**63 - 1, 10, "range"),
    "a count whose results overflow": lambda top: ([0, 1, 2], 0, 2**63 - 1, 10, "range"),
    "a count whose offsets overflow": lambda top: ([0, 1, 2], 0, 2**61, 10, "too few"),
    "a start that overflows": lambda top: ([0, 1, 2], 2**63 - 1, 1, 10, "range"),
}


@on_every_path
@pytest.mark.parametrize(("width", "kind"), [(4, "i"), (8, "q")])
@pytest.mark.parametrize("wrong", WRONG_OFFSETS)
def test_wrong_offsets(path: str, width: int, kind: str, wrong: str) -> None:
    offsets, start, count, size, message = WRONG_OFFSETS[wrong](2 ** (8 * width - 1) - 1)
    arguments = path, struct.pack(f"={len(offsets)}{kind}", *offsets), width, start, count, bytes(size)
    with pytest.raises(ValueError, match=message):
        _native.hash_to_points(*arguments, PREFIX, DST)
    with pytest.raises(ValueError, match=message):
        _native.hash_and_mask(*arguments, PREFIX, DST, ALICE)
    with pytest.raises(ValueError, match=message):
        _native.digests(*arguments, SECRET, 16)


@on_every_path
@settings(deadline=None, max_examples=200)
@given(offsets=st.lists(st.integers(-2, 12), max_size=6), start=st.integers(-2, 7), count=st.integers(-2, 7))
def test_any_offsets_are_accepted_or_refused(path: str, offsets: list[int], start: int, count: int) -> None:
    used = offsets[start : start + count + 1]
    right = start >= 0 and count >= 0 and (count == 0 or len(used) == count + 1)
    right = right and (count == 0 or (used == sorted(used) and used[0] >= 0 and used[-1] <= 10))
    for width, kind in ((4, "i"), (8, "q")):
        packed = struct.pack(f"={len(offsets)}{kind}", *offsets)
        arguments = path, packed, width, start, count, TEXT[:10], PREFIX, DST
        if right:
            expected = [expected_hash(TEXT[first:last]) for first, last in pairwise(used)] if count else []
            assert split(_native.hash_to_points(*arguments)) == expected
        else:
            with pytest.raises(ValueError, match=r"offsets|range of items"):
                _native.hash_to_points(*arguments)


def wrong_calls(path: str, buffer: Any) -> list[tuple[type[Exception], Callable[[], object]]]:
    """Return calls that must raise an exception; `buffer` (64 bytes) takes the place of each argument at least once."""
    n, good = _native, struct.pack("=2q", 0, 1)
    size = 8 * bounds.PATHS[path].lanes * len(bounds.PATHS[path].field.bits)
    return [
        (ValueError, lambda: n.mask(path, bytes(31), ALICE)),
        (ValueError, lambda: n.mask(path, bytes(65), ALICE)),
        (ValueError, lambda: n.mask(path, buffer, bytes(31))),
        (ValueError, lambda: n.mask(path, buffer, b"")),
        (ValueError, lambda: n.mask(path, buffer, buffer)),
        (ValueError, lambda: n.mask("sse", buffer, ALICE)),
        (ValueError, lambda: n.mask("", buffer, ALICE)),
        (TypeError, lambda: n.mask(path, buffer, "scalar")),
        (TypeError, lambda: n.mask(path, buffer, None)),
        (TypeError, lambda: n.mask(path, buffer)),
        (BufferError, lambda: n.mask(path, memoryview(bytes(128))[::2], ALICE)),
        (ValueError, lambda: n.order(bytes(17), 16)),
        (ValueError, lambda: n.order(bytes(16), 4)),
        (ValueError, lambda: n.order(bytes(16), -8)),
        (TypeError, lambda: n.order(buffer)),
        (ValueError, lambda: n.seen(bytes(17), bytes(16), 16)),
        (ValueError, lambda: n.seen(bytes(16), bytes(17), 16)),
        (TypeError, lambda: n.seen(buffer, 7, 16)),
        (ValueError, lambda: n.take(good, b"x", struct.pack("=I", 1))),
        (ValueError, lambda: n.take(good, b"", bytes(4))),
        (ValueError, lambda: n.take(struct.pack("=2q", 1, 0), b"x", bytes(4))),
        (ValueError, lambda: n.take(struct.pack("=2q", -1, 0), b"x", bytes(4))),
        (ValueError, lambda: n.take(b"", b"x", bytes(4))),
        (ValueError, lambda: n.take(good, b"x", bytes(3))),
        (ValueError, lambda: n.take(bytes(9), b"x", bytes(4))),
        (TypeError, lambda: n.take(buffer, buffer)),
        (ValueError, lambda: n.partners(path, bytes(65), NINE, bytes(2))),
        (ValueError, lambda: n.partners(path, buffer, NINE, bytes(1))),
        (ValueError, lambda: n.partners(path, buffer, NINE, bytes(3))),
        (ValueError, lambda: n.partners(path, buffer, NINE, buffer)),
        (ValueError, lambda: n.partners(path, NINE, buffer, bytes(1))),
        (ValueError, lambda: n.partners(path, NINE, NINE[:31], bytes(1))),
        (ValueError, lambda: n.partners("sse", buffer, NINE, bytes(2))),
        (ArithmeticError, lambda: n.partners(path, NINE + NINE, NINE, bytes(2))),
        (TypeError, lambda: n.partners(path, buffer, NINE)),
        (TypeError, lambda: n.partners(path, buffer, NINE, "signs")),
        (ValueError, lambda: n.tokens(path, bytes(33), PREFIX)),
        (TypeError, lambda: n.tokens(path, buffer)),
        (ValueError, lambda: n.tokens("sse", buffer, PREFIX)),
        (TypeError, lambda: n.tokens(path, buffer, 7)),
        (ValueError, lambda: n.on_curve(path, bytes(1))),
        (ValueError, lambda: n.on_curve("sse", buffer)),
        (TypeError, lambda: n.on_curve(path, "points")),
        (ValueError, lambda: n.hash_to_points(path, good, 8, 0, 1, buffer, buffer, bytes(256))),
        (ValueError, lambda: n.hash_to_points(path, good, 5, 0, 1, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, good, 0, 0, 1, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, memoryview(bytes(1) + good)[1:], 8, 0, 1, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, good, 8, 0, 2, buffer, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points(path, good, 8, 0, 1, None, buffer, buffer)),
        (ValueError, lambda: n.hash_to_points("sse", good, 8, 0, 1, buffer, buffer, buffer)),
        (OverflowError, lambda: n.hash_to_points(path, buffer, 8, 2**63, 1, buffer, buffer, buffer)),
        (TypeError, lambda: n.hash_to_points(path, buffer, 8, 0, 1, buffer, buffer, "dst")),
        (ValueError, lambda: n.hash_and_mask(path, good, 8, 0, 1, buffer, buffer, buffer, bytes(33))),
        (ValueError, lambda: n.hash_and_mask(path, good, 8, 0, 2, buffer, buffer, buffer, ALICE)),
        (TypeError, lambda: n.hash_and_mask(path, buffer, 8, 0, 1, buffer, buffer, buffer, 1.5)),
        (ValueError, lambda: n.digests(path, good, 8, 0, 1, buffer, bytes(129), 16)),
        (ValueError, lambda: n.digests(path, good, 8, 0, 1, buffer, SECRET, 0)),
        (ValueError, lambda: n.digests(path, good, 8, 0, 1, buffer, SECRET, -1)),
        (ValueError, lambda: n.digests(path, good, 8, 0, 1, buffer, SECRET, 33)),
        (ValueError, lambda: n.digests(path, good, 8, 0, 2, buffer, SECRET, 16)),
        (ValueError, lambda: n.digests("sse", good, 8, 0, 1, buffer, SECRET, 16)),
        (TypeError, lambda: n.digests(path, buffer, 8, 0, 1, buffer, "secret", 16)),
        (ValueError, lambda: n.field(path, "divide", bytes(size), bytes(size))),
        (ValueError, lambda: n.field(path, "add", bytes(size - 8), bytes(size))),
        (ValueError, lambda: n.field(path, "add", bytes(size), bytes(size + 8))),
        (ValueError, lambda: n.field("sse", "add", bytes(size), bytes(size))),
        (TypeError, lambda: n.field(path, "add", buffer, [])),
    ]


@on_every_path
def test_wrong_arguments(path: str) -> None:
    for error, call in wrong_calls(path, bytes(64)):
        with pytest.raises(error):
            call()


def rises(call: Callable[[], object], times: int) -> tuple[int, int]:
    """Return how many blocks of Python's memory, and references to None, `times` calls add.

    Of two rounds, this is the lesser number: a leak shows in both, and what another thread of this process keeps, such
    as xdist's, in one.
    """
    call()
    rounds = []
    for _ in range(2):
        blocks, nones = sys.getallocatedblocks(), sys.getrefcount(None)
        for _ in range(times):
            call()
        rounds.append((sys.getallocatedblocks() - blocks, sys.getrefcount(None) - nones))
    blocks, nones = map(min, *rounds)
    return blocks, nones


@on_every_path
def test_failing_calls_leak_nothing(path: str) -> None:
    buffer = bytearray(64)

    def fail() -> None:
        for error, call in calls:
            try:
                call()
            except error:
                continue
            raise AssertionError("did not fail")

    calls = wrong_calls(path, buffer)
    references = sys.getrefcount(buffer)
    # Together these are more than 10,000 failures.
    assert max(rises(fail, times=300)) < 100
    assert sys.getrefcount(buffer) == references
    # A bytearray cannot be resized while its buffer is in use.
    buffer.append(0)


@on_every_path
def test_successful_calls_leak_nothing(path: str) -> None:
    points, pair, signs = bytearray(u_bytes(9, 0, P)), bytearray(u_bytes(4, 6)), bytearray(2)
    items = bytearray(struct.pack("=3q", 0, 1, 2))
    size = 8 * bounds.PATHS[path].lanes * len(bounds.PATHS[path].field.bits)

    def succeed() -> None:
        assert _native.mask(path, points, ALICE)[1] == [1, 2]
        _native.partners(path, pair, NINE, signs)
        _native.tokens(path, points, PREFIX)
        _native.on_curve(path, points)
        _native.hash_to_points(path, items, 8, 0, 2, points, PREFIX, DST)
        _native.hash_and_mask(path, items, 8, 0, 2, points, PREFIX, DST, ALICE)
        _native.digests(path, items, 8, 0, 2, points, SECRET, 16)
        _native.field(path, "add", bytes(size), bytes(size))
        _native.paths()

    references = [
        sys.getrefcount(of) for of in (points, pair, signs, items, ALICE, NINE, SECRET, PREFIX, DST, True, False)
    ]
    assert max(rises(succeed, times=1000)) < 100
    # Python caches integers below 257, so this call returns larger indices too.
    assert max(rises(lambda: _native.mask(path, bytes(32 * 300), ALICE), times=10)) < 100
    assert [
        sys.getrefcount(of) for of in (points, pair, signs, items, ALICE, NINE, SECRET, PREFIX, DST, True, False)
    ] == references
    points.append(0)
    items.append(0)


# Threads ------------------------------------------------------------------------------------------------------------


@on_every_path
def test_two_threads_compute_the_same_results(path: str) -> None:
    whole = small_work()
    barrier, failures = threading.Barrier(2), []

    def run() -> None:
        try:
            for _ in range(5):
                barrier.wait(60)
                whole.check(path, 0, whole.count)
        except BaseException as exc:
            failures.append(exc)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    run()
    thread.join(60)
    assert failures == []


def long_calls(path: str, work: Work) -> dict[str, Callable[[], object]]:
    items = item_arguments(work.items)
    return {
        "mask": lambda: _native.mask(path, work.points, ALICE),
        "hash_to_points": lambda: _native.hash_to_points(path, *items, PREFIX, DST),
        "hash_and_mask": lambda: _native.hash_and_mask(path, *items, PREFIX, DST, ALICE),
        "partners": lambda: _native.partners(path, work.hashed, NINE, work.signs),
        "tokens": lambda: _native.tokens(path, work.points * 10, PREFIX),
        "on_curve": lambda: _native.on_curve(path, work.hashed),
        "digests": lambda: _native.digests(path, *items, SECRET, 16),
    }


@pytest.fixture
def no_switching() -> Iterator[None]:
    """Let a thread keep the GIL until it releases it itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@on_every_path
@pytest.mark.parametrize(
    "function", ["mask", "hash_to_points", "hash_and_mask", "partners", "tokens", "on_curve", "digests"]
)
@pytest.mark.usefixtures("no_switching")
def test_the_gil_is_released(path: str, function: str, work: Work) -> None:
    """A thread that waits for the GIL gets it during a call, because nothing else in this test releases it."""
    call, go, progress = long_calls(path, work)[function], threading.Lock(), []

    def run() -> None:
        with go:
            progress.append(None)

    go.acquire()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    go.release()
    # The system may give the thread no core during the first calls. A look at the clock keeps the GIL.
    deadline = time.monotonic() + 30
    while not progress and time.monotonic() < deadline:
        call()
    seen = bool(progress)
    thread.join(60)
    assert seen
