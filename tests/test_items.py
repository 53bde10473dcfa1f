from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psicli import curve, items
from psicli.errors import (
    ControlCharacterError,
    InternalError,
    KeyTypeError,
    LongKeyError,
    MixedZonesError,
    SpoolSpaceError,
    YearRangeError,
)
from psicli.spool import Spool

TEXT = pa.large_string()


def text(column: Any) -> Any:
    result = items.canonical_text(column, path="in.parquet", name="id")
    assert result.type == TEXT
    return result.to_pylist()


# Canonical text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_strings_stay_as_they_are(kind: pa.DataType) -> None:
    values = ["007", " a ", "É", "É", "", None, "ß", "😀"]
    assert text(pa.array(values, kind)) == values
    assert text(pa.chunked_array([pa.array(values, kind), pa.array([], kind), pa.array(["z"], kind)])) == [*values, "z"]


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_integers_are_plain_whatever_their_width(bits: int) -> None:
    signed = [-(2 ** (bits - 1)), -7, 0, 7, 2 ** (bits - 1) - 1]
    unsigned = [0, 7, 2**bits - 1]
    assert text(pa.array([*signed, None], f"int{bits}")) == [*map(str, signed), None]
    assert text(pa.array([*unsigned, None], f"uint{bits}")) == [*map(str, unsigned), None]


def test_booleans_and_nulls() -> None:
    assert text(pa.array([True, False, None])) == ["true", "false", None]
    assert text(pa.array([None, None], pa.null())) == [None, None]
    assert text(pa.chunked_array([], pa.int64())) == []


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_are_iso_8601(kind: pa.DataType) -> None:
    values = [date(1970, 1, 1), date(1969, 12, 31), date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29), None]
    assert text(pa.array(values, kind)) == [value and value.isoformat() for value in values]


def timestamp_oracle(value: int, unit: str, zone: str | None) -> str:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds, rest = divmod(value, per_second)
    moment = pd.Timestamp(seconds, unit="s")
    digits = str(rest).rjust(len(str(per_second)) - 1, "0").rstrip("0")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{digits}" if rest else "") + ("Z" if zone else "")


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_are_iso_8601_in_utc(unit: str, zone: str | None) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [
        0,
        1,
        -1,
        10,
        1500,
        -1500,
        1_000_000,
        1_000_100,
        -(10**9),
        1_719_792_000 * per_second,
        1200 * per_second + 1,
    ]
    array = pa.array([*values, None], pa.int64()).cast(pa.timestamp(unit, zone))
    assert text(array) == [*(timestamp_oracle(value, unit, zone) for value in values), None]


def test_a_timestamp_says_the_same_in_every_unit() -> None:
    seconds = pa.array([1_719_792_000, -100], pa.int64()).cast(pa.timestamp("s", "Europe/Paris"))
    expected = ["2024-07-01T00:00:00Z", "1969-12-31T23:58:20Z"]
    for unit in ("s", "ms", "us", "ns"):
        assert text(seconds.cast(pa.timestamp(unit, "Asia/Tokyo"))) == expected


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.date32()])
def test_years_beyond_four_digits_are_refused(kind: pa.DataType) -> None:
    scale = {"timestamp[s]": 86400, "timestamp[us, tz=UTC]": 86400 * 10**6, "date32[day]": 1}[str(kind)]
    integer = pa.int32() if kind == pa.date32() else pa.int64()
    last, first = 2_932_896, -719_528
    good = pa.array([first * scale, last * scale], integer).cast(kind)
    assert [value[:4] for value in text(good)] == ["0000", "9999"]
    for bad in (first * scale - 1, (last + 1) * scale):
        column = pa.chunked_array([good, pa.array([None, bad], integer).cast(kind)])
        with pytest.raises(YearRangeError, match=r"in.parquet, row 4") as caught:
            text(column)
        assert caught.value.code == 65


