"""Tests of calls of the kernel of RR22 in C: sizes, wrong arguments, references, threads and the GIL."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from psicli.ole import reference
from psicli.ole.blocks import Blocks, Rows

try:
    from psicli.ole import _native as n
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("the kernel in C was not built", allow_module_level=True)
from psicli.ole.native import Native

on_every_path = pytest.mark.parametrize("path", n.paths())
KEY = bytes(range(16))
# Around the ends of the lanes, of what is on the stack at a time, and of a row of the store.
SIZES = [0, 1, 2, 3, 5, 15, 16, 17, 127, 255, 256, 257, 1027]


def blocks(count: int, words: int = 2, seed: int = 0) -> Blocks:
    return np.random.default_rng(seed).integers(0, 2**64, (count, words), np.uint64)


def points(count: int, below: int) -> Any:
    return np.random.default_rng(count).integers(0, below, count).astype(np.uint32)


def rows(count: int, length: int) -> Rows:
    return reference.rows(blocks(count), length, KEY)


# Sizes --------------------------------------------------------------------------------------------------------------


def results(kernel: Any, size: int) -> dict[str, Any]:
    """Return the results of each function on inputs of a size."""
    given, length = blocks(size), size * 11 // 10 + 256
    sums, store, noise, pairs = given.copy(), blocks(length), blocks(size + 1), blocks(size + 1, 4)
    kernel.add_products(sums, given[::-1], blocks(1))
    solved = kernel.encode(rows(size, length), given, store)
    made = {
        "encrypt": kernel.encrypt(given, KEY),
        "hashes": kernel.hashes(given, 2**33 - 3),
        "add_products": sums,
        "combine": kernel.combine(blocks(128 * (size // 8 + 1))),
        "transpose": kernel.transpose(blocks(128 * (size // 8))),
        "grow": kernel.grow(blocks(2), size + 1),
        "regrow": kernel.regrow(blocks(2 * size.bit_length()), points(2, size + 1), size + 1),
        "spread": kernel.spread(blocks(32), size),
        "spread at points": kernel.spread(blocks(32), size, points(2, 16)),
        "compress": (kernel.compress(noise, size), noise),
        "compress pairs": (kernel.compress(pairs, size), pairs),
        "rows": kernel.rows(given, length, KEY),
        "encode": (np.array(solved), store),
        "decode": kernel.decode(rows(size, length), blocks(length)),
    }
    return {name: made if isinstance(made, tuple) else (made,) for name, made in made.items()}


@pytest.mark.sample(13)
@on_every_path
@pytest.mark.parametrize("size", SIZES)
def test_every_size_gives_what_the_reference_gives(path: str, size: int) -> None:
    expected, found = results(reference, size), results(Native(path), size)
    assert found.keys() == expected.keys()
    for name, arrays in found.items():
        for one, other in zip(arrays, expected[name], strict=True):
            assert one.shape == other.shape, name
            assert (one == other).all(), name


@pytest.mark.more
@on_every_path
def test_a_million_rows(path: str) -> None:
    """An odd number, well above what any part has room for at a time. The portable path has the same code for rows."""
    count, kernel = 1_000_003, Native(path)
    length = count * 11 // 10 + 256
    values, store = blocks(count, seed=1), blocks(length, seed=2)
    made = kernel.rows(blocks(count, seed=3), length, KEY)
    assert kernel.encode(made, values, store)
    assert (kernel.decode(made, store) == values).all()


@on_every_path
def test_decoding_without_and_with_the_last_position(path: str) -> None:
    for start in (0, 1, 2, 3):
        for bit in range(256):
            row = np.zeros((1, 5), np.uint64)
            row[0, 0], row[0, 1 + bit // 64] = start, 1 << bit % 64
            assert (Native(path).decode(row, blocks(259)) == blocks(259)[start + bit]).all()


@on_every_path
def test_rows_that_contradict_each_other_have_no_solution(path: str) -> None:
    equal, kernel = rows(2, 300)[[0, 0]], Native(path)
    assert not kernel.encode(equal, blocks(2), blocks(300))
    assert kernel.encode(equal, blocks(2)[[0, 0]], blocks(300))
    nothing = np.zeros((1, 5), np.uint64)
    assert not kernel.encode(nothing, blocks(1), blocks(300))
    assert kernel.encode(nothing, np.zeros((1, 2), np.uint64), blocks(300))


def test_the_seeds_of_the_code_are_what_the_source_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of every path uses the same ones, and nobody can have chosen them."""
    for name in ("convolution", "expander"):
        seed = sha256(b"psicli/v1/rr22/%s\0" % name.encode()).digest()[:16]
        noise, expected = blocks(40), blocks(40)
        monkeypatch.setattr(reference, f"{name.upper()}_SEED", seed)
        assert (Native("portable").compress(noise, 20) == reference.compress(expected, 20)).all()


# Wrong arguments ----------------------------------------------------------------------------------------------------


def beyond(start: int) -> Rows:
    row = rows(2, 300)
    row[1, 0] = start
    return row


