"""Outputs are the same bytes however a run goes about it: depth, frames, threads, memory and backend."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import backends
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runner import DIALER, LISTENER, PARTIES, Pair, Side
from test_run import check_output, succeeded

SIDES = {
    LISTENER: Side(["id", "day"], "in.csv", "out/rows.csv"),
    DIALER: Side(["code", "day"], "in.parquet", "out/rows.parquet"),
}
DAYS = ["mon", 't"u,e', "", "wéd"]
# Runs psicli and says what it puts on disk; the libraries take so much more of the memory than they do.
PROGRAM = """
import sys
from psicli.config import models
from psicli.spool import Spool
models.LIBRARIES += {taken}
make = Spool.file
def file(self, name, reserve):
    print("on disk:", name, file=sys.stderr)
    return make(self, name, reserve)
Spool.file = file
from psicli.cli import main
main()
"""
# Leaves 1 MB of 384 for data: what 384MB are to far larger inputs.
MOST = 163_000_000
ON_DISK = {"items", "records", "rows"}


@dataclass(frozen=True)
class How:
    """How one party goes about a run; tight: with next to no memory."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    tight: bool = False


def how(*, backend: str | None = None, tight: bool = False, **settings: Any) -> How:
    return How(settings, backend, tight)


PLAIN = how()


def write_inputs(pair: Pair, rows: tuple[int, int], note: str = "") -> None:
    """Write a CSV and a Parquet file: keys of two columns, many of them twice, some without a value."""
    draw = random.Random(5)
    keys = max(rows) // 4
    lines = ["id,day,note\n"]
    for row in range(rows[0]):
        day = draw.choice(DAYS).replace('"', '""')
        lines.append(f'{draw.randrange(keys) or ""},"{day}","row {row}, ""{note}"""\n')
    pair.path(LISTENER, "in.csv").write_text("".join(lines))
    numbers = np.random.default_rng(5)
    count = rows[1]
    days = pa.array([*DAYS[:3], None, DAYS[3]])
    table = pa.table(
        {
            "amount": numbers.integers(0, 1000, count),
            "code": pa.array(numbers.integers(0, keys, count), mask=numbers.random(count) < 0.01),
            "day": days.take(pa.array(numbers.integers(0, len(days), count))),
            "label": pa.array([f"{note}{number % 50}" for number in range(count)]).dictionary_encode(),
        }
    )
    pq.write_table(table, pair.path(DIALER, "in.parquet"), row_group_size=count // 3)
    pair.add("rows", SIDES[LISTENER], SIDES[DIALER], broadcast_result=True)


def run(pair: Pair, ways: Sequence[How]) -> dict[str, dict[str, Any]]:
    """Run both parties, each in its way; return their reports, with what was put on disk where that is said."""
    started = {}
    for party, way in zip(PARTIES, ways, strict=True):
        pair.jobs[party]["pipeline"] = {**({"memory": "384MB"} if way.tight else {}), **way.settings}
        environment = backends.environment(way.backend) if way.backend else {}
        program = ("-c", PROGRAM.format(taken=MOST if way.tight else 0))
        started[party] = pair.start(party, "--json", "--quiet", env=environment, program=program)
    results = {party: process.result() for party, process in started.items()}
    succeeded(results.values())
    reports = {party: json.loads(result.stdout) for party, result in results.items()}
    for party, result in results.items():
        reports[party]["on disk"] = {line.split(": ")[1] for line in result.stderr.splitlines() if "on disk: " in line}
    return reports


def outputs(pair: Pair) -> dict[str, bytes]:
    """Return what both parties wrote, and remove it."""
    written = {}
    for party in PARTIES:
        path = pair.path(party, str(SIDES[party].output))
        written[party] = path.read_bytes()
        path.unlink()
    return written


def check_plainly(pair: Pair) -> dict[str, bytes]:
    """Run without any settings, compare with what must come out, and return the outputs."""
    reports = run(pair, (PLAIN, PLAIN))
    assert [(report["spool_bytes"], report["on disk"]) for report in reports.values()] == [(0, set())] * 2
    assert reports[LISTENER]["tasks"][0]["matched"] > 100
    for party in PARTIES:
        check_output(pair, party, 0, str(SIDES[party].output))
    return outputs(pair)


@pytest.fixture(autouse=True)
def _state(pair: Pair) -> None:
    pair.environment["PSICLI_STATE_DIR"] = str(pair.folder / "state")


# fmt: off
SETTINGS = [
    (how(depth=1, threads=1), how(depth=64, threads=7)),
    (how(chunk_items=256), PLAIN),
    (how(chunk_items=32768, threads=2), how(chunk_items=20000, depth=3)),
    (how(memory="384MB"), how(memory="2GB", depth=5)),
    (how(tight=True), PLAIN),
    (how(memory="1GB", chunk_items=8192), how(tight=True)),
    (how(tight=True, depth=1, threads=1, chunk_items=1000), how(tight=True, depth=64, threads=3)),
    (how(backend="native portable", tight=True), how(memory="500MB", depth=6)),
]
# fmt: on


def test_settings_do_not_show_in_the_output(pair: Pair) -> None:
    """Ways besides the plain one, each with what lies on disk where memory is tight."""
    write_inputs(pair, (15_000, 10_000))
    expected = check_plainly(pair)
    for ways in SETTINGS:
        reports = run(pair, ways)
        assert outputs(pair) == expected, ways
        for party, way in zip(PARTIES, ways, strict=True):
            assert reports[party]["on disk"] == (ON_DISK if way.tight else set())
            assert (reports[party]["spool_bytes"] > 0) == way.tight


def test_backends_do_not_show_in_the_output(pair: Pair) -> None:
    """Every backend and CPU path meets another one, with the smallest frames and others."""
    write_inputs(pair, (900, 700))
    expected = check_plainly(pair)
    for at, name in enumerate(backends.NAMES):
        ways = how(backend=name, chunk_items=(8, 512)[at % 2]), how(backend=backends.NAMES[at - 1], depth=1 + at)
        reports = run(pair, ways)
        assert [report["backend"] for report in reports.values()] == [way.backend for way in ways]
        assert outputs(pair) == expected, ways


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_budget_does_not_show_in_the_output(pair: Pair) -> None:
    """The least memory a job may have, and rows enough that items, lists and outputs do not fit into it."""
    write_inputs(pair, (700_000, 500_000), note="something of some length to be written to the output " * 3)
    large, least = how(memory="4GB"), how(memory="384MB")
    run(pair, (large, large))
    expected = outputs(pair)
    for ways in ((least, large), (how(memory="384MB", depth=1, threads=1), how(memory="400MB", chunk_items=4096))):
        reports = run(pair, ways)
        assert outputs(pair) == expected, ways
        assert reports[LISTENER]["on disk"] == ON_DISK
