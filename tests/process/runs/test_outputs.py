"""Whole runs of two processes over loopback, whose outputs must equal those computed with pandas."""

from __future__ import annotations

import gzip
import random
import stat
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.expectations import (
    Row,
    check_counts,
    check_output,
    csv_data,
    failed,
    marked_pair,
    numbers,
    succeeded,
    the_object,
)
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

SAMPLES = Path(__file__).parents[3] / "sample_data"


# fmt: off
NASTY = [
    "a", "a,b", "b,c", "b", "c", 'say "hi"', '""', '"', "", " a", "a ", "A", "\u00e4", "a\u0308", "Straße", "STRASSE",
    "日本語", "😀", "null", "NULL", "NaN", "None", "N/A", "true", "1e3", "1000", "007", "7", "0", "-0", "1.0", "'", ";",
    "\\", "#x", "\u00a0", "x\ufeff", "-", "=1+1", "\u2028",
]
# fmt: on


def nasty_rows(seed: int, count: int) -> list[Row]:
    """Return rows with few distinct keys, so that many match or repeat, and with values that are hard in CSV."""
    draw = random.Random(seed)
    notes = ["plain", "two\nlines", 'a "quoted", note', "", "\r\n", "tab\there", "ünï"]
    return [[draw.choice(NASTY), f"{draw.choice(notes)} {row}", draw.choice(NASTY[:14])] for row in range(count)]


def hard_keys(pair: Pair) -> None:
    """Add a broadcast task with two key columns and CSV on both sides; the listener is the receiver."""
    pair.path(LISTENER, "texts.csv").write_bytes(csv_data(["left", "note, with comma", "right"], nasty_rows(1, 400)))
    swapped = [[right, note, left] for left, note, right in nasty_rows(2, 300)]
    pair.path(DIALER, "texts.csv").write_bytes(csv_data(["ß", "note", 'q"'], swapped))
    pair.add(
        "texts",
        Side(["left", "right"], "texts.csv", "out/texts.csv"),
        Side(['q"', "ß"], "texts.csv", "out/texts.csv"),
        broadcast_result=True,
    )


def types(pair: Pair) -> None:
    """Add a one-sided task: all Parquet key types against their text in CSV; the dialer receives."""
    east = pa.timestamp("us", "Europe/Vienna")
    moments = [datetime(2024, 2, 29, 12, 0, 0, 120000, UTC), datetime(2024, 7, 1, tzinfo=UTC), None]
    columns = {
        "day": pa.array([date(2024, 2, 29), date(1969, 12, 31), date(2024, 1, 1)], pa.date32()),
        "moment": pa.array(moments, east),
        "amount": pa.array([Decimal("10.50"), Decimal("-0.00"), Decimal("1.00")], pa.decimal128(9, 2)),
        "flag": pa.array([True, False, True]),
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "small": pa.array([1, -1, 1], pa.int8()),
    }
    pq.write_table(pa.table(columns), pair.path(DIALER, "types.parquet"))
    rows = [
        ["2024-02-29", "2024-02-29T12:00:00.12Z", "10.5", "true", "x", "1"],
        ["1969-12-31", "2024-07-01T00:00:00Z", "0", "false", "y", "-1"],
        ["2024-02-29", "2024-02-29T12:00:00.120Z", "10.50", "True", "x", "1"],
        ["2024-01-01", "", "1", "true", "x", "1"],
    ]
    pair.path(LISTENER, "types.tsv").write_bytes(csv_data(list(columns), rows, "\t"))
    pair.add(
        "types",
        Side(list(columns), "types.tsv", "out/types-not-ours.csv"),
        Side(list(columns), "types.parquet", "out/types.csv"),
        receiver=DIALER,
    )


def gzipped(pair: Pair) -> None:
    """Add a one-sided task: compressed CSV against TSV with one key column; the listener receives."""
    rows = [[key, note] for key, note, _ in nasty_rows(3, 200)]
    pair.path(LISTENER, "zipped.csv.gz").write_bytes(gzip.compress(csv_data(["k", "note"], rows)))
    theirs = [[note, key] for key, note, _ in nasty_rows(4, 30)]
    pair.path(DIALER, "plain.tsv").write_bytes(csv_data(["note", "k"], theirs, "\t"))
    pair.add("gzipped", Side(["k"], "zipped.csv.gz", "out/zipped.tsv.gz"), Side(["k"], "plain.tsv"))


