"""Vector oblivious linear evaluation and the oblivious key-value store, the parts of the protocol RR22.

The other packages use the kernel only through this module. A block is 16 bytes: an element of GF(2^128), bit i of whose
little-endian value is the coefficient of x^i, modulo x^128 + x^7 + x^2 + x + 1. Blocks are rows of arrays with two
words each, the low one first.

The variables that choose the backend of psicli.curve choose this one, too. The CPU paths of the two are different, but
for the portable one.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli import curve
from psicli.core.errors import SelfCheckError
from psicli.ole import reference
from psicli.ole.blocks import BLOCK_BYTES, Blocks, Digests, Points, Rows

__all__ = [
    "BACKENDS", "BLOCK_BYTES", "Backend", "Blocks", "Digests", "Points", "Rows", "backend", "digests", "item_digests",
    "kernel", "self_test", "tokens",
]  # fmt: skip

ITEM_PREFIX = b"psicli/v1/rr22/item\0"
TOKEN_PREFIX = b"psicli/v1/rr22/token\0"
DIGEST_BYTES = 32


class Backend(Protocol):
    """What a backend provides; its functions return the same bytes as those of any other backend.

    Functions are constant time in everything but sizes, except `rows`, `encode` and `decode`, whose addresses depend on
    the caller's own items.
    """

    def encrypt(self, blocks: Blocks, key: bytes) -> Blocks:
        """Return the blocks encrypted with AES-128, each alone. FIPS 197."""

    def hashes(self, blocks: Blocks, first: int) -> Blocks:
        """Return p(p(x) + i) + p(x) for every block x, with i = first, first + 1, …

        p is AES with a fixed public key. The tweakable correlation-robust hash of ePrint 2019/074, section 7.4.
        """

    def add_products(self, sums: Blocks, blocks: Blocks, factor: Blocks) -> None:
        """Add the products of blocks with one factor to the sums, in place."""

    def grow(self, seeds: Blocks, width: int) -> tuple[Blocks, Blocks]:
        """Grow a tree from each seed; return the first `width` leaves of each, and the sums of the levels.

        The children of a node x are p0(x) + x and p1(x) + x, with two fixed public permutations. For each tree and each
        level below the root, there are two sums: of all left and of all right children. The levels are as many as
        `width` leaves need, and have the children of all nodes above these leaves: one may be beyond them.
        """

    def regrow(self, sums: Blocks, points: Points, width: int) -> Blocks:
        """Grow trees again without the leaf at the point of each, which is zero.

        sums: of each level, that of the side that the path to the point does not take.
        """

    def spread(self, seeds: Blocks, count: int, points: Points | None = None) -> tuple[Blocks, Blocks]:
        """Expand groups of 16 seeds to streams of `count` blocks each, AES of 0, 1, … under the seed as key.

        Return the sum of each group's streams (`count` blocks each), and four planes for each group (`count` blocks
        each): plane b is the sum of the streams whose number has bit b set. Given points, the stream at the point of
        each group is left out, and a stream's number is its place + the point (exclusive or). SoftSpoken, ePrint
        2022/192.
        """

    def combine(self, planes: Blocks) -> Blocks:
        """Return the sum of x^b times plane b, for 128 planes of equal length that follow each other."""

    def transpose(self, planes: Blocks) -> Blocks:
        """Transpose 128 planes that follow each other: bit b of block i becomes bit i of plane b's bits."""

    def compress(self, noise: Blocks, length: int) -> Blocks:
        """Return `length` elements of the dual code for this noise; destroys the noise. ePrint 2023/882.

        The expand-convolute code with fixed public seeds. noise: shape (n, 2) or, for two vectors at once, (n, 4); so
        is the result.
        """

    def rows(self, keys: Blocks, length: int, seed: bytes) -> Rows:
        """Return the row of each key in a store of `length` positions."""

    def encode(self, rows: Rows, values: Blocks, store: Blocks) -> bool:
        """Fill the store so that the positions of each row sum to its value; return whether there is a solution.

        Positions that no row decides keep what the store holds: fill it with random blocks before.
        """

    def decode(self, rows: Rows, store: Blocks) -> Blocks:
        """Return the sum of the positions of each row. ePrint 2023/903."""


def _load_native() -> tuple[dict[str, Backend], str]:
    """Return the CPU paths of the native backend, fastest first, or none and the reason."""
    try:
        from psicli.ole._native import paths
        from psicli.ole.native import Native
    except ImportError as exc:
        return {}, curve.why_missing(exc)
    return {f"native {path}": Native(path) for path in paths()}, ""


_natives, _why_no_native = _load_native()
# The backends that this machine can run, fastest first, by the names that reports use.
BACKENDS: dict[str, Backend] = {**_natives, reference.NAME: reference}


def backend() -> str:
    """Return the name of the backend in use, with its CPU path; warn once if the native backend is missing.

    Raises VariableError if the environment asks for a backend or path that is not available.
    """
    name = curve.backend()
    if name in BACKENDS:
        return name
    fastest = next(iter(BACKENDS))
    return curve.fall_back("rr22", _why_no_native, "10 to 50") if fastest == reference.NAME else fastest


def kernel() -> Backend:
    """Return the backend in use."""
    return BACKENDS[backend()]


