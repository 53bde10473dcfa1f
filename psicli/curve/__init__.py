"""The curve kernel: computes masked points from items, products from points, and tokens from products, many at a time.

The other packages use the kernel only through this module. A backend does the arithmetic. This module has what all
backends share: the constants of the suite, the checks of lengths, the known answers, and the spot check of one output
in 65,536. Points are packed 32-byte little-endian u-coordinates, and tokens have 16 bytes each; both can be in any
object with the buffer protocol. Scalars are 32 raw bytes, which the backend clamps.

PSICLI_BACKEND (native or reference) chooses the backend, PSICLI_NATIVE_PATH one of the native backend's CPU paths.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from typing import Protocol, TypeVar

import pyarrow as pa

from psicli.core import errors
from psicli.core.errors import shown
from psicli.curve import reference
from psicli.curve.pool import set_threads, threads

__all__ = [
    "BACKENDS", "DST", "HASH_BYTES", "HASH_KEY_BYTES", "ITEM_TAG", "PADDING_TAG", "POINT_BYTES", "TOKEN_BYTES",
    "Backend", "are_partners", "backend", "digests", "fall_back", "frame_items", "hash_and_mask", "keyed_hashes",
    "mask", "on_curve", "packed_items", "partners", "point_of_bin", "probe", "self_test", "set_threads", "threads",
    "tokens", "why_missing",
]  # fmt: skip

logger = logging.getLogger(__name__)

POINT_BYTES = 32
TOKEN_BYTES = 16
# With 128 bits, the probability that any two of 2^30 items have the same hash is below 2^-68.
HASH_BYTES = 16
HASH_KEY_BYTES = 32
MOST_PREFIX_BYTES = 128
SID_BYTES = 32
SCALAR_BYTES = 32

DST = b"PSICLI-V01-CS01-with-curve25519_XMD:SHA-512_ELL2_RO_"
# Everything that is hashed to the curve starts with a session id and one of these tags, so that no item ever equals the
# probe, padding or the point of a bin.
PROBE_TAG = b"\x00"
ITEM_TAG = b"\x01"
PADDING_TAG = b"\x02"
BIN_TAG = b"\x03"
TOKEN_PREFIX = b"psicli/v1/token\0"
PROBE_PREFIX = b"psicli/v1/probe\0"

# The reference recomputes one of this many outputs [outputs].
SPOT_CHECK_RUN = 65_536

BytesLike = bytes | bytearray | memoryview
B = TypeVar("B", bytes, bytearray, bytes | bytearray)
V = TypeVar("V", bytes, bytearray, memoryview)


class Backend(Protocol):
    """What a backend provides. Its functions return the same bytes as those of any other backend.

    FRAME_ITEMS: the size of a frame [points]: less than a second of work, so that this party answers an abort within
    two seconds.
    """

    FRAME_ITEMS: int

    def hash_to_points(self, items: pa.LargeBinaryArray, prefix: bytes, dst: bytes) -> bytes: ...
    def hash_and_mask(
        self, items: pa.LargeBinaryArray, prefix: bytes, dst: bytes, scalar: bytes | bytearray
    ) -> bytes: ...
    def digests(self, items: pa.LargeBinaryArray, prefix: bytes, size: int) -> bytes: ...
    def mask(self, points: memoryview, scalar: bytes | bytearray) -> tuple[bytes, list[int]]: ...
    def partners(self, points: memoryview, other: bytes, signs: bytes | bytearray) -> bytearray: ...
    def tokens(self, points: memoryview, prefix: bytes) -> bytes: ...
    def on_curve(self, points: memoryview) -> bool: ...


def _load_native() -> tuple[dict[str, Backend], str]:
    """Return the CPU paths of the native backend, fastest first, or none and the reason."""
    try:
        from psicli.curve._native import paths
        from psicli.curve.native import Native
    except ImportError as exc:
        return {}, why_missing(exc)
    return {f"native {path}": Native(path) for path in paths()}, ""


def why_missing(exc: ImportError) -> str:
    """Return why a native backend is missing, as part of a sentence."""
    return "it was not built" if isinstance(exc, ModuleNotFoundError) else f"it cannot be loaded: {shown(str(exc))}"


_natives, _why_no_native = _load_native()
# The backends that this machine can run, fastest first, by the names that reports use.
BACKENDS: dict[str, Backend] = {**_natives, reference.NAME: reference}


def backend() -> str:
    """Return the name of the backend in use, with its CPU path; warn once if the native backend is missing.

    Raises VariableError if the environment asks for a backend or path that is not available.
    """
    kind, path = os.environ.get("PSICLI_BACKEND", ""), os.environ.get("PSICLI_NATIVE_PATH", "")
    if kind not in ("", "native", "reference"):
        raise errors.VariableError(
            variable="PSICLI_BACKEND",
            fault=f"is {shown(kind)}, but must be native or reference",
            advice="Unset PSICLI_BACKEND to let psicli choose.",
        )
    if kind == "reference":
        return reference.NAME
    paths = [name.removeprefix("native ") for name in BACKENDS if name.startswith("native ")]
    if paths and path in ("", *paths):
        return f"native {path or paths[0]}"
    if paths:
        raise errors.VariableError(
            variable="PSICLI_NATIVE_PATH",
            fault=f"is {shown(path)}, which this machine cannot run; it can run {', '.join(paths)}",
            advice="Unset PSICLI_NATIVE_PATH to let psicli choose the fastest.",
        )
    return fall_back("curve", _why_no_native, "5 to 40")


def fall_back(kernel: str, why: str, times: str) -> str:
    """Return the name of the reference, which replaces a native kernel that is missing, and warn once.

    Raises VariableError if the environment asks for a native one.
    """
    for variable in ("PSICLI_BACKEND", "PSICLI_NATIVE_PATH"):
        if os.environ.get(variable):
            raise errors.VariableError(
                variable=variable,
                fault=f"asks for the native {kernel} kernel, which is not available: {why}",
                advice="Install a C compiler and Python's headers (gcc, python3-dev), then reinstall psicli with "
                "`pip install --force-reinstall --no-cache-dir`, or unset the variable to use the slower reference.",
            )
    warn_of_fallback(kernel, why, times)
    return reference.NAME


@cache
def warn_of_fallback(kernel: str, why: str, times: str) -> None:
    """Log a warning that a native kernel is missing; the cache limits it to one in each process."""
    logger.warning(
        "the native %s kernel is not available (%s), so psicli uses the reference backend, which is %s times slower "
        "and uses one core only; install a C compiler and Python's headers (gcc, python3-dev), then reinstall psicli "
        "with `pip install --force-reinstall --no-cache-dir`",
        kernel,
        why,
        times,
    )


def frame_items() -> int:
    """Return the size of a frame that suits the backend in use [points]."""
    return BACKENDS[backend()].FRAME_ITEMS


def hash_and_mask(
    items: pa.LargeBinaryArray, bin_sid: bytes, scalar: bytes | bytearray, tag: bytes = ITEM_TAG
) -> bytes:
    """Hash items to the curve under a bin's id and multiply them by the scalar; return packed points.

    tag: ITEM_TAG, or PADDING_TAG so that padding never equals an item. Raises SelfCheckError in the cases that no known
    item reaches. Constant time in the scalar.
    """
    if items.null_count:
        raise errors.InternalError(detail="a null item reached the curve")
    name, prefix = backend(), _exactly(SID_BYTES, bin_sid) + tag
    points = BACKENDS[name].hash_and_mask(items, prefix, DST, _exactly(SCALAR_BYTES, scalar))
    for at in _spot_checks(name, len(items)):
        _compare(name, _point(points, at), reference.hash_and_mask(items.slice(at, 1), prefix, DST, scalar))
    return points


def keyed_hashes(items: pa.LargeBinaryArray, key: bytes) -> bytes:
    """Return the packed hashes SHA-256(key ‖ item)[:16] of items, which determine their bins and identify them.

    Constant time in items and key on the native backend.
    """
    return digests(items, _exactly(HASH_KEY_BYTES, key), HASH_BYTES)


def point_of_bin(bin_sid: bytes) -> bytes:
    """Return the packed point of a bin, which both parties compute: a hash, so that nobody knows its scalar."""
    # With the reference, which takes half a millisecond for it: a wrong point would make this party blame its peer.
    return reference.hash_to_points(packed_items([b""]), _exactly(SID_BYTES, bin_sid) + BIN_TAG, DST)


def digests(items: pa.LargeBinaryArray, prefix: bytes, size: int) -> bytes:
    """Return the packed digests SHA-256(prefix ‖ item)[:size] of items; size: 1 to 32 [bytes]. FIPS 180-4.

    prefix: at most 128 bytes. Constant time in items and prefix on the native backend.
    """
    if items.null_count:
        raise errors.InternalError(detail="a null item reached the curve")
    if not 1 <= size <= 32 or len(prefix) > MOST_PREFIX_BYTES:
        raise errors.InternalError(detail=f"a digest of {size} bytes after {len(prefix)} bytes")
    name = backend()
    made = BACKENDS[name].digests(items, prefix, size)
    for at in _spot_checks(name, len(items)):
        _compare(name, made[size * at : size * (at + 1)], reference.digests(items.slice(at, 1), prefix, size))
    return made


def mask(points: BytesLike, scalar: bytes | bytearray) -> tuple[bytes, list[int]]:
    """Multiply packed points by the scalar; return packed products and the indices of bad points, ascending.

    A point is bad if it is not canonical (its 256 bits are p or above) or if its product is zero (it is of low order).
    Its product must not be used. Constant time in the scalar.
    """
    name, packed = backend(), _packed(points)
    products, bad = BACKENDS[name].mask(packed, _exactly(SCALAR_BYTES, scalar))
    for at in _spot_checks(name, len(packed) // POINT_BYTES):
        found = _point(products, at), [0] if at in bad else []
        _compare(name, found, reference.mask(_point(packed, at), scalar))
    # The reference must confirm a bad point before psicli blames the peer for it.
    if bad and reference.mask(_point(packed, bad[0]), scalar) != (_point(products, bad[0]), [0]):
        raise errors.SelfCheckError(backend=name, detail="it refused a point that the reference accepts")
    return products, bad


def partners(points: BytesLike, other: bytes, signs: bytes | bytearray) -> bytearray:
    """Return the packed sum or difference of each packed point and the other one, in memory that can be wiped.

    signs: one byte for each point, whose lowest bit chooses. Uniformly random signs give either with the same
    probability. Raises SelfCheckError for a point that has none: those with the same u as the other point, not
    canonical, or not on the same of the curve and its twist. Constant time in points and signs on the native backend.
    """
    name, packed = backend(), _packed(points)
    signs = _exactly(len(packed) // POINT_BYTES, signs)
    made = BACKENDS[name].partners(packed, _exactly(POINT_BYTES, other), signs)
    for at in _spot_checks(name, len(signs)):
        _compare(name, _point(made, at), reference.partners(_point(packed, at), other, signs[at : at + 1]))
    return made


def are_partners(points: BytesLike, other: bytes) -> bool:
    """Return whether each pair of packed points that follow each other can come from `partners` with the other point.

    All must be on the curve. Variable time, because points are public.
    """
    return reference.are_partners(_packed(points), _exactly(POINT_BYTES, other))


def tokens(points: BytesLike, bin_sid: bytes) -> bytes:
    """Return the packed tokens of packed, double-masked points."""
    name, packed, prefix = backend(), _packed(points), TOKEN_PREFIX + _exactly(SID_BYTES, bin_sid)
    made = BACKENDS[name].tokens(packed, prefix)
    for at in _spot_checks(name, len(packed) // POINT_BYTES):
        found = made[TOKEN_BYTES * at : TOKEN_BYTES * (at + 1)]
        _compare(name, found, reference.tokens(_point(packed, at), prefix))
    return made


def probe(task_sid: bytes) -> bytes:
    """Return the 16 bytes that show whether two parties hash to the curve in the same way; no scalar is used."""
    return _probe(BACKENDS[backend()], _exactly(SID_BYTES, task_sid))


def on_curve(points: BytesLike) -> bool:
    """Return whether all packed points are on the curve, not on its twist. Variable time, because points are public."""
    return BACKENDS[backend()].on_curve(_packed(points))


def _spot_checks(name: str, count: int) -> Iterator[int]:
    """Choose one of every SPOT_CHECK_RUN outputs at random, so that no fault can evade the check."""
    for start in range(0, count if name != reference.NAME else 0, SPOT_CHECK_RUN):
        # Draw from a whole run even if the call ends before it, so that short calls are checked at the same rate.
        at = start + secrets.randbelow(SPOT_CHECK_RUN)
        if at < count:
            yield at


def _compare(name: str, found: object, expected: object) -> None:
    if found != expected:
        raise errors.SelfCheckError(backend=name, detail="the reference computes a different value")


# Known answers -------------------------------------------------------------------------------------------------


def self_test(name: str | None = None) -> None:
    """Compare a backend, by default the one in use, with known answers; takes milliseconds. Raises SelfCheckError."""
    name = name or backend()
    wrong = ", ".join(part for part, right in _answers(BACKENDS[name]).items() if not right)
    if wrong:
        raise errors.SelfCheckError(backend=name, detail=f"wrong answer from {wrong}")


def _answers(kernel: Backend) -> dict[str, bool]:
    """Return which functions of a kernel give the right answer in every lane; no path has more than 16 lanes."""
    sid, other_scalar = bytes(range(32)), b"\x5d" * 32
    texts = [b"item-%d" % number for number in range(33)]
    items = packed_items([b"\x01" + len(text).to_bytes(4, "big") + text for text in texts])
    masked = kernel.hash_and_mask(items, sid + ITEM_TAG, DST, b"\x77" * 32)
    double_masked, bad = kernel.mask(memoryview(masked), other_scalar)
    tokens = kernel.tokens(memoryview(double_masked), TOKEN_PREFIX + sid)
    # Low order, not canonical and good points take turns, so that each of the 16 lanes computes each kind.
    low, high = bytes(32), (2**255 - 19).to_bytes(32, "little")
    mixed = b"".join([low, high, _point(masked, at % 33)][at % 3] for at in range(48))
    products = b"".join([low, low, _point(double_masked, at % 33)][at % 3] for at in range(48))
    refused = [at for at in range(48) if at % 3 != 2]
    # The inverse of the u of a point on the curve is one, too. 16 and 9 have no common factor, so that each lane
    # computes each point.
    inverses = [pow(u, -1, reference.P).to_bytes(POINT_BYTES, "little") for u in (4, 6, 7, 8, 10, 11, 13, 15, 16)]
    some, nine = memoryview(b"".join(inverses * 16)), (9).to_bytes(POINT_BYTES, "little")
    made = [kernel.partners(some, nine, bytes([sign]) * (16 * 9)) for sign in (0, 1)]
    # u = 2 is on the twist, u = 0 is not.
    twisted = [memoryview(low * at + b"\x02" + bytes(31) + low * (15 - at)) for at in range(16)]
    # The digests come from the reference, which tests compare with published vectors and with other programs.
    return {
        "hash_and_mask": _has_digest(masked, "ea1eb72b72e52925d8b390de37542d3deaddc76c3c38ad1b7043d210e450534f"),
        "mask": bad == []
        and _has_digest(double_masked, "b3670b508642c1a73a426699a50c1db657b7965098341676dfd3d9d92cc2bbea"),
        "digests": _has_digest(
            kernel.digests(items, sid, HASH_BYTES), "6bc5d4adb0cbe054fd43cad47be1f1b058a31f10e7967cc67a9f48f2542f2441"
        ),
        "partners": _has_digest(b"".join(made), "8632c42b891bf74211be45053c51fefed9f1a077d4cd8f1faa6da91e4d252a14"),
        "tokens": _has_digest(tokens, "b646e0dfb14aa3a852a591ec4587e378343332587cd1f10b3e33b22f4cd9c29c"),
        "probe": _probe(kernel, sid).hex() == "53ccd720e9319c7fb7aefa003d75579f",
        "bad points": kernel.mask(memoryview(mixed), other_scalar) == (products, refused),
        "on_curve": kernel.on_curve(memoryview(masked)) and not any(map(kernel.on_curve, twisted)),
    }


def _has_digest(packed: bytes, digest: str) -> bool:
    return sha256(packed).hexdigest() == digest


# Packed data ---------------------------------------------------------------------------------------------------


def _probe(kernel: Backend, task_sid: bytes) -> bytes:
    point = kernel.hash_to_points(packed_items([b"psicli"]), task_sid + PROBE_TAG, DST)
    return sha256(PROBE_PREFIX + task_sid + point).digest()[:TOKEN_BYTES]


def packed_items(values: list[bytes]) -> pa.LargeBinaryArray:
    """Return items in the layout that the kernel expects."""
    return pa.array(values, pa.large_binary())


def _point(packed: V, at: int) -> V:
    return packed[POINT_BYTES * at : POINT_BYTES * (at + 1)]


def _exactly(size: int, value: B) -> B:
    if len(value) != size:
        raise errors.InternalError(detail=f"a value has {len(value)} bytes instead of {size}")
    return value


def _packed(points: BytesLike) -> memoryview:
    view = memoryview(points).cast("B")
    if len(view) % POINT_BYTES:
        raise errors.InternalError(detail=f"{len(view)} bytes are not a whole number of points")
    return view
