"""Tests of comparing packed records: the results are those of plain sets, whatever a peer sends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psicli.items import records
from psicli.items.records import Words

u2 = st.integers(0, 3)
widths = pytest.mark.parametrize("width", [16, 32])


def packed(values: list[bytes], width: int) -> Words:
    words = records.empty(len(values), width)
    words[:] = np.frombuffer(b"".join(values), "<u8").reshape(-1, width // 8)
    return words


@st.composite
def record_lists(draw: st.DrawFn) -> tuple[int, list[bytes], list[bytes]]:
    """Draw two lists of records with at most one byte that is not zero, so that many are equal."""
    width = draw(st.sampled_from([16, 32]))
    record = st.builds(
        lambda at, byte: bytes(at) + bytes([byte]) + bytes(width - at - 1), st.integers(0, width - 1), u2
    )
    return width, draw(st.lists(record, max_size=40)), draw(st.lists(record, max_size=40))


def check_against_sets(width: int, one: list[bytes], other: list[bytes]) -> None:
    """Check that repeats are found, and that all common records are marked, or at least one if a list has repeats."""
    ours, theirs = packed(one, width), packed(other, width)
    before = ours.tobytes(), theirs.tobytes()
    sets = set(one), set(other)
    compared = records.Comparison(ours, theirs)
    assert compared.repeats() == (len(sets[0]) < len(one), len(sets[1]) < len(other))
    expected = [record in sets[1] for record in one], [record in sets[0] for record in other]
    found = compared.found(), compared.found(in_other=True)
    for mask, exact in zip(found, expected, strict=True):
        assert (mask.dtype, mask.shape) == (np.bool_, (len(exact),))
        if any(compared.repeats()):
            assert mask.any() == any(exact)
            assert not (mask & ~np.array(exact, np.bool_)).any()
        else:
            assert mask.tolist() == exact
    assert records.have_common(ours, theirs) is bool(sets[0] & sets[1])
    assert records.have_common(theirs, ours) is bool(sets[0] & sets[1])
    # The comparison must not have reordered the lists.
    assert (ours.tobytes(), theirs.tobytes()) == before


@settings(max_examples=200, deadline=None)
@given(case=record_lists())
def test_results_are_those_of_plain_sets(case: tuple[int, list[bytes], list[bytes]]) -> None:
    check_against_sets(*case)


@widths
@pytest.mark.parametrize("common", [0, 1, 2500])
def test_long_lists_with_common_records(width: int, common: int) -> None:
    generator = np.random.default_rng(width)
    both, one, other = ([generator.bytes(width) for _ in range(count)] for count in (common, 2500, 3000))
    check_against_sets(width, [*one, *both], [*both[::-1], *other])


@widths
@pytest.mark.parametrize("at", [0, 4, 6, 8, 13])
def test_records_that_are_constructed_to_look_alike(width: int, at: int) -> None:
    """The records differ only in three bytes."""
    constructed = []
    for number in range(3000):
        record = bytearray(b"\x55" * width)
        record[at : at + 3] = number.to_bytes(3, "big")
        constructed.append(bytes(record))
    assert len(set(constructed)) == 3000
    check_against_sets(width, constructed[:2000], constructed[1000:])
    check_against_sets(width, [*constructed[:2000], constructed[0]], constructed[2000:])


@widths
def test_repeated_first_words_hide_no_common_record(width: int) -> None:
    generator = np.random.default_rng(width)
    ours = [generator.bytes(width) for _ in range(50)]
    # The peer sends, for each of our records, many copies of another one with the same first word, and a few of ours.
    theirs = [record[:8] + bytes(width - 8) for record in ours for _ in range(20)] + ours[::7]
    check_against_sets(width, ours, theirs)
    check_against_sets(width, theirs, ours)


@widths
@pytest.mark.parametrize("at", [0, 3, 4, 7, 8, 15, -1])
def test_whole_records_are_compared(width: int, at: int) -> None:
    record = bytearray(range(width))
    other = bytearray(record)
    other[at] ^= 0x80
    one, two = bytes(record), bytes(other)
    check_against_sets(width, [one], [two])
    check_against_sets(width, [one, two], [])
    check_against_sets(width, [one], [two, one])


@widths
def test_records_are_not_compared_across_their_bounds(width: int) -> None:
    """The same bytes occur in the other list, but half a record further on."""
    data = bytes(range(2 * width))
    half = width // 2
    check_against_sets(width, [data[half : half + width]], [data[:width], data[width:]])


@widths
def test_empty_lists(width: int) -> None:
    for one, other in (([], []), ([], [bytes(width)]), ([bytes(width)], []), ([bytes(width)], [bytes(width)])):
        check_against_sets(width, one, other)


@widths
@pytest.mark.parametrize("where", [(0, 1), (0, 9_999), (4_095, 4_096), (9_998, 9_999)])
def test_one_pair_among_many_is_found(width: int, where: tuple[int, int]) -> None:
    constructed = [number.to_bytes(width, "big") for number in range(10_000)]
    check_against_sets(width, constructed, [])
    constructed[where[1]] = constructed[where[0]]
    check_against_sets(width, constructed, [])
    check_against_sets(width, [], constructed)


@widths
def test_many_equal_records(width: int) -> None:
    """Long runs of equal records do not hide the few others."""
    distinct = [number.to_bytes(width, "little") for number in range(300)]
    check_against_sets(width, [*distinct, *[b"\x07" * width] * 3000], distinct[100:])
    check_against_sets(width, distinct, [b"\x07" * width] * 3000)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3).map(lambda n: n << 16 * n), max_size=50))
def test_the_order_of_words_is_stable(values: list[int]) -> None:
    words = np.array(values, np.uint64)
    assert records.stable_order(words).tolist() == sorted(range(len(values)), key=values.__getitem__)


@pytest.mark.parametrize("bits", [1, 16, 33, 48, 64])
def test_the_order_of_many_words_is_stable(bits: int) -> None:
    """Some of the words differ only in their lower bits, others only in their upper bits."""
    words = np.random.default_rng(bits).integers(0, (1 << bits) - 1, 100_000, dtype=np.uint64, endpoint=True)
    for each in (words, words << np.uint64(64 - bits)):
        assert records.stable_order(each).tolist() == np.argsort(each, kind="stable").tolist()


def test_repeats_compares_nothing_across_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer waits for this check, so it must not take longer if more records are common."""
    monkeypatch.setattr(records, "_equal", lambda *_: pytest.fail("records of the two lists are compared"))
    words = np.frombuffer(b"".join(number.to_bytes(16, "little") for number in range(1000)), "<u8").reshape(-1, 2)
    compared = records.Comparison(words, words[::-1])
    assert compared.repeats() == (False, False)


