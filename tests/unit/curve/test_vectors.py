"""Tests of the curve against known answers, published vectors and libsodium."""

from __future__ import annotations

from hashlib import sha256

import nacl.bindings as sodium
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel import backends
from support.kernel.samples import (
    ALICE,
    BOB,
    PREFIX,
    TASK_SID,
    P,
    digest,
    item,
    items,
    keyed_hashes_oracle,
    split,
    u_bytes,
    vectors,
)

from psicli import curve
from psicli.core.errors import InternalError
from psicli.curve import reference

# Known answers ------------------------------------------------------------------------------------------------------


def test_known_answer_of_one_item(backend: curve.Backend) -> None:
    one = items(item("alice@example.com"))
    hashed = backend.hash_to_points(one, PREFIX, curve.DST)
    assert hashed.hex() == "7caf80bcb6327647825fde699e3cb9fcba68c2cfafc90f0613a1661cdb300a04"
    masked = curve.hash_and_mask(one, TASK_SID, ALICE)
    assert masked.hex() == "ba154c18a4d5ec8251a12bb027e3533c034c7da8e64f5a4b6cd8dfcae45af527"
    double_masked, bad = curve.mask(masked, BOB)
    assert double_masked.hex() == "7e3e30260193f3b0ae2ace92cae6d40de256e188fe6be01f3612d582e2e85f6c"
    assert bad == []
    assert curve.tokens(double_masked, TASK_SID).hex() == "ef4c3dc8ebe5225f0e72b27f34db728e"


def test_known_answer_of_the_probe(backend: curve.Backend) -> None:
    assert curve.probe(TASK_SID).hex() == "53ccd720e9319c7fb7aefa003d75579f"


@pytest.mark.parametrize(
    ("columns", "u"),
    [
        (("a,b", "c"), "3284c073f3bec7139f419e52487d19d5cd9bcc864b53eee8aa93042f5d6d741d"),
        (("a", "b,c"), "9a305f8e8e72962cd0bca9cd12457810306cabe94f6e059d53ef3766d11e0c68"),
    ],
)
def test_known_answers_of_two_columns(backend: curve.Backend, columns: tuple[str, ...], u: str) -> None:
    assert backend.hash_to_points(items(item(*columns)), PREFIX, curve.DST).hex() == u


