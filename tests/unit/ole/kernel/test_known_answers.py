"""Tests that every function of every backend gives what the reference gave when it was written, at all sizes.

To make the known answers, print `support.kernel.ole.known_answers()`.
"""

from __future__ import annotations

import pytest
from support.kernel import backends, ole
from support.kernel.ole import FUNCTIONS, LARGE_SIZES, NAMES, NATIVE, SIZES

from psicli.ole import reference

KNOWN = {
    "encrypt": (
        "6057ea2e29f350cc6a2e081a6ee321a418072f0344404641b3845b97e5f70f96",
        "57a90677de18eb49aafd99837e666f838abcd59dbf96bbd3320aea7f01221345",
    ),
    "hashes": (
        "26e36428bb1009df42afbfc708b2edafa0edaf92cba95292ab7168e3c2b7d9d3",
        "4ae85a90bc147a6427c1c7d5c8b589c741869638aed47448863816bbb642459e",
    ),
    "add_products": (
        "e0ef272eea049da024b66bcb9d549013dedb8cb13172491aeb721be932e3d800",
        "3a7c1ae47c72f41df1c387c65ca822eb6c5299250369beb4378680fb66028ff3",
    ),
    "grow": (
        "45cd59fca9e1ab643d4fd0a2d7fec29ce3b00156250e879cc84f0b684f132d54",
        "3dcd520b1b805fd61e5915869289fce9ceb519541bafaf5eefb238ee9e8b6dd2",
    ),
    "grow many": (
        "d73e6dac1f2e9faab304dfe4c875ed23d5d8f40d993bd009c9b6f4a1b8cd3c33",
        "7b90672f2307cc114e2ae93041d11ea9c4d8824abc94ac5f0a4d9e10edddbbfe",
    ),
    "regrow": (
        "d3934b30841004ec4459bd036c2a4c866ff87eadeda06a434b9d8c87bff64034",
        "6d7873f02334909e212e6f87b50a540e73de3ea6a63ebc4ea27be1ffbf7e38b2",
    ),
    "regrow many": (
        "ffd8c1e4ab3d4fbe16d0b4388c5f5d99c53dc6f887e2a885c789fc406ad3e179",
        "905a8d2ecddcfab3c3291070a7ce4594c78ae116a50a211ba81a2a7dfcd0e79d",
    ),
    "spread": (
        "8b997d68a207de27d5ef035ebb46c0e782a9fe69c98378aa98909c5b651a0283",
        "2d807079e8b76e9f4fc109b8c79ff4c1a9ddbba761ce64fc3b01354b00e54188",
    ),
    "spread at points": (
        "5ecc6685929db2deefeac65c22261a0af2f4e94bcda9794d8b2a4f217259a6d4",
        "344870681e66b2d258c4d35d819357c6eb392c915fe3d1acf274a6918a612211",
    ),
    "combine": (
        "b8bd2aab08dfd3a9c7a7ef06f60f379995d063cce91eab09dc23040d44fc2ff0",
        "a5ea943a6130c2cb6312df5dd97f8f45a6b46801aecdfa18fd53437f65dd678d",
    ),
    "transpose": (
        "27ecf73b0b697b3e1133a4c3cccd879e7fc063259ace99b4ffdb8afc0f0afaa0",
        "bcf3de1707a72d6ba4769baefbdf8d1ec0fe97c26336891e49846f9b7fd2a5d7",
    ),
    "compress": (
        "acd3b40c7eea828756c4acc6195a21c479fcb60a42db5903c87bf791d03071f6",
        "2cf14541e5690b5ed920c38ffcb1daa9e666ddb5938a7392b0876cc229ade244",
    ),
    "compress two": (
        "e22f95a3d395f0c9b7f25db65f13bc7104bc24449dd738e6659e5d1a72a4d92c",
        "7a85d95c7b6a6ed242337b57e1ae481c55bda76bddd5d8829cf83527be14e3ba",
    ),
    "encode": (
        "ae127af53859ac0287303bfb98b9da7ad8395b6087808f0c867dba431c685fee",
        "6459dfe173103390d86c2f07bbf84824a4e37cb9e6455066a801a49955992d77",
    ),
    "decode": (
        "ec60087c1bc999d71ace1f16fb1464c5d3c890d361dee77fbbb822813b4363d4",
        "8e3ba4844339870e9599b7721092b7cca5ffa491d0cf42bd04971905bf10b4a5",
    ),
}
# Large sizes take the slow ones seconds.
SLOW = {reference.NAME, "native portable"}


def test_every_function_has_a_known_answer() -> None:
    assert KNOWN.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("function", KNOWN)
@pytest.mark.parametrize("name", NAMES, ids=backends.label)
def test_known_answers_for_small_sizes(name: str, function: str) -> None:
    assert ole.digest(name, function, SIZES) == KNOWN[function][0]


@pytest.mark.parametrize("function", KNOWN)
@pytest.mark.parametrize(
    "name", [pytest.param(name, id=backends.label(name), marks=[pytest.mark.more] * (name in SLOW)) for name in NAMES]
)
def test_known_answers_for_large_sizes(name: str, function: str) -> None:
    assert ole.digest(name, function, LARGE_SIZES) == KNOWN[function][1]


@pytest.mark.more
@pytest.mark.parametrize("function", KNOWN)
@pytest.mark.parametrize("name", [name for name in NATIVE if name != NATIVE[-1]], ids=backends.label)
def test_paths_agree_for_a_million_and_three(name: str, function: str) -> None:
    size = 1_000_003 if "spread" not in function else 50_001
    assert ole.result(name, function, size) == ole.result(NATIVE[-1], function, size)
