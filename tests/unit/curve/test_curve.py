"""The curve: the design's known answers, the RFCs' vectors, PyNaCl as a third opinion, and what must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import nacl.bindings as sodium
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel import backends
from support.kernel.points import LOW_ORDER

from psicli import curve
from psicli.core.errors import InternalError, PsicliError, SelfCheckError, UnknownBackendError, UnknownPathError
from psicli.curve import reference

VECTORS = Path(__file__).parents[2] / "vectors"
P = 2**255 - 19
TASK_SID = bytes(range(32))
PREFIX = TASK_SID + b"\x01"
ALICE, BOB = b"\x77" * 32, b"\x5d" * 32


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def item(*columns: str) -> bytes:
    """Encode an item by hand, not by psicli.items: this file must not follow a change there."""
    texts = [column.encode() for column in columns]
    return bytes([len(texts)]) + b"".join(len(text).to_bytes(4, "big") + text for text in texts)


def items(*values: bytes) -> pa.LargeBinaryArray:
    return pa.array(values, pa.large_binary())


def u_bytes(u: int) -> bytes:
    return u.to_bytes(32, "little")


def split(packed: bytes, size: int = 32) -> list[bytes]:
    return [packed[i : i + size] for i in range(0, len(packed), size)]


def digest(packed: bytes) -> str:
    return sha256(packed).hexdigest()


@pytest.fixture(scope="module")
def thousand() -> pa.LargeBinaryArray:
    return items(*(item(f"item-{i}") for i in range(1000)))


# Known answers -----------------------------------------------------------------------------------------------


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


def test_known_answers_of_a_thousand_items(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    masked = curve.hash_and_mask(thousand, TASK_SID, ALICE)
    double_masked, bad = curve.mask(masked, BOB)
    assert digest(masked) == "09a8da02eaf33f6eaec7da5f7174d874de3d0fba5d88800442be66949f151d1a"
    assert digest(double_masked) == "d985c8854c6b268cabd53bc548f35856875d74d7af3ceee34ae7a5681acfec16"
    assert bad == []
    tokens = curve.tokens(double_masked, TASK_SID)
    assert digest(tokens) == "fc08604e5ae43ee59ab9a8fa37f78ea31a68884c55673cfecb1ce341880287d5"


def test_known_answers_of_a_thousand_hashes(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    hashed = backend.hash_to_points(thousand, PREFIX, curve.DST)
    assert digest(hashed) == "22b471bb275e5d5eed6d9ef3b648da3d0b82747df31f36ba50c02595093f9b86"
    assert curve.on_curve(hashed)


def test_known_answers_of_every_message_length(backend: curve.Backend) -> None:
    hashed = backend.hash_to_points(items(*(item("q" * i) for i in range(301))), PREFIX, curve.DST)
    assert digest(hashed) == "c645793ded41df61a114244cd916c9cd96c32ab2d271ad331e2d3b0e392465b9"


def test_padding_is_hashed_under_a_tag_of_its_own(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    """As items are, but never to the point of an item, were the bytes the same."""
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


def keyed_hashes_oracle(secret: bytes, values: list[bytes]) -> list[bytes]:
    return [sha256(secret + value).digest()[:16] for value in values]


def test_known_answer_of_keyed_hashes(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    keys = curve.keyed_hashes(thousand, TASK_SID)
    assert digest(keys) == "4c09eefc3c373b7fa58e3cf60410e27a5d0c30c6a21c059d8f599ea1f93a1f01"
    assert split(keys, 16) == keyed_hashes_oracle(TASK_SID, thousand.to_pylist())


def test_keyed_hashes_of_every_message_length(backend: curve.Backend) -> None:
    """In ascending, descending and mixed order, so that short and long messages share lanes; and sliced."""
    lengths = [*range(401), *range(400, -1, -1), *(number * 149 % 401 for number in range(401))]
    values = [sha256(b"%d" % length).digest() * 13 for length in lengths]
    values = [value[:length] for value, length in zip(values, lengths, strict=True)]
    array, secret = pa.array(values, pa.large_binary()), bytes(range(32, 64))
    expected = keyed_hashes_oracle(secret, values)
    assert split(curve.keyed_hashes(array, secret), 16) == expected
    for start, stop in [(0, 1), (1, 18), (397, 1203), (5, 5), (1202, 1203)]:
        assert split(curve.keyed_hashes(array.slice(start, stop - start), secret), 16) == expected[start:stop]


def test_keyed_hashes_hang_on_the_secret_alone(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    one, other = (split(curve.keyed_hashes(thousand, secret), 16) for secret in (bytes(32), bytes(31) + b"\1"))
    assert not set(one) & set(other)


# Published vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", vectors("rfc9380_k3.json")["vectors"])
def test_expand_message_xmd(vector: dict[str, str]) -> None:
    dst = vectors("rfc9380_k3.json")["DST"].encode()
    uniform = reference.expand_message_xmd(vector["msg"].encode(), dst, int(vector["len_in_bytes"], 16))
    assert uniform.hex() == vector["uniform_bytes"]


def test_expand_message_xmd_refuses_what_the_rfc_does() -> None:
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
        if point[31] & 0x80:  # the RFC ignores the bit, the protocol does not
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


# A third opinion ---------------------------------------------------------------------------------------------


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
    """Double three times, x only, by the affine form of RFC 7748's ladder step."""
    for _ in range(3):
        u = (u * u - 1) ** 2 * pow(4 * u * (u * u + 486662 * u + 1), -1, P) % P
    return u


