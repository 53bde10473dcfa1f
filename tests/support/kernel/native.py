"""Items, points and calls for tests of the kernel in C."""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from psicli.curve import DST, packed_items, reference

try:
    from psicli.curve import _native
except ImportError:
    if os.environ.get("CI"):
        raise
    pytest.skip("the kernel in C was not built", allow_module_level=True)


P = 2**255 - 19
PATHS = _native.paths()
PREFIX = bytes(range(32)) + b"\x01"
ALICE, BOB = b"\x77" * 32, b"\x5d" * 32
SECRET = b"\x3a" * 32
# The base point.
NINE = b"\x09" + bytes(31)

on_every_path = pytest.mark.parametrize("path", PATHS)


def split(packed: bytes, size: int = 32) -> list[bytes]:
    return [packed[i : i + size] for i in range(0, len(packed), size)]


def u_bytes(*us: int) -> bytes:
    return b"".join(u.to_bytes(32, "little") for u in us)


def keyed_hash(item: bytes) -> bytes:
    return sha256(SECRET + item).digest()[:16]


class Work:
    """Random items and points, and the results that the reference computes from them."""

    def __init__(self, seed: int, count: int) -> None:
        random = Random(seed)
        self.count = count
        self.items = packed_items([random.randbytes(random.randrange(200)) for _ in range(count)])
        self.hashed = reference.hash_to_points(self.items, PREFIX, DST)
        self.masked, bad = reference.mask(memoryview(self.hashed), ALICE)
        assert bad == []
        # Half of them are on the curve and half on its twist.
        self.points = b"".join(random.randbytes(31) + bytes([random.randrange(128)]) for _ in range(count))
        self.products, bad = reference.mask(memoryview(self.points), BOB)
        assert bad == []
        self.signs = random.randbytes(count)
        self.partners = reference.partners(memoryview(self.hashed), NINE, self.signs)
        self.tokens = reference.tokens(memoryview(self.products), PREFIX)
        self.keys = b"".join(keyed_hash(item) for item in self.items.to_pylist())

    def check(self, path: str, start: int, count: int) -> None:
        """Let a path compute `count` items and points from `start` on, and compare its results."""
        points = memoryview(self.points)[32 * start : 32 * (start + count)]
        assert hash_to_points(path, self.items, start, count) == self.hashed[32 * start : 32 * (start + count)]
        assert hash_and_mask(path, self.items, start, count) == self.masked[32 * start : 32 * (start + count)]
        products, bad = _native.mask(path, points, BOB)
        assert (products, bad) == (self.products[32 * start : 32 * (start + count)], [])
        hashed, signs = self.hashed[32 * start : 32 * (start + count)], self.signs[start : start + count]
        assert _native.partners(path, hashed, NINE, signs) == self.partners[32 * start : 32 * (start + count)]
        assert _native.tokens(path, products, PREFIX) == self.tokens[16 * start : 16 * (start + count)]
        assert keyed_hashes(path, self.items, start, count) == self.keys[16 * start : 16 * (start + count)]
        assert _native.on_curve(path, hashed)
        assert _native.on_curve(path, points) is reference.on_curve(points)


def item_arguments(items: pa.Array, start: int = 0, count: int | None = None) -> tuple[Any, ...]:
    """Return the kernel's arguments for an array of items: offsets, their width, start, count, data."""
    _, offsets, data = items.buffers()
    width = {pa.binary(): 4, pa.large_binary(): 8}[items.type]
    return offsets, width, items.offset + start, len(items) - start if count is None else count, data


def hash_to_points(path: str, items: pa.Array, start: int = 0, count: int | None = None) -> bytes:
    return _native.hash_to_points(path, *item_arguments(items, start, count), PREFIX, DST)


def hash_and_mask(path: str, items: pa.Array, start: int = 0, count: int | None = None) -> bytes:
    return _native.hash_and_mask(path, *item_arguments(items, start, count), PREFIX, DST, ALICE)


def keyed_hashes(path: str, items: pa.Array, start: int = 0, count: int | None = None) -> bytes:
    return digests(path, SECRET, 16, items, start, count)


def digests(path: str, prefix: bytes, size: int, items: pa.Array, start: int = 0, count: int | None = None) -> bytes:
    return _native.digests(path, *item_arguments(items, start, count), prefix, size)


TEXT = Random(3).randbytes(70_000)


@cache
def expected_hash(item: bytes, prefix: bytes = PREFIX, dst: bytes = DST) -> bytes:
    return reference.hash_to_points(packed_items([item]), prefix, dst)


@cache
def small_work() -> Work:
    return Work(seed=4, count=120)