@pytest.mark.sample(1)
def test_known_answers_of_a_thousand_items(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    masked = curve.hash_and_mask(thousand, TASK_SID, ALICE)
    double_masked, bad = curve.mask(masked, BOB)
    assert digest(masked) == "09a8da02eaf33f6eaec7da5f7174d874de3d0fba5d88800442be66949f151d1a"
    assert digest(double_masked) == "d985c8854c6b268cabd53bc548f35856875d74d7af3ceee34ae7a5681acfec16"
    assert bad == []
    tokens = curve.tokens(double_masked, TASK_SID)
    assert digest(tokens) == "fc08604e5ae43ee59ab9a8fa37f78ea31a68884c55673cfecb1ce341880287d5"


@pytest.mark.sample(1)
def test_known_answers_of_a_thousand_hashes(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    hashed = backend.hash_to_points(thousand, PREFIX, curve.DST)
    assert digest(hashed) == "22b471bb275e5d5eed6d9ef3b648da3d0b82747df31f36ba50c02595093f9b86"
    assert curve.on_curve(hashed)


def test_known_answers_of_every_message_length(backend: curve.Backend) -> None:
    hashed = backend.hash_to_points(items(*(item("q" * i) for i in range(301))), PREFIX, curve.DST)
    assert digest(hashed) == "c645793ded41df61a114244cd916c9cd96c32ab2d271ad331e2d3b0e392465b9"


@pytest.mark.sample(2)
def test_padding_is_hashed_under_its_own_tag(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    """Padding is hashed like an item, but to another point than an item with the same bytes."""
    points = [
        split(curve.hash_and_mask(thousand, TASK_SID, ALICE, *tag)) for tag in ((), (curve.ITEM_TAG,), (b"\x02",))
    ]
    assert points[0] == points[1]
    assert curve.PADDING_TAG == b"\x02"
    assert not set(points[0]) & set(points[2])
    assert curve.on_curve(b"".join(points[2]))
    hashed = split(backend.hash_to_points(thousand, TASK_SID + b"\x02", curve.DST))
    for at in (0, 1, 15, 16, 17, 999):
        u, _ = reference.hash_to_curve(TASK_SID + b"\x02" + thousand[at].as_py(), curve.DST)
        assert hashed[at] == u_bytes(u)
        assert points[2][at] == curve.mask(hashed[at], ALICE)[0]


def test_known_answer_of_keyed_hashes(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    keys = curve.keyed_hashes(thousand, TASK_SID)
    assert digest(keys) == "4c09eefc3c373b7fa58e3cf60410e27a5d0c30c6a21c059d8f599ea1f93a1f01"
    assert split(keys, 16) == keyed_hashes_oracle(TASK_SID, thousand.to_pylist())


def test_keyed_hashes_of_every_message_length(backend: curve.Backend) -> None:
    """Lengths ascend, descend and alternate, so that short and long messages share lanes; slices are covered too."""
    lengths = [*range(401), *range(400, -1, -1), *(number * 149 % 401 for number in range(401))]
    values = [sha256(b"%d" % length).digest() * 13 for length in lengths]
    values = [value[:length] for value, length in zip(values, lengths, strict=True)]
    array, secret = pa.array(values, pa.large_binary()), bytes(range(32, 64))
    expected = keyed_hashes_oracle(secret, values)
    assert split(curve.keyed_hashes(array, secret), 16) == expected
    for start, stop in [(0, 1), (1, 18), (397, 1203), (5, 5), (1202, 1203)]:
        assert split(curve.keyed_hashes(array.slice(start, stop - start), secret), 16) == expected[start:stop]


def test_keyed_hashes_depend_on_the_secret(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    one, other = (split(curve.keyed_hashes(thousand, secret), 16) for secret in (bytes(32), bytes(31) + b"\1"))
    assert not set(one) & set(other)


# Published vectors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("rfc9380_k3.json")["vectors"])
def test_expand_message_xmd(vector: dict[str, str]) -> None:
    dst = vectors("rfc9380_k3.json")["DST"].encode()
    uniform = reference.expand_message_xmd(vector["msg"].encode(), dst, int(vector["len_in_bytes"], 16))
    assert uniform.hex() == vector["uniform_bytes"]


def test_expand_message_xmd_has_the_limits_of_the_rfc() -> None:
    for dst, length in [(bytes(256), 32), (b"dst", 255 * 64 + 1)]:
        with pytest.raises(InternalError):
            reference.expand_message_xmd(b"", dst, length)
    assert len(reference.expand_message_xmd(b"", bytes(255), 255 * 64)) == 255 * 64


@pytest.mark.parametrize("vector", vectors("rfc9380_j41.json")["vectors"])
def test_hash_to_curve_step_by_step(vector: dict[str, str]) -> None:
    dst = vectors("rfc9380_j41.json")["dst"].encode()
    msg = vector["msg"].encode()
    expected = {name: int(value, 16) for name, value in vector.items() if name != "msg"}
    assert reference.hash_to_field(msg, dst, 2) == [expected["u[0]"], expected["u[1]"]]
    for i in range(2):
        xn, xd, y = reference.map_to_curve_elligator2(expected[f"u[{i}]"])
        assert (xn * pow(xd, -1, P) % P, y) == (expected[f"Q{i}.x"], expected[f"Q{i}.y"])
    assert reference.hash_to_curve(msg, dst) == (expected["P.x"], expected["P.y"])


def test_hash_to_curve_by_each_backend(backend: curve.Backend) -> None:
    rfc = vectors("rfc9380_j41.json")
    messages = items(*(vector["msg"].encode() for vector in rfc["vectors"]))
    expected = b"".join(u_bytes(int(vector["P.x"], 16)) for vector in rfc["vectors"])
    assert backend.hash_to_points(messages, b"", rfc["dst"].encode()) == expected


def test_x25519_pairs(backend: curve.Backend) -> None:
    for vector in vectors("rfc7748_52.json")["vectors"]:
        point = bytearray.fromhex(vector["u"])
        if point[31] & 0x80:  # the RFC ignores this bit, but psicli does not
            assert curve.mask(point, bytes.fromhex(vector["scalar"])) == (bytes(32), [0])
            point[31] &= 0x7F
        assert curve.mask(point, bytes.fromhex(vector["scalar"])) == (bytes.fromhex(vector["output"]), [])


def test_x25519_iterated(backend: curve.Backend) -> None:
    rfc = vectors("rfc7748_52.json")["iterated"]
    scalar = point = bytes.fromhex(rfc["start"])
    after = {}
    for i in range(1, 1001):
        scalar, point = curve.mask(point, scalar)[0], scalar
        after[i] = scalar.hex()
    assert (after[1], after[1000]) == (rfc["1"], rfc["1000"])


# libsodium ----------------------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", backends.NAMES, ids=backends.label)
@settings(deadline=None)
@given(scalar=st.binary(min_size=32, max_size=32), u=st.integers(2, P - 2))
def test_mask_agrees_with_sodium(name: str, scalar: bytes, u: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        backends.use(name, patch)
        assert curve.mask(u_bytes(u), scalar) == (sodium.crypto_scalarmult(scalar, u_bytes(u)), [])


def edwards_to_u(point: bytes) -> int:
    y = int.from_bytes(point, "little") & (2**255 - 1)
    return (1 + y) * pow(1 - y, -1, P) % P


def times_eight(u: int) -> int:
    """Double a point three times, using only x, with the affine form of RFC 7748's ladder step."""
    for _ in range(3):
        u = (u * u - 1) ** 2 * pow(4 * u * (u * u + 486662 * u + 1), -1, P) % P
    return u


@settings(deadline=None)
@given(u=st.integers(1, P - 1))
def test_map_agrees_with_sodium(u: int) -> None:
    xn, xd, y = reference.map_to_curve_elligator2(u)
    x = xn * pow(xd, -1, P) % P
    assert (x**3 + 486662 * x**2 + x - y**2) % P == 0
    # libsodium also clears the cofactor and sometimes chooses the other sign, which does not change u.
    assert times_eight(x) == edwards_to_u(sodium.crypto_core_ed25519_from_uniform(u_bytes(u)))


def test_map_of_zero_is_the_point_of_order_two() -> None:
    assert reference.map_to_curve_elligator2(0) == (0, 1, 0)


@settings(deadline=None)
@given(msg=st.binary(max_size=200))
def test_hash_agrees_with_sodium(msg: bytes) -> None:
    """libsodium's signs differ from the RFC's, so its sum or its difference matches; the RFC's vectors say which."""
    maps = [sodium.crypto_core_ed25519_from_uniform(u_bytes(u)) for u in reference.hash_to_field(msg, curve.DST, 2)]
    either = {sodium.crypto_core_ed25519_add(*maps), sodium.crypto_core_ed25519_sub(*maps)}
    assert reference.hash_to_curve(msg, curve.DST)[0] in {edwards_to_u(point) for point in either}
