"""Whole runs: two processes meet over loopback, and what they write equals what pandas says.

A value no one may ever see outside the files holds MARK; every failing run is searched for it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.kernel import backends
from support.processes.expectations import (
    MARK,
    OLD,
    Row,
    Untouched,
    check_counts,
    check_output,
    csv_data,
    failed,
    long_pair,
    marked,
    marked_pair,
    numbers,
    shape,
    succeeded,
    the_object,
)
from support.processes.runner import DEADLINE, DIALER, LISTENER, PARTIES, Pair, Side, Tap, other

from psicli import __version__, curve
from psicli.protocol import wire
from psicli.protocol.messages import Frame, HelloOctets, Stream

SAMPLES = Path(__file__).parents[2] / "sample_data"
# A failure takes no longer than this where the other side is there [s].
SOON = 4.0


# Files -----------------------------------------------------------------------------------------------------------


# Judging ---------------------------------------------------------------------------------------------------------


# Equal to the oracle ---------------------------------------------------------------------------------------------

# fmt: off
NASTY = [
    "a", "a,b", "b,c", "b", "c", 'say "hi"', '""', '"', "", " a", "a ", "A", "\u00e4", "a\u0308", "Straße", "STRASSE",
    "日本語", "😀", "null", "NULL", "NaN", "None", "N/A", "true", "1e3", "1000", "007", "7", "0", "-0", "1.0", "'", ";",
    "\\", "#x", "\u00a0", "\ufeff", "-", "=1+1", "\u2028",
]
# fmt: on


def nasty_rows(seed: int, count: int) -> list[Row]:
    """Rows over a small set of values, so that many meet and many repeat, with all that CSV finds hard beside."""
    draw = random.Random(seed)
    notes = ["plain", "two\nlines", 'a "quoted", note', "", "\r\n", "tab\there", "ünï"]
    return [[draw.choice(NASTY), f"{draw.choice(notes)} {row}", draw.choice(NASTY[:14])] for row in range(count)]


def hard_keys(pair: Pair) -> None:
    """Two key columns, in CSV on both sides, receiver the listener, both learn."""
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
    """One key column of every type Parquet has a text for, against that text in CSV; only the dialer learns."""
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
    """Compressed CSV against TSV, one key column; only the listener learns."""
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
    # Enough met, or the comparison says little.
    assert [task["matched"] for task in bob] == [alice[0]["matched"], 5, 2, None]
    assert alice[0]["matched"] > 20
    assert alice[3]["matched"] > 5
    # Parquet keeps its types; who does not learn a result gets no file, whatever the job file says.
    assert pq.read_schema(pair.path(DIALER, "out/numbers.parquet")).types == [pa.int64(), pa.string(), pa.float64()]
    assert not pair.path(LISTENER, "out/types-not-ours.csv").exists()
    assert [alice[2]["output"], alice[2]["output_rows"], alice[2]["matched"]] == [None, None, None]
    first = [pair.files(party) for party in PARTIES]
    succeeded(pair.run())
    assert [pair.files(party) for party in PARTIES] == first


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


# Reports and streams ---------------------------------------------------------------------------------------------


def test_a_report_as_json(pair: Pair) -> None:
    marked_pair(pair, broadcast=False)
    del pair.jobs[DIALER]["tasks"][0]["output_path"]
    runs = [pair.start(party, "--json") for party in PARTIES]
    succeeded(results := [run.result() for run in runs])
    alice, bob = (the_object(result.stdout) for result in results)
    assert {name: alice[name] for name in ("job", "party", "peer", "version", "peer_version", "backend")} == {
        "job": "overlap",
        "party": "alice",
        "peer": "bob",
        "version": __version__,
        "peer_version": __version__,
        "backend": next(iter(curve.BACKENDS)),
    }
    assert alice["exit_code"] == 0
    assert alice["error"] is None
    assert re.fullmatch("[0-9a-f]{64}", alice["session_id"])
    assert alice["session_id"] == bob["session_id"]
    assert 0 < alice["tasks"][0]["seconds"] <= alice["seconds"] < DEADLINE
    stages = [report["tasks"][0]["stages"] for report in (alice, bob)]
    assert [*stages[0]] == ["reading", "computing", "waiting_for_peer", "waiting_for_room", "matching", "writing"]
    assert all(0 <= seconds <= alice["seconds"] for seconds in stages[0].values())
    assert stages[0]["reading"] > 0
    assert stages[0]["writing"] > 0
    assert stages[1]["writing"] == 0
    assert all(report["spool_bytes"] == 0 for report in (alice, bob))
    assert all(50_000_000 < report["peak_memory"] < 2_000_000_000 for report in (alice, bob))
    (ours,), (theirs,) = alice["tasks"], bob["tasks"]
    assert (ours["name"], ours["status"]) == ("people", "done")
    check_counts(pair, LISTENER, 0, ours)
    assert Path(ours["output"]) == pair.path(LISTENER, "out/people.csv")
    assert (theirs["status"], theirs["rows"], theirs["peer_items"]) == ("done", 3, 4)
    assert [theirs[name] for name in ("matched", "output_rows", "output")] == [None, None, None]
    assert ours["output_sha256"] == hashlib.sha256(Path(ours["output"]).read_bytes()).hexdigest()
    assert theirs["output_sha256"] is None
    assert ours["task_sid"] == theirs["task_sid"]
    assert (ours["bytes_sent"], ours["bytes_received"]) == (theirs["bytes_received"], theirs["bytes_sent"])
    assert ours["bytes_sent"] > 4 * 32


def test_a_failure_as_json(pair: Pair) -> None:
    marked_pair(pair)
    side = Side(["id"], "second.csv", "out/second.csv")
    pair.add("second", side, side)
    pair.path(LISTENER, "second.csv").write_bytes(marked(1) + b"ragged\n")
    pair.path(DIALER, "second.csv").write_bytes(marked(1))
    runs = [pair.start(party, "--json") for party in PARTIES]
    results = [run.result() for run in runs]
    alice, bob = (the_object(result.stdout) for result in results)
    assert [result.code for result in results] == [alice["exit_code"], bob["exit_code"]] == [65, 80]
    for report in (alice, bob):
        assert {"job", "party", "peer", "session_id", "version", "backend", "seconds", "tasks", "error"} <= set(report)
        assert [task["status"] for task in report["tasks"]] == ["done", "failed"]
        assert set(report["error"]) == {"code", "class", "message", "hint", "party"}
        # Who has to act.
        assert report["error"]["party"] == "alice"
    assert (alice["error"]["code"], alice["error"]["class"]) == (65, "RaggedRowError")
    assert alice["error"]["message"].endswith("second.csv:3: the row has 1 fields, the header 2")
    assert (bob["error"]["code"], bob["error"]["class"]) == (80, "PeerFailedError")
    # A finished task keeps its output.
    check_output(pair, LISTENER, 0, "out/people.csv")
    assert not pair.path(LISTENER, "out/second.csv").exists()


def test_a_mistake_in_the_job_file_as_json(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["psi"]["recever"] = LISTENER
    result = pair.start(LISTENER, "--json").result()
    report = the_object(result.stdout)
    assert result.code == report["exit_code"] == report["error"]["code"] == 78
    assert report["tasks"] == []
    assert "psi.recever: unknown field; did you mean receiver?" in report["error"]["message"]


def test_quiet_says_nothing_and_verbose_says_no_value(pair: Pair) -> None:
    marked_pair(pair)
    runs = [pair.start(LISTENER, "--quiet"), pair.start(DIALER, "--verbose")]
    alice, bob = (run.result() for run in runs)
    succeeded([alice, bob])
    assert alice.text == ""
    assert "in session with alice" in bob.stderr
    assert "matched  2 items" in bob.stdout.decode()
    assert MARK not in bob.text
    # The marks were there to be seen.
    assert MARK in pair.path(DIALER, "out/people.csv").read_text()


def test_standard_input_and_output(pair: Pair) -> None:
    marked_pair(pair)
    for party in PARTIES:
        pair.jobs[party]["tasks"][0]["input_path"] = {party: "-"}
        pair.jobs[party]["tasks"][0]["output_path"] = {party: "-"}
    runs = [
        pair.start(LISTENER, stdin=marked(2, 3, 1)),
        pair.start(DIALER, "--json", stdin=marked(9, 3, 2, 2, column="code")),
    ]
    alice, bob = (run.result() for run in runs)
    succeeded([alice, bob])
    assert alice.stdout == marked(2, 3)
    assert bob.stdout == marked(2, 2, 3, column="code")
    assert "matched  2 items" in alice.stderr
    assert MARK not in alice.stderr + bob.stderr
    assert json.loads(bob.stderr[bob.stderr.index("{") :])["tasks"][0]["output_rows"] == 3


def test_bad_standard_input_and_no_rows_out(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0].update(input_path={LISTENER: "-"}, output_path={LISTENER: "-"})
    runs = [pair.start(LISTENER, stdin=marked(1) + b'"never closed\n'), pair.start(DIALER)]
    alice, bob = (run.result() for run in runs)
    failed(alice, 65, r"standard input:3: a quote opened in this row is never closed")
    failed(bob, 80, "alice failed")
    assert alice.stdout == b""


@pytest.mark.parametrize("closed", [("<&-", ">&-"), ("2>&-", "<&- >&- 2>&-")], ids=["stdin, stdout", "stderr, all"])
def test_closed_standard_streams(pair: Pair, closed: tuple[str, str]) -> None:
    marked_pair(pair)
    runs = [pair.start(party, shell=redirection) for party, redirection in zip(PARTIES, closed, strict=True)]
    succeeded(run.result() for run in runs)
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")


def test_standard_output_that_cannot_be_written(pair: Pair) -> None:
    """Rows that are lost are a failure, a report that is lost is an error too, and neither is a traceback."""
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "-"}
    runs = [pair.start(party, shell=">/dev/full") for party in PARTIES]
    for result in [run.result() for run in runs]:
        failed(result, 74, "standard output: .*no space left")


def test_rows_for_a_standard_output_that_is_closed(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "-"}
    runs = [pair.start(LISTENER, shell=">&-"), pair.start(DIALER)]
    assert runs[0].result().code != 0


# Settings --------------------------------------------------------------------------------------------------------


def test_variables_environment_and_port_offset(pair: Pair) -> None:
    """The job file says neither who runs, nor the port, nor all of the paths."""
    marked_pair(pair)
    for party in PARTIES:
        job = pair.jobs[party]
        del job["self_party"]
        job["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{pair.port - 1000}"
        job["tasks"][0]["output_path"] = {party: "out/${DAY}-$${x}.csv"}
    offset = ["--port-offset", "1000"]
    runs = [
        pair.start(LISTENER, "--party", LISTENER, "--set", "DAY=monday", *offset, env={"DAY": "overridden"}),
        pair.start(
            DIALER,
            config=False,
            env={
                "PSICLI_CONFIG": str(pair.path(DIALER, "job.yaml")),
                "PSICLI_PARTY": DIALER,
                "PSICLI_PORT_OFFSET": "1000",
                "PSICLI_JSON": "1",
                "DAY": "monday",
            },
        ),
    ]
    succeeded(results := [run.result() for run in runs])
    assert the_object(results[1].stdout)["party"] == DIALER
    for party in PARTIES:
        check_output(pair, party, 0, "out/monday-${x}.csv")


@pytest.mark.parametrize("arguments", [(), ("--config", "job.yaml", "--set", "DAY")])
def test_a_wrong_command_line(pair: Pair, arguments: tuple[str, ...]) -> None:
    result = pair.start_as_is(*arguments).result()
    assert (result.code, result.stdout) == (2, b"")
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


# The curve backend ---------------------------------------------------------------------------------------------


def test_the_native_backend_is_what_runs_use(pair: Pair) -> None:
    """It is optional to an installation, never to a change: where CI lacks it, nothing would be tested."""
    compilers = [*shlex.split(sysconfig.get_config_var("CC") or "cc")[:1], "cc", "gcc", "clang"]
    if not os.environ.get("CI") and not any(map(shutil.which, compilers)):
        pytest.skip("there is no C compiler to build it with")
    marked_pair(pair)
    runs = [pair.start(party, "--json") for party in PARTIES]
    results = [run.result() for run in runs]
    succeeded(results)
    for result in results:
        assert the_object(result.stdout)["backend"].startswith("native ")
        assert " WARNING " not in result.stderr


@pytest.mark.parametrize("name", backends.NAMES, ids=backends.label)
def test_every_backend_works_with_the_reference(tapped: tuple[Pair, int], name: str) -> None:
    """The same points whoever computes them, and frames that suit the slower one."""
    pair, port = tapped
    marked_pair(pair)
    tap = Tap(port, pair.port)
    names = {LISTENER: name, DIALER: "reference"}
    try:
        runs = {party: pair.start(party, env=backends.environment(names[party])) for party in PARTIES}
        results = {party: run.result() for party, run in runs.items()}
        succeeded(results.values())
        hellos = [wire.decode(side[0]) for side in tap.messages()]
    finally:
        tap.close()
    for party, result in results.items():
        check_output(pair, party, 0, "out/people.csv")
        assert f", {names[party]} backend, " in result.stdout.decode()
    assert all(isinstance(hello, HelloOctets) for hello in hellos)
    frame_items = {hello.party: hello.frame_items for hello in (wire.decode_hello(each.octets) for each in hellos)}
    expected = {"reference": 2048, "native portable": 4096}.get(name, 16_384)
    assert frame_items == {DIALER: 2048, LISTENER: expected}


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("PSICLI_BACKEND", "PSICLI_BACKEND is 'abacus', which is no curve backend; there are native and reference"),
        ("PSICLI_NATIVE_PATH", "PSICLI_NATIVE_PATH (is 'abacus', which this machine cannot run|asks for the native)"),
    ],
)
def test_a_backend_that_is_none(pair: Pair, variable: str, sentence: str) -> None:
    marked_pair(pair)
    result = pair.start(LISTENER, "--json", env={variable: "abacus"}).result()
    failed(result, 78, sentence)
    assert the_object(result.stdout)["exit_code"] == 78


def test_no_core_dump_can_hold_a_scalar(pair: Pair) -> None:
    marked_pair(pair)
    # As where core dumps are on.
    run = pair.start(LISTENER, before="ulimit -S -c $(ulimit -H -c)")
    run.wait_for("listening on")
    limits = Path(f"/proc/{run.pid}/limits").read_text()
    assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.MULTILINE)


def test_the_job_file_sets_the_threads(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["pipeline"] = {"threads": 3}
    pair.link(LISTENER, connect_retry_times=1)
    code = """
