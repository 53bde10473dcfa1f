"""Whole runs on the rows of a query in DuckDB."""

from __future__ import annotations

import re
import signal
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.expectations import succeeded
from support.processes.runner import DIALER, LISTENER, Pair, Result, Side

duckdb: Any = pytest.importorskip("duckdb")


def crm(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE customers AS SELECT i::INTEGER AS id, DATE '2026-01-01' + i::INTEGER AS since, "
            "(i / 4)::DECIMAL(9,2) AS paid, CASE WHEN i % 2 = 0 THEN 'de' ELSE 'fr' END AS region FROM range(1000) t(i)"
        )


def job(
    pair: Pair, database: str = "duckdb:crm.duckdb", query: str | None = "SELECT id, since, paid FROM customers"
) -> None:
    crm(pair.path(LISTENER, "crm.duckdb"))
    pair.path(DIALER, "b.csv").write_text("id\n" + "".join(f"{key}\n" for key in range(990, 1010)))
    pair.add("t", Side(["id"], database, "out/a.parquet"), Side(["id"], "b.csv"))
    if query is not None:
        pair.jobs[LISTENER]["tasks"][0]["query"] = {LISTENER: query}


def refused(pair: Pair, *arguments: str) -> Result:
    """Run the party with the query, and a peer for it to tell: it would wait some seconds for one."""
    alice, _ = pair.run(*arguments)
    return alice


@pytest.mark.sample(1)
@pytest.mark.parametrize("one_line", [False, True])
def test_rows_of_a_query_keep_their_types(pair: Pair, one_line: bool) -> None:
    query = "SELECT id, since, paid FROM customers WHERE region = '${REGION}' ORDER BY id DESC"
    job(pair, *((f"duckdb:crm.duckdb?{query}", None) if one_line else ("duckdb:crm.duckdb", query)))
    alice, bob = pair.start(LISTENER, "--set", "REGION=fr"), pair.start(DIALER)
    succeeded([alice.result(), bob.result()])
    out = pq.read_table(pair.path(LISTENER, "out/a.parquet"))
    assert out.schema.types == [pa.int32(), pa.date32(), pa.decimal128(9, 2)]
    assert out.column("id").to_pylist() == [991, 993, 995, 997, 999]
    assert out.column("since").to_pylist()[-1] == date(2028, 9, 26)
    pair.nothing_left()


