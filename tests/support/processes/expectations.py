"""Checks of whole runs, and inputs that several tests share."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.processes import oracle
from support.processes.runner import DIALER, LISTENER, PARTIES, SLOWLY, Pair, Result, Side, other

from psicli.protocol import wire

# So long that random octets do not hold it by chance.
MARK = "zq7vk3"


OLD = b"what the run before left\n"


# A run that waits for nobody ends within this time on any machine; a wait for a timeout in the job file would take a
# minute [s].
SOON = 30.0


# Enough items that a slow run is still busy when a test stops it.
MANY = 40_000


Row = Sequence[str]


def csv_data(header: Row, rows: Iterable[Row], separator: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def marked(*numbers: int, column: str = "id") -> bytes:
    """Return a CSV file whose keys and other values must not appear in any message."""
    return csv_data([column, "note"], [[f"{MARK}-{n}", f"{MARK} note {n}"] for n in numbers])


def marked_pair(pair: Pair, *, broadcast: bool = True) -> Pair:
    """Add one task over marked inputs; both parties' outputs have old content."""
    pair.path(LISTENER, "in.csv").write_bytes(marked(1, 2, 3, 4))
    pair.path(DIALER, "in.csv").write_bytes(marked(3, 4, 5, column="code"))
    pair.add(
        "people",
        Side(["id"], "in.csv", "out/people.csv"),
        Side(["code"], "in.csv", "out/people.csv"),
        broadcast_result=broadcast,
    )
    for party in PARTIES:
        pair.path(party, "out/people.csv").write_bytes(OLD)
    return pair


def long_pair(pair: Pair) -> Pair:
    """Do the same as marked_pair, with enough items that a test can stop the run halfway."""
    marked_pair(pair)
    pair.environment = SLOWLY
    pair.path(LISTENER, "in.csv").write_bytes(marked(*range(MANY)))
    pair.path(DIALER, "in.csv").write_bytes(marked(*range(MANY), column="code"))
    return pair


def succeeded(results: Iterable[Result]) -> None:
    for result in results:
        assert result.code == 0, result.text
        assert "Traceback" not in result.stderr


def check_output(pair: Pair, party: str, task: int, output: str) -> None:
    """Compare one party's output with the oracle's rows; compare CSV byte for byte."""
    expected = oracle.matching_rows(*_sources(pair, party, task))
    path = pair.path(party, output)
    if path.suffix == ".parquet":
        frame = oracle.read(path)
        assert list(frame.columns) == list(expected.columns)
        for column in frame:
            assert [*map(oracle.text, frame[column])] == [*map(oracle.text, expected[column])]
        return
    octets = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert octets.decode() == oracle.csv_bytes(expected, "\t" if ".tsv" in path.suffixes else ",").decode()


def check_counts(pair: Pair, party: str, task: int, reported: dict[str, Any]) -> None:
    expected = oracle.counts(*_sources(pair, party, task))
    assert {name: reported[name] for name in expected} == expected


def _sources(pair: Pair, party: str, task: int) -> tuple[Path, Row, Path, Row]:
    mine, theirs = (pair.jobs[each]["tasks"][task] for each in (party, other(party)))
    peer = other(party)
    return (
        pair.path(party, mine["input_path"][party]),
        mine["keys"][party],
        pair.path(peer, theirs["input_path"][peer]),
        theirs["keys"][peer],
    )


def failed(result: Result, code: int, sentence: str) -> None:
    """Check a failure as the user sees it: the exit code, one error with this sentence, no traceback and no value."""
    assert result.code == code, result.text
    assert re.search(sentence, result.stderr), result.stderr
    assert "Traceback" not in result.text
    assert MARK not in result.text
    # One error and at most one hint; all lines of an error have the same time stamp.
    times = {line.split()[0] for line in result.stderr.splitlines() if " ERROR " in line and " hint: " not in line}
    assert len(times) == 1, result.errors
    assert sum(": hint: " in f": {line}" for line in result.errors) <= 1, result.errors


class Untouched:
    """A check that a run has not changed the files of either party."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._before = [pair.files(party) for party in PARTIES]

    def check(self) -> None:
        assert [self._pair.files(party) for party in PARTIES] == self._before


def the_object(stdout: bytes) -> dict[str, Any]:
    """Parse standard output, which must be exactly one JSON object."""
    found = json.loads(stdout)
    assert isinstance(found, dict)
    return found


def numbers(pair: Pair) -> None:
    """Add a task with text against 64-bit integers and nulls: only a number's plain digits match it."""
    written = ["7", "007", "7.0", "+7", " 7", "-3", "0", "-0", "9223372036854775807", "-9223372036854775808", "", "7"]
    pair.path(LISTENER, "numbers.csv").write_bytes(
        csv_data(["id", "row"], [[n, str(i)] for i, n in enumerate(written)])
    )
    held = pa.table(
        {
            "number": pa.array([7, -3, 0, 2**63 - 1, None, -(2**63), 7, 70], pa.int64()),
            "name": pa.array(["seven", None, "zero", "most", "null", "least", "seven again", "no partner"]),
            "share": pa.array([0.1, None, 2.5, 1e300, 0.0, -1.5, 3.25, 4.0]),
        }
    )
    pq.write_table(held, pair.path(DIALER, "numbers.parquet"))
    pair.add(
        "numbers",
        Side(["id"], "numbers.csv", "out/numbers.parquet"),
        Side(["number"], "numbers.parquet", "out/numbers.parquet"),
        receiver=DIALER,
        broadcast_result=True,
    )


def shape(message: Any) -> tuple[str, int]:
    return type(message).__name__, len(wire.encode(message))