@settings(deadline=None)
@given(u=st.integers(1, P - 1))
def test_map_agrees_with_sodium(u: int) -> None:
    xn, xd, y = reference.map_to_curve_elligator2(u)
    x = xn * pow(xd, -1, P) % P
    assert (x**3 + 486662 * x**2 + x - y**2) % P == 0
    # Sodium clears the cofactor at once and chooses the other sign at times, which u does not show.
    assert times_eight(x) == edwards_to_u(sodium.crypto_core_ed25519_from_uniform(u_bytes(u)))


def test_map_of_zero_is_the_point_of_order_two() -> None:
    assert reference.map_to_curve_elligator2(0) == (0, 1, 0)


@settings(deadline=None)
@given(msg=st.binary(max_size=200))
def test_hash_agrees_with_sodium(msg: bytes) -> None:
    """As sodium's signs are not the RFC's, its sum is ours or its difference is; the RFC's vectors say which."""
    maps = [sodium.crypto_core_ed25519_from_uniform(u_bytes(u)) for u in reference.hash_to_field(msg, curve.DST, 2)]
    either = {sodium.crypto_core_ed25519_add(*maps), sodium.crypto_core_ed25519_sub(*maps)}
    assert reference.hash_to_curve(msg, curve.DST)[0] in {edwards_to_u(point) for point in either}


# What must be refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point",
    [bytes.fromhex(point) for point in LOW_ORDER]
    + [u_bytes(P), u_bytes(P + 9), u_bytes(2**255 - 1), u_bytes(9 + 2**255), b"\xff" * 32],
    ids=lambda point: point.hex()[:4] + "-" + point.hex()[-2:],
)
def test_mask_refuses(backend: curve.Backend, point: bytes) -> None:
    assert curve.mask(point, ALICE) == (bytes(32), [0])


def test_the_largest_canonical_point_is_taken(backend: curve.Backend) -> None:
    assert curve.mask(u_bytes(P - 2), ALICE)[1] == []