@pytest.mark.more
def test_a_database_in_memory_reads_files(pair: Pair) -> None:
    job(pair, "duckdb:", "SELECT id FROM read_csv('alice/more.csv')")
    pair.path(LISTENER, "more.csv").write_text("id\n995\n5\n")
    query = f"ATTACH '{pair.path(LISTENER, 'crm.duckdb')}' AS crm (READ_ONLY); SELECT id, region FROM crm.customers"
    pair.jobs[LISTENER]["tasks"][0]["query"] = {LISTENER: query}
    alice, bob = pair.start(LISTENER), pair.start(DIALER)
    succeeded([alice.result(), bob.result()])
    assert pq.read_table(pair.path(LISTENER, "out/a.parquet")).num_rows == 10


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("SELECT idd FROM customers", 65, "job.yaml:"),
        ("SELEC id", 65, "DuckDB does not accept the query: Parser Error: syntax error"),
        (
            "SELECT id, (region || 'SECRET')::INTEGER AS x FROM customers",
            65,
            "the query failed with a ConversionException",
        ),
        ("SELECT id FROM read_csv('nothing.csv')", 66, "duckdb:"),
        ("SELECT * FROM 'postgresql://u:SECRET@h/crm'", 65, "Catalog Error, whose message may quote a value"),
        ("SELECT * FROM 'dbname=crm password=SECRET'", 65, "Catalog Error, whose message may quote a value"),
        ("SELECT ${KEY} FROM customers", 65, "Binder Error"),
        ("SET VARIABLE x = 'SECRET'; SELECT * FROM query_table(getvariable('x'))", 65, "Catalog Error, whose message"),
        ("SELECT paid FROM customers", 66, "there is no column 'id'; the file has 'paid'"),
    ],
)
def test_a_query_that_fails(pair: Pair, query: str, code: int, says: str) -> None:
    job(pair, query=query)
    result = refused(pair, "--set", "KEY=SECRET")
    assert result.code == code, result.text
    assert says in result.text
    assert "SECRET" not in result.text
    assert "Traceback" not in result.text


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "query",
    [
        "COPY customers TO 'FILE'",
        "COPY customers TO 'FILE'; SELECT 1 AS id",
        "INSTALL postgres; SELECT 1 AS id",
        "CREATE TABLE x AS PIVOT customers ON region",
        "CREATE VIEW v AS SELECT 1; SELECT 1 AS id",
        "PRAGMA version; SELECT 1 AS id",
        "ATTACH 'FILE' AS x; CREATE TABLE x.t (a INTEGER); SELECT 1 AS id",
        "ATTACH 'other.duckdb' AS x; WITH a AS (INSERT INTO x.customers FROM x.customers RETURNING id) SELECT * FROM a",
        "",
    ],
)
def test_a_query_may_only_read(pair: Pair, query: str) -> None:
    file, other = pair.path(LISTENER, "written"), pair.path(LISTENER, "other.duckdb")
    job(pair, query=query.replace("FILE", str(file)).replace("other.duckdb", str(other)) or "-- nothing")
    crm(other)
    result = refused(pair)
    assert result.code == 65, result.text
    assert re.search(r"job\.yaml:\d+: the query of duckdb:\S+crm\.duckdb may only read", result.text)
    assert not file.exists()
    with duckdb.connect(str(other), read_only=True) as connection:
        assert connection.sql("SELECT count(*) FROM customers").fetchall() == [(1000,)]


@pytest.mark.more
def test_statements_before_the_rows_prepare_them(pair: Pair) -> None:
    before = "/* a */ SET VARIABLE least = 990; CREATE TEMP VIEW v AS SELECT id, region FROM customers; "
    before += "CREATE OR REPLACE TEMPORARY MACRO f(a) AS a + 0; USE crm; /* b */"
    job(pair, query=f"{before} FROM (PIVOT v ON region USING count(*) GROUP BY id) WHERE f(id) >= getvariable('least')")
    alice, bob = pair.start(LISTENER), pair.start(DIALER)
    succeeded([alice.result(), bob.result()])
    assert pq.read_table(pair.path(LISTENER, "out/a.parquet")).column_names == ["id", "de", "fr"]


@pytest.mark.more
def test_a_database_that_is_missing_or_open_elsewhere(pair: Pair) -> None:
    job(pair)
    with duckdb.connect(str(pair.path(LISTENER, "crm.duckdb"))):
        result = refused(pair)
    assert (result.code, "another process has it open to write" in result.text) == (66, True), result.text
    pair.path(LISTENER, "crm.duckdb").unlink()
    result = refused(pair)
    assert (result.code, "crm.duckdb: no such file" in result.text) == (66, True), result.text


ENDLESS = "SELECT count(*) AS id FROM range(100000000000) a, range(1000000) b WHERE hash(a, b) = 1"


@pytest.mark.more
def test_max_duration_ends_a_query(pair: Pair) -> None:
    job(pair, query=ENDLESS)
    pair.jobs[LISTENER]["policy"] = {"max_duration": "1s"}
    result = refused(pair)
    assert (result.code, "the limit of policy.max_duration" in result.text) == (79, True), result.text
    pair.nothing_left()


def test_a_signal_ends_a_query(pair: Pair) -> None:
    job(pair, query=ENDLESS)
    alice = pair.start(LISTENER)
    alice.wait_for("listening")
    alice.send(signal.SIGINT)
    assert alice.result().code == 130
    pair.nothing_left()