def wrong_calls(path: str, buffer: bytearray) -> list[tuple[type[Exception], Callable[[], object]]]:
    """Return calls with one wrong argument each; 32 bytes are two blocks."""
    two, key, out = bytes(32), bytes(16), buffer
    moved, far = memoryview(bytearray(41))[1:33], 2**63
    return [
        (ValueError, lambda: n.encrypt("sse", out, two, key)),
        (ValueError, lambda: n.encrypt(path, out, bytes(16), key)),
        (ValueError, lambda: n.encrypt(path, out, bytes(48), key)),
        (ValueError, lambda: n.encrypt(path, out, bytes(33), key)),
        (ValueError, lambda: n.encrypt(path, out, two, bytes(15))),
        (ValueError, lambda: n.encrypt(path, out, two, bytes(32))),
        (ValueError, lambda: n.encrypt(path, out, moved, key)),
        (ValueError, lambda: n.encrypt(path, moved, two, key)),
        (TypeError, lambda: n.encrypt(path, out, two)),
        (TypeError, lambda: n.encrypt(path, two, two, key)),
        (BufferError, lambda: n.encrypt(path, out, memoryview(bytes(64))[::2], key)),
        (ValueError, lambda: n.hashes(path, out, two, -1)),
        (OverflowError, lambda: n.hashes(path, out, two, far)),
        (ValueError, lambda: n.hashes(path, out, key, 0)),
        (ValueError, lambda: n.add_products(path, out, two, two)),
        (ValueError, lambda: n.add_products(path, out, two, b"")),
        (ValueError, lambda: n.add_products(path, out, key, key)),
        (ValueError, lambda: n.combine(path, out, bytes(32 * 127))),
        (ValueError, lambda: n.combine(path, out, bytes(16 * 128))),
        (ValueError, lambda: n.transpose(path, out, two)),
        (ValueError, lambda: n.transpose(path, out, bytes(16 * 128))),
        (ValueError, lambda: n.grow(path, out, bytearray(32), key, 1)),
        (ValueError, lambda: n.grow(path, out, bytearray(32), key, 3)),
        (ValueError, lambda: n.grow(path, out, bytearray(16), key, 2)),
        (ValueError, lambda: n.grow(path, out, bytearray(64), key, 2)),
        (ValueError, lambda: n.grow(path, out, bytearray(32), key, 0)),
        (ValueError, lambda: n.grow(path, out, bytearray(32), key, -1)),
        (ValueError, lambda: n.grow(path, out, bytearray(32), two, 2**31)),
        (ValueError, lambda: n.grow(path, out, bytearray(32), two, 2**31 + 1)),
        (OverflowError, lambda: n.grow(path, out, bytearray(32), two, far)),
        (ValueError, lambda: n.regrow(path, out, key, bytes(8), 2)),
        (ValueError, lambda: n.regrow(path, out, key, bytes(5), 2)),
        (ValueError, lambda: n.regrow(path, out, two, bytes(4), 2)),
        (ValueError, lambda: n.regrow(path, out, key, moved[:4], 2)),
        (ValueError, lambda: n.regrow(path, out, key, bytes(4), 2**62)),
        (ValueError, lambda: n.spread(path, out, bytearray(127), bytes(16 * 16), None)),
        (ValueError, lambda: n.spread(path, out, bytearray(112), bytes(16 * 16), None)),
        (ValueError, lambda: n.spread(path, out, bytearray(128), bytes(16 * 15), None)),
        (ValueError, lambda: n.spread(path, out, bytearray(128), bytes(16 * 48), None)),
        (ValueError, lambda: n.spread(path, out, bytearray(128), b"", None)),
        (ValueError, lambda: n.spread(path, out, bytearray(128), bytes(16 * 16), bytes(8))),
        (ValueError, lambda: n.spread(path, out, bytearray(128), bytes(16 * 16), b"")),
        (ValueError, lambda: n.convolve(path, out, 0)),
        (ValueError, lambda: n.convolve(path, out, 3)),
        (ValueError, lambda: n.convolve(path, bytearray(48), 2)),
        (TypeError, lambda: n.convolve(path, two, 1)),
        (ValueError, lambda: n.expand(path, out, b"", 1, 0)),
        (ValueError, lambda: n.expand(path, out, two, 1, -1)),
        (ValueError, lambda: n.expand(path, out, two, -1, 0)),
        (ValueError, lambda: n.expand(path, bytearray(16), two, 2, 0)),
        (ValueError, lambda: n.rows(path, bytearray(80), key, 300, key)),
        (ValueError, lambda: n.rows(path, bytearray(41), key, 300, key)),
        (ValueError, lambda: n.rows(path, bytearray(40), key, 255, key)),
        (ValueError, lambda: n.rows(path, bytearray(40), key, -1, key)),
        (ValueError, lambda: n.rows(path, bytearray(40), key, 300, two)),
        *(
            (ValueError, lambda start=start: n.decode(path, out, bytes(16 * 300), beyond(start)))
            for start in (45, 46, 299, 300, 2**32, far, 2**64 - 1, 2**64 - 256)
        ),
        (ValueError, lambda: n.encode(path, bytearray(16 * 300), beyond(45), two)),
        (ValueError, lambda: n.encode(path, bytearray(16 * 300), beyond(2**64 - 1), two)),
        (ValueError, lambda: n.encode(path, bytearray(16 * 300), beyond(0), key)),
        (ValueError, lambda: n.encode(path, bytearray(16 * 255), beyond(0), two)),
        (TypeError, lambda: n.encode(path, bytes(16 * 300), beyond(0), two)),
        (ValueError, lambda: n.decode(path, out, bytes(16 * 255), beyond(0))),
        (ValueError, lambda: n.decode(path, out, b"", beyond(0))),
        (ValueError, lambda: n.decode(path, out, bytes(16 * 300), rows(3, 300))),
        (ValueError, lambda: n.decode("", out, bytes(16 * 300), beyond(0))),
        (TypeError, lambda: n.decode(path, out, "store", beyond(0))),
    ]


