"""Tests of what the curve refuses, of packed data, and of calls divided among threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel import backends
from support.kernel.points import LOW_ORDER
from support.kernel.samples import (
    ALICE,
    BOB,
    PREFIX,
    TASK_SID,
    P,
    item,
    items,
    keyed_hashes_oracle,
    random_points,
    split,
    u_bytes,
)

from psicli import curve
from psicli.core.errors import InternalError, SelfCheckError
from psicli.curve import reference

# Arguments that must be refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point",
    [bytes.fromhex(point) for point in LOW_ORDER]
    + [u_bytes(P), u_bytes(P + 9), u_bytes(2**255 - 1), u_bytes(9 + 2**255), b"\xff" * 32],
    ids=lambda point: point.hex()[:4] + "-" + point.hex()[-2:],
)
def test_mask_refuses_bad_points(backend: curve.Backend, point: bytes) -> None:
    assert curve.mask(point, ALICE) == (bytes(32), [0])


def test_the_largest_canonical_point_is_accepted(backend: curve.Backend) -> None:
    assert curve.mask(u_bytes(P - 2), ALICE)[1] == []


def test_bad_points_do_not_affect_other_points(backend: curve.Backend) -> None:
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


def test_on_curve_refuses_points_that_are_not_canonical(backend: curve.Backend) -> None:
    assert curve.on_curve(u_bytes(9))
    for u in (P + 9, 9 + 2**255):
        assert not curve.on_curve(u_bytes(u))


def test_reversed_bytes_are_detected(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    """RFC 9380 is big-endian and RFC 7748 little-endian; in the wrong order, half of the points are on the twist."""
    hashed = backend.hash_to_points(thousand.slice(0, 64), PREFIX, curve.DST)
    wrong = b"".join(point[::-1] for point in split(hashed))
    assert not curve.on_curve(wrong)
    assert sum(curve.on_curve(point) for point in split(wrong)) < 60


@pytest.mark.parametrize("fields", [[5, 5], [5, P - 5]])
def test_exceptional_cases_are_found(monkeypatch: pytest.MonkeyPatch, fields: list[int]) -> None:
    """No known message leads to these cases, so the test sets field elements that map to the same point."""
    monkeypatch.setattr(reference, "hash_to_field", lambda msg, dst, count: fields)
    backends.use("reference", monkeypatch)
    with pytest.raises(SelfCheckError) as caught:
        curve.hash_and_mask(items(b"secret item"), TASK_SID, ALICE)
    assert caught.value.code == 70
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", backends.NATIVE, ids=backends.label)
def test_exceptional_cases_in_the_extension_are_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The extension raises an ArithmeticError, which no known message causes."""
    from psicli.curve import native

    def exceptional(*arguments: object) -> bytes:
        raise ArithmeticError("secret item")

    backends.use(name, monkeypatch)
    monkeypatch.setattr(native._native, "hash_and_mask", exceptional)
    with pytest.raises(SelfCheckError, match=f"the {name} backend .* exceptional case") as caught:
        curve.hash_and_mask(items(b"secret item"), TASK_SID, ALICE)
    assert caught.value.code == 70
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", backends.NATIVE, ids=backends.label)
def test_items_of_another_type_are_an_internal_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    backends.use(name, monkeypatch)
    for values in (pa.array(["a"]), pa.array([1]), pa.array([b"abc"], pa.binary(3)), pa.array([b"abc"])):
        with pytest.raises(InternalError):
            curve.hash_and_mask(values, TASK_SID, ALICE)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_wrong_lengths_are_an_internal_error(backend: curve.Backend, size: int) -> None:
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


def test_part_of_a_point_is_an_internal_error(backend: curve.Backend) -> None:
    for call in (
        lambda points: curve.mask(points, ALICE),
        lambda points: curve.tokens(points, TASK_SID),
        curve.on_curve,
    ):
        with pytest.raises(InternalError):
            call(bytes(33))


