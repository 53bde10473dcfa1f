"""Packed records a task keeps until its lists are complete, and the whole-list questions asked of them.

Records are points (32 bytes) or tokens (16 bytes), appended chunk by chunk. Every comparison is of whole records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]


class Records:
    """A list of records of one width [bytes], in the order they were appended."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._chunks: list[Any] = []

    def append(self, data: bytes) -> None:
        """Append packed records, a whole number of them."""
        count = len(data) // self._width
        buffers = [None, pa.py_buffer(data)]
        self._chunks.append(pa.Array.from_buffers(pa.binary(self._width), count, buffers))

    def has_duplicates(self) -> bool:
        records = self._column()
        return bool(pc.count_distinct(records).as_py() != len(records))

    def any_in(self, other: Records) -> bool:
        return bool(self.found_in(other).any())

    def found_in(self, other: Records) -> Mask:
        """Return for each record whether other holds it too."""
        mask: Mask = pc.is_in(self._column(), value_set=other._column().combine_chunks()).to_numpy().astype(bool)
        return mask

    def _column(self) -> Any:
        return pa.chunked_array(self._chunks, pa.binary(self._width))