def decimal_oracle(value: Decimal) -> str:
    plain = format(value, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain in ("-0", "") else plain


@given(
    st.lists(st.integers(-(10**27), 10**27) | st.integers(-20000, 20000), min_size=1, max_size=9),
    st.integers(-10, 37),
)
def test_decimals_are_plain_without_trailing_zeros(coefficients: list[int], scale: int) -> None:
    values = [Decimal((0 if c >= 0 else 1, tuple(map(int, str(abs(c)))), -scale)) for c in coefficients]
    expected = [*(decimal_oracle(value) for value in values), None]
    for kind in (pa.decimal128(38, scale), pa.decimal256(76, scale)):
        assert text(pa.array([*values, None], kind)) == expected


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("1E-10", pa.decimal128(38, 10), "0.0000000001"),
        ("-0.00", pa.decimal128(5, 2), "0"),
        ("-0.50", pa.decimal128(5, 2), "-0.5"),
        ("100.00", pa.decimal128(5, 2), "100"),
        ("1E+4", pa.decimal128(5, -2), "10000"),
        ("0", pa.decimal128(5, -2), "0"),
        ("-1E-76", pa.decimal256(76, 76), "-0." + "0" * 75 + "1"),
        ("9" * 76, pa.decimal256(76, 0), "9" * 76),
        ("-7", pa.decimal128(38, 0), "-7"),
    ],
)
def test_decimals_at_the_edges(value: str, kind: pa.DataType, expected: str) -> None:
    assert text(pa.array([Decimal(value)], kind)) == [expected]


@pytest.mark.skipif(not hasattr(pa, "decimal32"), reason="this pyarrow has no small decimals")
def test_small_decimals() -> None:
    for kind in (pa.decimal32(6, 3), pa.decimal64(12, 3)):
        assert text(pa.array([Decimal("1.250"), Decimal("-7.000"), None], kind)) == ["1.25", "-7", None]


def test_dictionaries_are_decoded_chunk_by_chunk() -> None:
    one = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 2], pa.int8()), pa.array(["a", "b", None]))
    two = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array(["c"]))
    assert text(pa.chunked_array([one, two])) == ["b", None, "a", None, "c", "c"]
    numbers = pa.array([70, None, 70], pa.int32()).dictionary_encode()
    assert text(numbers) == ["70", None, "70"]
    assert text(numbers.slice(1)) == [None, "70"]


def test_sliced_columns() -> None:
    for column in (
        pa.array(["a", "b", "c"]),
        pa.array([1, 2, 3]),
        pa.array([Decimal("1.5"), Decimal("2.5"), Decimal("3.5")]),
        pa.array([1, 2, 3], pa.int64()).cast(pa.timestamp("us", "UTC")),
    ):
        assert text(column.slice(1, 1)) == text(column)[1:2]


REFUSED = [
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.binary(),
    pa.large_binary(),
    pa.binary(4),
    pa.time32("s"),
    pa.time64("us"),
    pa.duration("s"),
    pa.list_(pa.string()),
    pa.struct([("a", pa.string())]),
    pa.map_(pa.string(), pa.string()),
    pa.dictionary(pa.int32(), pa.float64()),
]


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_types_without_a_text_are_refused_with_the_advice_to_cast(kind: pa.DataType) -> None:
    with pytest.raises(KeyTypeError) as caught:
        text(pa.array([None], kind) if not pa.types.is_dictionary(kind) else pa.array([1.0]).dictionary_encode())
    assert caught.value.code == 65
    assert "'id'" in caught.value.message
    assert "Cast" in caught.value.advice
    with pytest.raises(KeyTypeError):
        items.check_key_types([("good", pa.string()), ("id", kind)], path="in.parquet")


def test_zoned_and_zoneless_timestamps_do_not_mix() -> None:
    zoned, zoneless = pa.timestamp("us", "UTC"), pa.timestamp("ns")
    items.check_key_types([("a", zoned), ("b", pa.timestamp("s", "Asia/Tokyo")), ("c", pa.string())], path="p")
    items.check_key_types([("a", zoneless), ("b", pa.date32())], path="p")
    for other in (zoneless, pa.dictionary(pa.int32(), zoneless)):
        with pytest.raises(MixedZonesError, match=r"'a'.*'c'") as caught:
            items.check_key_types([("a", zoned), ("b", pa.int8()), ("c", other)], path="p")
        assert caught.value.code == 65


# Bad values --------------------------------------------------------------------------------------------------


