"""Comparing lists of packed records: the answers are those of plain sets, whatever a peer makes up."""

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
    """Two lists over few values, so that they meet: records that differ in a single byte, anywhere."""
    width = draw(st.sampled_from([16, 32]))
    record = st.builds(
        lambda at, byte: bytes(at) + bytes([byte]) + bytes(width - at - 1), st.integers(0, width - 1), u2
    )
    return width, draw(st.lists(record, max_size=40)), draw(st.lists(record, max_size=40))


def check_against_sets(width: int, one: list[bytes], other: list[bytes]) -> None:
    """Where a list repeats a record, it must be told, and that the lists meet; else each common record is marked."""
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
    # Nobody has put the lists in another order meanwhile.
    assert (ours.tobytes(), theirs.tobytes()) == before


@settings(max_examples=200, deadline=None)
@given(case=record_lists())
def test_answers_are_those_of_plain_sets(case: tuple[int, list[bytes], list[bytes]]) -> None:
    check_against_sets(*case)


@widths
@pytest.mark.parametrize("common", [0, 1, 2500])
def test_long_lists_meet(width: int, common: int) -> None:
    generator = np.random.default_rng(width)
    both, one, other = ([generator.bytes(width) for _ in range(count)] for count in (common, 2500, 3000))
    check_against_sets(width, [*one, *both], [*both[::-1], *other])


@widths
@pytest.mark.parametrize("at", [0, 4, 6, 8, 13])
def test_records_that_are_made_up_to_look_alike(width: int, at: int) -> None:
    """All bytes but three are the same in all of them."""
    made_up = []
    for number in range(3000):
        record = bytearray(b"\x55" * width)
        record[at : at + 3] = number.to_bytes(3, "big")
        made_up.append(bytes(record))
    assert len(set(made_up)) == 3000
    check_against_sets(width, made_up[:2000], made_up[1000:])
    check_against_sets(width, [*made_up[:2000], made_up[0]], made_up[2000:])


@widths
def test_a_peer_that_repeats_a_point_or_a_first_word_does_not_hide_the_others(width: int) -> None:
    generator = np.random.default_rng(width)
    ours = [generator.bytes(width) for _ in range(50)]
    # Of each of ours one with the same first word, in many copies, and few that are really ours.
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
    """The same bytes, half a record further on."""
    data = bytes(range(2 * width))
    half = width // 2
    check_against_sets(width, [data[half : half + width]], [data[:width], data[width:]])


@widths
def test_nothing_at_all(width: int) -> None:
    for one, other in (([], []), ([], [bytes(width)]), ([bytes(width)], []), ([bytes(width)], [bytes(width)])):
        check_against_sets(width, one, other)


@widths
@pytest.mark.parametrize("where", [(0, 1), (0, 9_999), (4_095, 4_096), (9_998, 9_999)])
def test_one_pair_among_many_is_found(width: int, where: tuple[int, int]) -> None:
    made_up = [number.to_bytes(width, "big") for number in range(10_000)]
    check_against_sets(width, made_up, [])
    made_up[where[1]] = made_up[where[0]]
    check_against_sets(width, made_up, [])
    check_against_sets(width, [], made_up)


@widths
def test_many_equal_records(width: int) -> None:
    """Every neighbour is alike, and all are told apart from the few that are not."""
    distinct = [number.to_bytes(width, "little") for number in range(300)]
    check_against_sets(width, [*distinct, *[b"\x07" * width] * 3000], distinct[100:])
    check_against_sets(width, distinct, [b"\x07" * width] * 3000)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3).map(lambda n: n << 16 * n), max_size=50))
def test_the_order_of_words_is_stable(values: list[int]) -> None:
    words = np.array(values, np.uint64)
    assert records.stable_order(words).tolist() == sorted(range(len(values)), key=values.__getitem__)


@pytest.mark.parametrize("bits", [1, 16, 33, 48, 64])
def test_the_order_of_many_words_is_stable(bits: int) -> None:
    """Of random ones, and of such as differ in their lower or their upper bits alone."""
    words = np.random.default_rng(bits).integers(0, (1 << bits) - 1, 100_000, dtype=np.uint64, endpoint=True)
    for each in (words, words << np.uint64(64 - bits)):
        assert records.stable_order(each).tolist() == np.argsort(each, kind="stable").tolist()


def test_looking_for_repeated_records_compares_nothing_across_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer waits for that look: it must not take longer where much is common."""
    monkeypatch.setattr(records, "_equal", lambda *_: pytest.fail("records of the two lists are compared"))
    words = np.frombuffer(b"".join(number.to_bytes(16, "little") for number in range(1000)), "<u8").reshape(-1, 2)
    compared = records.Comparison(words, words[::-1])
    assert compared.repeats() == (False, False)