@on_every_path
def test_wrong_arguments(path: str) -> None:
    for at, (error, call) in enumerate(wrong_calls(path, bytearray(32))):
        with pytest.raises(error):
            raise AssertionError(f"call {at} returned {call()!r}")


@on_every_path
def test_the_last_start_within_the_store_is_right(path: str) -> None:
    assert n.decode(path, bytearray(32), bytes(16 * 300), beyond(44)) is None
    assert n.encode(path, bytearray(16 * 300), beyond(44), bytes(32)) is True


@pytest.mark.sample(1)
@on_every_path
def test_calls_leak_nothing(path: str) -> None:
    buffer = bytearray(32)
    calls = [call for _, call in wrong_calls(path, buffer)]
    calls.append(lambda: n.encrypt(path, buffer, bytes(32), KEY))
    calls.append(lambda: n.encode(path, bytearray(16 * 300), beyond(0), bytes(32)))

    def run() -> None:
        for call in calls:
            try:
                call()
            except (ValueError, TypeError, BufferError, OverflowError):
                continue

    run()
    references, added = sys.getrefcount(buffer), []
    # A leak shows in both rounds, and what another thread of this process keeps, such as xdist's, in one.
    for _ in range(2):
        blocks_before, nones = sys.getallocatedblocks(), sys.getrefcount(None)
        for _ in range(100):
            run()
        added.append((sys.getallocatedblocks() - blocks_before, abs(sys.getrefcount(None) - nones)))
    assert sys.getrefcount(buffer) == references
    assert max(map(min, *added)) < 100
    # A bytearray cannot be resized while its buffer is in use.
    buffer.append(0)


# Threads ------------------------------------------------------------------------------------------------------------


@on_every_path
def test_parts_of_a_call_make_up_the_whole(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several threads, each call is divided, at places that no function may notice."""
    monkeypatch.setattr("psicli.curve.pool.PART_STEP", 7)
    monkeypatch.setattr("psicli.curve.pool.WORTH_SHARING", 1)
    monkeypatch.setattr("psicli.curve.pool.threads", lambda: 3)
    expected, found = results(reference, 257), results(Native(path), 257)
    for name, arrays in found.items():
        for one, other in zip(arrays, expected[name], strict=True):
            assert (one == other).all(), name


@pytest.fixture
def no_switching() -> Iterator[None]:
    """Let a thread keep the GIL until it releases it itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def long_calls(path: str) -> dict[str, Callable[[], object]]:
    many, store, noise, row = blocks(20_000), blocks(23_000), blocks(20_000), rows(20_000, 23_000)
    out, leaves, sums, planes = (np.empty((size, 2), np.uint64) for size in (20_000, 20_000, 30, 80_000))
    keyed = np.empty((20_000, 5), np.uint64)
    return {
        "encrypt": lambda: n.encrypt(path, out, many, KEY),
        "hashes": lambda: n.hashes(path, out, many, 0),
        "add_products": lambda: n.add_products(path, out, many, many[:1]),
        "combine": lambda: n.combine(path, out[:100], many[:12_800]),
        "transpose": lambda: n.transpose(path, out[:12_800], many[:12_800]),
        "grow": lambda: n.grow(path, leaves, sums, many[:1], 20_000),
        "regrow": lambda: n.regrow(path, leaves, many[:15], bytes(4), 20_000),
        "spread": lambda: n.spread(path, out, planes, many[:16], None),
        "convolve": lambda: n.convolve(path, noise, 1),
        "expand": lambda: n.expand(path, out, noise, 1, 0),
        "rows": lambda: n.rows(path, keyed, many, 23_000, KEY),
        "encode": lambda: n.encode(path, store, row, many),
        "decode": lambda: n.decode(path, out, store, row),
    }


@on_every_path
@pytest.mark.parametrize("function", long_calls("portable"))
@pytest.mark.usefixtures("no_switching")
def test_the_gil_is_released(path: str, function: str) -> None:
    """A thread that waits for the GIL gets it during a call, because nothing else in this test releases it."""
    call, go, progress = long_calls(path)[function], threading.Lock(), []

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
