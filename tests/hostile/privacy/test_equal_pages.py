"""What a one-sided sender can look at after a run is equal, byte for byte, whatever matched.

Three real runs over the same file of the sender: the receiver's file has nothing, something or everything in common
with it, and the same size and as many rows and keys each time. Compared are the sender's page, metrics, log of JSON,
report, kept report, ledger and history; numbers of bytes, too. Left out is only what differs between any two runs:
moments, durations, the times of stages, the peak of the memory, and what is random (ids and digests of them).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.monitoring.logs import log_lines
from support.monitoring.metrics import Metrics
from support.processes.expectations import succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Run, Side, free_ports

from psicli.protocol.messages import RR22
from psicli.report.pages.run import run_page

pytestmark = pytest.mark.more

ROWS = 400
# Nothing, something, everything.
MATCHES = (0, ROWS // 3, ROWS)
# What differs between any two runs, in a report: times, the peak of the memory, and what is random.
CHANCE = {
    "run", "started", "session_id", "task_sid", "seconds", "peak_memory", "stages", "timeline", "ledger_head",
}  # fmt: skip
# The same in metrics, and in the records of the ledger.
TIMES = ("_seconds", "_memory_bytes")
OF_A_RECORD = CHANCE | {"time", "closed"}


class Night(NamedTuple):
    """What a sender has after a run. folder: where the files are that it left."""

    folder: Path
    run: Result

    @property
    def facts(self) -> dict[str, Any]:
        return the_object(self.run.stdout)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def past(self, *command: str) -> str:
        """Return what a command prints that shows past runs."""
        run = Run(command, env={"PSICLI_STATE_DIR": str(self.folder / "state")})
        try:
            succeeded([result := run.result()])
        finally:
            run.kill()
        return result.stdout.decode()


def night(folder: Path, port: int, matches: int, protocol: str) -> Night:
    """Run both parties in folders of their own, with so many common keys; the sender leaves all that it can leave."""
    folder.mkdir()
    pair = Pair(folder, port)
    for party, first in ((DIALER, 0), (LISTENER, ROWS - matches)):
        rows = "".join(f"k{number:06},{party}\n" for number in range(first, first + ROWS))
        pair.path(party, "in.csv").write_text("id,of\n" + rows)
        pair.jobs[party]["psi"]["protocol"] = protocol
    for task in ("one", "two"):
        pair.add(task, Side(["id"], "in.csv", f"out/{task}.csv"), Side(["id"], "in.csv"))
    states = {party: {"PSICLI_STATE_DIR": str(pair.path(party, "state"))} for party in PARTIES}
    try:
        alice = pair.start(LISTENER, env=states[LISTENER])
        # Whether the dialer has to try again is chance otherwise.
        alice.wait_for("listening on")
        left = [
            f"--{what}={pair.path(DIALER, name)}" for what, name in (("report", "page.html"), ("metrics", "m.prom"))
        ]
        own = {**states[DIALER], "PSICLI_LOG": "json"}
        bob = pair.start(DIALER, "--json", "--verbose", *left, env=own).result()
        succeeded([alice.result(), bob])
    finally:
        pair.kill()
    assert pair.path(LISTENER, "out/one.csv").read_bytes().count(b"\n") == 1 + matches
    return Night(pair.path(DIALER), bob)


@pytest.fixture(scope="module", params=["ecdh", RR22])
def nights(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[list[Night]]:
    """Return the nights in which nothing, something and everything matched."""
    folder = tmp_path_factory.mktemp("nights")
    with free_ports(1) as (port,):
        yield [night(folder / f"night-{number}", port, each, request.param) for number, each in enumerate(MATCHES)]


def without(value: Any, chance: set[str]) -> Any:
    """Return a value of JSON without what is chance."""
    if isinstance(value, dict):
        return {name: without(part, chance) for name, part in value.items() if name not in chance}
    return [without(part, chance) for part in value] if isinstance(value, list) else value


def equal(found: list[Any]) -> Any:
    """Check that the sender found the same each night, and return it."""
    assert len(found) == len(MATCHES)
    assert found[0] == found[1] == found[2]
    return found[0]


def test_reports_are_equal(nights: list[Night]) -> None:
    report = equal([without(each.facts, CHANCE) for each in nights])
    for task in report["tasks"]:
        assert (task["status"], task["rows"], task["peer_items"]) == ("done", ROWS, ROWS)
        assert task["bytes_sent"] > (32 if task["protocol"] == "ecdh" else 8) * ROWS
    # The report that the state folder keeps is the one that was printed.
    for each in nights:
        (kept,) = (each.folder / "state" / "reports").glob("*.json")
        assert json.loads(kept.read_text()) == each.facts
        assert kept.stat().st_mode & 0o777 == 0o600


def test_pages_are_equal(nights: list[Night]) -> None:
    """A page is made of the report alone. With the times and ids of one night, all are the same, byte for byte."""
    first = nights[0].facts
    for each in nights:
        assert each.text("page.html").rstrip("\n") == run_page(each.facts).rstrip("\n")
    pages = [run_page(with_chance_of(first, each.facts)).encode() for each in nights]
    assert equal(pages).startswith(b"<!DOCTYPE html>")
    assert len(pages[0]) > 10_000


def with_chance_of(first: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a run with the times and ids of another one."""
    tasks = [
        {**task, **{name: value for name, value in other.items() if name in CHANCE}}
        for task, other in zip(facts["tasks"], first["tasks"], strict=True)
    ]
    return {**facts, **{name: value for name, value in first.items() if name in CHANCE}, "tasks": tasks}


