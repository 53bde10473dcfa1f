from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psicli.spool import Records

u2 = st.integers(0, 3)
widths = pytest.mark.parametrize("width", [16, 32])


def spooled(width: int, records: list[bytes], chunk: int = 3) -> Records:
    """Append records a few at a time."""
    spool = Records(width)
    for start in range(0, len(records), chunk):
        spool.append(b"".join(records[start : start + chunk]))
    return spool


@st.composite
def record_lists(draw: st.DrawFn) -> tuple[int, list[bytes], list[bytes], int]:
    """Two lists over few values, so that they meet: records that differ in a single byte, anywhere."""
    width = draw(st.sampled_from([16, 32]))
    record = st.builds(
        lambda at, byte: bytes(at) + bytes([byte]) + bytes(width - at - 1), st.integers(0, width - 1), u2
    )
    one, other = draw(st.lists(record, max_size=20)), draw(st.lists(record, max_size=20))
    return width, one, other, draw(st.integers(1, 7))


@settings(max_examples=200, deadline=None)
@given(record_lists())
def test_answers_are_those_of_plain_sets(case: tuple[int, list[bytes], list[bytes], int]) -> None:
    width, one, other, chunk = case
    ours, theirs = spooled(width, one, chunk), spooled(width, other, chunk + 1)
    found = ours.found_in(theirs)
    assert found.dtype == np.bool_
    assert found.tolist() == [record in set(other) for record in one]
    assert ours.any_in(theirs) is bool(set(one) & set(other))
    assert ours.has_duplicates() is (len(set(one)) < len(one))


@widths
@pytest.mark.parametrize("at", [0, 7, 8, 15, -1])
def test_whole_records_are_compared(width: int, at: int) -> None:
    record = bytearray(range(width))
    other = bytearray(record)
    other[at] ^= 0x80
    one, two = spooled(width, [bytes(record)]), spooled(width, [bytes(other)])
    assert not one.any_in(two)
    assert not spooled(width, [bytes(record), bytes(other)]).has_duplicates()
    assert one.any_in(spooled(width, [bytes(other), bytes(record)], chunk=1))


@widths
def test_records_are_not_compared_across_their_bounds(width: int) -> None:
    """The same bytes, half a record further on."""
    data = bytes(range(2 * width))
    half = width // 2
    assert not spooled(width, [data[half : half + width]]).any_in(spooled(width, [data[:width], data[width:]]))


@widths
def test_nothing_at_all(width: int) -> None:
    empty, some = Records(width), spooled(width, [bytes(width)])
    assert not empty.has_duplicates()
    assert not empty.any_in(some)
    assert not some.any_in(empty)
    assert not empty.any_in(empty)
    assert empty.found_in(some).shape == (0,)
    assert some.found_in(empty).tolist() == [False]
    some.append(b"")
    assert some.found_in(some).tolist() == [True]


@widths
@pytest.mark.parametrize("where", [(0, 1), (0, 9_999), (4_095, 4_096), (9_998, 9_999)])
def test_one_pair_among_many_is_found(width: int, where: tuple[int, int]) -> None:
    records = [i.to_bytes(width, "big") for i in range(10_000)]
    assert not spooled(width, records, chunk=512).has_duplicates()
    records[where[1]] = records[where[0]]
    assert spooled(width, records, chunk=512).has_duplicates()
