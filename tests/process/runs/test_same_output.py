"""Outputs are byte-identical for all settings of bins, depth, frames, threads, memory and backend."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.kernel import backends
from support.memory.pair import items_of, matched_items, run_exchanges
from support.processes import altered
from support.processes.expectations import check_output, succeeded
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

from psicli.protocol.bins import capacity, number_of_bins

SIDES = {
    LISTENER: Side(["id", "day"], "in.csv", "out/rows.csv"),
    DIALER: Side(["code", "day"], "in.parquet", "out/rows.parquet"),
}
DAYS = ["mon", 't"u,e', "", "wéd"]
ON_DISK = {"items", "rows"}


@dataclass(frozen=True)
class How:
    """The settings of one party's run; tight: give it very little memory."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    tight: bool = False


def how(*, backend: str | None = None, tight: bool = False, **settings: Any) -> How:
    return How(settings, backend, tight)


PLAIN = how()


def write_inputs(pair: Pair, rows: tuple[int, int], note: str = "") -> None:
    """Write a CSV and a Parquet file with two key columns, many repeated keys and some null keys."""
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
    """Run both parties with their settings; return their reports and, under `on disk`, what each wrote to its spool."""
    started = {}
    for party, way in zip(PARTIES, ways, strict=True):
        pair.jobs[party]["pipeline"] = {**({"memory": "384MB"} if way.tight else {}), **way.settings}
        environment = backends.environment(way.backend) if way.backend else {}
        alterations = [altered.log_spool_files, *([altered.with_one_megabyte] if way.tight else [])]
        started[party] = pair.start(party, "--json", "--quiet", env=environment, program=altered.program(*alterations))
    results = {party: process.result() for party, process in started.items()}
    succeeded(results.values())
    reports = {party: json.loads(result.stdout) for party, result in results.items()}
    for party, result in results.items():
        reports[party]["on disk"] = {line.split(": ")[1] for line in result.stderr.splitlines() if "on disk: " in line}
    return reports


def outputs(pair: Pair) -> dict[str, bytes]:
    """Return both parties' outputs and remove the files."""
    written = {}
    for party in PARTIES:
        path = pair.path(party, str(SIDES[party].output))
        written[party] = path.read_bytes()
        path.unlink()
    return written


def check_plainly(pair: Pair) -> dict[str, bytes]:
    """Run with the default settings, check the outputs and return them."""
    reports = run(pair, (PLAIN, PLAIN))
    assert [report["tasks"][0]["bins"] for report in reports.values()] == [1, 1]
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
    (how(frame_items=1024), PLAIN),
    (how(frame_items=32768, threads=2), how(frame_items=20000, depth=3)),
    (how(memory="384MB"), how(memory="2GB", depth=5)),
    (how(tight=True), PLAIN),
    (how(memory="1GB", frame_items=8192), how(tight=True)),
    (how(tight=True, depth=1, threads=1, frame_items=1032), how(tight=True, depth=64, threads=3)),
    (how(backend="native portable", tight=True), how(memory="500MB", depth=6)),
]
# fmt: on


@pytest.mark.slow
def test_settings_do_not_show_in_the_output(pair: Pair) -> None:
    """Every setting gives the same outputs; with tight memory the run also uses the disk."""
    write_inputs(pair, (15_000, 10_000))
    expected = check_plainly(pair)
    for ways in SETTINGS:
        reports = run(pair, ways)
        assert outputs(pair) == expected, ways
        for party, way in zip(PARTIES, ways, strict=True):
            assert reports[party]["on disk"] == (ON_DISK if way.tight else set())
            assert (reports[party]["spool_bytes"] > 0) == way.tight


@pytest.mark.more
def test_backends_do_not_show_in_the_output(pair: Pair) -> None:
    """Every backend and CPU path works with another one, with frames of different sizes."""
    write_inputs(pair, (3000, 2500))
    expected = check_plainly(pair)
    for at, name in enumerate(backends.NAMES):
        ways = how(backend=name, frame_items=(1024, 2048)[at % 2]), how(backend=backends.NAMES[at - 1], depth=1 + at)
        reports = run(pair, ways)
        assert [report["backend"] for report in reports.values()] == [way.backend for way in ways]
        assert outputs(pair) == expected, ways


# Settings and the number of bins that follow from them.
# fmt: off
BINS = [
    (4, how(bin_items=16384), how(bin_items=16384)),
    (4, how(bin_items=16384, depth=1, threads=1), how(depth=64, threads=7)),
    (4, how(frame_items=1024), how(bin_items=16384, frame_items=5000)),
    (4, how(bin_items=16384, frame_items=32768), how(frame_items=32768, threads=2, depth=2)),
    (4, how(bin_items=16384, tight=True), how(bin_items=65536)),
    (4, how(bin_items=32768), how(tight=True)),
    (4, how(tight=True, depth=1, frame_items=4096), how(tight=True, depth=64, threads=3)),
    (4, how(bin_items=16384, backend="native portable"), how(memory="384MB", depth=6)),
    (2, how(bin_items=32768, memory="384MB"), how(memory="2GB", depth=5)),
    (2, how(bin_items=131072, threads=1), how(bin_items=32768, frame_items=2000)),
    (1, how(bin_items=65536, frame_items=1024), how(bin_items=67108864, depth=2)),
]
# fmt: on