def test_records_that_look_alike_compare_nothing_across_the_lists_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender makes the receiver's tokens, and might make each second one look like a token that it asks about."""
    equal, rows = records._equal, []

    def counted(one: records.Words, other: records.Words) -> records.Mask:
        rows.append(len(one))
        return equal(one, other)

    monkeypatch.setattr(records, "_equal", counted)
    ours = np.arange(2000, dtype=np.uint64).reshape(-1, 2)
    tied = np.concatenate([ours, ours + np.array([0, 1], np.uint64)])
    counts = []
    for theirs in (ours, ours + np.uint64(10_000)):
        compared = records.Comparison(tied, theirs)
        assert compared.repeats() == (False, False)
        counts.append(sum(rows))
        rows.clear()
    assert counts[0] == counts[1] > 0


@pytest.fixture(params=["in C", "with numpy"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "with numpy":
        monkeypatch.setattr(records, "native", None)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("bits", [1, 16, 33, 64])
def test_both_ways_of_sorting_agree(bits: int) -> None:
    generator = np.random.default_rng(bits)
    high = generator.integers(0, (1 << bits) - 1, (30_000, 2), dtype=np.uint64, endpoint=True)
    for lists in (high, high << np.uint64(64 - bits), high[::-1]):
        order, words = records.in_order(lists)
        assert order.tolist() == np.argsort(lists[:, 0], kind="stable").tolist()
        assert words.tolist() == sorted(lists[:, 0].tolist())


@pytest.mark.usefixtures("kernel")
def test_both_ways_of_looking_for_common_records_agree() -> None:
    check_against_sets(16, [number.to_bytes(16, "little") for number in range(3000)], [bytes(16)])
    check_against_sets(32, [number.to_bytes(32, "little") for number in range(1, 3000)], [bytes(32)])
