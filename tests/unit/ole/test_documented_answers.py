"""The known answers of RR22 in docs/protocol.md are what the reference computes."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import numpy as np

from psicli import curve, ole
from psicli.curve import packed_items
from psicli.ole import reference
from psicli.ole.blocks import Blocks, from_bytes
from psicli.protocol.rr22.sizes import sizes

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"
SID, ONE, OTHER = bytes(range(32)), bytes(range(16)), bytes(range(16, 32))
ITEM = bytes.fromhex("0100000011616c696365406578616d706c652e636f6d")


def block(octets: bytes) -> Blocks:
    return from_bytes(octets).copy()


def test_known_answers_of_rr22_are_those_of_the_reference() -> None:
    section = PAGE.read_text().split("Values of [RR22](#rr22)")[1].split("\n\n", 3)[1]
    written = re.findall(r"\| (?:`(\w+)`|(\d+)) \|$", section, re.MULTILINE)
    shape = sizes(1)
    digest = ole.item_digests(packed_items([ITEM]), SID)
    row = reference.rows(digest[:, 2:], shape.store, ONE)[0]
    product = np.zeros((1, 2), np.uint64)
    reference.add_products(product, block(ONE), block(OTHER))
    children, _ = reference.grow(block(ONE), 2)
    code = reference.compress(reference.stream(ONE, shape.noise).copy(), shape.store)
    found = [
        product.tobytes().hex(),
        reference.hashes(block(ONE), 7).tobytes().hex(),
        *(each.tobytes().hex() for each in children),
        curve.point_of_bin(SID).hex(),
        sha256(code.tobytes()).hexdigest(),
        digest.tobytes().hex(),
        str(row[0]),
        row[1:].tobytes().hex(),
        ole.tokens(block(ONE), SID, 10).hex(),
    ]
    assert [octets or number for octets, number in written] == found