def test_a_null_item_is_an_internal_error(backend: curve.Backend) -> None:
    with pytest.raises(InternalError):
        curve.hash_and_mask(pa.array([b"a", None], pa.large_binary()), TASK_SID, ALICE)
    with pytest.raises(InternalError):
        curve.keyed_hashes(pa.array([b"a", None], pa.large_binary()), TASK_SID)


@pytest.mark.parametrize(("prefix_size", "size"), [(129, 16), (32, 0), (32, -1), (32, 33)])
def test_digests_of_a_wrong_size_are_an_internal_error(backend: curve.Backend, prefix_size: int, size: int) -> None:
    with pytest.raises(InternalError):
        curve.digests(items(b"item"), bytes(prefix_size), size)


# Packed data --------------------------------------------------------------------------------------------------------


def test_empty_input_gives_empty_output(backend: curve.Backend) -> None:
    assert curve.hash_and_mask(items(), TASK_SID, ALICE) == b""
    assert curve.keyed_hashes(items(), TASK_SID) == b""
    assert curve.mask(b"", ALICE) == (b"", [])
    assert curve.tokens(b"", TASK_SID) == b""


def test_a_slice_is_computed_from_its_own_items(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    whole = curve.hash_and_mask(thousand.slice(0, 41), TASK_SID, ALICE)
    for start, stop in [(0, 1), (3, 20), (20, 41), (7, 7)]:
        part = curve.hash_and_mask(thousand.slice(start, stop - start), TASK_SID, ALICE)
        assert part == whole[32 * start : 32 * stop]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, pa.py_buffer])
def test_any_buffer_is_accepted(backend: curve.Backend, kind: Any) -> None:
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
        # Every backend returns the same bytes as the reference.
        assert ours == reference.hash_and_mask(items(*values), task_sid + b"\x01", curve.DST, scalars[0])


def test_another_task_has_other_points_and_tokens(backend: curve.Backend) -> None:
    one, other = TASK_SID, bytes(32)
    assert curve.hash_and_mask(items(b"a"), one, ALICE) != curve.hash_and_mask(items(b"a"), other, ALICE)
    assert curve.tokens(u_bytes(9), one) != curve.tokens(u_bytes(9), other)
    assert curve.probe(one) != curve.probe(other)


# Threads ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_threads() -> Iterator[Callable[[int], None]]:
    """A function that sets the number of threads; the default is restored after the test."""
    yield curve.set_threads
    curve.set_threads(None)


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", backends.NATIVE, ids=backends.label)
@pytest.mark.parametrize("count", [511, 512, 513, 1025, 1500])
def test_the_number_of_threads_does_not_change_results(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    in_threads: Callable[[int], None],
    thousand: pa.LargeBinaryArray,
    count: int,
) -> None:
    backends.use(name, monkeypatch)
    # The offsets of a slice start above zero. Bad points are at the ends and where two parts may meet.
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


def test_slices_give_the_same_results_as_copies(backend: curve.Backend, thousand: pa.LargeBinaryArray) -> None:
    for start, count in [(0, 20), (990, 10), (1000, 0)]:
        part = thousand.slice(start, count)
        alone = pa.array(part.to_pylist(), pa.large_binary())
        assert curve.hash_and_mask(part, TASK_SID, ALICE) == curve.hash_and_mask(alone, TASK_SID, ALICE)


def test_items_without_data(backend: curve.Backend) -> None:
    """Arrow may omit the data buffer if all items are empty."""
    one = reference.hash_and_mask(items(b""), PREFIX, curve.DST, ALICE)
    bare = pa.array([b"", b"", b""], pa.large_binary())
    assert split(curve.hash_and_mask(bare, TASK_SID, ALICE)) == [one] * 3
    assert split(curve.hash_and_mask(bare.slice(2), TASK_SID, ALICE)) == [one]
    assert split(curve.keyed_hashes(bare, TASK_SID), 16) == keyed_hashes_oracle(TASK_SID, [b""]) * 3