import sys
from pathlib import Path
from psicli import curve
from psicli.config import load_job
from psicli.job.run import run_job
report = run_job(load_job(Path(sys.argv[-1]), variables={}), None, None)
print(report.exit_code, curve.threads())
"""
    run = pair.start(LISTENER, program=("-c", code))
    assert run.result().stdout == b"69 3\n"


def test_the_job_file_sets_depth_frames_and_bins(pair: Pair) -> None:
    """The smaller frames and bins of both sides count; what comes out is the same."""
    pair.path(LISTENER, "in.csv").write_bytes(marked(*range(20_000)))
    pair.path(DIALER, "in.csv").write_bytes(marked(*range(18_000, 23_000), column="code"))
    sides = Side(["id"], "in.csv", "out/o.csv"), Side(["code"], "in.csv", "out/o.csv")
    pair.add("people", *sides, broadcast_result=True)
    pair.jobs[LISTENER]["pipeline"] = {"depth": 1, "frame_items": 2048, "bin_items": 16_384, "memory": "400MB"}
    pair.jobs[DIALER]["pipeline"] = {"depth": 64, "frame_items": 1024, "bin_items": 32_768}
    runs = [pair.start(party, "--json", "--trace", pair.path(party, "t.json")) for party in PARTIES]
    succeeded(results := [run.result() for run in runs])
    assert [the_object(result.stdout)["tasks"][0]["bins"] for result in results] == [2, 2]
    for party in PARTIES:
        check_output(pair, party, 0, "out/o.csv")
    events = the_trace(pair, LISTENER)
    masked = Counter(event["name"] for event in events if event["ph"] == "X")
    # Both bins are padded to the same size.
    assert (masked["mask own"], masked["mask peer"]) == (2 * 11, 2 * 3)
    # One a bin, two bins at a time.
    assert max(event["args"]["pieces"] for event in events if event["name"] == "under way") == 2


# The trace -------------------------------------------------------------------------------------------------------


def the_trace(pair: Pair, party: str, name: str = "t.json") -> list[dict[str, Any]]:
    """The events of a trace; no value may stand anywhere in it."""
    octets = pair.path(party, name).read_bytes()
    assert MARK.encode() not in octets
    assert str(pair.folder).encode() not in octets
    return json.loads(octets)["traceEvents"]  # type: ignore[no-any-return]


def test_a_trace_of_a_run(pair: Pair) -> None:
    marked_pair(pair, broadcast=False)
    environment = {"PSICLI_TRACE": str(pair.path(DIALER, "t.json"))}
    runs = [pair.start(LISTENER, "--trace", pair.path(LISTENER, "t.json")), pair.start(DIALER, env=environment)]
    alice, bob = [run.result() for run in runs]
    succeeded([alice, bob])
    steps = {party: {e["name"] for e in the_trace(pair, party) if e["ph"] == "X"} for party in PARTIES}
    both = {"read input", "count items", "fetch bin", "mask own", "mask peer", "keep", "check lists"}
    assert {*both, "match", "write output"} <= steps[LISTENER]
    assert both <= steps[DIALER]
    # The sender must learn nothing of a match.
    assert not {"match", "write output"} & steps[DIALER]
    lanes = {e["args"]["name"] for e in the_trace(pair, LISTENER) if e["name"] == "thread_name"}
    assert {"MainThread", "psicli-reader_0", "psicli-matcher_0", "psicli-writer_0"} <= lanes
    pair.nothing_left()


def test_a_run_that_fails_leaves_its_trace(pair: Pair) -> None:
    marked_pair(pair)
    pair.path(DIALER, "in.csv").write_bytes(b"code,note\n1,2,3\n")
    results = [pair.start(party, "--trace", pair.path(party, "t.json")) for party in PARTIES]
    assert [run.result().code for run in results] == [80, 65]
    assert "read input" in {event["name"] for event in the_trace(pair, DIALER)}
    # Whatever it was at when it heard of the failure.
    assert the_trace(pair, LISTENER)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent/t.json", "its folder does not exist"),
        ("out", "it is a folder"),
        ("in.csv", "the job uses this file itself"),
        ("out/../out/people.csv", "the job uses this file itself"),
        ("job.yaml", "the job uses this file itself"),
    ],
)
def test_a_trace_that_cannot_be_written_is_told_before_the_session(pair: Pair, name: str, reason: str) -> None:
    untouched = Untouched(marked_pair(pair))
    other_side = pair.start(DIALER)
    result = pair.start(LISTENER, "--trace", pair.path(LISTENER, name)).result()
    failed(result, 73, reason)
    assert "in session" not in result.stderr
    assert other_side.result().code == 80
    untouched.check()


# What the network sees -------------------------------------------------------------------------------------------


def run_tapped(pair: Pair, port: int) -> tuple[bytes, list[Any]]:
    """Run both parties; return every byte between them, and every message."""
    tap = Tap(port, pair.port)
    try:
        succeeded(pair.run())
        octets = b"".join(tap.octets())
        return octets, [wire.decode(message) for side in tap.messages() for message in side]
    finally:
        tap.close()


def framed(messages: Iterable[Any], *streams: Stream, task: int = 0) -> bytes:
    """All that was sent of these streams of a task."""
    found = [m for m in messages if isinstance(m, Frame) and m.stream in streams and m.task == task]
    return b"".join(frame.data for frame in found)


def records(data: bytes, width: int) -> set[bytes]:
    return {data[start : start + width] for start in range(0, len(data), width)}


def test_the_wire_shows_no_value_no_name_and_no_duplicates(tapped: tuple[Pair, int]) -> None:
    pair, port = tapped
    marked_pair(pair)
    secret_column = f"{MARK}column"
    pair.path(LISTENER, f"{MARK}.csv").write_bytes(marked(1, 2, 3, column=secret_column))
    pair.jobs[LISTENER]["tasks"][0].update(keys={LISTENER: [secret_column]}, input_path={LISTENER: f"{MARK}.csv"})
    octets, once = run_tapped(pair, port)
    assert len(framed(once, Stream.RECEIVER_POINTS)) == 3 * 32
    assert len(framed(once, Stream.SENDER_POINTS)) == 3 * 32
    assert MARK.encode() not in octets
    assert str(pair.path(LISTENER).parent).encode() not in octets
    assert hashlib.sha256(f"{MARK}-3".encode()).digest() not in octets
    # The same set, a thousand times over: the same messages, of the same sizes, without one byte in common.
    pair.path(LISTENER, f"{MARK}.csv").write_bytes(marked(*[1, 2, 3] * 1000, column=secret_column))
    _, often = run_tapped(pair, port)
    assert Counter(map(shape, once)) == Counter(map(shape, often))
    for streams, width in (((Stream.RECEIVER_POINTS, Stream.SENDER_POINTS), 32), ((Stream.TOKENS,), 16)):
        first, second = (records(framed(messages, *streams), width) for messages in (once, often))
        assert len(first) == len(second) == 3 * len(streams)
        assert not first & second


def test_wire_order_tells_nothing_of_file_key_and_hash_order(tapped: tuple[Pair, int]) -> None:
    """The keys in common are the first half of the file, by place, key or hash; the bitmap must not show it."""
    pair, port = tapped
    count = 400
    draw = random.Random(9)
    keys = [f"{draw.getrandbits(64):016x}" for _ in range(count)]
    in_order = {
        "file": keys,
        "key": sorted(keys),
        "hash": sorted(keys, key=lambda k: hashlib.sha256(k.encode()).digest()),
    }
    for name, order in in_order.items():
        pair.path(LISTENER, f"{name}.csv").write_bytes(csv_data(["id"], [[key] for key in order[: count // 2]]))
        pair.path(DIALER, f"{name}.csv").write_bytes(csv_data(["id"], [[key] for key in keys]))
        side = Side(["id"], f"{name}.csv", f"out/{name}.csv")
        pair.add(name, side, side, broadcast_result=True)
    _, messages = run_tapped(pair, port)
    halves = []
    for task in range(3):
        bitmap = int.from_bytes(framed(messages, Stream.BITMAP, task=task), "little")
        assert bitmap.bit_count() == count // 2
        halves.append((bitmap & (1 << count // 2) - 1).bit_count())
    # 100 of 200 expected, with a deviation of 5: eight of them would come once in 10^15 runs.
    assert all(60 <= half <= 140 for half in halves), halves


# Failures of one side, told to the other -------------------------------------------------------------------------

Spoil = Callable[[Pair, str], None]


def _input(content: bytes, name: str = "in.csv") -> Spoil:
    def spoil(pair: Pair, party: str) -> None:
        pair.path(party, name).write_bytes(content)
        pair.jobs[party]["tasks"][0]["input_path"] = {party: name}
        pair.jobs[party]["tasks"][0]["keys"] = {party: ["id"]}

    return spoil


def _no_input(pair: Pair, party: str) -> None:
    pair.path(party, "in.csv").unlink()


def _other_key(pair: Pair, party: str) -> None:
    pair.jobs[party]["tasks"][0]["keys"] = {party: ["Id"]}


def _float_key(pair: Pair, party: str) -> None:
    pq.write_table(pa.table({"id": [1.0, 2.5]}), pair.path(party, "in.parquet"))
    pair.jobs[party]["tasks"][0].update(keys={party: ["id"]}, input_path={party: "in.parquet"})


def _no_output_folder(pair: Pair, party: str) -> None:
    pair.jobs[party]["tasks"][0]["output_path"] = {party: "nowhere/people.csv"}


BAD_ROW = f"{MARK}-7,{MARK}".encode()
LOCAL_FAILURES = [
    pytest.param(LISTENER, _no_input, 66, r"in\.csv: no such file", id="missing input, listener"),
    pytest.param(DIALER, _no_input, 66, r"in\.csv: no such file", id="missing input, dialer"),
    pytest.param(LISTENER, _other_key, 66, r"no column 'Id'; the file has 'id', 'note'", id="missing column, listener"),
    pytest.param(DIALER, _other_key, 66, r"no column 'Id'; the file has 'code', 'note'", id="missing column, dialer"),
    pytest.param(DIALER, _float_key, 65, r"the key column 'id' is of type '?double", id="float key"),
    pytest.param(LISTENER, _no_output_folder, 73, r"nowhere/people\.csv: .*folder does not exist", id="no folder"),
    pytest.param(
        DIALER, _no_output_folder, 73, r"nowhere/people\.csv: .*folder does not exist", id="no folder, dialer"
    ),
    pytest.param(DIALER, _input(b""), 65, r"in\.csv: the file is empty", id="empty file"),
    pytest.param(LISTENER, _input(marked(1) + BAD_ROW + b"\xff\n"), 65, r"in\.csv:3: not UTF-8", id="not UTF-8"),
    pytest.param(
        LISTENER, _input(marked(1) + BAD_ROW + b",x\n"), 65, r"in\.csv:3: the row has 3", id="ragged, listener"
    ),
    pytest.param(DIALER, _input(marked(1) + BAD_ROW + b",x\n"), 65, r"in\.csv:3: the row has 3", id="ragged, dialer"),
    pytest.param(DIALER, _input(marked(1) + b'"' + BAD_ROW + b"\n"), 65, r"in\.csv:3: a quote opened", id="open quote"),
    pytest.param(LISTENER, _input(marked(1) + b"\t" + BAD_ROW + b"\n"), 65, r"in\.csv:3: .*control", id="control"),
    pytest.param(DIALER, _input(gzip.compress(marked(1))[:-9], "in.csv.gz"), 65, r"in\.csv\.gz: .*gzip", id="cut gzip"),
]


@pytest.mark.parametrize(("party", "spoil", "code", "sentence"), LOCAL_FAILURES)
def test_one_side_fails_and_the_other_is_told(pair: Pair, party: str, spoil: Spoil, code: int, sentence: str) -> None:
    marked_pair(pair)
    spoil(pair, party)
    untouched = Untouched(pair)
    runs = {each: pair.start(each, "--verbose", "--json") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    failed(results[party], code, sentence)
    failed(results[other(party)], 80, f"{party} failed: ")
    untouched.check()
    assert all(the_object(result.stdout)["seconds"] < SOON for result in results.values())


def test_both_sides_fail_at_once(pair: Pair) -> None:
    marked_pair(pair)
    _no_input(pair, LISTENER)
    _other_key(pair, DIALER)
    alice, bob = pair.run("--json")
    failed(alice, 66, "no such file")
    failed(bob, 66, "no column 'Id'")
    assert all(the_object(result.stdout)["seconds"] < SOON for result in (alice, bob))


# Mistakes in one job file: the other side is not needed ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("job: [overlap\nself_party: alice\n", r"job\.yaml:\d+: YAML: "),
        ("\t- job\n", r"job\.yaml:1: YAML: "),
        ("", r"job\.yaml:1: job file: is empty"),
    ],
)
def test_bad_yaml(pair: Pair, text: str, mistake: str) -> None:
    path = pair.path(LISTENER, "job.yaml")
    path.write_text(text)
    failed(pair.start_as_is("--config", path).result(), 78, mistake)


def test_every_mistake_of_a_job_file_at_once(pair: Pair) -> None:
    marked_pair(pair)
    job = pair.jobs[DIALER]
    job["surprise"] = "1"
    job["tasks"][0]["recever"] = DIALER
    job["cluster"]["link_desc"]["connect_retry_times"] = "many"
    job["tasks"][0]["input_path"] = {DIALER: "in.xlsx"}
    result = pair.start(DIALER).result()
    failed(result, 78, r"job\.yaml:\d+: surprise: unknown field")
    for mistake in ("tasks[0].recever: unknown field; did you mean receiver?", "'many' is not a whole", "'in.xlsx'"):
        assert mistake in result.stderr
    assert pair.path(DIALER, "out/people.csv").read_bytes() == OLD


def test_a_party_that_is_none(pair: Pair) -> None:
    marked_pair(pair)
    failed(pair.start(LISTENER, "--party", "carol").result(), 78, "'carol' is no party of this job; give alice or bob")


def test_no_job_file(pair: Pair) -> None:
    failed(
        pair.start_as_is("--config", pair.path(LISTENER, "absent.yaml")).result(), 66, "absent.yaml: no such job file"
    )


# Two job files that disagree -------------------------------------------------------------------------------------


def _other_job_and_one_key_more(pair: Pair) -> None:
    pair.jobs[LISTENER]["job"] = "other"
    pair.jobs[DIALER]["tasks"][0]["keys"][DIALER].append("note")


def _third_party(pair: Pair) -> None:
    job = pair.jobs[DIALER]
    job["self_party"] = "carol"
    job["cluster"]["nodes"][1]["party"] = "carol"
    for field in ("keys", "input_path", "output_path"):
        job["tasks"][0][field] = {"carol": job["tasks"][0][field][DIALER]}


DISAGREEMENTS = [
    (lambda pair: pair.jobs[DIALER]["psi"].update(receiver=DIALER), ["people: receiver alice bob"]),
    (lambda pair: pair.jobs[DIALER]["tasks"][0].update(name="persons"), ["tasks people persons"]),
    (
        lambda pair: pair.jobs[DIALER]["tasks"][0].update(broadcast_result=False),
        ["people: broadcast_result true false"],
    ),
    (
        _other_job_and_one_key_more,
        ["job other overlap", "people: number of keys 1 2"],
    ),
]


@pytest.mark.parametrize(("change", "fields"), DISAGREEMENTS, ids=["receiver", "task", "broadcast", "job and keys"])
def test_the_parties_disagree(pair: Pair, change: Callable[[Pair], object], fields: list[str]) -> None:
    """Both stop, and both show the same fields, each from its own side."""
    marked_pair(pair)
    change(pair)
    untouched = Untouched(pair)
    alice, bob = pair.run()
    for result, turned in ((alice, False), (bob, True)):
        failed(result, 78, "the two job files disagree")
        table = [" ".join(line.split()) for line in result.below("the two job files disagree")]
        assert len(table) == 1 + len(fields), table
        for field, row in zip(fields, table[1:], strict=True):
            name, ours, theirs = field.rsplit(" ", 2)
            assert row == (f"{name} {theirs} {ours}" if turned else field)
    untouched.check()


def test_a_party_the_other_does_not_expect(pair: Pair) -> None:
    marked_pair(pair)
    _third_party(pair)
    untouched = Untouched(pair)
    alice, carol = pair.run()
    failed(alice, 78, "the two job files disagree")
    assert [" ".join(line.split()) for line in alice.below("disagree")] == [
        "field ours theirs",
        "party of bob bob carol",
    ]
    failed(carol, 78, "disagree")
    untouched.check()


# The other side is not there, or goes away -----------------------------------------------------------------------


@pytest.mark.parametrize("party", PARTIES)
def test_nobody_comes(pair: Pair, party: str) -> None:
    marked_pair(pair)
    pair.link(party, connect_retry_times=20)
    untouched = Untouched(pair)
    at = f"127.0.0.1:{pair.port}"
    result = pair.start(party, "--json").result()
    failed(result, 69, f"{other(party)} did not appear.*: ({at}: connection refused|nobody connected to {at} as bob)")
    assert the_object(result.stdout)["seconds"] < SOON
    untouched.check()


def test_a_port_that_is_in_use(pair: Pair) -> None:
    """The listener says so at once; a dialer that reaches somebody else's port gives up in time."""
    marked_pair(pair)
    pair.link(DIALER, connect_retry_times=3)
    untouched = Untouched(pair)
    with socket.create_server(("127.0.0.1", pair.port)):
        alice, bob = pair.run()
    failed(alice, 75, f"127.0.0.1:{pair.port}: the port is in use")
    failed(bob, 69, "alice did not appear")
    untouched.check()