def test_metrics_are_equal(nights: list[Night]) -> None:
    lines = equal([samples(each.text("m.prom")) for each in nights])
    assert 'psicli_task_sent_bytes{job="overlap",party="bob",peer="alice",task="one"} ' in "\n".join(lines)
    assert not [line for line in lines if "match" in line and "matching" not in line and line[0] != "#"]


def samples(text: str) -> list[str]:
    """Return the lines of metrics, those of times without their values."""
    Metrics(text)
    return [line.rpartition(" ")[0] if line.partition("{")[0].endswith(TIMES) else line for line in text.splitlines()]


def test_logs_are_equal(nights: list[Night]) -> None:
    """Tasks log in parallel, so the order of the lines is chance, and so is whether an answer takes a second."""
    waiting = re.compile("; (trying again|waiting) until ")
    chance = re.compile(r"\d+\.\d+ s\b|(?<=its head is )[0-9a-f]{64}")
    logs = []
    for each in nights:
        assert log_lines(each.run.stderr)
        told = [{**line, "time": ""} for line in log_lines(each.run.stderr.replace(str(each.folder), ""))]
        lines = (chance.sub("", json.dumps(line)) for line in told)
        logs.append(sorted(line for line in lines if not waiting.search(line)))
    assert len(equal(logs)) > 10


def test_ledgers_are_equal(nights: list[Night]) -> None:
    records = [json.loads(each.past("ledger", "--json").replace(str(each.folder), "")) for each in nights]
    assert len(equal([without(each, OF_A_RECORD) for each in records])["tasks"]) == 2


def test_histories_are_equal(nights: list[Night]) -> None:
    told = equal([without(json.loads(each.past("history", "--json")), OF_A_RECORD) for each in nights])
    assert [task["runs"][0]["rows"] for task in told["tasks"]] == [ROWS, ROWS]
    lines = [[*csv.DictReader(each.past("history", "--csv").splitlines())] for each in nights]
    assert len(equal([[without(line, OF_A_RECORD) for line in each] for each in lines])) == 2
    tables = [each.past("history") for each in nights]
    chance = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d|\d+\.\d s| +(?= )")
    assert "overlap two alice" in equal([chance.sub("", text) for text in tables])
