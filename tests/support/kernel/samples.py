"""Vectors, items and points for tests of the curve."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

VECTORS = Path(__file__).parents[2] / "vectors"
P = 2**255 - 19
TASK_SID = bytes(range(32))
PREFIX = TASK_SID + b"\x01"
ALICE, BOB = b"\x77" * 32, b"\x5d" * 32


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def item(*columns: str) -> bytes:
    """Encode an item without psicli.items, so that a change there cannot change these samples."""
    texts = [column.encode() for column in columns]
    return bytes([len(texts)]) + b"".join(len(text).to_bytes(4, "big") + text for text in texts)


def items(*values: bytes) -> pa.LargeBinaryArray:
    return pa.array(values, pa.large_binary())


def u_bytes(u: int) -> bytes:
    return u.to_bytes(32, "little")


def split(packed: bytes, size: int = 32) -> list[bytes]:
    return [packed[i : i + size] for i in range(0, len(packed), size)]


def digest(packed: bytes) -> str:
    return sha256(packed).hexdigest()


def keyed_hashes_oracle(secret: bytes, values: list[bytes]) -> list[bytes]:
    return [sha256(secret + value).digest()[:16] for value in values]


def random_points(count: int) -> bytes:
    return b"".join(sha256(b"%d" % number).digest()[:31] + b"\0" for number in range(count))
