"""Blocks for tests of the kernel of RR22, its arithmetic in plain numbers, and the results of all its functions."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256, shake_128

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from psicli.ole import BACKENDS, Backend, Blocks, Points, Rows, reference

# Odd and tiny sizes, and those around the sizes at which loops, chunks and threads begin or end.
SIZES = (0, 1, 2, 3, 5, 127, 128, 129, 257, 1000)
LARGE_SIZES = (2**14 - 1, 2**14 + 1)
KEY = bytes(range(16))
SPARE = 256


def blocks_of(label: str, count: int, words: int = 2) -> Blocks:
    """Return blocks that look random and depend on the label alone."""
    return np.frombuffer(bytearray(shake_128(label.encode()).digest(8 * words * count)), "<u8").reshape(-1, words)


def points(label: str, count: int, limit: int) -> Points:
    return (blocks_of(label, count)[:, 0] % np.uint64(limit)).astype(np.uint32)


def numbers(of: Blocks) -> list[int]:
    """Return each block as the number whose bits are the coefficients of its polynomial."""
    return [int(low) | int(high) << 64 for low, high in of.tolist()]


def from_numbers(numbers: list[int]) -> Blocks:
    packed = bytearray().join(number.to_bytes(16, "little") for number in numbers)
    return np.frombuffer(packed, "<u8").reshape(-1, 2)


def product(one: int, other: int) -> int:
    """Multiply polynomials bit by bit, then divide by x^128 + x^7 + x^2 + x + 1."""
    found = 0
    for bit in range(128):
        if other >> bit & 1:
            found ^= one << bit
    for bit in reversed(range(128, 255)):
        if found >> bit & 1:
            found ^= (1 << 128 | 0x87) << bit - 128
    return found


def aes(key: bytes, numbers: list[int]) -> list[int]:
    """Encrypt numbers of 128 bits by another program."""
    packed = b"".join(number.to_bytes(16, "little") for number in numbers)
    encryptor = Cipher(AES(key), ECB()).encryptor()
    made = encryptor.update(packed) + encryptor.finalize()
    return [int.from_bytes(made[at : at + 16], "little") for at in range(0, len(made), 16)]


def store_length(count: int) -> int:
    return -(-count * 11 // 10) + SPARE


def system(kernel: Backend, count: int, label: str = "") -> tuple[Rows, Blocks, Blocks]:
    """Return the rows of a store for so many items, their values, and a store filled with something."""
    length = store_length(count)
    seed = shake_128(f"seed {label}{count}".encode()).digest(16)
    made = kernel.rows(blocks_of(f"keys {label}{count}", count), length, seed)
    return made, blocks_of(f"values {label}{count}", count), blocks_of(f"filling {label}{count}", length)


# The results of every function --------------------------------------------------------------------------------------


def _added(kernel: Backend, size: int) -> Blocks:
    sums = blocks_of("sums", size)
    kernel.add_products(sums, blocks_of("in", size), blocks_of("factor", 1))
    return sums


def _spread(kernel: Backend, size: int, chosen: bool) -> tuple[Blocks, ...]:
    return kernel.spread(blocks_of("seeds", 32), size, points("points", 2, 16) if chosen else None)


def _regrown(kernel: Backend, size: int) -> Blocks:
    width = max(size, 1)
    depth = (width - 1).bit_length()
    return kernel.regrow(blocks_of("sums", 3 * depth), points("points", 3, width), width)


def _encoded(kernel: Backend, size: int) -> tuple[Blocks, ...]:
    rows, values, store = system(kernel, size)
    assert kernel.encode(rows, values, store)
    return rows, store


def _decoded(kernel: Backend, size: int) -> Blocks:
    rows, _, store = system(kernel, size)
    return kernel.decode(rows, store)


# Each takes a kernel and a size; sizes that a function cannot have stand for the next one that it can.
FUNCTIONS: dict[str, Callable[[Backend, int], Blocks | tuple[Blocks, ...]]] = {
    "encrypt": lambda kernel, size: kernel.encrypt(blocks_of("in", size), KEY),
    "hashes": lambda kernel, size: kernel.hashes(blocks_of("in", size), 2**32 - 2),
    "add_products": _added,
    "grow": lambda kernel, size: kernel.grow(blocks_of("seeds", 3), max(size, 1)),
    "grow many": lambda kernel, size: kernel.grow(blocks_of("seeds", size), 13),
    "regrow": _regrown,
    "regrow many": lambda kernel, size: kernel.regrow(blocks_of("sums", 4 * size), points("points", size, 13), 13),
    "spread": lambda kernel, size: _spread(kernel, size, False),
    "spread at points": lambda kernel, size: _spread(kernel, size, True),
    "combine": lambda kernel, size: kernel.combine(blocks_of("planes", 128 * min(size, 257))),
    "transpose": lambda kernel, size: kernel.transpose(blocks_of("planes", 128 * min(size, 257))),
    "compress": lambda kernel, size: kernel.compress(blocks_of("noise", 2 * size + 1), size),
    "compress two": lambda kernel, size: kernel.compress(blocks_of("noise", 2 * size + 1, 4), size),
    "encode": _encoded,
    "decode": _decoded,
}


def result(name: str, function: str, size: int) -> bytes:
    """Return what a function of a backend gives, as bytes."""
    made = FUNCTIONS[function](BACKENDS[name], size)
    return b"".join(each.tobytes() for each in (made if isinstance(made, tuple) else (made,)))


def digest(name: str, function: str, sizes: tuple[int, ...]) -> str:
    """Return the digest of the results of a backend's function for all these sizes."""
    return sha256(b"".join(result(name, function, size) for size in sizes)).hexdigest()


def known_answers() -> dict[str, tuple[str, str]]:
    """Return the digests for small and for large sizes, by the reference."""
    return {
        function: (digest(reference.NAME, function, SIZES), digest(reference.NAME, function, LARGE_SIZES))
        for function in FUNCTIONS
    }