@pytest.mark.slow
def test_bins_do_not_show_in_the_output(pair: Pair) -> None:
    """The outputs do not depend on the number of bins, together with other settings."""
    write_inputs(pair, (80_000, 60_000))
    expected = check_plainly(pair)
    for bins, *ways in BINS:
        reports = run(pair, ways)
        assert outputs(pair) == expected, ways
        assert [report["tasks"][0]["bins"] for report in reports.values()] == [bins, bins]
        for party, way in zip(PARTIES, ways, strict=True):
            assert reports[party]["on disk"] == (ON_DISK if way.tight else set())


@pytest.mark.more
def test_there_are_enough_ways() -> None:
    assert len(SETTINGS) + len(BINS) >= 17


# Odd sizes ------------------------------------------------------------------------------------------------------

LEAST = 16_384
# The capacity of each of two bins when there is one item more than fits in a single bin.
CAPACITY = 9036
ODD_COUNTS = [
    *((LEAST + more, LEAST + other) for more in (-1, 0, 1) for other in (-1, 0, 1)),
    *((LEAST + 1, count) for count in (0, 1, 2, 3, CAPACITY - 1, CAPACITY, CAPACITY + 1)),
    *((count, LEAST + 1) for count in (0, 1, 2, 3, CAPACITY - 1, CAPACITY, CAPACITY + 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
def test_odd_sizes(pair: Pair, broadcast: bool) -> None:
    """Each task has counts near zero, near the size of a bin or near the capacity of a bin."""
    assert capacity(LEAST + 1, 2) == CAPACITY
    for at, counts in enumerate(ODD_COUNTS):
        for party, count in zip(PARTIES, counts, strict=True):
            first = 0 if party == LISTENER else min(counts) // 2
            rows = [f"{number * 7919 % 100_003},{at}" for number in range(first, first + count)]
            # Repeat some keys, and add a row with a null key.
            lines = ["id,note", *rows, *rows[:5], ",none"]
            pair.path(party, f"{at}.csv").write_text("\n".join(lines) + "\n")
        side = Side(["id"], f"{at}.csv", f"out/{at}.csv")
        pair.add(f"task-{at}", side, side if broadcast else Side(["id"], f"{at}.csv"), broadcast_result=broadcast)
    ways = how(bin_items=LEAST), how(bin_items=LEAST, frame_items=4096)
    reports = run(pair, ways)
    bins = [0 if not min(counts) else 1 + (max(counts) > LEAST) for counts in ODD_COUNTS]
    for party in PARTIES:
        assert [task["bins"] for task in reports[party]["tasks"]] == bins
        for at in range(len(ODD_COUNTS)):
            if broadcast or party == LISTENER:
                check_output(pair, party, at, f"out/{at}.csv")


# Counts for bins of 128 items: near the limits of one bin and of eight bins, and near the capacity of such bins.
SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 17, 124, 125, 126, 127, 128, 129, 300, 327, 328, 329]


# The tests use only pairs of counts in which at least one is in this set.
NARROW = {0, 1, 2, 8, 128, 129, 329}


@pytest.mark.more
@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
def test_odd_sizes_of_small_bins(broadcast: bool) -> None:
    assert [number_of_bins(count, 1, 128) for count in (128, 129, 300, 328, 329)] == [1, 4, 8, 8, 16]
    assert [capacity(count, 8) for count in (300, 327, 328)] == [125, 128, 128]
    for n, m in itertools.product(SIZES, SIZES):
        if not {n, m} & NARROW:
            continue
        values = [f"{number * 7919 % 100_003}" for number in range(n + m)]
        mine, theirs = values[:n], values[n - min(n, m) // 2 :][:m]
        receiver, sender = run_exchanges(
            items_of(mine + mine[:3]),
            items_of(theirs[:3] + theirs),
            broadcast=broadcast,
            # Either several frames per bin, or one.
            frame_items=8 if (n + m) % 4 == 0 else 1024,
            bin_items=128,
        )
        expected = {value.encode() for value in set(mine) & set(theirs)}
        assert len(expected) == min(n, m) // 2
        assert matched_items(receiver, receiver.matches()) == expected
        if broadcast:
            assert receiver.output.published
            assert sender.output.published
            assert matched_items(sender, sender.output.staged) == expected


@pytest.mark.slow
def test_a_real_budget_does_not_show_in_the_output(pair: Pair) -> None:
    """Items, lists and outputs do not fit in the least memory that a job may have."""
    write_inputs(pair, (700_000, 500_000), note="something of some length to be written to the output " * 3)
    large, least = how(memory="4GB"), how(memory="384MB")
    run(pair, (large, large))
    expected = outputs(pair)
    for ways in ((least, large), (how(memory="384MB", depth=1, threads=1), how(memory="400MB", frame_items=4096))):
        reports = run(pair, ways)
        assert outputs(pair) == expected, ways
        assert reports[LISTENER]["on disk"] == ON_DISK