def check(values: list[str | None]) -> None:
    items.check_keys(
        [pa.array(["fine"] * len(values), TEXT), pa.array(values, TEXT)], ["a", "b"], lambda row: f"<{row}>"
    )


@pytest.mark.parametrize("code", [*range(0x20), 0x7F])
def test_control_characters_are_refused_with_their_place(code: int) -> None:
    with pytest.raises(ControlCharacterError, match=r"^<2>: the key column 'b'") as caught:
        check(["ok", None, f"a{chr(code)}b", "x\x00"])
    assert caught.value.code == 65
    assert "a" + chr(code) not in caught.value.message


def test_other_characters_are_not() -> None:
    check([" ", "~", "\x80", "\x9f", "\u00a0", "\u2028", "é", "😀", "", None])


def test_bytes_behind_a_null_are_nobodys_value() -> None:
    data, offsets = pa.py_buffer(b"a\nb"), pa.py_buffer(np.array([0, 1, 2, 3], np.int64))
    hidden = pa.Array.from_buffers(TEXT, 3, [pa.py_buffer(b"\x05"), offsets, data])
    assert hidden.to_pylist() == ["a", None, "b"]
    items.check_keys([hidden], ["id"], str)


def test_the_limit_of_a_key_is_64_kib_of_utf_8() -> None:
    check(["x" * 65536, "é" * 32768, None])
    for value in ("x" * 65537, "é" * 32768 + "x"):
        with pytest.raises(LongKeyError, match=r"^<1>: the key column 'b'"):
            check(["ok", value])


def test_slices_are_checked_by_their_own_rows() -> None:
    column = pa.array(["\n", "ok", "bad\r", "ok"], TEXT)
    items.check_keys([column.slice(1, 1)], ["id"], str)
    with pytest.raises(ControlCharacterError, match=r"^1:"):
        items.check_keys([column.slice(1)], ["id"], str)


# Item bytes ------------------------------------------------------------------------------------------------------


def item_oracle(row: tuple[str | None, ...]) -> bytes | None:
    if not all(row):
        return None
    return bytes([len(row)]) + b"".join(struct.pack(">I", len(v.encode())) + v.encode() for v in row if v)


def encode(rows: Sequence[tuple[str | None, ...]]) -> Any:
    encoded = items.encode_items([pa.array(column, TEXT) for column in zip(*rows, strict=True)])
    assert encoded.type == pa.large_binary()
    return encoded.to_pylist()


WIDTHS = st.integers(1, 4)
VALUES = st.none() | st.text(max_size=12)


@given(WIDTHS.flatmap(lambda width: st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=12)))
def test_items_follow_the_rule(rows: list[tuple[str | None, ...]]) -> None:
    assert encode(rows) == [item_oracle(row) for row in rows]


def test_the_boundary_between_columns_counts() -> None:
    one, two = encode([("a,b", "c"), ("a", "b,c")])
    assert one == b"\x02\x00\x00\x00\x03a,b\x00\x00\x00\x01c"
    assert two == b"\x02\x00\x00\x00\x01a\x00\x00\x00\x03b,c"


def test_lengths_above_one_byte_and_255_columns() -> None:
    assert encode([("é" * 40000,)]) == [b"\x01\x00\x01\x38\x80" + ("é" * 40000).encode()]
    wide = tuple("abcde"[i % 5] for i in range(255))
    assert encode([wide]) == [item_oracle(wide)]


def test_null_or_empty_in_any_column_is_matchless() -> None:
    rows = [("a", "b"), ("", "b"), ("a", ""), (None, "b"), ("a", None), ("", None), ("c", "d")]
    assert [item is None for item in encode(rows)] == [False, True, True, True, True, True, False]


def test_slices_and_no_rows_encode() -> None:
    column = pa.array(["a", "b", None, "c"], TEXT).slice(1)
    assert items.encode_items([column]).to_pylist() == [item_oracle(("b",)), None, item_oracle(("c",))]
    assert items.encode_items([pa.array([], TEXT)]).to_pylist() == []


# Secret order ----------------------------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool.open(tmp_path / "state") as spool:
        yield spool


def secret(number: int) -> bytes:
    return number.to_bytes(32, "big")