def test_bad_points_spoil_no_others(backend: curve.Backend) -> None:
    good = split(curve.hash_and_mask(items(*(item(f"{i}") for i in range(40))), TASK_SID, ALICE))
    points = list(good)
    for i in (0, 7, 8, 31, 39):
        points[i] = bytes.fromhex(LOW_ORDER[i % 7])
    points[20] = u_bytes(P + 9)
    products, bad = curve.mask(b"".join(points), BOB)
    assert bad == [0, 7, 8, 20, 31, 39]
    expected = [bytes(32) if i in bad else curve.mask(point, BOB)[0] for i, point in enumerate(good)]
    assert split(products) == expected


def test_on_curve_refuses_the_twist(backend: curve.Backend) -> None:
    point = curve.hash_and_mask(items(item("a")), TASK_SID, ALICE)
    assert curve.on_curve(point * 64)
    assert curve.on_curve(b"")
    for position in (0, 63):
        points = split(point * 64)
        points[position] = u_bytes(2)
        assert not curve.on_curve(b"".join(points))


def test_on_curve_refuses_what_is_not_canonical(backend: curve.Backend) -> None:
    assert curve.on_curve(u_bytes(9))
    for u in (P + 9, 9 + 2**255):
        assert not curve.on_curve(u_bytes(u))


