"""Tests that every function of every backend gives what the reference gave when it was written, at all sizes.

To make the known answers, print `support.kernel.ole.known_answers()`.
"""

from __future__ import annotations

import pytest
from support.kernel import backends, ole
from support.kernel.backends import OLE_NAMES
from support.kernel.ole import FUNCTIONS, LARGE_SIZES, SIZES

from psicli.ole import BACKENDS, reference

KNOWN = {
    "encrypt": (
        "9bd62ce1c4df283e791ff8120403add6198a98993329b7e6bbedb38f3c5d6d41",
        "3e984baa51e77bce344ac157b825d36b349c547be670d2dc5198b7cdddf96bca",
    ),
    "hashes": (
        "840507e3e755379a48a38428f5e3511282831891a0db99d977a986e9598a420e",
        "99d7497b3ca40465b61756c438a486e570a0c963fd23bdd245f2febe77ef9dce",
    ),
    "add_products": (
        "3ece98766345622d99a937e31ba1ec92a83c1c5c89fcdc918dac19f99a928e9d",
        "35712f7fb9f7699457f64dd38329ef1de4b66fed455cc24ccb88d3fc7ff82d55",
    ),
    "grow": (
        "9574488a7628adec1c3e7622011834876525cb18491afdf83c7fd04ce38b2527",
        "9601d4c201c1b5b9d11e9617757978e5d8f3a2cb2f1745b5ae2b7c42a597dc2f",
    ),
    "grow many": (
        "2bc41762533638894c2766f76f976c91b33f38e1829f7fa128c72604fdb41e68",
        "f2fbb772ac21a914b8b42834e7a653548aea5830c1e13a82d0e28daa63ca9f69",
    ),
    "regrow": (
        "69e20a4b099cbfcbec06a0c50b335d78c635acd5d9ef29fa724590299fa1a9df",
        "f74c863f91c9d43e02b3993a0531e28b518cf89793c4b13bcb622d94ef60d05f",
    ),
    "regrow many": (
        "0e428bffb56bdc3d75798ccf5131e5b672fc535618df8709eac56ff890270421",
        "75a80073a36849056c8ca47cc0f8baff4ce17ad2e70e9436445c41da24014d5b",
    ),
    "spread": (
        "38b94218dab9d879775f8e1bd3e9af318417b4d8b87de0290348f3b2ab2b710b",
        "13a6467df3e1930a200942faf3b3cf2acf06f221b67e8a3f62f524cf2cbad7cc",
    ),
    "spread at points": (
        "08934d12c204a215dd09d7d43507ca13b122cc0c59865bd48faeb02bd6b3a917",
        "773c501a636957f1aa603e48a2d99b3a66f0222b547f73f4ff0bd1081b43723b",
    ),
    "combine": (
        "ecedda2325ba65ba68a9b09bb04039285c15834336e26e72e238bd8b8883a0e9",
        "833925d112cb80d2791faa5275f7c0ba6cd29072a4162f5182530eca5cdcf51d",
    ),
    "transpose": (
        "e4d1bfb5dfe7125a0ae38436bca085281d6c31bbbc30ccfb1eb13cc6fceacc8f",
        "e457b4921f08527847a9fb341ac93771382b2c9242d0fb1e6803c4ed84b20eeb",
    ),
    "compress": (
        "1c7d8669b9da9edd7e0e26afec8391110f0e31b54c4e7602388982f72311b28a",
        "7bd4bbecd474b2aa6fe07a9771674f4d4555223196906ad0fa1837053e738f07",
    ),
    "compress two": (
        "1b2ad5ea7e9a2c20cef2e30e8135f275d6dd8b2068d231822395c4d2152b1f4b",
        "7edbc58473ec74517b702066b6fd6b95ce8efdaf7199e92e9e49835ebc6e5eee",
    ),
    "encode": (
        "c6cac19348ea2a8bdae9c82337ac77eb5ef6008a8e671ef40c2b9a0dec602822",
        "5072019bc607bf93f1323a3c4caa8086a2c9f1d9525c16257e4ab6d477b58a1a",
    ),
    "decode": (
        "b3652eac3cfc43b269899d1d79714a20cd876b37a1a5ce2f6c9ed0fa4fa68401",
        "39e5df2d5d6d4036f0418eeda094f2c3dbb32387e7bffbd0a0e393e62d60b043",
    ),
}
FASTEST = next(iter(BACKENDS))
# Large sizes take the slow ones seconds.
SLOW = {reference.NAME, "native portable"}


def test_every_function_has_a_known_answer() -> None:
    assert KNOWN.keys() == FUNCTIONS.keys()


@pytest.mark.sample(20)
@pytest.mark.parametrize("function", KNOWN)
@pytest.mark.parametrize("name", OLE_NAMES, ids=backends.label)
def test_known_answers_for_small_sizes(name: str, function: str) -> None:
    assert ole.digest(name, function, SIZES) == KNOWN[function][0]


@pytest.mark.parametrize("function", KNOWN)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, id=backends.label(name), marks=[pytest.mark.more] * (name in SLOW)) for name in OLE_NAMES],
)
def test_known_answers_for_large_sizes(name: str, function: str) -> None:
    assert ole.digest(name, function, LARGE_SIZES) == KNOWN[function][1]


@pytest.mark.more
@pytest.mark.parametrize("function", KNOWN)
@pytest.mark.parametrize(
    "name", [name for name in OLE_NAMES if name not in (FASTEST, reference.NAME)], ids=backends.label
)
def test_paths_agree_for_very_large_sizes(name: str, function: str) -> None:
    size = 1_000_003 if function in ("add_products", "compress", "decode", "encode") else 50_001
    assert ole.result(name, function, size) == ole.result(FASTEST, function, size)
