"""Some keys of one column as packed bytes, where a quick look finds the few that deserve a slow one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from psicli.items import compute as pc
from psicli.items.encoding import packed

Mask = npt.NDArray[np.bool_]
# The bits of a number that belong to a key, by how many of its bytes do.
_LEFT = np.array([(1 << 8 * left) - 1 for left in range(9)], np.uint64)

_SIGNS = pc.among(b"+-")
# The longest text of a number [bytes].
LONGEST_NUMBER = 31


class Keys:
    """Some keys of one column, none of them null or empty, and what is quickly known about each."""

    def __init__(self, texts: Any) -> None:
        self.texts = texts
        self._offsets, self.data = packed(texts)
        # A search in bytes is a hundred times as fast as one in an array. `eight` needs eight more.
        self._raw = b"".join((self.data.data, bytes(8)))
        self.starts, self.lengths = self._offsets[:-1], np.diff(self._offsets)
        self.first, self.last = self.data[self.starts], self.data[self._offsets[1:] - 1]
        self.numeric = is_digit(self.last) & (is_digit(self.first) | _SIGNS[self.first])
        self.numeric &= self.lengths <= LONGEST_NUMBER

    def __len__(self) -> int:
        return len(self.texts)

    def hold(self, characters: str) -> bool:
        """Return whether any key contains one of these ASCII characters."""
        return any(character in self._raw for character in characters.encode())

    def at(self, position: int) -> npt.NDArray[np.uint8]:
        """Return this byte of each key, or its last byte if it is shorter."""
        octets: npt.NDArray[np.uint8] = self.data[self.starts + np.minimum(self.lengths - 1, position)]
        return octets

    def eight(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return the eight bytes at a place of each key, as numbers; of shorter keys, all bytes."""
        # Every place is the start of a number.
        view: Any = np.ndarray(len(self.data) + 1, "<u8", self._raw, strides=(1,))
        numbers: npt.NDArray[np.uint64] = view[places]
        return numbers & _LEFT[np.minimum(self.lengths, 8)]

    def before_end(self, position: int) -> npt.NDArray[np.uint8]:
        """Return the byte of each key that is this far before its end, or its first byte if it is shorter."""
        octets: npt.NDArray[np.uint8] = self.data[self._offsets[1:] - np.minimum(self.lengths, position)]
        return octets

    def with_lengths(self, lengths: Sequence[int]) -> Mask:
        """Return the keys with one of these lengths [bytes]."""
        table = np.zeros(max(lengths) + 2, np.bool_)
        table[list(lengths)] = True
        found: Mask = table.take(self.lengths, mode="clip")
        return found

    def capitals(self) -> Mask:
        """Return the keys with capital letters of ASCII."""
        lower = pc.ascii_lower(self.texts)
        return _mask(pc.not_equal(lower, self.texts))

    def unusual(self) -> Mask:
        """Return the keys with bytes of unusual spaces, invisible characters or separate accents, and some others."""
        found = np.zeros(len(self), np.bool_)
        if self.data.max() >= 0x80:
            pairs = self.data[:-1].astype(np.uint16) << 8 | self.data[1:]
            found[np.searchsorted(self._offsets, np.flatnonzero(_UNUSUAL_BYTES[pairs]), side="right") - 1] = True
        return found

    def count(self, candidates: Mask, test: Callable[[Any], Any] | str) -> int:
        """Return how many of the candidates pass a test, or match a pattern."""
        return self._tested(candidates, test)[1].true_count if candidates.any() else 0

    def matching(self, candidates: Mask, test: Callable[[Any], Any] | str) -> Any:
        """Return the candidates that pass a test, or match a pattern."""
        texts, passed = self._tested(candidates, test)
        return pc.filter_(texts, passed)

    def _tested(self, candidates: Mask, test: Callable[[Any], Any] | str) -> tuple[Any, Any]:
        texts = self.texts if candidates.all() else pc.filter_(self.texts, pc.from_numpy(candidates))
        return texts, pc.match_substring_regex(texts, pattern=test) if isinstance(test, str) else test(texts)


def _unusual_bytes() -> Mask:
    """Return for each pair of bytes whether a character that `Keys.unusual` looks for may start with it."""
    table = np.zeros(1 << 16, np.bool_)
    for character in "\xa0\xad\u1680\u2000\u2040\u3000\ufeff":
        first, second = character.encode()[:2]
        table[first << 8 | second] = True
    # All combining accents, U+0300 to U+036F.
    table[0xCC80:0xCDB0] = True
    return table


_UNUSUAL_BYTES = _unusual_bytes()


# The digits of hexadecimal numbers, by byte.
HEX_DIGITS = pc.among(b"0123456789abcdefABCDEF")


def is_digit(values: npt.NDArray[np.uint8]) -> Mask:
    # Below 0x30, the difference wraps around.
    mask: Mask = values - np.uint8(0x30) < 10
    return mask


def _mask(array: Any) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False)
    return mask
