"""Converts the canonical texts of key columns to item bytes, which must be identical on both sides.

If a change to this module changes an item's bytes, runs between old and new versions report an empty intersection
instead of an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli.items import compute as pc

_BYTES = pa.large_binary()


def packed(array: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """View a large_string or large_binary array, or a slice of one, as offsets that start at 0, and its data."""
    if not len(array):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], data


def encode_items(columns: Sequence[Any]) -> Any:
    """Encode rows of canonical key texts as items: u8 number of columns, then u32be length and bytes of each column.

    Returns a pa.LargeBinaryArray. An item is null if one of its columns is null or empty (a null key).
    """
    pieces = [pa.scalar(bytes([len(columns)]), _BYTES)]
    null_key = None
    for column in columns:
        lengths = pc.fill_null(pc.binary_length(column), 0)
        pieces += [_length_prefixes(lengths), pc.cast(column, _BYTES)]
        empty = pc.equal(lengths, 0)
        null_key = empty if null_key is None else pc.or_(null_key, empty)
    joined = pc.binary_join_element_wise(*pieces, pa.scalar(b"", _BYTES))
    return pc.if_else(null_key, None, joined)


def _length_prefixes(lengths: Any) -> Any:
    prefixes = lengths.to_numpy(zero_copy_only=False).astype(">u4")
    offsets = np.arange(len(prefixes) + 1, dtype=np.int64) * 4
    return pa.Array.from_buffers(_BYTES, len(prefixes), [None, pa.py_buffer(offsets), pa.py_buffer(prefixes)])