def test_the_same_party_twice(pair: Pair) -> None:
    """A second listener finds the port taken; a second dialer is turned away; the first session does not notice."""
    long_pair(pair)
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    failed(pair.start(LISTENER).result(), 75, "the port is in use|is taken by")
    bob = pair.start(DIALER)
    for run in (alice, bob):
        run.wait_for("exchanging")
    failed(pair.start(DIALER).result(), 75, "alice already runs this session with somebody else|is taken by")
    bob.send(signal.SIGTERM)
    assert (bob.result().code, alice.result().code) == (143, 69)


STOPS = [
    pytest.param(signal.SIGKILL, LISTENER, -9, id="SIGKILL, listener"),
    pytest.param(signal.SIGKILL, DIALER, -9, id="SIGKILL, dialer"),
    pytest.param(signal.SIGTERM, LISTENER, 143, id="SIGTERM"),
    pytest.param(signal.SIGINT, DIALER, 130, id="Ctrl-C"),
]


@pytest.mark.parametrize(("number", "party", "code"), STOPS)
def test_a_party_is_stopped_in_the_middle(pair: Pair, number: signal.Signals, party: str, code: int) -> None:
    long_pair(pair)
    untouched = Untouched(pair)
    runs = {each: pair.start(each, "--json") for each in PARTIES}
    for run in runs.values():
        run.wait_for("exchanging")
    runs[party].send(number)
    results = {each: run.result() for each, run in runs.items()}
    assert results[party].code == code
    failed(results[other(party)], 69, f"{party} (went away|stopped) before the session was complete")
    left = the_object(results[other(party)].stdout)
    assert left["tasks"][0]["status"] == "failed"
    assert left["error"]["party"] == party
    if number != signal.SIGKILL:
        failed(results[party], code, f"stopped by {number.name}")
        assert the_object(results[party].stdout)["exit_code"] == code
        untouched.check()
    else:
        # Nobody is left to remove the killed one's temporary file, but the output is the old one.
        assert pair.path(party, "out/people.csv").read_bytes() == OLD
        assert list(pair.files(other(party))) == ["in.csv", "out/people.csv"]
    assert pair.path(other(party), "out/people.csv").read_bytes() == OLD


@pytest.mark.parametrize("party", PARTIES)
def test_stopped_while_waiting_for_the_other(pair: Pair, party: str) -> None:
    marked_pair(pair)
    run = pair.start(party, "--json")
    run.wait_for("listening on" if party == LISTENER else "connecting to")
    run.send(signal.SIGTERM)
    failed(result := run.result(), 143, "stopped by SIGTERM")
    assert the_object(result.stdout)["seconds"] < SOON
