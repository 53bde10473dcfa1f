"""Whole runs whose outputs hold other rows than those that matched, compared with what pandas finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.expectations import OLD, failed, marked_pair, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

FORMATS = ["csv", "parquet", "jsonl", "arrow"]
MODES: list[dict[str, Any]] = [
    {"rows": "matched"},
    {"rows": "matched", "order": "input", "columns": ["note", "id"]},
    {"rows": "unmatched"},
    {"rows": "unmatched", "order": "input", "flag": "in_both"},
    {"rows": "all", "flag": "in_both"},
    {"rows": "all", "flag": "in_both", "order": "input", "columns": ["note"]},
]


def rows_of(first: int) -> pd.DataFrame:
    """Return 60 rows: keys that repeat, and null keys."""
    ids = [None if row % 13 == 5 else str((row * 37 + first) % 50) for row in range(60)]
    return pd.DataFrame({"id": ids, "note": [f"note {row}" for row in range(60)], "n": [str(row) for row in range(60)]})


def save(frame: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(frame, pa.schema([(name, pa.string()) for name in frame]), preserve_index=False)
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            pq.write_table(table, path, row_group_size=17)
        case ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))
        case ".arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=17)


def load(path: Path) -> list[list[str]]:
    """Return the names of the columns and the rows; null is empty, and booleans are those of JSON."""
    match path.suffix:
        case ".csv":
            table = pa.Table.from_pandas(pd.read_csv(path, dtype=str, keep_default_na=False))
        case ".parquet":
            table = pq.read_table(path)
        case ".jsonl":
            table = pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()])
        case _:
            table = pa.ipc.open_file(path).read_all()
    shown = {None: "", True: "true", False: "false"}
    rows = [[shown.get(value, value) for value in row.values()] for row in table.to_pylist()]
    return [table.column_names, *rows]


def expected(own: pd.DataFrame, peer: pd.DataFrame, mode: dict[str, Any]) -> list[list[str]]:
    frame = own.copy()
    frame["matches"] = frame["id"].notna() & frame["id"].isin(set(peer["id"].dropna()))
    if mode["rows"] != "all":
        frame = frame[frame["matches"] == (mode["rows"] == "matched")]
    if mode.get("order") != "input":
        frame = frame.sort_values("id", kind="stable", na_position="last")
    columns = mode.get("columns") or list(own.columns)
    found = frame[columns].fillna("").astype(str)
    if "flag" in mode:
        columns = [*columns, mode["flag"]]
        found = found.assign(**{mode["flag"]: frame["matches"].map({True: "true", False: "false"})})
    return [columns, *found.values.tolist()]


@pytest.mark.more
@pytest.mark.parametrize("shift", range(4))
def test_outputs_hold_what_their_settings_say(pair: Pair, shift: int) -> None:
    """Both parties write every mode; the formats of inputs and outputs rotate."""
    ours, theirs = rows_of(0), rows_of(23)
    for at, mode in enumerate(MODES):
        kinds = [FORMATS[(at + shift + step) % 4] for step in (0, 1, 2, 3)]
        sides = []
        for party, frame, fmt, out in ((LISTENER, ours, *kinds[:2]), (DIALER, theirs, *kinds[2:])):
            save(frame, pair.path(party, f"in-{at}.{fmt}"))
            sides.append(Side(["id"], f"in-{at}.{fmt}", f"out/{at}.{out}"))
        pair.add(f"t{at}", *sides, broadcast_result=True, output=mode)
    results = pair.run("--json")
    succeeded(results)
    for party, own, peer, result in zip(PARTIES, (ours, theirs), (theirs, ours), results, strict=True):
        for task, mode, entry in zip(the_object(result.stdout)["tasks"], MODES, pair.jobs[party]["tasks"], strict=True):
            wanted = expected(own, peer, mode)
            assert load(pair.path(party, entry["output_path"][party])) == wanted, (party, mode)
            matching = expected(own, peer, {"rows": "matched"})
            numbers = [task[name] for name in ("matched_rows", "output_rows", "output_holds")]
            assert numbers == [len(matching) - 1, len(wanted) - 1, mode["rows"]]
    again = pair.run()
    succeeded(again)
    count = len(expected(ours, theirs, {"rows": "matched"})) - 1
    assert f"t2: {count} of 60 rows matched; {60 - count} unmatched rows written" in again[0].stdout.decode()
    assert f"t4: {count} of 60 rows matched; all 60 rows written" in again[0].stdout.decode()


def test_the_rows_of_both_outputs_belong_together(pair: Pair) -> None:
    """Unique keys, in other columns, types, spellings, formats and orders; row by row, the people are the same."""
    days = [f"2024-{number % 12 + 1:02}-{number % 28 + 1:02}" for number in range(90)]
    people = [(number, f"Person{number}@X.de", day) for number, day in enumerate(days)]
    ours = pd.DataFrame(people, columns=["id", "mail", "day"])
    ours["who"] = ours["id"].map("p{}".format)
    save_typed = pa.Table.from_pandas(ours, preserve_index=False)
    pq.write_table(save_typed, pair.path(LISTENER, "people.parquet"))
    theirs = pd.DataFrame(
        {
            "E-Mail": [f"  {mail.upper()}" for _, mail, _ in people],
            "Tag": ["{2}.{1}.{0}".format(*day.split("-")) for _, _, day in people],
            "Nr": [f"{number:05}" for number, _, _ in people],
            "wer": [f"p{number}" for number, _, _ in people],
        }
    ).sample(frac=0.8, random_state=1)
    theirs.to_csv(pair.path(DIALER, "people.csv"), index=False)
    tag = {"column": "Tag", "normalize": "date/DMY"}
    for name, own, peer, forms in (
        ("several", ["mail", "id", "day"], ["E-Mail", "Nr", tag], ["email", "integer", "date"]),
        ("hashed", ["mail"], ["E-Mail"], ["email/sha256"]),
        ("numbers", ["id"], ["Nr"], ["integer"]),
    ):
        sides = Side(own, "people.parquet", f"out/{name}.parquet"), Side(peer, "people.csv", f"out/{name}.csv")
        pair.add(name, *sides, broadcast_result=True, key_form=forms)
    succeeded(pair.run())
    for name in ("several", "hashed", "numbers"):
        mine = pq.read_table(pair.path(LISTENER, f"out/{name}.parquet")).column("who").to_pylist()
        assert mine == pd.read_csv(pair.path(DIALER, f"out/{name}.csv"))["wer"].tolist()
        assert len(mine) == len(theirs)


@pytest.mark.more
@pytest.mark.parametrize(
    ("output", "code", "sentence"),
    [
        ({"columns": ["notes"]}, 66, "in.csv: there is no column 'notes'; the file has 'id', 'note'"),
        ({"flag": "note"}, 65, "in.csv: there is a column 'note' already, so output.flag cannot add one of that name"),
    ],
)
def test_wrong_names_end_the_run_before_the_exchange(
    pair: Pair, output: dict[str, Any], code: int, sentence: str
) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0]["output"] = output
    checked = pair.start_command("check", "--config", pair.job_file(LISTENER), "--wait", "0").result()
    assert sentence in checked.stdout.decode()
    assert checked.code == code
    alice, bob = pair.run()
    failed(alice, code, sentence)
    assert bob.code not in (0, code)
    assert [pair.path(party, "out/people.csv").read_bytes() for party in PARTIES] == [OLD, OLD]


@pytest.mark.more
def test_a_party_that_writes_nothing_has_no_use_for_settings_of_an_output(pair: Pair) -> None:
    marked_pair(pair)
    for party in PARTIES:
        pair.jobs[party]["tasks"][0]["broadcast_result"] = False
    pair.jobs[DIALER]["tasks"][0]["output"] = {"columns": ["none"], "flag": "note"}
    succeeded(pair.run())
