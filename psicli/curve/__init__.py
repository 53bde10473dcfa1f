"""The curve kernel: items to masked points, points to products, products to tokens, many at a time.

This is the only door to it. The backend in use does the arithmetic; what is the same for all of them lives here: the
suite's constants, the checks of lengths, the known answers. Points are packed 32-byte little-endian u-coordinates,
tokens packed 16 bytes, in any object with the buffer protocol. Scalars are 32 raw bytes; the backend clamps them.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha256
from typing import Protocol, TypeVar

import pyarrow as pa

from psicli.curve import reference
from psicli.errors import InternalError, SelfCheckError, UnknownBackendError, shown

POINT_BYTES = 32
TOKEN_BYTES = 16
TASK_SID_BYTES = 32
SCALAR_BYTES = 32

DST = b"PSICLI-V01-CS01-with-curve25519_XMD:SHA-512_ELL2_RO_"
# What is hashed to the curve begins with the task sid and one of these, so that no item is ever the probe.
PROBE_TAG = b"\x00"
ITEM_TAG = b"\x01"
TOKEN_PREFIX = b"psicli/v1/token\0"
PROBE_PREFIX = b"psicli/v1/probe\0"

# Points a frame for this backend [points]: well below a second of work, so that an abort is answered within two.
CHUNK_ITEMS = 2048

BytesLike = bytes | bytearray | memoryview
B = TypeVar("B", bytes, bytearray, bytes | bytearray)


class Backend(Protocol):
    """What a backend provides: a module with these functions, and the same bytes out of each as any other."""

    def hash_to_points(self, items: pa.LargeBinaryArray, prefix: bytes, dst: bytes) -> bytes: ...

    def hash_and_mask(
        self, items: pa.LargeBinaryArray, prefix: bytes, dst: bytes, scalar: bytes | bytearray
    ) -> bytes: ...

    def mask(self, points: memoryview, scalar: bytes | bytearray) -> tuple[bytes, list[int]]: ...

    def tokens(self, points: memoryview, prefix: bytes) -> bytes: ...

    def on_curve(self, points: memoryview) -> bool: ...


BACKENDS: dict[str, Backend] = {"reference": reference}


def backend() -> str:
    """Name the backend in use. Raises UnknownBackendError if PSICLI_BACKEND asks for one there is not."""
    name = os.environ.get("PSICLI_BACKEND") or "reference"
    if name not in BACKENDS:
        raise UnknownBackendError(value=shown(name), known=", ".join(BACKENDS))
    return name


def hash_and_mask(items: pa.LargeBinaryArray, task_sid: bytes, scalar: bytes | bytearray) -> bytes:
    """Hash items to the curve under this task and multiply them by the scalar; return packed points.

    Raises SelfCheckError where the arithmetic meets an impossible case. Constant time in the scalar.
    """
    if items.null_count:
        raise InternalError(detail="a null item reached the curve")
    prefix = _exactly(TASK_SID_BYTES, task_sid) + ITEM_TAG
    return BACKENDS[backend()].hash_and_mask(items, prefix, DST, _exactly(SCALAR_BYTES, scalar))


def mask(points: BytesLike, scalar: bytes | bytearray) -> tuple[bytes, list[int]]:
    """Multiply packed points by the scalar; return packed products and the indices of bad points, ascending.

    A point is bad if it is not canonical (p or above, the top bit included) or its product is zero (it is of low
    order). Nothing may be done with its product. Constant time in the scalar.
    """
    return BACKENDS[backend()].mask(_packed(points), _exactly(SCALAR_BYTES, scalar))


def tokens(points: BytesLike, task_sid: bytes) -> bytes:
    """Return the packed tokens of packed, double-masked points."""
    return BACKENDS[backend()].tokens(_packed(points), TOKEN_PREFIX + _exactly(TASK_SID_BYTES, task_sid))


def probe(task_sid: bytes) -> bytes:
    """Return the 16 bytes by which two parties see that they hash to the curve alike; no scalar is used."""
    items = _single(b"psicli")
    point = BACKENDS[backend()].hash_to_points(items, _exactly(TASK_SID_BYTES, task_sid) + PROBE_TAG, DST)
    return sha256(PROBE_PREFIX + task_sid + point).digest()[:TOKEN_BYTES]


def on_curve(points: BytesLike) -> bool:
    """Tell whether all packed points lie on the curve, not on its twist. Variable time: points are public."""
    return BACKENDS[backend()].on_curve(_packed(points))


def self_test() -> None:
    """Compare the backend in use with known answers; takes milliseconds. Raises SelfCheckError."""
    sid = bytes(range(32))
    item = b"alice@example.com"
    items = _single(b"\x01" + len(item).to_bytes(4, "big") + item)
    masked = hash_and_mask(items, sid, b"\x77" * 32)
    double_masked, bad = mask(masked, b"\x5d" * 32)
    edge = (2**255 - 19).to_bytes(32, "little")
    answers = {
        "hash_and_mask": masked.hex() == "ba154c18a4d5ec8251a12bb027e3533c034c7da8e64f5a4b6cd8dfcae45af527",
        "mask": double_masked.hex() == "7e3e30260193f3b0ae2ace92cae6d40de256e188fe6be01f3612d582e2e85f6c",
        "tokens": tokens(double_masked, sid).hex() == "ef4c3dc8ebe5225f0e72b27f34db728e",
        "probe": probe(sid).hex() == "53ccd720e9319c7fb7aefa003d75579f",
        # A point of low order, one that is not canonical.
        "bad points": bad == [] and mask(masked + bytes(32) + edge, b"\x5d" * 32)[1] == [1, 2],
        # u = 2 is on the twist.
        "on_curve": on_curve(masked) and not on_curve(masked + b"\x02" + bytes(31)),
    }
    wrong = ", ".join(name for name, right in answers.items() if not right)
    if wrong:
        raise SelfCheckError(backend=backend(), detail=f"wrong answer from {wrong}")


def _single(item: bytes) -> pa.LargeBinaryArray:
    # pa.array would import pandas where it is installed: a third of a second.
    buffers = [None, pa.py_buffer(struct.pack("=2q", 0, len(item))), pa.py_buffer(item)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)


def _exactly(size: int, value: B) -> B:
    if len(value) != size:
        raise InternalError(detail=f"a value of {len(value)} bytes where {size} belong")
    return value


def _packed(points: BytesLike) -> memoryview:
    view = memoryview(points).cast("B")
    if len(view) % POINT_BYTES:
        raise InternalError(detail=f"{len(view)} bytes are no whole number of points")
    return view