def test_outputs_equal_the_oracle_and_a_second_run_gives_the_same_bytes(pair: Pair) -> None:
    for prepare in (hard_keys, numbers, types, gzipped):
        prepare(pair)
    results = [pair.start(party, "--json") for party in PARTIES]
    succeeded(runs := [run.result() for run in results])
    alice, bob = (the_object(run.stdout)["tasks"] for run in runs)
    for party, task, output in (
        (LISTENER, 0, "out/texts.csv"),
        (DIALER, 0, "out/texts.csv"),
        (LISTENER, 1, "out/numbers.parquet"),
        (DIALER, 1, "out/numbers.parquet"),
        (DIALER, 2, "out/types.csv"),
        (LISTENER, 3, "out/zipped.tsv.gz"),
    ):
        check_output(pair, party, task, output)
        check_counts(pair, party, task, (alice if party == LISTENER else bob)[task])
    # Enough rows match to make the comparison meaningful.
    assert [task["matched"] for task in bob] == [alice[0]["matched"], 5, 2, None]
    assert alice[0]["matched"] > 20
    assert alice[3]["matched"] > 5
    # Parquet keeps its types; a party that does not learn the result gets no file, whatever the job file says.
    assert pq.read_schema(pair.path(DIALER, "out/numbers.parquet")).types == [pa.int64(), pa.string(), pa.float64()]
    assert not pair.path(LISTENER, "out/types-not-ours.csv").exists()
    assert [alice[2]["output"], alice[2]["output_rows"], alice[2]["matched"]] == [None, None, None]
    first = [pair.files(party) for party in PARTIES]
    succeeded(pair.run())
    assert [pair.files(party) for party in PARTIES] == first


@pytest.mark.more
def test_each_party_has_its_own_csv_settings(pair: Pair) -> None:
    pair.jobs[LISTENER]["csv"] = {"delimiter": ";", "encoding": "cp1252", "null_values": ["NULL"]}
    pair.jobs[DIALER]["csv"] = {"header": False}
    pair.path(LISTENER, "in.csv").write_bytes("Straße;Name\r\nNULL;Nobody\r\nÜ 1;Zoë\r\nÄ 2;Ben\r\n".encode("cp1252"))
    pair.path(DIALER, "in.tsv.gz").write_bytes(gzip.compress('"x\tÜ 1\nNULL\tNULL\ny"\tÄ 2\n'.encode("utf-16")))
    pair.add(
        "streets",
        Side(["Straße"], "in.csv", "out/out.csv"),
        Side(["2"], "in.tsv.gz", "out/out.tsv"),
        broadcast_result=True,
    )
    pair.jobs[DIALER]["tasks"][0]["csv"] = {"quotes": False, "encoding": "UTF-16"}
    succeeded(runs := pair.run("--json"))
    listener, dialer = (the_object(run.stdout)["tasks"][0] for run in runs)
    assert (listener["matched"], listener["matchless_rows"]) == (2, 1)
    assert (dialer["matched"], dialer["matchless_rows"]) == (2, 0)
    assert pair.path(LISTENER, "out/out.csv").read_text() == "Straße;Name\nÄ 2;Ben\nÜ 1;Zoë\n"
    assert pair.path(DIALER, "out/out.tsv").read_text() == 'y"\tÄ 2\n"x\tÜ 1\n'


def test_a_value_that_the_output_cannot_hold_ends_the_run_before_it_sends_an_item(pair: Pair) -> None:
    pair.jobs[LISTENER]["csv"] = {"quotes": False}
    pair.path(LISTENER, "in.tsv").write_bytes(b"id\tname\n1\tx\n2\ty,z\n")
    pair.path(DIALER, "in.csv").write_bytes(b"id\n1\n")
    pair.add("names", Side(["id"], "in.tsv", "out/out.csv"), Side(["id"], "in.csv"))
    ours, theirs = pair.run()
    assert (ours.code, theirs.code) == (65, 80)
    assert "the column 'name' contains a delimiter or a line break" in ours.text
    assert not pair.path(LISTENER, "out/out.csv").exists()


@pytest.mark.more
def test_small_inputs_one_task_at_a_time_and_then_together(pair: Pair) -> None:
    contents: dict[str, tuple[list[Row], list[Row]]] = {
        "nothing-in-common": ([["1"], ["2"]], [["3"], ["4"]]),
        "one-row": ([["1"]], [["2"], ["1"], ["1"]]),
        "header-only": ([], [["1"]]),
        "both-empty": ([], []),
    }
    for name, rows in contents.items():
        for party, own in zip(PARTIES, rows, strict=True):
            pair.path(party, f"{name}.csv").write_bytes(csv_data(["id"], own))
        side = Side(["id"], f"{name}.csv", f"out/{name}.csv")
        pair.add(name, side, side, broadcast_result=True)
    for index, name in enumerate(contents):
        succeeded(pair.run("--only", name))
        for party in PARTIES:
            check_output(pair, party, index, f"out/{name}.csv")
            assert len(list(pair.path(party, "out").iterdir())) == index + 1
    alone = [pair.files(party) for party in PARTIES]
    succeeded(pair.run())
    assert [pair.files(party) for party in PARTIES] == alone


