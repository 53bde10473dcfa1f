"""A column of every type that pyarrow has, with three values of which the second one is null; and what a run does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support.tables import AMPLE

from psicli import outputs, tables
from psicli.core.errors import BadInputError
from psicli.core.formats import FileFormat, file_format

UUIDS = [bytes(15) + b"\5", None, b"\x80" + bytes(15)]
_OFFSETS = [0, 2, 2, 3]
# Types inside other types; the others behave as one of these.
_INNER = (
    "int32", "string", "string_view", "uuid", "json as string", "bool8", "time64[us]", "timestamp[ns]",
    "decimal128(20, 5)", "binary", "float16", "null", "fixed_size_binary[3]", "date32", "duration[us]", "dictionary",
    "interval",
)  # fmt: skip


@cache
def every_type() -> dict[str, Any]:
    """Return the columns by the name of their type."""
    flat = dict(_flat())
    return flat | {name: column for inner in _INNER for name, column in _nested(inner, flat[inner])}


def _flat() -> Iterator[tuple[str, Any]]:
    whole = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
    for kind in whole:
        yield str(kind), pa.array([1, None, 100], kind)
    yield "bool", pa.array([True, None, False])
    yield "null", pa.nulls(3)
    yield "float16", pa.array(np.array([1.5, 2, 0.5], np.float16), mask=np.array([False, True, False]))
    for kind in (pa.float32(), pa.float64()):
        yield str(kind), pa.array([1.5, None, 0.1], kind)
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        yield str(kind), pa.array(["ä", None, 'x,"y"'], kind)
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        yield str(kind), pa.array([b"ab", None, "ä".encode()], kind)
        yield f"{kind} not text", pa.array([b"\xff\0", None, b"a"], kind)
    yield "fixed_size_binary[3]", pa.array([b"abc", None, b"def"], pa.binary(3))
    yield "fixed_size_binary[16] not text", pa.array(UUIDS, pa.binary(16))
    yield from _of_time()
    for kind in (pa.decimal32(5, 2), pa.decimal64(12, 3), pa.decimal128(20, 5), pa.decimal256(60, 10)):
        yield str(kind), pa.array([Decimal("1.5"), None, Decimal(-7)], kind)
    yield "decimal128(5, -2)", pa.array([Decimal(100), None, Decimal(-200)], pa.decimal128(5, -2))
    yield "uuid", pa.array(UUIDS, pa.uuid())
    for storage in (pa.string(), pa.large_string(), pa.string_view()):
        yield f"json as {storage}", pa.array(["{}", None, "[1]"], pa.json_(storage))
    yield "bool8", pa.array([1, None, 0], pa.bool8())
    yield "dictionary", pa.array(["x", None, "y"]).dictionary_encode()
    yield "dictionary of integers", pa.array([7, None, 8]).dictionary_encode()
    ordered = pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), pa.array(["z", "a"]), ordered=True)
    yield "ordered dictionary", ordered
    yield "run_end_encoded", pa.RunEndEncodedArray.from_arrays([1, 2, 3], pa.array(["x", None, "y"]))
    yield "union", pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array([*"abc"])])
    yield "interval", pa.array([(1, 2, 3), None, (0, 0, 0)], pa.month_day_nano_interval())
    pairs = pa.FixedSizeListArray.from_arrays(pa.array(range(6), pa.int32()), 2)
    yield "tensor", pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2]), pairs)
    yield "opaque", pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "x", "y"), pa.array([b"a", None, b"b"]))
    yield "struct without fields", pa.array([{}, None, {}], pa.struct([]))


def _of_time() -> Iterator[tuple[str, Any]]:
    least, most = -(2**63), 2**63 - 1
    for kind in (pa.date32(), pa.time32("s"), pa.time32("ms")):
        yield kind_name(kind), pa.array([0, None, 20_000], pa.int32()).cast(kind)
    yield "date64", pa.array([0, None, 86_400_000 * 20_000], pa.int64()).cast(pa.date64())
    yield "date32 far away", pa.array([2**31 - 1, None, -(2**31)], pa.int32()).cast(pa.date32())
    for unit in ("us", "ns"):
        yield f"time64[{unit}]", pa.array([0, None, 86_399_999_999], pa.int64()).cast(pa.time64(unit))
    yield "time64[us] after 24:00", pa.array([86_400_000_000, None, 90_000_000_000], pa.int64()).cast(pa.time64("us"))
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "Europe/Berlin"):
            kind = pa.timestamp(unit, zone)
            yield str(kind), pa.array([0, None, 1_700_000_000], pa.int64()).cast(kind)
        yield f"timestamp[{unit}] far away", pa.array([most, None, least], pa.int64()).cast(pa.timestamp(unit))
        yield f"duration[{unit}]", pa.array([0, None, 5], pa.int64()).cast(pa.duration(unit))


def kind_name(kind: Any) -> str:
    return str(kind).removesuffix("[day]")


def _nested(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    offsets, wide = pa.array(_OFFSETS, pa.int32()), pa.array(_OFFSETS, pa.int64())
    starts, ones = pa.array([0, 1, 2], pa.int32()), pa.array([1, 1, 1], pa.int32())
    yield f"list<{name}>", pa.ListArray.from_arrays(offsets, values)
    yield f"large_list<{name}>", pa.LargeListArray.from_arrays(wide, values)
    yield f"fixed_size_list<{name}>", pa.FixedSizeListArray.from_arrays(values, 1)
    yield f"list_view<{name}>", pa.ListViewArray.from_arrays(starts, ones, values)
    yield (
        f"large_list_view<{name}>",
        pa.LargeListViewArray.from_arrays(starts.cast("int64"), ones.cast("int64"), values),
    )
    struct = pa.StructArray.from_arrays([values], names=["f"])
    yield f"struct<{name}>", struct
    yield f"list<struct<{name}>>", pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), struct)
    yield f"map<string, {name}>", pa.MapArray.from_arrays([0, 1, 2, 3], pa.array([*"abc"]), values)


def outcome(path: Path, fmt: FileFormat, key: str) -> bytes | BadInputError:
    """Return an output with all rows, or why a run refuses the input before the exchange."""
    try:
        return written(path, fmt, key)
    except BadInputError as exc:
        return exc


def written(path: Path, fmt: FileFormat, key: str, rows: int = 3) -> bytes:
    sample = tables.check_input(path, file_format(path), [key], output=fmt)
    assert sample is not None
    outputs.check_output(sample, fmt)
    with tables.open_input(path, file_format(path), [key], output=fmt) as source:
        assert sum(len(texts[0]) for texts in source.key_batches()) == rows
        sink = io.BytesIO()
        try:
            outputs.write_matched(source, sink, fmt, pa.array([True] * rows, pa.bool_()), budget=AMPLE, spool=None)
        except BadInputError as exc:
            raise AssertionError("refused too late") from exc
        return sink.getvalue()
