"""The kernel of RR22 in C: the reference's functions, on all cores.

The import fails if the extension was not built. The kernel runs without the GIL; `Backend` in psicli.ole says in what
it is constant time. This module makes the arrays of the results and divides each call among threads. All arrays that
it changes must be contiguous; others are copied where they are not.
"""

from __future__ import annotations

import numpy as np

import psicli.ole._native as _native
from psicli.curve.pool import in_parts
from psicli.ole.blocks import Blocks, Points, Rows

# The layout that the kernel expects of what it reads.
_packed = np.ascontiguousarray


class Native:
    """A backend that uses one CPU path of the kernel."""

    def __init__(self, path: str) -> None:
        self._path = path

    def encrypt(self, blocks: Blocks, key: bytes) -> Blocks:
        blocks, out = _packed(blocks), _empty(len(blocks))
        in_parts(len(out), lambda start, stop: _native.encrypt(self._path, out[start:stop], blocks[start:stop], key))
        return out

    def hashes(self, blocks: Blocks, first: int) -> Blocks:
        blocks, out = _packed(blocks), _empty(len(blocks))

        def part(start: int, stop: int) -> None:
            _native.hashes(self._path, out[start:stop], blocks[start:stop], first + start)

        in_parts(len(out), part)
        return out

    def add_products(self, sums: Blocks, blocks: Blocks, factor: Blocks) -> None:
        blocks, factor = _packed(blocks), _packed(factor)

        def part(start: int, stop: int) -> None:
            _native.add_products(self._path, sums[start:stop], blocks[start:stop], factor)

        in_parts(len(sums), part)

    def grow(self, seeds: Blocks, width: int) -> tuple[Blocks, Blocks]:
        seeds, each = _packed(seeds), 2 * (width - 1).bit_length()
        leaves, sums = _empty(width * len(seeds)), _empty(each * len(seeds))

        def part(start: int, stop: int) -> None:
            made = leaves[width * start : width * stop], sums[each * start : each * stop]
            _native.grow(self._path, *made, seeds[start:stop], width)

        in_parts(len(seeds), part)
        return leaves, sums

    def regrow(self, sums: Blocks, points: Points, width: int) -> Blocks:
        sums, points, depth = _packed(sums), _packed(points), (width - 1).bit_length()
        leaves = _empty(width * len(points))

        def part(start: int, stop: int) -> None:
            known = sums[depth * start : depth * stop], points[start:stop]
            _native.regrow(self._path, leaves[width * start : width * stop], *known, width)

        in_parts(len(points), part)
        return leaves

    def spread(self, seeds: Blocks, count: int, points: Points | None = None) -> tuple[Blocks, Blocks]:
        all_blocks = count * (len(seeds) // 16)
        sums, planes = _empty(all_blocks), _empty(4 * all_blocks)
        _native.spread(self._path, sums, planes, _packed(seeds), None if points is None else _packed(points))
        return sums, planes

    def combine(self, planes: Blocks) -> Blocks:
        out = _empty(len(planes) // 128)
        _native.combine(self._path, out, _packed(planes))
        return out

    def transpose(self, planes: Blocks) -> Blocks:
        out = _empty(len(planes))
        _native.transpose(self._path, out, _packed(planes))
        return out

    def compress(self, noise: Blocks, length: int) -> Blocks:
        width = noise.shape[1] // 2
        _native.convolve(self._path, noise, width)
        out = np.empty((length, 2 * width), np.uint64)
        in_parts(length, lambda start, stop: _native.expand(self._path, out[start:stop], noise, width, start))
        return out

    def rows(self, keys: Blocks, length: int, seed: bytes) -> Rows:
        keys, out = _packed(keys), np.empty((len(keys), 5), np.uint64)

        def part(start: int, stop: int) -> None:
            _native.rows(self._path, out[start:stop], keys[start:stop], length, seed)

        in_parts(len(out), part)
        return out

    def encode(self, rows: Rows, values: Blocks, store: Blocks) -> bool:
        return _native.encode(self._path, store, _packed(rows), _packed(values))

    def decode(self, rows: Rows, store: Blocks) -> Blocks:
        rows, store, out = _packed(rows), _packed(store), _empty(len(rows))
        in_parts(len(out), lambda start, stop: _native.decode(self._path, out[start:stop], store, rows[start:stop]))
        return out


def _empty(count: int) -> Blocks:
    return np.empty((count, 2), np.uint64)
