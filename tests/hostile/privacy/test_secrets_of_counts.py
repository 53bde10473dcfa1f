"""With `result: count`, neither the traffic nor the receiver's memory, files and output tell which items match.

The runs are real. The tests know both parties' scalars, so they know the token of every item, and search for any trace
of the way from a token back to an item. Each search is also made on a run for rows, where it does find that way.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from support.chance import check_scattered, check_unrelated
from support.hostile.bins_seen import into_bins
from support.memory.pair import records
from support.processes.altered import dump_memory
from support.processes.runner import DIALER, LISTENER, Pair, Side
from support.processes.tapped import LEFT, Recording, keys, record, tapped_pair

from psicli import curve
from psicli.protocol.messages import End, Frame, Received, Stream, task_session_id

# Real runs with their memory take a while.
pytestmark = pytest.mark.more

# The keys of each party, of which half match: a random half of the receiver's.
COUNT, TASK = 1600, "overlap"
LIMITS = {"min_peer_items": 100, "max_runs_per_day": 50}
# What differs from run to run whatever matches.
VOLATILE = {
    "session_id", "seconds", "peak_memory", "spool_bytes", "ledger_line", "ledger_head", "task_sid", "stages",
    "bytes_sent", "bytes_received", "run", "started", "timeline",
}  # fmt: skip


def keys_of(party: str, seed: int) -> list[str]:
    """Return a party's keys in the order of its file; the receiver's are the same whatever the seed."""
    draw = random.Random(31)
    own = [f"{draw.getrandbits(64):016x}" for _ in range(COUNT)]
    if party == LISTENER:
        return own
    draw = random.Random(seed)
    found = draw.sample(own, COUNT // 2) + [f"{draw.getrandbits(64):016x}" for _ in range(COUNT // 2)]
    draw.shuffle(found)
    return found


@dataclass(frozen=True)
class Counted:
    """A recorded run of one task, with the memory of its receiver and all files in its state folder."""

    recording: Recording
    memory: bytes
    files: dict[str, bytes]
    seed: int

    @cached_property
    def own(self) -> list[str]:
        return keys_of(LISTENER, self.seed)

    @cached_property
    def matching(self) -> set[str]:
        return {*self.own} & {*keys_of(DIALER, self.seed)}

    @cached_property
    def tokens_by_key(self) -> dict[str, bytes]:
        """The token of each of the receiver's keys, which only both scalars together tell."""
        points = {p: records(self.recording.data(s, 0), 32) for p, s in ((LISTENER, 1), (DIALER, 2))}  # type: ignore[arg-type]
        scalars = {p: self.recording.scalar(p, TASK, points[p], keys_of(p, self.seed)[0]) for p in points}
        sid = self.recording.bin_sid(TASK)
        masked = curve.hash_and_mask(keys(self.own), sid, scalars[LISTENER])
        products, bad = curve.mask(masked, scalars[DIALER])
        assert not bad
        return dict(zip(self.own, records(curve.tokens(products, sid), 16), strict=True))

    @cached_property
    def keys_in_order_of_points(self) -> list[str]:
        """The receiver's keys in the order in which it sent their points, which it knows."""
        points = records(self.recording.data(Stream.RECEIVER_POINTS, 0), 32)
        scalar = self.recording.scalar(LISTENER, TASK, points, self.own[0])
        masked = records(curve.hash_and_mask(keys(self.own), self.recording.bin_sid(TASK), scalar), 32)
        place = {point: at for at, point in enumerate(points)}
        return [key for _, key in sorted(zip(map(place.__getitem__, masked), self.own, strict=True))]

    @cached_property
    def places(self) -> dict[str, int]:
        """The position on the wire of the token of each of the receiver's keys."""
        place = {token: at for at, token in enumerate(records(self.recording.data(Stream.TOKENS, 0), 16))}
        return {key: place[token] for key, token in self.tokens_by_key.items()}

    @property
    def orders(self) -> Iterator[list[str]]:
        """The orders of its items that the receiver knows."""
        yield self.own
        yield self.keys_in_order_of_points
        yield from into_bins(self.own, task_session_id(self.recording.sid, TASK), 1)
        yield sorted(self.own)

    def traces(self) -> Iterator[tuple[str, bytes]]:
        """Yield what memory or a file may hold if it tells which items match, each with what it is."""
        for order in self.orders:
            mask = np.array([key in self.matching for key in order])
            for marked in (mask, ~mask):
                yield "a mask", marked.tobytes()
                yield "a mask", np.packbits(marked, bitorder="little").tobytes()
                yield "a mask", np.packbits(marked).tobytes()
                places = np.flatnonzero(marked)
                for kind in ("<u4", "<i8"):
                    yield "positions", places[:12].astype(kind).tobytes()
            for start in range(0, COUNT - 4, 397):
                yield "tokens", b"".join(self.tokens_by_key[key] for key in order[start : start + 3])

    def found(self, *places: bytes) -> set[str]:
        """Return which traces are in any of these places."""
        return {kind for kind, trace in self.traces() if any(trace in place for place in places)}


