"""Jobs of many tasks with different formats and terms, and a job of one task."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from support.processes.expectations import check_counts, check_output, csv_data
from support.processes.runner import (
    DIALER,
    LISTENER,
    PARTIES,
    SLOWLY,
    Pair,
    Side,
)

SUFFIXES = ("csv", "tsv", "csv.gz", "parquet", "tsv.gz")


def write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    """Write rows in the format that the suffix names; in Parquet the first column holds integers."""
    if path.suffix == ".parquet":
        columns = [*zip(*rows, strict=True)] or [()] * len(header)
        arrays = [pa.array([int(value) for value in columns[0]], pa.int64()), *map(pa.array, columns[1:])]
        pq.write_table(pa.table(dict(zip(header, arrays, strict=True))), path)
        return
    octets = csv_data(header, rows, "\t" if ".tsv" in path.suffixes else ",")
    path.write_bytes(gzip.compress(octets) if path.suffix == ".gz" else octets)


def batch(pair: Pair, tasks: int = 12) -> None:
    """Add tasks with different formats, key columns, receivers, broadcast settings and sizes."""
    for task in range(tasks):
        draw = random.Random(task)
        sides = {}
        for party, shift in zip(PARTIES, (0, 2), strict=True):
            kind, out = SUFFIXES[(task + shift) % 5], SUFFIXES[(task + 2 * shift + 1) % 5]
            keys = [f"{party}-id", "day"] if task % 3 == 0 else [f"{party}-id"]
            rows = [
                [str(draw.randrange(90)), draw.choice(["mon", "tue", 'w"e,d', "ß"]), f"row {row} of {party}"]
                for row in range(draw.randrange(30, 120) if task != 5 else 0)
            ]
            name = f"in-{task}.{kind}"
            write(pair.path(party, name), [f"{party}-id", "day", "note"], rows)
            sides[party] = Side(keys, name, f"out/{task}.{out}")
        terms = {"receiver": PARTIES[task % 2], "broadcast_result": task % 4 == 1}
        pair.add(f"task-{task}", sides[LISTENER], sides[DIALER], **terms)


def learns(pair: Pair, party: str, task: int) -> bool:
    terms = pair.jobs[party]["tasks"][task]
    return bool(terms["receiver"] == party or terms["broadcast_result"])


def check_task(pair: Pair, party: str, task: int, reported: dict[str, Any]) -> None:
    """Compare one party's report and output of a task with the oracle."""
    assert reported["status"] == "done"
    output = pair.path(party, pair.jobs[party]["tasks"][task]["output_path"][party])
    if learns(pair, party, task):
        check_output(pair, party, task, str(output))
        check_counts(pair, party, task, reported)
    else:
        assert not output.exists()
        assert [reported[name] for name in ("output", "output_rows", "matched")] == [None] * 3


def one_task(pair: Pair, rows: int = 20) -> Pair:
    for party in PARTIES:
        write(pair.path(party, "in.csv"), ["id"], [[str(row)] for row in range(rows)])
    side = Side(["id"], "in.csv", "out/people.csv")
    pair.add("people", side, side, broadcast_result=True)
    pair.environment = SLOWLY
    return pair


def whole_job(pair: Pair, change: Callable[[dict[str, Any]], object] = lambda job: None) -> Path:
    """Write one job file for both parties."""
    job = json.loads(json.dumps(pair.jobs[LISTENER]))
    del job["self_party"]
    for task, theirs in zip(job["tasks"], pair.jobs[DIALER]["tasks"], strict=True):
        for field in ("keys", "input_path", "output_path"):
            task.setdefault(field, {}).update(theirs.get(field, {}))
            if field != "keys":
                task[field] = {party: f"{party}/{name}" for party, name in task[field].items()}
    job["cluster"]["nodes"][1]["address"] = "bob.example.com:1"
    job["cluster"]["nodes"][0].update(address="alice.example.com:18560", listen_address="0.0.0.0:18560")
    job["cluster"]["tls"] = {"ca_file": "a", "certificate_file": "b", "private_key_file": "c"}
    job["policy"] = {"min_peer_items": 10**9, "max_match_rate": 0.000001}
    change(job)
    path = pair.folder / "whole.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def check_people(pair: Pair) -> None:
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")
