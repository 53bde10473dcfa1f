"""psicli keys: what a party's own first keys become, for its own eyes."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.processes.expectations import the_object
from support.processes.runner import Pair, Result

CAUTION = "This output shows keys of alice. It is for your own eyes: do not send it to bob or others."


def task(name: str, keys: list[str], path: str, **more: Any) -> dict[str, Any]:
    output = {"alice": f"{name}-out.csv"}
    return {"name": name, "keys": {"alice": keys}, "input_path": {"alice": path}, "output_path": output, **more}


def job(pair: Pair, *tasks: dict[str, Any]) -> Path:
    nodes = [{"party": "alice", "address": f"127.0.0.1:{pair.port}"}, {"party": "bob"}]
    path = pair.folder / "job.yaml"
    about = {"job": "keys", "self_party": "alice", "cluster": {"nodes": nodes}, "psi": {"receiver": "alice"}}
    path.write_text(yaml.safe_dump({**about, "tasks": tasks}))
    return path


def keys(pair: Pair, path: Path, *options: str) -> Result:
    """Run psicli keys, which leaves the folder as it was."""
    before = sorted(pair.folder.rglob("*"))
    result = pair.start_command("keys", "--config", path, *options).result()
    assert sorted(pair.folder.rglob("*")) == before
    assert "Traceback" not in result.text
    return result


def values(result: Result, number: int = 0, column: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = the_object(result.stdout)["tasks"][number]["columns"][column]["values"]
    return found


def test_each_value_is_shown_as_in_the_file_and_as_it_is_compared(pair: Pair) -> None:
    path = job(pair, task("people", ["mail", "tel"], "in.csv", key_form=["email/sha256", "phone/DE"]))
    rows = ["mail,tel", "Ben@X.de\u00a0,0171 1234567", '"Ann\n<ann@x.org>",+491711234568', "unknown,", ",x", "e@x.de,7"]
    (pair.folder / "in.csv").write_text("\n".join(rows).replace("Ann\n", "Ann ") + "\n")
    result = keys(pair, path, "--rows", "4")
    assert (result.code, result.stderr) == (0, "")
    hashed = [sha256(each).hexdigest() for each in (b"ben@x.de", b"ann@x.org")]
    first, second = ("".join(each).encode()[:32].hex(" ") for each in hashed)
    assert result.stdout.decode().splitlines() == [
        CAUTION,
        "",
        f"people: {pair.folder}/in.csv",
        "",
        "key column 'mail' (string, form email/sha256)",
        r"  line 2: 'Ben@X.de\xa0'",
        "    42 65 6e 40 58 2e 64 65 c2 a0",
        "    email: 'ben@x.de'",
        "    62 65 6e 40 78 2e 64 65",
        f"    email/sha256: '{hashed[0]}'",
        f"    {first} … (64 bytes)",
        "  line 3: 'Ann <ann@x.org>'",
        "    41 6e 6e 20 3c 61 6e 6e 40 78 2e 6f 72 67 3e",
        "    email: 'ann@x.org'",
        "    61 6e 6e 40 78 2e 6f 72 67",
        f"    email/sha256: '{hashed[1]}'",
        f"    {second} … (64 bytes)",
        "  line 4: 'unknown'",
        "    75 6e 6b 6e 6f 77 6e",
        "    null key: it is no value of the form email/sha256",
        "  line 5: ''",
        "    null key: it is empty",
        "",
        "key column 'tel' (string, form phone/DE)",
        "  line 2: '0171 1234567'",
        "    30 31 37 31 20 31 32 33 34 35 36 37",
        "    phone/DE: '+491711234567'",
        "    2b 34 39 31 37 31 31 32 33 34 35 36 37",
        "  line 3: '+491711234568'",
        "    2b 34 39 31 37 31 31 32 33 34 35 36 38",
        "  line 4: ''",
        "    null key: it is empty",
        "  line 5: 'x'",
        "    78",
        "    null key: it is no value of the form phone/DE",
    ]


@pytest.mark.more
def test_typed_columns_are_shown_with_their_rows_types_and_texts(pair: Pair) -> None:
    path = job(pair, task("typed", ["at", "id"], "in.parquet"))
    moments = pa.array([datetime(2024, 3, 1, 6, tzinfo=UTC), None], pa.timestamp("ms", "Europe/Berlin"))
    pq.write_table(pa.table({"at": moments, "id": pa.array([517, -3])}), pair.folder / "in.parquet")
    result = keys(pair, path, "--json")
    assert (result.code, result.stderr) == (0, "")
    told = the_object(result.stdout)
    assert told["caution"] == CAUTION
    assert [(each["column"], each["type"], each["form"]) for each in told["tasks"][0]["columns"]] == [
        ("at", "timestamp[ms, tz=Europe/Berlin]", "text"),
        ("id", "int64", "text"),
    ]
    first, second = values(result)
    canonical = {"form": "text", "text": "2024-03-01T06:00:00Z", "bytes": b"2024-03-01T06:00:00Z".hex()}
    assert (first["row"], first["becomes"], first["null_key"]) == (1, [canonical], None)
    assert first["value"].startswith("2024-03-01 07:00:00")
    assert second == {"row": 2, "value": None, "becomes": [], "null_key": "it is null"}
    assert [each["value"] for each in values(result, column=1)] == ["517", "-3"]
    assert f"  row 1: '{first['value']}'\n    text: '2024-03-01T06:00:00Z'\n" in keys(pair, path).stdout.decode()


@pytest.mark.more
def test_json_lines_and_values_that_mean_null(pair: Pair) -> None:
    lines = task("lines", ["k"], "in.jsonl")
    nulls = task("nulls", ["k"], "in.csv", csv={"null_values": ["NA"]})
    path = job(pair, lines, nulls)
    (pair.folder / "in.jsonl").write_text('\n{"k": "\\u200b7"}\n{"k": 7}\n{}\n')
    (pair.folder / "in.csv").write_text("k\n\nNA\n")
    result = keys(pair, path, "--json")
    assert result.code == 0, result.text
    assert [(each["line"], each["value"], each["null_key"]) for each in values(result)] == [
        (2, "\u200b7", None),
        (3, "7", None),
        (4, None, "it is null"),
    ]
    assert values(result)[0]["becomes"] == [{"form": "text", "text": "\u200b7", "bytes": "e2808b37"}]
    assert values(result, 1) == [{"line": 3, "value": None, "becomes": [], "null_key": "it is null"}]
    # The JSON text has no character that nobody sees.
    assert b"\\u200b7" in result.stdout
    assert [each["task"] for each in the_object(keys(pair, path, "--only", "nulls", "--json").stdout)["tasks"]] == [
        "nulls"
    ]


@pytest.mark.more
def test_a_value_that_a_run_refuses_is_shown_before_the_error(pair: Pair) -> None:
    path = job(pair, task("bad", ["k"], "in.csv"), task("gone", ["k"], "gone.csv"), task("good", ["k"], "good.csv"))
    (pair.folder / "in.csv").write_text("k\na\nb\x01b\nc\n")
    (pair.folder / "good.csv").write_text("k\nx\n")
    result = keys(pair, path)
    # The first error counts.
    assert result.code == 65
    assert "  line 3: 'b\\x01b'\n    62 01 62\n  line 4: 'c'\n" in result.stdout.decode()
    assert "key column 'k'\n  no values\n" in result.stdout.decode()
    assert "  line 2: 'x'\n    78\n" in result.stdout.decode()
    (first, *_), (second, *_) = [result.errors[number : number + 2] for number in (0, 2)]
    assert "in.csv:3: the key column 'k' contains a control character" in first
    assert "gone.csv: " in second
    result = keys(pair, path, "--only", "gone", "--json")
    assert (result.code, the_object(result.stdout)["exit_code"]) == (66, 66)
    assert the_object(result.stdout)["tasks"][0]["error"]["code"] == 66


@pytest.mark.more
def test_a_row_that_cannot_be_read_hides_those_of_its_block(pair: Pair) -> None:
    path = job(pair, task("bad", ["k"], "in.csv"))
    (pair.folder / "in.csv").write_text("k,l\na,b\na\n")
    result = keys(pair, path)
    assert result.code == 65
    assert "in.csv:3: the row has 1 field" in result.stderr
    assert "no values" in result.stdout.decode()


@pytest.mark.more
def test_standard_input_is_not_read(pair: Pair) -> None:
    result = keys(pair, job(pair, task("t", ["k"], "-")))
    assert result.code == 78
    assert "task t: the keys of standard input cannot be shown" in result.stderr
    assert pair.start_command("keys", "--rows", "0", "--config", pair.folder / "job.yaml").result().code == 2


def test_only_the_first_rows_are_read_and_a_reader_may_end_early(pair: Pair) -> None:
    path = job(pair, task("t", ["k"], "in.csv"))
    # The error in the last row is not found, because only the first block is read.
    (pair.folder / "in.csv").write_text("k\n" + "".join(f"{number:099}\n" for number in range(60_000)) + "\x01\n")
    assert [each["line"] for each in values(keys(pair, path, "--json"))] == [*range(2, 12)]
    command = [sys.executable, "-m", "psicli", "keys", "--rows", "1000", str(path)]
    state = {"PSICLI_STATE_DIR": str(pair.folder / "state")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **state}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().decode().strip() == CAUTION
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")