@pytest.mark.more
def test_five_thousand_rows_against_five_thousand(pair: Pair) -> None:
    draw = random.Random(5)
    for party, column in ((LISTENER, "id"), (DIALER, "ref")):
        rows = [[f"P{draw.randrange(10_000):05}", str(row)] for row in range(5000)]
        pair.path(party, "in.csv").write_bytes(csv_data([column, "row"], rows))
    pair.add(
        "people",
        Side(["id"], "in.csv", "out/people.csv"),
        Side(["ref"], "in.csv", "out/people.csv"),
        broadcast_result=True,
    )
    succeeded(pair.run())
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")


@pytest.mark.more
def test_the_folder_of_an_output_is_made(pair: Pair) -> None:
    """Before the exchange, by a run only; a run that fails leaves no folder behind."""
    marked_pair(pair)
    for party in PARTIES:
        pair.jobs[party]["tasks"][0]["output_path"] = {party: "new/people.csv"}
    check = pair.start_command("check", "--config", pair.job_file(LISTENER), "--wait", "0").result()
    assert check.code == 0, check.text
    assert "new/people.csv can be written, and its folder new will be made" in " ".join(check.stdout.decode().split())
    pair.jobs[DIALER]["tasks"][0]["keys"] = {DIALER: ["no such column"]}
    alice, bob = pair.run()
    assert (alice.code, bob.code) == (80, 66)
    assert not any(pair.path(party, "new").exists() for party in PARTIES)
    pair.jobs[DIALER]["tasks"][0]["keys"] = {DIALER: ["code"]}
    succeeded(pair.run())
    for party in PARTIES:
        check_output(pair, party, 0, "new/people.csv")
        # Nobody else can read them.
        modes = [
            stat.S_IMODE(path.stat().st_mode) for path in (pair.path(party, "new"), pair.path(party, "new/people.csv"))
        ]
        assert modes == [0o700, 0o600]


@pytest.mark.more
def test_key_columns_without_a_name_or_with_a_line_break(pair: Pair) -> None:
    for party, key in zip(PARTIES, ("", "line\nbreak"), strict=True):
        pair.path(party, "in.csv").write_bytes(csv_data(["note", key], [["x", "1"], ["y", "2"]]))
    alice, bob = (Side([key], "in.csv", "out/people.csv") for key in ("", "line\nbreak"))
    pair.add("people", alice, bob, broadcast_result=True)
    succeeded(pair.run())
    assert pair.path(LISTENER, "out/people.csv").read_bytes() == b"note,\nx,1\ny,2\n"
    assert pair.path(DIALER, "out/people.csv").read_bytes() == b'note,"line\nbreak"\nx,1\ny,2\n'
    pair.jobs[DIALER]["tasks"][0]["keys"] = {DIALER: ["line break"]}
    failed(pair.run()[1], 66, r"there is no column 'line break'; the file has 'note', 'line\\nbreak'")


@pytest.mark.more
def test_the_sample_job_equals_a_merge(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    for name in ("airline", "registry"):
        (tmp_path / "sample" / name).symlink_to(SAMPLES / name)
        (tmp_path / "demo-out" / name).mkdir(parents=True)
    job = tmp_path / "sample" / "job.yaml"
    job.write_bytes((SAMPLES / "job.yaml").read_bytes())
    env = {"PSICLI_DEMO_PORT": str(pair.port)}
    runs = [pair.start_as_is("--config", job, "--party", party, env=env) for party in ("airline", "registry")]
    succeeded(run.result() for run in runs)

    flights = pd.read_csv(SAMPLES / "airline/flights.csv", dtype=object, keep_default_na=False)
    planes = pd.read_parquet(SAMPLES / "registry/planes.parquet")
    airports = pd.read_parquet(SAMPLES / "registry/airports.parquet")
    airlines = pd.read_csv(SAMPLES / "registry/airlines.csv", dtype=object, keep_default_na=False)
    expected = {
        "airline/planes.csv": flights.merge(planes[["registration"]], left_on="tailnum", right_on="registration"),
        "registry/planes.parquet": planes[planes.registration.isin(flights.tailnum)],
        "registry/airports.csv": airports[airports.faa.isin(flights.dest)],
        "airline/airlines.parquet": flights.merge(airlines[["code"]], left_on="carrier", right_on="code"),
    }
    keys = {"airline/planes.csv": "tailnum", "registry/planes.parquet": "registration"}
    keys |= {"registry/airports.csv": "faa", "airline/airlines.parquet": "carrier"}
    assert {str(path.relative_to(tmp_path / "demo-out")) for path in (tmp_path / "demo-out").rglob("*.*")} == set(
        expected
    )
    for name, merged in expected.items():
        path = tmp_path / "demo-out" / name
        types = None if name.startswith("registry") else object
        found = (
            pd.read_parquet(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""] if types is None else [])
        )
        ordered = merged.sort_values(keys[name], kind="stable")[list(found.columns)].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, ordered, check_dtype=False)
