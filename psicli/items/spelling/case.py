"""Finds keys of a column that differ only in capital and small letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli.items import compute as pc
from psicli.items.encoding import packed
from psicli.items.records import in_order
from psicli.items.spelling.keys import Keys
from psicli.items.spelling.patterns import PLACEHOLDERS

# The most keys in a sample, and the longest of them [bytes].
_SAMPLED_KEYS, _LONGEST_SAMPLED = 65_536, 256
# The bit that tells capitals from small letters, in eight bytes.
_CASE = np.uint64(0x2020202020202020)

_Hashes = npt.NDArray[np.uint64]


class CaseSample:
    """A sample of the keys of a column in which keys that differ only in case are either all or none.

    It holds all keys of a small column. For a large one it halves the share of the hashes that belong to it.
    """

    def __init__(self) -> None:
        # Keys, and their hashes.
        self._parts: list[tuple[Any, _Hashes]] = []
        self._rows = 0
        self._share = 1 << 32

    def add(self, keys: Keys) -> None:
        """Add the keys that have letters."""
        are_letters = _are_letters(keys.data)
        if not are_letters.any():
            return
        hashes = _caseless_hashes(keys)
        chosen = np.flatnonzero((keys.lengths <= _LONGEST_SAMPLED) & (hashes < self._share))
        if not len(chosen):
            return
        if len(chosen) < len(keys):
            # Only the few that are chosen from a large column are worth a look at all of their bytes.
            keys, hashes = Keys(pc.take(keys.texts, pc.from_numpy(chosen))), hashes[chosen]
            are_letters = _are_letters(keys.data)
        have_letters = np.logical_or.reduceat(are_letters, keys.starts)
        self._keep([(pc.filter_(keys.texts, pc.from_numpy(have_letters)), hashes[have_letters])])

    def merge(self, other: CaseSample) -> None:
        """Add a sample of other keys. The result does not depend on which keys were in which sample."""
        self._share = min(self._share, other._share)
        self._keep(other._parts)

    def alike(self) -> str:
        """Return how many keys differ from another key only in case, in words; empty if none do."""
        self._shrink()
        [(texts, hashes)] = self._parts
        if len(texts) and packed(texts)[1].max() < 0x80:
            # In ASCII, keys that differ only in case have the same hash: those with a hash of their own are not alike.
            texts = pc.filter_(texts, pc.from_numpy(_are_repeated(hashes)))
        # Those of placeholders are a finding of their own.
        keys = pc.unique(texts)
        keys = pc.filter_(keys, pc.invert(pc.is_in(keys, value_set=pa.array(PLACEHOLDERS, keys.type))))
        counts = pc.value_counts(pc.utf8_lower(keys)).field("counts")
        alike = pc.sum(pc.filter_(counts, pc.greater(counts, 1))).as_py() or 0
        return f"{'' if self._share == 1 << 32 else 'at least '}{alike:,}" if alike else ""

    def _keep(self, parts: Sequence[tuple[Any, _Hashes]]) -> None:
        self._parts += parts
        self._rows += sum(len(texts) for texts, _ in parts)
        if self._rows > 2 * _SAMPLED_KEYS:
            self._shrink()

    def _shrink(self) -> None:
        """Halve the share until few enough distinct keys belong to it, and drop the others."""
        hashes = np.concatenate([np.empty(0, np.uint64), *(hashes for _, hashes in self._parts)])
        texts = pa.concat_arrays([pa.array([], pa.large_string()), *(texts for texts, _ in self._parts)])
        kept = hashes < self._share
        # There are at least as many distinct keys as distinct hashes, which are sooner counted.
        while _distinct(hashes[kept]) > _SAMPLED_KEYS:
            self._share //= 2
            kept = hashes < self._share
        texts, hashes = pc.filter_(texts, pc.from_numpy(kept)), hashes[kept]
        while len(texts) > _SAMPLED_KEYS:
            texts = pc.unique(texts)
            hashes = _caseless_hashes(Keys(texts))
            if len(texts) > _SAMPLED_KEYS:
                self._share //= 2
                texts, hashes = pc.filter_(texts, pc.from_numpy(hashes < self._share)), hashes[hashes < self._share]
        self._parts, self._rows = [(texts, hashes)], len(texts)


def _distinct(hashes: _Hashes) -> int:
    """Return how many distinct hashes there are; np.unique is slower."""
    _, ordered = in_order(hashes.reshape(-1, 1))
    return min(len(hashes), 1) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _are_repeated(hashes: _Hashes) -> npt.NDArray[np.bool_]:
    """Return which hashes are also those of another key."""
    order, ordered = in_order(hashes.reshape(-1, 1))
    equal = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(hashes), np.bool_)
    repeated[order[1:][equal]] = repeated[order[:-1][equal]] = True
    return repeated


def _are_letters(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which bytes are letters of ASCII, or belong to other characters."""
    letters: npt.NDArray[np.bool_] = ((data | 0x20) - np.uint8(0x61) < 26) | (data >= 0x80)
    return letters


def _caseless_hashes(keys: Keys) -> npt.NDArray[np.uint64]:
    """Return 32-bit hashes of up to 24 bytes of each key, without the bit that tells capitals from small letters."""
    hashes = keys.lengths.astype(np.uint64)
    # Eight bytes each from the start, the end and the middle; fewer if the key is shorter.
    within = np.maximum(keys.lengths - 8, 0)
    for place in (keys.starts, keys.starts + within, keys.starts + (within >> 1)):
        hashes = (hashes ^ (keys.eight(place) | _CASE)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
    return hashes & np.uint64(0xFFFFFFFF)
