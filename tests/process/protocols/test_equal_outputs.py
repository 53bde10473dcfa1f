"""Outputs of rr22 are those of ecdh, byte for byte, on every kind of input."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from support.processes import altered
from support.processes.expectations import csv_data, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

# fmt: off
TEXTS = [
    "", "a", "a,b", 'say "hi"', " a", "A", "\u00e4", "a\u0308", "Straße", "日本語", "😀", "null", "007", "7", "-0",
    "\u2028", "long " * 900, "x" * 9000,
]
# fmt: on
# What a party may write in place of the rows that match.
CONTENTS: list[dict[str, Any]] = [
    {"rows": "matched"},
    {"rows": "unmatched"},
    {"rows": "all", "flag": "in_both", "order": "input"},
]  # fmt: skip
SUFFIXES = ["csv", "csv.gz", "tsv", "jsonl", "parquet", "arrow"]


def columns(seed: str, count: int) -> dict[str, list[Any]]:
    """Return two key columns and another one: few distinct keys, so that many repeat and match, and nulls."""
    draw = random.Random(seed)
    return {
        "id": [draw.choice([None, *range(count)]) for _ in range(count)],
        "text": [draw.choice(TEXTS) for _ in range(count)],
        "note": [f"{seed}, {row}" for row in range(count)],
    }


def write(path: Path, table: dict[str, list[Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [*zip(*table.values(), strict=True)]
    arrow = pa.table({name: pa.array(values, pa.int64() if name == "id" else None) for name, values in table.items()})
    match path.name.partition(".")[2]:
        case "parquet":
            pq.write_table(arrow, path)
        case "arrow":
            with pa.ipc.new_file(path, arrow.schema) as file:
                file.write_table(arrow)
        case "jsonl":
            path.write_text("".join(json.dumps(dict(zip(table, row, strict=True))) + "\n" for row in rows))
        case suffix:
            texts = [["" if each is None else str(each) for each in row] for row in rows]
            data = csv_data([*table], texts, "\t" if suffix == "tsv" else ",")
            path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)


def every_kind(pair: Pair) -> None:
    """Add a task for each format, each way to write the output, and each special input."""
    for at, suffix in enumerate(SUFFIXES):
        name, theirs = f"of-{suffix.replace('.', '-')}", SUFFIXES[at - 1]
        write(pair.path(LISTENER, f"{name}.{suffix}"), columns(f"alice {name}", 300))
        write(pair.path(DIALER, f"{name}.{theirs}"), columns(f"bob {name}", 90 + at))
        sides = [Side(["id", "text"], f"{name}.{kind}", f"out/{name}.{kind}") for kind in (suffix, theirs)]
        content = CONTENTS[at % len(CONTENTS)]
        pair.add(name, *sides, receiver=PARTIES[at % 2], broadcast_result=True, output=content)
    for ours, theirs_count in ((0, 5), (5, 0), (0, 0), (1, 1), (1, 200), (200, 1), (2, 3)):
        name = f"sizes-{ours}-{theirs_count}"
        for party, count in zip(PARTIES, (ours, theirs_count), strict=True):
            write(pair.path(party, f"{name}.csv"), {"id": [*range(count)], "note": [party] * count})
        for broadcast in (False, True):
            out = f"out/{name}-{broadcast}.csv"
            pair.add(
                f"{name}-{str(broadcast).lower()}",
                Side(["id"], f"{name}.csv", out),
                Side(["id"], f"{name}.csv", out if broadcast else None),
                broadcast_result=broadcast,
            )
    forms(pair)
    folders(pair)


def forms(pair: Pair) -> None:
    """Add a task whose parties write an address in different ways."""
    values = {
        LISTENER: ["Ann@Example.com ", "bob@example.com", "x@y.example"],
        DIALER: ["ANN@example.COM", "c@d.example"],
    }
    for party, mails in values.items():
        write(pair.path(party, "mails.csv"), {"mail": mails, "note": [party] * len(mails)})
    key: Any = {"column": "mail", "normalize": "email"}
    pair.add("forms", Side([key], "mails.csv", "out/forms.csv"), Side([key], "mails.csv"))


def folders(pair: Pair) -> None:
    """Add a task that reads a folder as a whole, and one for each of its files."""
    for party in PARTIES:
        for month in ("2026-01", "2026-02", "2026-03"):
            write(pair.path(party, f"in/{month}.csv"), columns(f"{party} {month}", 60))
    pair.add("whole", Side(["id"], "in", "out/whole.parquet"), Side(["id"], "in"))
    pair.add("each", Side(["id", "text"], "in/*.csv", "out/*.csv"), Side(["id", "text"], "in/"), per_file=True)


def written(pair: Pair, protocol: str) -> dict[str, bytes]:
    """Run both parties by a protocol; return all outputs, and remove them."""
    for party in PARTIES:
        pair.jobs[party]["psi"]["protocol"] = protocol
    succeeded(results := pair.run("--json", "--resume=never"))
    assert {task["protocol"] for result in results for task in the_object(result.stdout)["tasks"]} == {protocol}
    found: dict[str, bytes] = {}
    for party in PARTIES:
        for path in sorted(pair.path(party, "out").iterdir()):
            found[f"{party}/{path.name}"] = path.read_bytes()
            path.unlink()
    return found


@pytest.mark.more
def test_every_kind_of_input(pair: Pair) -> None:
    every_kind(pair)
    by_ecdh, by_rr22 = written(pair, "ecdh"), written(pair, "rr22")
    # Six formats on both sides; seven pairs of sizes, of which each broadcast has two outputs; three folders.
    assert len(by_ecdh) == 2 * 6 + 3 * 7 + 1 + 1 + 3
    # Some outputs are those of empty inputs; most hold rows.
    assert sum(data.count(b"\n") > 1 or len(data) > 500 for data in by_ecdh.values()) > 20
    assert by_rr22 == by_ecdh


@pytest.mark.more
def test_several_bins_on_disk(pair: Pair) -> None:
    """Both parties have more items than a bin holds, repeated keys, null keys and little memory."""
    for party, first in zip(PARTIES, (0, 9000), strict=True):
        table = columns(party, 3000)
        table = {name: values * 8 for name, values in table.items()}
        table["id"][3000:] = [*range(first, first + 21_000)]
        table["text"] = [text[:20] for text in table["text"]]
        write(pair.path(party, "in.csv"), table)
        pair.jobs[party]["pipeline"] = {"bin_items": 16_384, "memory": "384MB"}
    pair.add("both", *[Side(["id"], "in.csv", "out/both.csv")] * 2, broadcast_result=True)
    pair.add("alone", Side(["id", "text"], "in.csv", "out/alone.csv"), Side(["id", "text"], "in.csv"))
    pair.program = altered.program(altered.with_one_megabyte)
    by_ecdh, by_rr22 = written(pair, "ecdh"), written(pair, "rr22")
    assert [*by_ecdh] == ["alice/alone.csv", "alice/both.csv", "bob/both.csv"]
    assert min(data.count(b"\n") for data in by_ecdh.values()) > 50
    assert by_rr22 == by_ecdh
