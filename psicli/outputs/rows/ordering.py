"""Orders texts by their bytes, several times as fast as a comparison of whole texts.

The bytes behind the beginning that all texts of a column share are cut into numbers of 64 bits. Rows are sorted by the
first number, those with the same first number by the second one, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from psicli.items import compute as pc
from psicli.items.encoding import packed
from psicli.items.records import Order, in_order

# Returns a number for each of some rows.
_Numbers = Callable[[Order], npt.NDArray[np.uint64]]

# With more numbers for each row, it is faster to compare texts [numbers].
_MOST_NUMBERS = 8
_BYTES = 8
# The bytes of a number that belong to a text, by how many bytes are left of the text.
_LEFT = np.array([~0 << 8 * (_BYTES - left) & (1 << 64) - 1 for left in range(_BYTES + 1)], np.uint64)


def order_of_texts(columns: Sequence[Any]) -> Order | None:
    """Return the order of rows by the texts of their columns, pa.LargeStringArrays; ties keep their order.

    Nulls come after every text. Returns None if texts are so long, or have such bytes, that another way is better.
    """
    numbers: list[_Numbers] = []
    for column in columns:
        found = _numbers(column, _MOST_NUMBERS - len(numbers))
        if found is None:
            return None
        numbers += found
    order: Order = np.arange(len(columns[0]))
    # The places in the order whose rows are not told apart yet; rows with the same group are equal so far.
    places, groups = np.arange(len(order)), np.zeros(len(order), np.uint64)
    for numbers_of in numbers:
        rows = order[places]
        by_number, sorted_numbers = in_order(numbers_of(rows).reshape(-1, 1))
        if len(groups) and groups[-1]:
            by_group, groups = in_order(groups[by_number].reshape(-1, 1))
            by_number, sorted_numbers = by_number[by_group], sorted_numbers[by_group]
        order[places] = rows[by_number]
        is_new = np.ones(len(rows) + 1, np.bool_)
        is_new[1:-1] = (sorted_numbers[1:] != sorted_numbers[:-1]) | (groups[1:] != groups[:-1])
        tied = ~(is_new[1:] & is_new[:-1])
        if not tied.any():
            break
        places, groups = places[tied], np.cumsum(is_new[:-1], dtype=np.uint64)[tied]
    return order


def _numbers(texts: Any, most: int) -> list[_Numbers] | None:
    """Return what makes the numbers of some rows that compare like their texts, first number first.

    Returns None if there are more than `most`.
    """
    ends = pc.min_max(texts)
    least, last = (ends[end].as_py() for end in ("min", "max"))
    nulls = pc.is_null(texts).to_numpy(zero_copy_only=False)
    found: list[_Numbers] = [lambda rows: nulls[rows].astype(np.uint64)] if texts.null_count else []
    if least == last:
        return found
    offsets, data = packed(texts)
    shared = _shared(least.encode(), last.encode())
    lengths = np.where(nulls, 0, np.diff(offsets) - shared)
    count = -(-int(lengths.max()) // _BYTES)
    # A text that ends with NUL would be equal to the same text without it.
    if len(found) + count > most or not data.all():
        return None
    # Every position in the bytes as the start of a number.
    room = np.concatenate([data, np.zeros(_BYTES, np.uint8)])
    view: Any = np.ndarray(len(data) + 1, ">u8", room.data, strides=(1,))

    def number_at(at: int, rows: Order) -> npt.NDArray[np.uint64]:
        starts = np.minimum(offsets[rows] + (shared + at), len(data))
        words: npt.NDArray[np.uint64] = view[starts].astype(np.uint64) & _LEFT[np.clip(lengths[rows] - at, 0, _BYTES)]
        return words

    return found + [partial(number_at, _BYTES * number) for number in range(count)]


def _shared(one: bytes, other: bytes) -> int:
    """Return how many bytes two texts share at their beginning."""
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(one))