def encoded(values: Sequence[str | None]) -> Any:
    return items.encode_items([pa.array(values, TEXT)])


def in_order(rows: Any, key: bytes, *, spool: Spool | None = None, budget: int | None = None, chunk: int = 0) -> Any:
    """Sort rows, given a chunk at a time."""
    sorter = items.ItemSorter(key, len(rows), rows.nbytes, spool, budget)
    for start in range(0, len(rows), chunk or max(len(rows), 1)):
        sorter.add(rows.slice(start, chunk or None))
    return sorter.finish()


def all_of(ordered: Any) -> list[bytes]:
    result = ordered.slice(0, len(ordered))
    assert result.type == pa.large_binary()
    assert result.null_count == 0
    return result.to_pylist()


def places(ordered: Any) -> list[int | None]:
    """Return for each row the place of its item in the order, learned by matching the items one by one."""
    found: list[int | None] = [None] * ordered.rows
    for place in range(len(ordered)):
        for row in ordered.row_mask(np.arange(len(ordered)) == place).nonzero()[0]:
            assert found[row] is None
            found[row] = place
    return found


def order_oracle(rows: list[bytes | None], key: bytes) -> list[bytes]:
    return sorted({row for row in rows if row is not None}, key=lambda item: sha256(key + item).digest()[:16])


def check_order(ordered: Any, rows: list[bytes | None], key: bytes, step: int) -> None:
    expected = order_oracle(rows, key)
    assert (len(ordered), ordered.rows, ordered.matchless) == (len(expected), len(rows), rows.count(None))
    sliced = [item for start in range(0, len(expected), step) for item in ordered.slice(start, step).to_pylist()]
    assert sliced == all_of(ordered) == expected
    for matched in ({*expected[::3]}, set(), {*expected}):
        mask = ordered.row_mask(np.array([item in matched for item in expected], np.bool_))
        assert mask.dtype == np.bool_
        assert mask.tolist() == [row in matched for row in rows]


# On disk from the first chunk on, or from where it does not fit any more.
BUDGETS = st.none() | st.sampled_from([0, 100, 1000, 5000, 20_000])


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.none() | st.integers(0, 40).map(lambda n: b"item-%d" % n * (n % 4)), max_size=60),
    number=st.integers(0, 3), budget=BUDGETS, chunk=st.integers(1, 70), step=st.integers(1, 70),
)  # fmt: skip
def test_the_order_is_that_of_the_order_keys_whatever_the_budget(
    spool: Spool, rows: list[bytes | None], number: int, budget: int | None, chunk: int, step: int
) -> None:
    """Equal items are one, and all their rows come with it; chunks, buckets and runs show in nothing."""
    array = pa.array(rows, pa.large_binary())
    ordered = in_order(array, secret(number), spool=spool, budget=budget, chunk=chunk)
    check_order(ordered, rows, secret(number), step)
    ordered.close()


@pytest.mark.parametrize("budget", [None, 100_000, 1_000_000])
def test_many_rows(spool: Spool, budget: int | None) -> None:
    """Some items in one row, some in many of each run, one in half of all; long ones and short ones."""
    values = [None if n % 97 == 0 else b"often" if n % 2 else b"%d" % (n % 5000) * (1 + n % 7) for n in range(20_000)]
    values[777] = b"x" * 100_000
    ordered = in_order(pa.array(values, pa.large_binary()), secret(3), spool=spool, budget=budget, chunk=1500)
    assert (spool.peak > 0) is (budget is not None)
    check_order(ordered, values, secret(3), 700)


def test_slices_may_be_asked_for_in_any_order_and_by_several_threads(spool: Spool) -> None:
    rows = encoded([str(number) for number in range(5000)])
    ordered = in_order(rows, secret(1), spool=spool, budget=50_000, chunk=500)
    expected = order_oracle(rows.to_pylist(), secret(1))
    starts = [*range(0, 5000, 64), *range(4992, -1, -64), 0, 4999, 2500]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: ordered.slice(start, 64).to_pylist(), starts))
    assert found == [expected[start : start + 64] for start in starts]
    assert ordered.slice(5000, 10).to_pylist() == ordered.slice(7, 0).to_pylist() == []


