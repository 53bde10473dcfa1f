"""The checkpoint of a task on disk: it holds no secret, and its size reveals nothing."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs.resumed import (
    BINS,
    FIRST,
    PIPELINE,
    ROWS,
    files,
    job,
    killed,
    manifests,
    shown,
)
from support.processes.altered import program, record_draws, watch_curve
from support.processes.expectations import csv_data
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side, failing_at, other

from psicli.exchange.finished import Manifest

# The contents of the state folder --------------------------------------------------------------------------------

# The length of a token; a point is two words long [bytes].
WORD = 16


def pieces(octets: bytes, size: int = WORD) -> set[bytes]:
    return {octets[at : at + size] for at in range(0, len(octets) - size + 1, size)}


def words_in(octets: bytes) -> Iterator[bytes]:
    """Yield every word in these octets, raw or as hex digits, at every offset."""
    yield from (octets[at : at + WORD] for at in range(len(octets) - WORD + 1))
    for digits in re.findall(rb"[0-9a-fA-F]{32,}", octets):
        for at in range(len(digits) - 2 * WORD + 1):
            yield bytes.fromhex(digits[at : at + 2 * WORD].decode())


def run_watched(pair: Pair, party: str, failpoint: str) -> tuple[bool, set[bytes]]:
    """Kill a party at a failpoint; return whether it got there, and the words that neither party may have on disk."""
    secret: set[bytes] = set()
    runs = {}
    for each in PARTIES:
        env = {"TEST_DRAWS": str(pair.folder / f"{each}.draws"), **failing_at(failpoint if each == party else "")}
        runs[each] = pair.start(each, "--json", f"--only={FIRST}", env=env, program=program(record_draws, watch_curve))
    codes = {each: run.result().code for each, run in runs.items()}
    assert codes[party] in (-signal.SIGKILL, 0)
    assert codes[other(party)] in (69, 0)
    for each in PARTIES:
        noted = pair.folder / f"{each}.draws"
        drawn = [bytes.fromhex(line) for line in noted.read_text().split()]
        words, orders = (Path(f"{noted}.{kind}").read_bytes() for kind in ("words", "orders"))
        mine = pieces(words) | {word for draw in drawn for word in pieces(draw)}
        if pair.jobs[each]["tasks"][0]["broadcast_result"] and each == DIALER:
            mine -= pieces(orders)
        secret |= mine
    return codes[party] != 0, secret


POINTS = ("bins.writing", "bins.written", "bins.wiped", "state.writing", "state.written", "state.synced",
          "state.renamed", "state.kept")  # fmt: skip


def search_after(pair: Pair, party: str, failpoint: str) -> bool:
    """Search every file of the state folder for secrets; return whether the party reached the failpoint."""
    reached, secret = run_watched(pair, party, failpoint)
    found = [path for path in (pair.folder / "state").rglob("*") if path.is_file()]
    assert {path.name for path in found} >= {"ledger.jsonl"}
    for path in found:
        octets = path.read_bytes()
        # The key of sketches is only for them.
        key = bytes.fromhex(json.loads(octets.partition(b"\n")[0])["key"]) if "sketches" in path.name else b""
        assert not (secret - pieces(key)) & {*words_in(octets)}, path
    return reached


@pytest.mark.more
@pytest.mark.parametrize("broadcast", [False, True])
def test_no_secret_is_on_disk_where_bins_are_kept(pair: Pair, broadcast: bool) -> None:
    """A checkpoint of several bins holds no scalar, point or token, and no order that the party need not keep."""
    job(pair, broadcast=broadcast)
    assert search_after(pair, LISTENER, "bins.written:kill:3")
    assert len(files(pair, "bins")) == 2
    assert all((pair.folder / f"{party}.draws.words").stat().st_size > ROWS * WORD for party in PARTIES)
    # Prove that the search works: it finds the orders that the sender of a broadcast keeps.
    kept = manifests(pair)[DIALER, FIRST]
    octets = next(path for path in files(pair, "bins") if path.stat().st_size <= kept.slot_bytes * BINS).read_bytes()
    orders = pieces((pair.folder / f"{DIALER}.draws.orders").read_bytes())
    assert bool(orders & {*words_in(octets)}) is broadcast


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("party", PARTIES)
@pytest.mark.parametrize("broadcast", [False, True])
def test_no_secret_is_on_disk_at_any_hit(pair: Pair, broadcast: bool, party: str, point: str) -> None:
    job(pair, broadcast=broadcast)
    nth = 1
    while search_after(pair, party, f"{point}:kill:{nth}"):
        nth += 1
        # Make the next run start afresh.
        for path in (*(pair.folder / "state").glob("task-*/*"), *pair.folder.glob("*.draws*")):
            path.unlink()
    assert nth > 1 or (point, broadcast, party) == ("bins.wiped", False, LISTENER)


@pytest.mark.more
def test_the_size_of_a_checkpoint_reveals_nothing(pair: Pair) -> None:
    """The files have the same length whether all rows match, half of them or none."""
    sizes: list[dict[str, int]] = []
    for common in (ROWS, ROWS // 2, 0):
        for party, first in zip(PARTIES, (0, ROWS - common), strict=True):
            data = csv_data(["id"], ([f"row-{row:06}"] for row in range(first, first + ROWS)))
            pair.path(party, "in.csv").write_bytes(data)
            pair.jobs[party]["pipeline"] = dict(PIPELINE)
            pair.jobs[party]["tasks"] = []
        sides = [Side(["id"], "in.csv", "out/first.csv") for _ in PARTIES]
        pair.add(FIRST, *sides, receiver=LISTENER, broadcast_result=True)
        # Kill the receiver just before it sends the first bits, when all bins are on disk.
        killed(pair, LISTENER, "ledger.synced:kill:2")
        assert shown(pair) == {(party, FIRST): (BINS, BINS) for party in PARTIES}
        names = {path: Manifest.from_octets(path.with_name("meta").read_bytes()) for path in files(pair, "bins")}
        sizes.append({kept.bound_to["party"]: path.stat().st_size for path, kept in names.items()})
        for path in (pair.folder / "state").rglob("task-*/*"):
            path.unlink()
    assert sizes[0] == sizes[1] == sizes[2]
