"""Hashes the texts of a column."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from psicli.items import compute as pc

_DIGITS = 64
# The two hexadecimal digits of every byte.
_HEX = np.array([f"{byte:02x}".encode() for byte in range(256)], "S2")


def sha256_texts(texts: Any) -> Any:
    """Return the SHA-256 of each text in lower-case hexadecimal digits; nulls and empty texts stay."""
    values = pc.cast(texts, pa.large_binary()).to_pylist()
    digests = np.frombuffer(b"".join([sha256(value or b"").digest() for value in values]), np.uint8)
    offsets = np.arange(len(values) + 1, dtype=np.int64) * _DIGITS
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(_HEX[digests])]
    hashes = pa.Array.from_buffers(texts.type, len(values), buffers)
    # Where the length is null, so is the choice.
    return pc.if_else(pc.greater(pc.binary_length(texts), 0), hashes, texts)