def run(pair: Pair, port: int, seed: int, result: str) -> Counted:
    for party in (LISTENER, DIALER):
        pair.path(party, "in.csv").write_text("".join(f"{key}\n" for key in ("id", *keys_of(party, seed))))
        pair.jobs[party]["tasks"] = []
        pair.jobs[party]["pipeline"] = {"frame_items": 1024}
    pair.jobs[DIALER]["policy"] = dict(LIMITS)
    side = Side(["id"], "in.csv")
    mine = side if result == "count" else Side(["id"], "in.csv", "out/rows.csv")
    pair.add(TASK, mine, side, result=result)
    state = pair.folder / f"state-{seed}"
    pair.environment["PSICLI_STATE_DIR"] = str(state)
    how: Any = {"alterations": {LISTENER: [dump_memory]}, "leaves": True}
    memory = pair.folder / f"{LISTENER}.draws.memory"
    memory.unlink(missing_ok=True)
    recording = record(pair, port, "--json", "--verbose", **how)
    for each in recording.results.values():
        assert each.code == 0, each.text
    files = {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    files |= {option: pair.path(LISTENER, name).read_bytes() for option, name in LEFT.items()}
    files |= {"stdout": recording.results[LISTENER].stdout, "stderr": recording.results[LISTENER].stderr.encode()}
    return Counted(recording, memory.read_bytes(), files, seed)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Counted]:
    """Return two runs that count as many matches of the same receiver's items, but others, and a run for rows."""
    with tapped_pair(tmp_path_factory.mktemp("counts")) as (pair, port):
        kinds = (1, "count"), (2, "count"), (1, "rows")
        return [run(pair, port, seed, result) for seed, result in kinds]


def test_the_receiver_has_the_count(runs: Sequence[Counted]) -> None:
    for each in runs:
        assert json.loads(each.files["stdout"])["tasks"][0]["matched"] == COUNT // 2 == len(each.matching)
    assert len(runs[0].matching & runs[1].matching) < 500


def test_the_places_of_the_matching_tokens_say_nothing(runs: Sequence[Counted]) -> None:
    """They are spread at random, and the whole order is unrelated to each order that the receiver knows."""
    for each in runs[:2]:
        check_scattered([each.places[key] for key in each.matching], COUNT)
        for order in each.orders:
            check_unrelated([each.places[key] for key in order])
    check_unrelated([place for _, place in sorted((runs[0].places[key], runs[1].places[key]) for key in runs[0].own)])


def test_two_runs_share_no_point_and_no_token(runs: Sequence[Counted]) -> None:
    widths = {Stream.RECEIVER_POINTS: 32, Stream.SENDER_POINTS: 32, Stream.TOKENS: 16}
    sent = [
        each for run in runs[:2] for s, width in widths.items() for each in records(run.recording.data(s, 0), width)
    ]
    assert len(set(sent)) == len(sent) == 2 * 3 * COUNT


def test_no_token_precedes_the_end_of_the_points(runs: Sequence[Counted]) -> None:
    """The sender's messages alone show the order; the receiver's Received answers the last one."""
    for each in runs[:2]:
        sent = [m for m in each.recording.of_task(DIALER, 0) if isinstance(m, Frame | End)]
        streams = [m.stream for m in sent]
        assert streams == sorted(streams)
        (received,) = [m for m in each.recording.of_task(LISTENER, 0) if isinstance(m, Received)]
        assert each.recording.of_task(LISTENER, 0)[-1] is received


def test_the_receivers_memory_tells_nothing(runs: Sequence[Counted]) -> None:
    """It does hold every token, so the search works; which item a token belongs to is nowhere."""
    for each in runs[:2]:
        assert sum(token in each.memory for token in records(each.recording.data(Stream.TOKENS, 0), 16)[:50]) == 50
        assert each.found(each.memory) == set()


def test_the_same_search_finds_the_items_of_a_run_for_rows(runs: Sequence[Counted]) -> None:
    """The control: masks of the matching items, and tokens in the order of the points."""
    rows = runs[2]
    assert rows.found(rows.memory) >= {"a mask", "tokens"}
    assert [rows.places[key] for key in rows.keys_in_order_of_points] == [*range(COUNT)]


def test_no_file_and_no_output_tells_anything(runs: Sequence[Counted]) -> None:
    for each in runs[:2]:
        assert each.found(*each.files.values()) == set()
        assert not [name for name in each.files if name.startswith("task-")]


def test_reports_and_traces_of_other_matches_are_alike(runs: Sequence[Counted]) -> None:
    """Where as many other items match, reports differ in ids and times only, and traces have the same parts."""
    one, other = ([without(json.loads(each.files["stdout"])), names_in(each.files["trace"])] for each in runs[:2])
    assert one == other
    # The name of a kept report has the time and the id of the run.
    names = [sorted(re.sub(r"^reports/.*", "kept", name) for name in each.files) for each in runs[:2]]
    assert names[0] == names[1]
    assert names[0].count("kept") == 2


def without(facts: Any) -> Any:
    """Return a report without what differs between any two runs."""
    if isinstance(facts, dict):
        return {name: without(each) for name, each in facts.items() if name not in VOLATILE}
    return [without(each) for each in facts] if isinstance(facts, list) else facts


def names_in(trace: bytes) -> set[tuple[str, ...]]:
    return {(each["name"], *sorted(each.get("args", {}))) for each in json.loads(trace)["traceEvents"]}
