"""The table of the types of columns: what each one is as a key, and in outputs of every kind."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.every_type import every_type, outcome
from support.tables import ARROW, CSV, JSONL, PARQUET, parsed

from psicli.core.errors import BadInputError

# What the table calls types that behave alike, and how the names of those types start.
_FAMILIES: dict[str, tuple[str, ...]] = {
    "integers": ("int", "uint"),
    "boolean": ("bool",),
    "decimals": ("decimal",),
    "floating-point numbers": ("float", "double"),
    "text": ("string", "large_string"),
    "bytes that are UTF-8 text": ("binary", "large_binary", "fixed_size_binary[3]"),
    "other bytes": ("not text",),
    "UUID": ("uuid",),
    "JSON": ("json",),
    "dates": ("date",),
    "times of day": ("time32", "time64"),
    "timestamps": ("timestamp[us]",),
    "timestamps with a time zone": ("timestamp[us, tz=UTC]",),
    "durations": ("duration",),
    "dictionaries (categories)": ("dictionary",),
    "lists": ("list<", "large_list<", "fixed_size_list<"),
    "structs": ("struct<",),
    "maps": ("map<",),
    "other extension types": ("tensor", "opaque"),
}


def table() -> str:
    """Return the table as Markdown."""
    rows = ["| type | as a key | in CSV or TSV | in JSON Lines | in Parquet or Arrow |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *(_row(family, prefixes) for family, prefixes in _FAMILIES.items())])


def _row(family: str, prefixes: tuple[str, ...]) -> str:
    name = next(name for name in every_type() if name.startswith(prefixes) or name.endswith(prefixes))
    return " | ".join([f"| {family}", *_outcomes(every_type()[name]), ""]).rstrip()


def _outcomes(values: Any) -> tuple[str, str, str, str]:
    """Return the text of a column's last value as a key, in CSV and in JSON, and what becomes of it in Parquet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.parquet"
        pq.write_table(pa.table({"id": ["1", "2", "3"], "v": values}), path)
        as_key, as_text, as_value = outcome(path, CSV, "v"), outcome(path, CSV, "id"), outcome(path, PARQUET, "id")
        kept = not isinstance(as_value, BadInputError)
        if kept:
            assert pq.read_schema(io.BytesIO(as_value)).field("v").type == pq.read_schema(path).field("v").type
        as_arrow, as_json = outcome(path, ARROW, "id"), outcome(path, JSONL, "id")
        assert kept == (not isinstance(as_arrow, BadInputError))
    return _text(as_key), _text(as_text), _json(as_json), "the same" if kept else "no"


def _json(written: bytes | BadInputError) -> str:
    if isinstance(written, BadInputError):
        return "no"
    line = written.decode().splitlines()[-1]
    start = '{"id":"3","v":'
    return f"`{line.removeprefix(start).removesuffix('}')}`"


def _text(written: bytes | BadInputError) -> str:
    if isinstance(written, BadInputError):
        return "no"
    return f"`{dict(parsed(written, CSV))['3']}`"