def test_reversed_bytes_are_found(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    """RFC 9380 writes big-endian, RFC 7748 reads little-endian: unreversed, half the points are on the twist."""
    hashed = backend.hash_to_points(thousand.slice(0, 64), PREFIX, curve.DST)
    turned = b"".join(point[::-1] for point in split(hashed))
    assert not curve.on_curve(turned)
    assert sum(curve.on_curve(point) for point in split(turned)) < 60


@pytest.mark.parametrize("fields", [[5, 5], [5, P - 5]])
def test_exceptional_cases_are_found(monkeypatch: pytest.MonkeyPatch, fields: list[int]) -> None:
    """No message leads there, so the field elements are put in by hand: both map to the same point."""
    monkeypatch.setattr(reference, "hash_to_field", lambda msg, dst, count: fields)
    backends.use("reference", monkeypatch)
    with pytest.raises(SelfCheckError) as caught:
        curve.hash_and_mask(items(b"secret item"), TASK_SID, ALICE)
    assert caught.value.code == 70
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", backends.NATIVE, ids=backends.label)
def test_exceptional_cases_the_extension_finds(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It says so with an ArithmeticError, which no message that anybody knows brings about."""
    from psicli.curve import native

    def exceptional(*arguments: object) -> bytes:
        raise ArithmeticError("secret item")

    backends.use(name, monkeypatch)
    monkeypatch.setattr(native._native, "hash_and_mask", exceptional)
    with pytest.raises(SelfCheckError, match=f"The {name} curve backend .* exceptional case") as caught:
        curve.hash_and_mask(items(b"secret item"), TASK_SID, ALICE)
    assert caught.value.code == 70
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", backends.NATIVE, ids=backends.label)
def test_another_layout_than_binary_is_our_mistake(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    backends.use(name, monkeypatch)
    for values in (pa.array(["a"]), pa.array([1]), pa.array([b"abc"], pa.binary(3)), pa.array([b"abc"])):
        with pytest.raises(InternalError):
            curve.hash_and_mask(values, TASK_SID, ALICE)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_wrong_lengths_are_our_mistake(backend: curve.Backend, size: int) -> None:
    wrong, point, none = bytes(size), u_bytes(9), items()
    for call in (
        lambda: curve.hash_and_mask(none, wrong, ALICE),
        lambda: curve.hash_and_mask(none, TASK_SID, wrong),
        lambda: curve.keyed_hashes(none, wrong),
        lambda: curve.mask(point, wrong),
        lambda: curve.tokens(point, wrong),
        lambda: curve.probe(wrong),
    ):
        with pytest.raises(InternalError):
            call()


def test_part_of_a_point_is_our_mistake(backend: curve.Backend) -> None:
    for call in (
        lambda points: curve.mask(points, ALICE),
        lambda points: curve.tokens(points, TASK_SID),
        curve.on_curve,
    ):
        with pytest.raises(InternalError):
            call(bytes(33))


def test_a_null_item_is_our_mistake(backend: curve.Backend) -> None:
    with pytest.raises(InternalError):
        curve.hash_and_mask(pa.array([b"a", None], pa.large_binary()), TASK_SID, ALICE)
    with pytest.raises(InternalError):
        curve.keyed_hashes(pa.array([b"a", None], pa.large_binary()), TASK_SID)


# Packed data -------------------------------------------------------------------------------------------------


def test_nothing_in_nothing_out(backend: curve.Backend) -> None:
    assert curve.hash_and_mask(items(), TASK_SID, ALICE) == b""
    assert curve.keyed_hashes(items(), TASK_SID) == b""
    assert curve.mask(b"", ALICE) == (b"", [])
    assert curve.tokens(b"", TASK_SID) == b""


def test_a_slice_is_its_own_items(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    whole = curve.hash_and_mask(thousand.slice(0, 41), TASK_SID, ALICE)
    for start, stop in [(0, 1), (3, 20), (20, 41), (7, 7)]:
        part = curve.hash_and_mask(thousand.slice(start, stop - start), TASK_SID, ALICE)
        assert part == whole[32 * start : 32 * stop]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, pa.py_buffer])
def test_any_buffer_is_taken(backend: curve.Backend, kind: Any) -> None:
    points = u_bytes(9) + u_bytes(2)
    assert curve.mask(kind(points), ALICE) == curve.mask(points, ALICE)
    assert curve.tokens(kind(points), TASK_SID) == curve.tokens(points, TASK_SID)
    assert not curve.on_curve(kind(points))


@pytest.mark.parametrize("name", backends.NAMES, ids=backends.label)
@settings(deadline=None, max_examples=20)
@given(
    values=st.lists(st.binary(max_size=300), max_size=20),
    task_sid=st.binary(min_size=32, max_size=32),
    scalars=st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32)),
)
def test_both_orders_of_masking_agree(
    name: str, values: list[bytes], task_sid: bytes, scalars: tuple[bytes, bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        backends.use(name, patch)
        ours, theirs = (curve.hash_and_mask(items(*values), task_sid, scalar) for scalar in scalars)
        assert curve.mask(ours, scalars[1]) == curve.mask(theirs, scalars[0])
        # Every backend gives the reference's bytes.
        assert ours == reference.hash_and_mask(items(*values), task_sid + b"\x01", curve.DST, scalars[0])


def test_another_task_shares_nothing(backend: curve.Backend) -> None:
    one, other = TASK_SID, bytes(32)
    assert curve.hash_and_mask(items(b"a"), one, ALICE) != curve.hash_and_mask(items(b"a"), other, ALICE)
    assert curve.tokens(u_bytes(9), one) != curve.tokens(u_bytes(9), other)
    assert curve.probe(one) != curve.probe(other)


# Sharing among threads ---------------------------------------------------------------------------------------


@pytest.fixture
def in_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads; as before when the test is over."""
    yield curve.set_threads
    curve.set_threads(None)


@pytest.mark.parametrize("name", backends.NATIVE, ids=backends.label)
@pytest.mark.parametrize("count", [511, 512, 513, 1025, 1500])
def test_threads_change_nothing(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    in_threads: Callable[[int], None],
    thousand: pa.LargeBinaryArray,
    count: int,
) -> None:
    backends.use(name, monkeypatch)
    # A slice, so that offsets begin somewhere; bad points at the ends and where parts may meet.
    some = pa.concat_arrays([thousand, thousand]).slice(3, count)
    points = split(random_points(count))
    bad = [0, 255, 256, 300, count - 1]
    for index in bad:
        points[index] = u_bytes(P + 1) if index % 2 else bytes(32)
    packed = b"".join(points)
    found = []
    for threads in (1, 2, 3):
        in_threads(threads)
        hashed = curve.hash_and_mask(some, TASK_SID, ALICE)
        found.append((hashed, curve.mask(packed, BOB), curve.tokens(packed, TASK_SID), curve.on_curve(hashed)))
        assert split(curve.keyed_hashes(some, TASK_SID), 16) == keyed_hashes_oracle(TASK_SID, some.to_pylist())
    assert found[0] == found[1] == found[2]
    assert found[0][1][1] == bad
    assert found[0][3]


def test_a_bad_last_point_is_found_in_any_part(backend: curve.Backend, in_threads: Callable[[int], None]) -> None:
    in_threads(2)
    good = u_bytes(9) * 600
    assert curve.on_curve(good)
    assert not curve.on_curve(good + u_bytes(2))


def random_points(count: int) -> bytes:
    return b"".join(sha256(b"%d" % number).digest()[:31] + b"\0" for number in range(count))


def test_slices_are_hashed_by_their_own_rows(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    for start, count in [(0, 20), (990, 10), (1000, 0)]:
        part = thousand.slice(start, count)
        alone = pa.array(part.to_pylist(), pa.large_binary())
        assert curve.hash_and_mask(part, TASK_SID, ALICE) == curve.hash_and_mask(alone, TASK_SID, ALICE)


def test_items_without_a_byte_of_data(backend: curve.Backend) -> None:
    """Arrow may then leave out the buffer of the data."""
    one = reference.hash_and_mask(items(b""), PREFIX, curve.DST, ALICE)
    bare = pa.array([b"", b"", b""], pa.large_binary())
    assert split(curve.hash_and_mask(bare, TASK_SID, ALICE)) == [one] * 3
    assert split(curve.hash_and_mask(bare.slice(2), TASK_SID, ALICE)) == [one]
    assert split(curve.keyed_hashes(bare, TASK_SID), 16) == keyed_hashes_oracle(TASK_SID, [b""]) * 3


# The backend in use ------------------------------------------------------------------------------------------


def test_backend_is_named(backend: curve.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert curve.BACKENDS[curve.backend()] is backend
    for variable in ("PSICLI_BACKEND", "PSICLI_NATIVE_PATH"):
        monkeypatch.setenv(variable, "")
    assert curve.backend() == next(iter(curve.BACKENDS))


def test_frames_suit_the_backend(backend: curve.Backend) -> None:
    small = {"reference": 2048, "native portable": 4096}
    assert curve.frame_items() == small.get(curve.backend(), 16_384)


@pytest.fixture
def two_paths(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two CPU paths, whatever this one has."""
    monkeypatch.setattr(curve, "BACKENDS", dict.fromkeys(["native avx2", "native portable", "reference"], reference))
    return monkeypatch


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("", "", "native avx2"),
        ("native", "", "native avx2"),
        ("native", "portable", "native portable"),
        ("", "portable", "native portable"),
        ("reference", "", "reference"),
        ("reference", "portable", "reference"),
    ],
)
def test_the_environment_chooses(two_paths: pytest.MonkeyPatch, kind: str, path: str, name: str) -> None:
    two_paths.setenv("PSICLI_BACKEND", kind)
    two_paths.setenv("PSICLI_NATIVE_PATH", path)
    assert curve.backend() == name


@pytest.mark.parametrize(
    ("variable", "value", "error", "sentence"),
    [
        ("PSICLI_BACKEND", "gpu\x1b[2J", UnknownBackendError, r"is 'gpu\\x1b\[2J', which .* native and reference"),
        ("PSICLI_BACKEND", "native avx2", UnknownBackendError, "there are native and reference"),
        ("PSICLI_NATIVE_PATH", "avx512", UnknownPathError, "is 'avx512', .*it runs avx2, portable"),
        ("PSICLI_NATIVE_PATH", "sse\x07", UnknownPathError, r"is 'sse\\x07', .*it runs avx2, portable"),
    ],
)
def test_what_this_machine_lacks_is_a_configuration_error(
    two_paths: pytest.MonkeyPatch, variable: str, value: str, error: type[PsicliError], sentence: str
) -> None:
    two_paths.delenv("PSICLI_BACKEND", raising=False)
    two_paths.setenv(variable, value)
    with pytest.raises(error, match=sentence) as caught:
        curve.backend()
    assert caught.value.code == 78


# Looking for mistakes of the machine or the compiler ----------------------------------------------------------


def test_self_test_passes(backend: curve.Backend) -> None:
    curve.self_test()
    for name in curve.BACKENDS:
        curve.self_test(name)


def put_in(kernel: object, patch: pytest.MonkeyPatch) -> None:
    """Make a kernel the backend in use, as `native broken`."""
    patch.setattr(curve, "BACKENDS", {"native broken": kernel, "reference": reference})
    for variable in ("PSICLI_BACKEND", "PSICLI_NATIVE_PATH"):
        patch.delenv(variable, raising=False)


class Turned:
    """A backend that hands out the RFC 9380 byte order, as some have."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reference, name)

    def hash_to_points(self, values: pa.LargeBinaryArray, prefix: bytes, dst: bytes) -> bytes:
        return b"".join(point[::-1] for point in split(reference.hash_to_points(values, prefix, dst)))

    def hash_and_mask(self, values: pa.LargeBinaryArray, prefix: bytes, dst: bytes, scalar: bytes) -> bytes:
        return reference.mask(memoryview(self.hash_to_points(values, prefix, dst)), scalar)[0]


def test_self_test_finds_a_wrong_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(Turned(), monkeypatch)
    with pytest.raises(SelfCheckError, match=r"native broken .*hash_and_mask, mask, tokens, probe") as caught:
        curve.self_test()
    assert caught.value.code == 70


class OneLaneWrong:
    """A right backend, but for one lane of 16 in one of its functions."""

    FRAME_ITEMS = 2048
    right: Any = next(iter(curve.BACKENDS.values()))

    def __init__(self, function: str, lane: int) -> None:
        self._function = function
        self._lane = slice(lane, None, 16)

    def _spoil(self, function: str, packed: bytes, size: int = 32) -> bytes:
        outputs = split(packed, size)
        if function == self._function:
            outputs[self._lane] = [bytes([output[0] ^ 1]) + output[1:] for output in outputs[self._lane]]
        return b"".join(outputs)

    def hash_to_points(self, *arguments: Any) -> bytes:
        return self._spoil("hash_to_points", self.right.hash_to_points(*arguments))

    def hash_and_mask(self, *arguments: Any) -> bytes:
        return self._spoil("hash_and_mask", self.right.hash_and_mask(*arguments))

    def keyed_hashes(self, *arguments: Any) -> bytes:
        return self._spoil("keyed_hashes", self.right.keyed_hashes(*arguments), 16)

    def mask(self, points: memoryview, scalar: bytes) -> tuple[bytes, list[int]]:
        products, bad = self.right.mask(points, scalar)
        if self._function == "bad points":
            bad = sorted(set(bad) - set(range(len(points) // 32)[self._lane]))
        return self._spoil("mask", products), bad

    def tokens(self, *arguments: Any) -> bytes:
        return self._spoil("tokens", self.right.tokens(*arguments), 16)

    def on_curve(self, points: memoryview) -> bool:
        looked_at = split(bytes(points))
        if self._function == "on_curve":
            looked_at[self._lane] = [u_bytes(9)] * len(looked_at[self._lane])
        return bool(self.right.on_curve(memoryview(b"".join(looked_at))))


@pytest.mark.parametrize("function", ["hash_and_mask", "keyed_hashes", "mask", "tokens", "bad points", "on_curve"])
def test_self_test_finds_one_wrong_lane(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    for lane in range(16):
        put_in(OneLaneWrong(function, lane), monkeypatch)
        with pytest.raises(SelfCheckError, match=f"wrong answer from .*{function}") as caught:
            curve.self_test()
        assert caught.value.code == 70


def call(function: str, values: pa.LargeBinaryArray, points: bytes) -> object:
    """Call one of the functions whose outputs are spot-checked."""
    calls: dict[str, Callable[[], object]] = {
        "hash_and_mask": lambda: curve.hash_and_mask(values, TASK_SID, ALICE),
        "keyed_hashes": lambda: curve.keyed_hashes(values, TASK_SID),
        "mask": lambda: curve.mask(points, ALICE),
        "bad points": lambda: curve.mask(bytes(len(points)), ALICE),
        "tokens": lambda: curve.tokens(points, TASK_SID),
    }
    return calls[function]()


SPOT_CHECKED = ["hash_and_mask", "keyed_hashes", "mask", "bad points", "tokens"]


@pytest.mark.parametrize("function", SPOT_CHECKED)
def test_the_spot_check_finds_a_wrong_output(
    monkeypatch: pytest.MonkeyPatch, thousand: pa.LargeBinaryArray, function: str
) -> None:
    """With a look at every output, so that each lane's is seen; the sentence tells nothing about it."""
    monkeypatch.setattr(curve, "SPOT_CHECK_RUN", 1)
    sentences = set()
    for lane in range(16):
        put_in(OneLaneWrong(function, lane), monkeypatch)
        call(function, thousand.slice(0, lane), random_points(lane))
        with pytest.raises(SelfCheckError) as caught:
            call(function, thousand.slice(0, lane + 1), random_points(lane + 1))
        assert caught.value.code == 70
        sentences.add(caught.value.message)
    assert len(sentences) == 1


@pytest.mark.parametrize("function", SPOT_CHECKED)
def test_the_spot_check_sees_one_output_in_so_many(
    monkeypatch: pytest.MonkeyPatch, thousand: pa.LargeBinaryArray, function: str
) -> None:
    """Of eight outputs one is looked at, in one call or in eight, and no index is safe from it."""
    assert curve.SPOT_CHECK_RUN == 65_536
    monkeypatch.setattr(curve, "SPOT_CHECK_RUN", 8)
    for lane, count in ((0, 1), (0, 8), (7, 8)):
        put_in(OneLaneWrong(function, lane), monkeypatch)
        found = 0
        for _ in range(200):
            try:
                call(function, thousand.slice(0, count), random_points(count))
            except SelfCheckError:
                found += 1
        # 25 are expected; outside of these bounds it is once in a thousand million tests.
        assert 2 <= found <= 60


def test_a_point_is_only_called_bad_when_the_reference_calls_it_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a fault of ours would be the peer's."""

    class Suspicious(OneLaneWrong):
        def mask(self, points: memoryview, scalar: bytes) -> tuple[bytes, list[int]]:
            products, bad = self.right.mask(points, scalar)
            return products, bad or [3]

    put_in(Suspicious("", 0), monkeypatch)
    points = random_points(5)
    with pytest.raises(SelfCheckError) as caught:
        curve.mask(points, ALICE)
    assert caught.value.code == 70
    assert curve.mask(bytes(32) + points, ALICE)[1] == [0]


def test_the_spot_check_passes_what_is_right(
    backend: curve.Backend, monkeypatch: pytest.MonkeyPatch, thousand: pa.LargeBinaryArray
) -> None:
    monkeypatch.setattr(curve, "SPOT_CHECK_RUN", 1)
    points = bytearray(random_points(20))
    points[:32] = bytes(32)
    assert curve.mask(points, BOB)[1] == [0]
    curve.hash_and_mask(thousand.slice(5, 20), TASK_SID, ALICE)
    curve.keyed_hashes(thousand.slice(5, 20), TASK_SID)
    curve.tokens(points, TASK_SID)
