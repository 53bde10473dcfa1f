"""Whole runs on objects of a store: read by ranges, and written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import signal
import socket
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.expectations import csv_data, failed, succeeded
from support.processes.runner import DIALER, LISTENER, Pair, Result, Side, failing_at
from support.stores.refusing import CREDENTIALS, refusing_store
from support.stores.s3 import Store


def parquet(rows: int, first: int = 0) -> bytes:
    """Return a file with the keys from `first` on."""
    target = io.BytesIO()
    numbers = range(first, first + rows)
    pq.write_table(pa.table({"id": pa.array(numbers), "note": [f"note {each}" for each in numbers]}), target)
    return target.getvalue()


def rows_of(data: bytes | None) -> list[int]:
    assert data is not None
    return pq.read_table(io.BytesIO(data)).column("id").to_pylist()


def test_both_parties_read_and_write_objects(pair: Pair, store: Store) -> None:
    """Parquet with keys of the one, compressed CSV of the other; a name with a space and a percent sign."""
    one = store.put("in/a b%.parquet", parquet(3000))
    two = store.put(
        "in/b.csv.gz", gzip.compress(csv_data(["id", "x"], [[str(each), "x"] for each in range(2990, 4000)]))
    )
    store.put("out/a.parquet", b"old")
    sides = Side(["id"], one, "s3://crm/out/a.parquet"), Side(["id"], two, "s3://crm/out/b.jsonl")
    pair.add("t", *sides, broadcast_result=True)
    results = pair.run("--json")
    succeeded(results)
    assert rows_of(store.get("out/a.parquet")) == list(range(2990, 3000))
    assert store.get("out/b.jsonl") == b"".join(b'{"id":"%d","x":"x"}\n' % each for each in range(2990, 3000))
    (task,) = json.loads(results[0].stdout)["tasks"]
    assert task["output"] == "s3://crm/out/a.parquet"
    assert task["output_sha256"] == hashlib.sha256(store.get("out/a.parquet") or b"").hexdigest()
    assert sorted(store.names()) == ["in/a b%.parquet", "in/b.csv.gz", "out/a.parquet", "out/b.jsonl"]
    pair.nothing_left()


@pytest.mark.more
def test_a_folder_of_parts_in_a_bucket_is_one_input(pair: Pair, store: Store) -> None:
    for number in range(20):
        store.put(f"in/month={number:02}/part.parquet", parquet(50, 50 * number))
    store.put("in/_SUCCESS", b"")
    rows = [[str(each)] for each in range(0, 2000, 7)]
    pair.path(DIALER, "b.csv").write_bytes(csv_data(["id"], rows))
    pair.add("t", Side(["id"], "s3://crm/in/", "s3://crm/out/a.parquet"), Side(["id"], "b.csv"))
    succeeded(pair.run())
    assert sorted(rows_of(store.get("out/a.parquet"))) == list(range(0, 1000, 7))


@pytest.mark.more
def test_a_check_reads_and_tries_objects_and_leaves_none(pair: Pair, store: Store) -> None:
    store.put("out/a.parquet", bytes(2000))
    given = store.put("in/a.parquet", parquet(100))
    pair.add("t", Side(["id"], given, "s3://crm/out/a.parquet"), Side(["id"], "b.csv"))
    result = pair.start_command("check", "--config", pair.job_file(LISTENER), "--wait", "0").result()
    assert result.code == 0, result.text
    assert f"{given} has the key columns" in result.text
    assert "s3://crm/out/a.parquet can be written, and replaces an object of 2.0 kB" in result.text
    assert store.get("out/a.parquet") == bytes(2000)
    assert store.names() == ["in/a.parquet", "out/a.parquet"]


# An output of two pieces and a bit: S3 takes it in parts.
LARGE = 16_000_000


def large_job(pair: Pair, store: Store) -> bytes:
    """Add a task whose output takes several parts, and return that output."""
    draw = random.Random(7)
    rows = [[f"{each:05}", draw.randbytes(20_000).hex()] for each in range(450)]
    one, two = (
        store.put("in/a.csv", csv_data(["id", "x"], rows)),
        store.put("in/b.csv", csv_data(["id"], [[row[0]] for row in rows])),
    )
    pair.add("t", Side(["id"], one, "s3://crm/out/a.csv"), Side(["id"], two))
    expected = csv_data(["id", "x"], rows)
    assert len(expected) > LARGE
    return expected


@pytest.mark.more
@pytest.mark.parametrize(
    ("point", "is_new"),
    [
        pytest.param("upload.begun:kill", False, marks=pytest.mark.more),
        ("upload.written:kill:2", False),
        pytest.param("upload.written:kill:3", False, marks=pytest.mark.more),
        pytest.param("upload.begun:enospc", False, marks=pytest.mark.more),
        pytest.param("upload.done:kill", True, marks=pytest.mark.more),
        # Any failure must end like a kill: the library would complete the object with what it has.
        pytest.param("upload.written:raise:2", False, marks=pytest.mark.more),
    ],
)
def test_a_run_that_ends_during_the_upload_leaves_the_old_object_or_the_new_one(
    pair: Pair, store: Store, point: str, is_new: bool
) -> None:
    expected = large_job(pair, store)
    store.put("out/a.csv", b"old")
    alice, bob = pair.start(LISTENER, env=failing_at(point)), pair.start(DIALER)
    codes = {"kill": -signal.SIGKILL, "raise": 70, "enospc": 74}
    assert alice.result().code == codes[point.split(":")[1]]
    bob.result()
    assert store.get("out/a.csv") == (expected if is_new else b"old")
    succeeded(pair.run())
    assert store.get("out/a.csv") == expected
    assert sorted(store.names()) == ["in/a.csv", "in/b.csv", "out/a.csv"]


@pytest.mark.more
@pytest.mark.parametrize("name", ["in/a.parquet", pytest.param("in/a.csv", marks=pytest.mark.more)])
def test_an_object_replaced_between_the_two_readings_is_an_error(pair: Pair, store: Store, name: str) -> None:
    def content(note: str) -> bytes:
        if name.endswith(".csv"):
            return csv_data(["id", "x"], [["1", note], ["2", note]])
        target = io.BytesIO()
        pq.write_table(pa.table({"id": ["1", "2"], "x": [note, note]}), target)
        return target.getvalue()

    url = store.put(name, content("a"))
    pair.path(DIALER, "b.csv").write_bytes(b"id\n1\n")
    pair.add("t", Side(["id"], url, "s3://crm/out/a.csv"), Side(["id"], "b.csv"))
    alice, bob = pair.start(LISTENER, env=failing_at("input.read:stop")), pair.start(DIALER)
    alice.wait_until_stopped()
    store.put(name, content("b"))
    alice.send(signal.SIGCONT)
    failed(alice.result(), 65, f"{url}: the file was changed or replaced while psicli was reading it")
    bob.result()
    assert store.names() == [name]


def refused(pair: Pair, given: str, output: str = "out.csv") -> Result:
    """Run the listener alone with an input and an output, and return its result; the peer is never asked."""
    pair.path(LISTENER, "a.csv").write_bytes(b"id\n1\n")
    pair.add("t", Side(["id"], given, output), Side(["id"], "b.csv"))
    return pair.start(LISTENER).result()


@pytest.mark.more
@pytest.mark.parametrize(
    ("given", "output", "code", "sentence"),
    [
        ("s3://crm/in/none.csv", "out.csv", 66, "s3://crm/in/none.csv: no such object"),
        ("s3://nobody/none.csv", "out.csv", 66, "s3://nobody/none.csv: no such bucket"),
        (
            "a.csv",
            "s3://nobody/out.csv",
            73,
            r"s3://nobody/out.csv: cannot write here: no such bucket \(NO_SUCH_BUC",
        ),
    ],
)
def test_what_is_not_there_is_an_error_before_the_peer_has_answered(
    pair: Pair, store: Store, given: str, output: str, code: int, sentence: str
) -> None:
    failed(refused(pair, given, output), code, sentence)
    assert store.names() == []


@pytest.mark.more
@pytest.mark.parametrize(
    ("given", "output", "code"), [("s3://crm/a.csv", "out.csv", 66), ("a.csv", "s3://crm/b.csv", 73)]
)
def test_what_the_store_does_not_allow_is_an_error(pair: Pair, given: str, output: str, code: int) -> None:
    with refusing_store() as address:
        pair.environment |= {**CREDENTIALS, "AWS_ENDPOINT_URL": address}
        result = refused(pair, given, output)
    failed(result, code, r"the store does not allow it \(ACCESS_DENIED\)")
    assert "Check the credentials in the environment (AWS_PROFILE, or AWS_ACCESS_KEY_ID and" in result.text
    assert "HIDDEN" not in result.text


@pytest.mark.more
@pytest.mark.parametrize(("given", "output"), [("s3://crm/a.csv", "out.csv"), ("a.csv", "s3://crm/b.csv")])
def test_a_store_that_cannot_be_reached_is_an_error_soon(pair: Pair, given: str, output: str) -> None:
    with socket.socket() as closed:
        # The port is taken, so that no other program can listen there meanwhile.
        closed.bind(("127.0.0.1", 0))
        pair.environment |= {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        started = time.monotonic()
        failed(refused(pair, given, output), 74, "the store cannot be reached: nothing answers at its address")
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_an_error_within_a_minute(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pair.environment |= {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        failed(refused(pair, "s3://crm/a.csv"), 74, "the store cannot be reached: it does not answer")
