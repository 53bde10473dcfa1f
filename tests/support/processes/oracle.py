"""The expected result of a run, computed with pandas from the documented rules.

This module uses no code of psicli, so that an error in psicli cannot hide here. The rules: a key column's value is text
(numbers in plain digits, true and false, ISO 8601 with Z for instants, decimals without trailing zeros). A row with a
null or empty key column matches nothing. The output holds all rows whose key both parties have, sorted bytewise by key,
column by column, then in the order of the file. CSV is UTF-8 with LF, quoted only where needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

Key = tuple[str, ...]


def read(path: Path) -> pd.DataFrame:
    """Read a file: CSV as text, Parquet with its own types."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path, dtype_backend="pyarrow")
    separator = "\t" if ".tsv" in path.suffixes else ","
    return pd.read_csv(path, sep=separator, dtype=object, keep_default_na=False, na_filter=False, encoding="utf-8")


def text(value: Any) -> str | None:
    """Return a value as the text of a key, None for null."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        plain = format(value, "f")
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return "0" if plain in ("-0", "") else plain
    if isinstance(value, datetime):
        zoned = value.tzinfo is not None
        moment = value.astimezone(UTC).replace(tzinfo=None) if zoned else value
        plain = moment.isoformat()
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        return plain + ("Z" if zoned else "")
    return value.isoformat() if isinstance(value, date) else str(value)


def keys_of(frame: pd.DataFrame, columns: Sequence[str]) -> list[Key | None]:
    """Return the key of every row, None if the row cannot match."""
    rows = zip(*([text(value) for value in frame[column]] for column in columns), strict=True)
    return [row if all(row) else None for row in rows]


def matching_rows(own: Path, own_columns: Sequence[str], peer: Path, peer_columns: Sequence[str]) -> pd.DataFrame:
    """Return the own rows with a common key, in the order of the output."""
    frame = read(own)
    keys = keys_of(frame, own_columns)
    common = set(keys_of(read(peer), peer_columns)) - {None}
    kept = [row for row, key in enumerate(keys) if key in common]
    kept.sort(key=lambda row: ([part.encode() for part in keys[row] or ()], row))
    return frame.iloc[kept].reset_index(drop=True)


def csv_bytes(frame: pd.DataFrame, separator: str = ",") -> bytes:
    """Return rows as the bytes of a CSV output."""

    def field(value: str) -> str:
        needs_quotes = any(mark in value for mark in (separator, '"', "\r", "\n"))
        return '"' + value.replace('"', '""') + '"' if needs_quotes else value

    rows = [list(frame.columns), *([text(value) or "" for value in row] for row in frame.itertuples(index=False))]
    return "".join(separator.join(map(field, row)) + "\n" for row in rows).encode()


def counts(own: Path, own_columns: Sequence[str], peer: Path, peer_columns: Sequence[str]) -> dict[str, int]:
    """Return the numbers a receiver's report must show."""
    keys, peer_keys = keys_of(read(own), own_columns), keys_of(read(peer), peer_columns)
    items, peer_items = set(keys) - {None}, set(peer_keys) - {None}
    return {
        "rows": len(keys),
        "distinct_items": len(items),
        "matchless_rows": keys.count(None),
        "peer_items": len(peer_items),
        "matched": len(items & peer_items),
        "output_rows": len(matching_rows(own, own_columns, peer, peer_columns)),
    }
