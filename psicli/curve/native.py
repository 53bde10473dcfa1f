"""The curve kernel in C: the reference's functions, for many points at a time and on all cores.

The import fails if the extension was not built. The kernel runs in constant time in items and scalars, and without the
GIL. This module unpacks the arguments and divides each call among threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa

import psicli.curve._native as _native
from psicli.core.errors import InternalError, SelfCheckError
from psicli.curve.pool import in_parts

T = TypeVar("T")

# The size of an offset in an array of items [bytes].
_OFFSET_BYTES = 8


class Native:
    """A backend that uses one CPU path of the kernel, in constant time in items and scalars."""

    def __init__(self, path: str) -> None:
        self._path = path
        # The portable path takes half a second for 16,384 points on one core of a server, and longer on other machines.
        self.FRAME_ITEMS = 4096 if path == "portable" else 16_384

    def hash_to_points(self, items: pa.LargeBinaryArray, prefix: bytes, dst: bytes) -> bytes:
        return self._hash(_native.hash_to_points, items, prefix, dst)

    def hash_and_mask(self, items: pa.LargeBinaryArray, prefix: bytes, dst: bytes, scalar: bytes | bytearray) -> bytes:
        return self._hash(_native.hash_and_mask, items, prefix, dst, scalar)

    def digests(self, items: pa.LargeBinaryArray, prefix: bytes, size: int) -> bytes:
        return self._hash(_native.digests, items, prefix, size)

    def mask(self, points: memoryview, scalar: bytes | bytearray) -> tuple[bytes, list[int]]:
        def part(start: int, stop: int) -> tuple[bytes, list[int]]:
            products, bad = _native.mask(self._path, points[32 * start : 32 * stop], scalar)
            return products, [start + index for index in bad]

        parts = in_parts(len(points) // 32, part)
        return b"".join(products for products, _ in parts), [index for _, bad in parts for index in bad]

    def partners(self, points: memoryview, other: bytes, signs: bytes | bytearray) -> bytearray:
        # One call: a few hundred points take less time than threads need to begin.
        try:
            return _native.partners(self._path, points, other, signs)
        except ArithmeticError as exc:
            raise SelfCheckError(backend=f"native {self._path}", detail="a point has no partner") from exc

    def tokens(self, points: memoryview, prefix: bytes) -> bytes:
        return b"".join(self._of_points(_native.tokens, points, prefix))

    def on_curve(self, points: memoryview) -> bool:
        return all(self._of_points(_native.on_curve, points))

    def _of_points(self, function: Callable[..., T], points: memoryview, *more: bytes) -> list[T]:
        def part(start: int, stop: int) -> T:
            return function(self._path, points[32 * start : 32 * stop], *more)

        return in_parts(len(points) // 32, part)

    def _hash(self, function: Callable[..., bytes], items: pa.LargeBinaryArray, *more: Any) -> bytes:
        """Call a hash function of the kernel with items as Arrow stores them: offsets and data.

        Raises SelfCheckError in the cases that no known message reaches.
        """
        if not len(items):
            # An empty array may have no buffers.
            return b""
        if items.type != pa.large_binary():
            raise InternalError(detail=f"items of type {items.type} reached the curve")
        _, offsets, data = items.buffers()

        def part(start: int, stop: int) -> bytes:
            return function(self._path, offsets, _OFFSET_BYTES, items.offset + start, stop - start, data, *more)

        try:
            return b"".join(in_parts(len(items), part))
        except ArithmeticError as exc:
            detail = "an item reached an exceptional case of the hash"
            raise SelfCheckError(backend=f"native {self._path}", detail=detail) from exc