def item_digests(items: pa.LargeBinaryArray, bin_sid: bytes) -> Digests:
    """Return the digest of each item of a bin: its value in the first two words, the key of its row in the others.

    Constant time in items on the native backend.
    """
    packed = curve.digests(items, ITEM_PREFIX + bin_sid + curve.ITEM_TAG, DIGEST_BYTES)
    return np.frombuffer(packed, "<u8").reshape(-1, DIGEST_BYTES // 8)


def tokens(blocks: Blocks, bin_sid: bytes, size: int) -> bytes:
    """Return the packed tokens of blocks; size: of a token [bytes]. Constant time on the native backend."""
    return digests(np.ascontiguousarray(blocks).view(np.uint8), TOKEN_PREFIX + bin_sid, size)


def digests(records: npt.NDArray[np.uint8], prefix: bytes, size: int) -> bytes:
    """Return the packed digests SHA-256(prefix ‖ record)[:size] of records. records: shape (n, size of each) [bytes].

    Constant time in the records on the native backend.
    """
    count, each = records.shape
    ends = np.arange(0, each * count + 1, each)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(records)]
    return curve.digests(pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, buffers), prefix, size)


# Known answers -----------------------------------------------------------------------------------------------------

# The SHA-256 of each result; the results come from the reference, which tests compare with published vectors.
_ANSWERS = {
    "encrypt": "82aebab10ebb98eb1d22591575dfc9901585f519381d34ae5c38b0d095044eff",
    "hashes": "b47bc384145b63b41742c45ff67c84db93753370eaff7d6e444854d78585254e",
    "add_products": "d32702b1486aa77dea7030d91f6b27b92d79a56204afc34a2a2a95fa8c013af5",
    "grow": "426931387ffb92eed52f44c2a323e774024050dfdfc39be09887a3ab3f4ddce7",
    "regrow": "1750235fea7cd6641e2356f55256fc1f6c8406fbe0ba76980c4188c81c4bf569",
    "spread": "7c6c9937ff6008638b42ff66bc54b4eed808ea35751de296645ecaf36c2bb5e0",
    "spread at points": "e5023b65828cb545a07449381e48ad8ecb22e622cfa2918644618a7162093bfb",
    "combine": "4848bb48e893bff9719149775266ecd22c04e00f8d9d35b45ad83e3772b99c7b",
    "transpose": "8b3f53012514eeedffd9f44da0860e7b5f25f10da49dea3aad6863a24f3f573c",
    "compress": "b7c5aaba4cf9e45c196bb3d73c51d92e64d020a7754b3ab5285300be7efb1745",
    "rows": "9f9eff5cdad8ff4678dc29d9437455f6beb3884c017bfcf138558ecbeabffab2",
    "encode": "5d8159cb3b477ab27c344832aefcff3c88211cfd67d5568215d4c13ae786f164",
    "decode": "08ec713027a5c9ff5f6eb8fc92e3434184f44d80a558f060767b02ef7017d984",
}


def self_test(name: str | None = None) -> None:
    """Compare a backend, by default the one in use, with known answers. Raises SelfCheckError.

    The native backend takes milliseconds, the reference a tenth of a second.
    """
    name = name or backend()
    made = {part: b"".join(each.tobytes() for each in results) for part, results in _results(BACKENDS[name])}
    wrong = ", ".join(part for part, answer in _ANSWERS.items() if sha256(made[part]).hexdigest() != answer)
    if wrong:
        raise SelfCheckError(backend=name, detail=f"wrong answer from {wrong}")


def _results(kernel: Backend) -> Iterator[tuple[str, tuple[Blocks, ...]]]:
    """Yield the results of each function for arguments that reach every lane, every part, and the ends of its loops.

    Most have enough elements to be divided among several cores.
    """
    blocks, key = reference.stream(bytes(BLOCK_BYTES), 3001), bytes(range(BLOCK_BYTES))
    points, sums = (np.arange(70) * 5 % 37).astype(np.uint32), blocks[3:600].copy()
    yield "encrypt", (kernel.encrypt(blocks, key),)
    yield "hashes", (kernel.hashes(blocks, 1 << 20),)
    kernel.add_products(sums, blocks[:597], blocks[1024:1025])
    yield "add_products", (sums,)
    yield "grow", (*kernel.grow(blocks[:3], 1037), *kernel.grow(blocks[:601], 5))
    ends = np.array([0, 517, 1036], np.uint32)
    yield "regrow", (kernel.regrow(blocks[:33], ends, 1037), kernel.regrow(blocks[:420], points, 37))
    yield "spread", kernel.spread(blocks[:512], 21)
    yield "spread at points", kernel.spread(blocks[:512], 21, points[:32] % np.uint32(16))
    yield "combine", (kernel.combine(blocks[:640]),)
    yield "transpose", (kernel.transpose(blocks[:640]),)
    two, one = blocks[:3000].reshape(-1, 4).copy(), blocks[:805].copy()
    yield "compress", (kernel.compress(two, 1101), kernel.compress(one, 599))
    keys, values, store = blocks[:601], blocks[100:177], blocks[500:900].copy()
    rows = kernel.rows(keys, len(store), key)
    yield "rows", (rows,)
    solved = kernel.encode(rows[:77], values, store)
    yield "encode", (store, np.array([solved, kernel.encode(rows[[0, 0]], values[:2], store.copy())]))
    yield "decode", (kernel.decode(rows, blocks[:400]),)
