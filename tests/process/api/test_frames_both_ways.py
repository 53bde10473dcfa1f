"""Real runs between two parties whose inputs and results are data frames."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import polars
import pyarrow as pa
import pytest
from support.api.sides import Sides
from support.processes.runner import DIALER, LISTENER, free_ports

import psicli
from psicli.storage.ledger import Ledger

PEOPLE = 300


def pandas_frame(first: int = 0) -> pandas.DataFrame:
    """Return a frame with an index and columns of many types."""
    numbers = range(first, first + PEOPLE)
    return pandas.DataFrame(
        {
            "mail": [f"user{number}@example.com" for number in numbers],
            "segment": pandas.Categorical(["a", "b"] * (PEOPLE // 2), categories=["b", "a", "unused"], ordered=True),
            "visits": pandas.array([1, None] * (PEOPLE // 2), dtype="Int64"),
            "member": pandas.array([True, None] * (PEOPLE // 2), dtype="boolean"),
            "since": pandas.date_range("2024-03-01", periods=PEOPLE, tz="Europe/Berlin"),
            "share": [0.5, float("nan")] * (PEOPLE // 2),
            "small": pandas.Series(range(PEOPLE), dtype="int16").to_numpy(),
            "note": pandas.Series(["ä", None] * (PEOPLE // 2), dtype="string"),
            "raw": [b"\x00", b"\xff"] * (PEOPLE // 2),
        },
        index=pandas.Index([f"row {number}" for number in numbers], name="row"),
    )


def polars_frame(first: int) -> polars.DataFrame:
    numbers = range(first, first + PEOPLE)
    return polars.DataFrame(
        {
            "address": [f"user{number}@example.com" for number in numbers],
            "grade": polars.Series(["u", "v"] * (PEOPLE // 2), dtype=polars.Enum(["v", "u", "unused"])),
            "kind": polars.Series(["x", "y"] * (PEOPLE // 2), dtype=polars.Categorical),
            "tags": [[number] for number in numbers],
            "byte": polars.Series([1, None] * (PEOPLE // 2), dtype=polars.UInt8),
            "at": polars.Series([0, 1] * (PEOPLE // 2), dtype=polars.Datetime("ns", "UTC")),
        }
    )


def test_frames_of_pandas_and_polars_keep_their_types(sides: Sides) -> None:
    ours, theirs = pandas_frame(), polars_frame(PEOPLE // 2)
    seen: list[psicli.Progress] = []
    found, there = sides.both(
        lambda: sides.intersect(LISTENER, ours, progress=seen.append),
        lambda: sides.intersect(DIALER, theirs, ["address"]),
    )
    expected = ours.iloc[PEOPLE // 2 :].sort_values("mail")
    pandas.testing.assert_frame_equal(found, expected)
    assert there.schema == theirs.schema
    assert there.sort("address").equals(theirs.head(PEOPLE // 2).sort("address"))
    assert seen[0] == psicli.Progress("waiting", "", 0.0)
    assert (seen[-1].stage, seen[-1].task, seen[-1].share) == ("running", "rows", 1.0)
    assert [each.share for each in seen] == sorted(each.share for each in seen)
    assert sides.left() == []


@pytest.mark.more
def test_a_job_with_readers_and_files(sides: Sides, tmp_path: Path) -> None:
    """One reader serves two tasks; what has an output_path is in that file, and what has none is in the report."""
    table = pa.table({"id": [1, 2, 3, 4], "word": pa.array(["a", "b", "a", "c"]).dictionary_encode()})

    def batches() -> Iterator[pa.RecordBatch]:
        # The categories differ from batch to batch.
        for row in range(len(table)):
            one = table.slice(row, 1)
            words = pa.array(one["word"].to_pylist()).dictionary_encode()
            yield pa.record_batch([one["id"].combine_chunks(), words], schema=table.schema)

    reader = pa.RecordBatchReader.from_batches(table.schema, batches())
    keys = {"keys": {LISTENER: ["id"], DIALER: ["number"]}}
    paths = {"input_path": {LISTENER: "-"}, "output_path": {LISTENER: tmp_path / "out.csv"}}
    sent = {"name": "sent", **keys, "receiver": DIALER, "broadcast_result": False}
    job = sides.job(LISTENER, {"name": "held", **keys}, {"name": "filed", **keys, **paths}, sent)
    (tmp_path / "in.csv").write_text("number,name\n2,Ben\n4,Dana\n9,Eve\n")
    files = {"input_path": {DIALER: "in.csv"}, "output_path": {DIALER: "-"}}
    tasks = [{"name": name, **keys, **files} for name in ("held", "filed", "sent")]
    for task in tasks[1:]:
        task["output_path"] = {DIALER: f"out-{task['name']}.jsonl"}
    tasks[2] |= {"receiver": DIALER, "broadcast_result": False}
    path = tmp_path / "bob.yaml"
    # JSON is YAML, too.
    path.write_text(json.dumps(sides.job(DIALER, *tasks)))
    here, there = sides.both(
        lambda: psicli.run(job, dict.fromkeys(("held", "filed", "sent"), reader), cancel=sides.gone),
        lambda: psicli.run(psicli.load_job(path), cancel=sides.gone),
    )
    assert [task.name for task in here] == ["held", "filed", "sent"]
    assert len(here) == 3
    assert "held" in here
    held = here["held"].to_arrow()
    assert held.schema.types == table.schema.types
    assert held.to_pylist() == [{"id": 2, "word": "b"}, {"id": 4, "word": "c"}]
    assert polars.DataFrame(here["held"]).height == 2
    assert (here["held"].output, here["held"].rows, here["held"].matched, here["held"].status) == (None, 4, 2, "done")
    assert here["filed"].output == str(tmp_path / "out.csv")
    with open(tmp_path / "out.csv") as file:
        assert list(csv.DictReader(file)) == [{"id": "2", "word": "b"}, {"id": "4", "word": "c"}]
    # The rows of the file have the types of the input again.
    assert here["filed"].to_arrow().to_pylist() == held.to_pylist()
    assert not here["sent"].has_rows
    with pytest.raises(psicli.RunError, match="task sent: there are no rows, because bob learns the result") as caught:
        here["sent"].to_pandas()
    assert (caught.value.code, caught.value.hint) == (78, "Read `matched`, or change the task.")
    assert there["held"].to_pandas().name.tolist() == ["Ben", "Dana"]
    assert there["sent"].to_polars().rows() == [("2", "Ben"), ("4", "Dana")]
    assert (tmp_path / "out-sent.jsonl").read_text().count("\n") == 2
    facts = here.to_dict()
    assert (facts["exit_code"], facts["party"], facts["session_id"]) == (0, LISTENER, there.to_dict()["session_id"])
    assert facts["tasks"][0]["output"] is None
    assert sides.left() == []


@pytest.mark.more
def test_many_runs_at_once_in_threads(tmp_path: Path, sides: Sides) -> None:
    with free_ports(4) as ports, ThreadPoolExecutor(8) as threads:

        def call(number: int, party: str) -> Any:
            mine = Sides(ports[number], sides.state)
            # Each pair has one key in common.
            first = {"mail": [f"pair{number}", f"{party}{number}"], "n": [number, -1]}
            return mine.intersect(party, pandas.DataFrame(first))

        calls = [threads.submit(call, number, party) for number in range(4) for party in (LISTENER, DIALER)]
        found = [each.result() for each in calls]
    assert [each.to_dict("list") for each in found] == [
        {"mail": [f"pair{number // 2}"], "n": [number // 2]} for number in range(8)
    ]
    assert sides.left() == []


@pytest.mark.more
def test_a_party_that_learns_nothing_gets_none(sides: Sides) -> None:
    """The party that listens is the same on both sides, whoever learns the result."""
    frame = pandas.DataFrame({"mail": ["a", "b"]})
    terms: dict[str, Any] = {"receiver": DIALER, "listener": DIALER}
    here, there = sides.both(
        lambda: sides.intersect(LISTENER, frame, **terms), lambda: sides.intersect(DIALER, frame, **terms)
    )
    assert here is None
    assert there.mail.tolist() == ["a", "b"]


@pytest.mark.more
def test_the_protocol_of_an_intersection(sides: Sides) -> None:
    frame, how = pandas.DataFrame({"mail": ["a", "b"]}), {"protocol": "rr22"}
    here, there = sides.both(
        lambda: sides.intersect(LISTENER, frame, **how), lambda: sides.intersect(DIALER, frame.head(1), **how)
    )
    assert (here.mail.tolist(), there.mail.tolist()) == (["a"], ["a"])
    assert [entry.opening.protocol for entry in Ledger(sides.state).entries()] == ["rr22", "rr22"]
    with pytest.raises(psicli.RunError, match=r"psi\.protocol: is the text 'kkrt'; give ecdh or rr22"):
        sides.intersect(LISTENER, frame, protocol="kkrt")