@pytest.mark.parametrize("budget", [None, 0])
def test_slices_of_an_array_and_bytes_behind_nulls(spool: Spool, budget: int | None) -> None:
    data, offsets = pa.py_buffer(b"aabbaaXYbb"), pa.py_buffer(np.array([0, 2, 4, 6, 8, 10], np.int64))
    rows = pa.Array.from_buffers(pa.large_binary(), 5, [pa.py_buffer(b"\x17"), offsets, data])
    assert rows.to_pylist() == [b"aa", b"bb", b"aa", None, b"bb"]
    for start in range(5):
        part = rows.slice(start)
        ordered = in_order(part, secret(1), spool=spool, budget=budget)
        check_order(ordered, part.to_pylist(), secret(1), 1)


@pytest.mark.parametrize("budget", [None, 0])
def test_rows_that_are_all_matchless_and_none_at_all(spool: Spool, budget: int | None) -> None:
    for rows in ([], [None], [None, None, None]):
        ordered = in_order(pa.array(rows, pa.large_binary()), secret(1), spool=spool, budget=budget, chunk=2)
        check_order(ordered, rows, secret(1), 1)


def test_keys_that_share_their_first_half(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 2^32 items to see that happen, so the kernel's keys are cut down by hand."""

    def cut_down(values: Any, key: bytes) -> bytes:
        digests = (sha256(key + value).digest() for value in values.to_pylist())
        return b"".join(digest[:1] + bytes(7) + digest[1:2] + bytes(7) for digest in digests)

    monkeypatch.setattr(curve, "order_keys", cut_down)
    rows = [b"%d" % (number % 400) for number in range(700)]
    keys = {row: cut_down(pa.array([row]), secret(1)) for row in rows}
    # Of items with equal keys one stands for all.
    for budget in (None, 3000):
        ordered = in_order(pa.array(rows, pa.large_binary()), secret(1), spool=spool, budget=budget, chunk=100)
        found = [keys[item] for item in all_of(ordered)]
        assert found == sorted(set(keys.values()))
        assert len({key[:8] for key in found}) < len(found)


def test_duplicates_change_nothing() -> None:
    once = [str(number) for number in range(200)]
    many = [value for value in once for _ in range(20)]
    assert all_of(in_order(encoded(once), secret(5))) == all_of(in_order(encoded(many), secret(5)))


def test_orders_are_unrelated_to_each_other_the_file_and_the_keys(spool: Spool) -> None:
    count = 20_000
    keys = [f"{number * 7919 % count:05}" for number in range(count)]
    rows = encoded(keys)
    numbers = {row: number for number, row in enumerate(rows.to_pylist())}
    one, two, three = (
        np.argsort([numbers[item] for item in all_of(in_order(rows, secret(number), spool=spool, budget=budget))])
        for number, budget in ((1, None), (2, None), (3, 200_000))
    )
    for ours, other in ((one, two), (one, three), *((each, np.arange(count)) for each in (one, two, three)),
                        *((each, np.argsort(np.argsort(keys))) for each in (one, two, three))):  # fmt: skip
        # 0.03 is more than four standard deviations; the secrets are fixed.
        assert abs(np.corrcoef(ours, other)[0, 1]) < 0.03
        assert (ours == other).sum() < 10


def test_every_order_is_as_likely_as_any_other() -> None:
    rows = encoded(["a", "b", "c", "d"])
    trials = 4800
    orders = Counter(tuple(all_of(in_order(rows, secret(n)))) for n in range(trials))
    assert len(orders) == 24
    expected = trials / 24
    # Chi-squared with 23 degrees of freedom exceeds 50 once in a thousand; the secrets are fixed.
    assert sum((found - expected) ** 2 / expected for found in orders.values()) < 50


def test_rows_lead_to_their_items() -> None:
    rows = encoded(["a", "b", "", "a", None, "c", "b", "a"])
    ordered = in_order(rows, secret(1))
    found, order = places(ordered), all_of(ordered)
    assert [None if place is None else order[place] for place in found] == rows.to_pylist()
    assert ordered.matchless == 2


def test_the_disk_is_used_from_where_the_budget_ends(spool: Spool) -> None:
    """Not before, whatever was expected."""
    rows = encoded([f"{number:08}" for number in range(1000)])
    for expected, budget, spooled in ((0, 150_000, False), (10**5, 150_000, False), (0, 100_000, True)):
        sorter = items.ItemSorter(secret(1), expected, 0, spool, budget)
        sorter.add(rows.slice(0, 250))
        sorter.add(rows.slice(250))
        before, spool.peak = spool.peak, 0
        assert (before > 0) is spooled
        assert len(sorter.finish()) == 1000


def test_an_input_longer_than_expected_is_sorted_all_the_same(spool: Spool) -> None:
    rows = encoded([f"{number % 3000:08}" for number in range(9000)])
    sorter = items.ItemSorter(secret(1), 10, 100, spool, 10_000)
    for start in range(0, 9000, 1000):
        sorter.add(rows.slice(start, 1000))
    check_order(sorter.finish(), rows.to_pylist(), secret(1), 500)


def test_no_room_for_the_items(spool: Spool, tmp_path: Path) -> None:
    """The estimate is told before anything is written, and no item is."""
    sorter = items.ItemSorter(secret(1), 10**15, 10**17, spool, 100)
    with pytest.raises(SpoolSpaceError, match=r"1240000\d\d\.\d GB more would be needed") as caught:
        sorter.add(encoded(["very-secret-item"] * 2))
    assert caught.value.code == 74
    assert "very" not in caught.value.message + caught.value.advice
    sorter.close()
    with pytest.raises(InternalError):
        in_order(encoded(["very-secret-item"]), secret(1), budget=0)


def test_closing_gives_space_back(spool: Spool, tmp_path: Path) -> None:
    rows = encoded([f"{number:08}" for number in range(1000)])
    sorter = items.ItemSorter(secret(1), 1000, 13_000, spool, 1000)
    sorter.add(rows)
    sorter.close()
    for budget in (None, 1000):
        ordered = in_order(rows, secret(1), spool=spool, budget=budget)
        ordered.close()
        ordered.close()
    assert [path.name for path in (tmp_path / "state").glob("run-*/*")] == ["lock"]


MEASURE = """
    import ctypes
    import sys
    from pathlib import Path
    import numpy as np
    import pyarrow as pa
    from psicli.items import ItemSorter
    from psicli.spool import Spool

    # glibc keeps what is freed, a little or a lot of it; mapped piece by piece (M_MMAP_THRESHOLD) it goes at once.
    ctypes.CDLL(None).mallopt(-3, 1 << 20)
    pa.set_memory_pool(pa.system_memory_pool())

    def peak():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def rows(start, stop):
        data = np.zeros((stop - start, 25), np.uint8)
        data[:, :8] = (np.arange(start, stop) % DISTINCT).view(np.uint8).reshape(-1, 8)
        offsets = np.arange(stop - start + 1) * 25
        return pa.Array.from_buffers(pa.large_binary(), stop - start, [None, pa.py_buffer(offsets), pa.py_buffer(data)])

    def sort(count, budget):
        sorter = ItemSorter(bytes(32), count, 25 * count, spool, budget)
        for start in range(0, count, 16_384):
            sorter.add(rows(start, min(start + 16_384, count)))
        ordered = sorter.finish()
        assert len(ordered) == min(count, DISTINCT)
        for start in range(0, len(ordered), 16_384):
            ordered.slice(start, 16_384)
        assert ordered.row_mask(np.ones(len(ordered), np.bool_)).all()
        ordered.close()

    DISTINCT = int(sys.argv[2])
    with Spool.open(Path(sys.argv[1])) as spool:
        sort(20_000, 100_000)
        before = peak()
        sort(3_000_000, 16_000_000)
        print(peak() - before, spool.peak)
"""


@pytest.mark.parametrize("distinct", [10**9, 1000])
def test_memory_is_bounded_by_the_budget(tmp_path: Path, distinct: int) -> None:
    """Three million rows of 25 bytes in 16 MB; beside it the answer, and as much again while it is made."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(tmp_path / "state"), str(distinct)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True, check=True)
    grown, spooled = map(int, done.stdout.split())
    assert spooled > 3_000_000 * 4
    assert grown < 16_000_000 + 3 * 3_000_000
