"""What each party and the network can observe in real runs: two processes whose traffic is recorded.

Inputs come from fixed seeds. Scalars, order secrets and nonces are fresh in every run, so the measurements differ from
run to run; support/chance.py states how rarely a limit is exceeded by chance. Each test has been checked against a
version of psicli with the defect that it looks for.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from support.chance import check_uniform, check_unrelated
from support.memory.pair import records
from support.processes.runner import DIALER, LISTENER, PARTIES, Side
from support.processes.tapped import Recording, keys, record, tapped_pair

from psicli import curve
from psicli.protocol.messages import Message, Open, Stream
from psicli.protocol.wire import encode


def csv_data(values: Iterable[str], column: str = "id") -> bytes:
    return "".join(f"{value},note of {value}\n" for value in (f"{column}", *values)).encode()


def succeeded(recording: Recording) -> Recording:
    for result in recording.results.values():
        assert result.code == 0, result.text
    return recording


# Two runs over the same inputs ----------------------------------------------------------------------------------

# The number of keys of each party, in a random order; half of them are common.
COUNT = 2200
# The tasks: the second repeats the first, and the third adds repeated rows and rows with a null key.
TASKS = ("first", "again", "often")
OWN_STREAM = {LISTENER: Stream.RECEIVER_POINTS, DIALER: Stream.SENDER_POINTS}


def keys_of_file(party: str) -> list[str]:
    draw = random.Random(20)
    everybody = [f"{draw.getrandbits(64):016x}" for _ in range(3 * COUNT // 2)]
    own = everybody[:COUNT] if party == LISTENER else everybody[-COUNT:]
    random.Random(f"order of {party}").shuffle(own)
    return own


def many_times(values: Sequence[str]) -> list[str]:
    """Return rows with the same distinct keys in the same order, some of them repeated twice or a thousand times."""
    again = [*values[::2], *values[:3] * 999, *[""] * 7]
    random.Random(21).shuffle(again)
    return [*values, *again]


@dataclass(frozen=True)
class RecordedRun:
    """One recorded run of the job, as the network and both parties see it."""

    recording: Recording

    def points(self, party: str, name: str) -> list[bytes]:
        return records(self.recording.data(OWN_STREAM[party], self.number(name)), curve.POINT_BYTES)

    def tokens(self, name: str) -> list[bytes]:
        return records(self.recording.data(Stream.TOKENS, self.number(name)), curve.TOKEN_BYTES)

    def number(self, name: str) -> int:
        # Messages with task number 0 are shorter than the others, so a warm-up task takes that number.
        return 1 + TASKS.index(name)

    @cached_property
    def scalars(self) -> dict[tuple[str, str], bytes]:
        return {
            (party, name): self.recording.scalar(party, name, self.points(party, name), keys_of_file(party)[0])
            for party, name in itertools.product(PARTIES, TASKS)
        }

    @cached_property
    def places(self) -> dict[tuple[str, str], list[int]]:
        """The position on the wire of each item of a file, in the order of the file."""
        found = {}
        for party, name in itertools.product(PARTIES, TASKS):
            masked = curve.hash_and_mask(
                keys(keys_of_file(party)), self.recording.bin_sid(name), self.scalars[party, name]
            )
            place = {point: i for i, point in enumerate(self.points(party, name))}
            found[party, name] = [place[point] for point in records(masked, curve.POINT_BYTES)]
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RecordedRun]:
    """Return two recorded runs of the same job over the same files."""
    with tapped_pair(tmp_path_factory.mktemp("runs")) as (pair, port):
        for party in PARTIES:
            pair.path(party, "warm-up.csv").write_bytes(csv_data(["1"]))
            pair.path(party, "in.csv").write_bytes(csv_data(keys_of_file(party)))
            pair.path(party, "often.csv").write_bytes(csv_data(many_times(keys_of_file(party))))
            # Each list takes several frames, since an order covers the whole list.
            pair.jobs[party]["pipeline"] = {"frame_items": 1024}
        for name, file in (("warm-up", "warm-up"), ("first", "in"), ("again", "in"), ("often", "often")):
            pair.add(name, Side(["id"], f"{file}.csv", f"out/{name}.csv"), Side(["id"], f"{file}.csv"))
        return [RecordedRun(succeeded(record(pair, port))) for _ in range(2)]


@pytest.mark.more
def test_every_point_sent_is_an_own_item_under_a_fresh_scalar(runs: list[RecordedRun]) -> None:
    for run in runs:
        for (party, name), places in run.places.items():
            assert len(run.points(party, name)) == COUNT
            assert sorted(places) == list(range(COUNT))
    scalars = [scalar for run in runs for scalar in run.scalars.values()]
    assert len(set(scalars)) == len(scalars) == 2 * len(PARTIES) * len(TASKS)


@pytest.mark.parametrize("order", ["file", "key", "hash of the key", "hash of the item"])
def test_the_order_on_the_wire_is_unrelated_to(runs: list[RecordedRun], order: str) -> None:
    by = {
        "file": lambda key: 0,
        "key": lambda key: key,
        "hash of the key": lambda key: hashlib.sha256(key.encode()).digest(),
        "hash of the item": lambda key: hashlib.sha256(b"\x01\0\0\0\x10" + key.encode()).digest(),
    }[order]
    for run in runs:
        for (party, _), places in run.places.items():
            listed = sorted(zip(keys_of_file(party), places, strict=True), key=lambda pair: by(pair[0]))
            check_unrelated([place for _, place in listed])


def test_orders_of_runs_tasks_and_parties_are_unrelated(runs: list[RecordedRun]) -> None:
    for party in PARTIES:
        orders = [run.places[party, name] for run in runs for name in TASKS]
        for one, other in itertools.combinations(orders, 2):
            check_unrelated([place for _, place in sorted(zip(one, other, strict=True))])
    common = sorted(set(keys_of_file(LISTENER)) & set(keys_of_file(DIALER)))
    assert len(common) == COUNT // 2
    for run in runs:
        for name in TASKS:
            mine, theirs = (dict(zip(keys_of_file(p), run.places[p, name], strict=True)) for p in PARTIES)
            check_unrelated([theirs[key] for key in sorted(common, key=mine.__getitem__)])


def test_repeated_rows_and_null_keys_do_not_show(runs: list[RecordedRun]) -> None:
    """The same set of keys gives the same count, and the same messages of the same sizes in each direction."""
    assert Counter(many_times(keys_of_file(LISTENER))).most_common(1)[0][1] == 1001
    for run, party in itertools.product(runs, PARTIES):
        once, often = (run.recording.of_task(party, run.number(name)) for name in ("again", "often"))
        assert [m.count for m in (*once, *often) if isinstance(m, Open)] == [COUNT, COUNT]
        assert Counter(map(shape, once)) == Counter(map(shape, often))
        assert sum(len(encode(m)) for m in once) == sum(len(encode(m)) for m in often)


def shape(message: Message) -> tuple[str, int, int]:
    """Return the parts of a message that are not random: its kind, stream and size."""
    return type(message).__name__, getattr(message, "stream", 0), len(encode(message))


def test_nothing_on_the_wire_comes_twice(runs: list[RecordedRun]) -> None:
    """No point or token repeats between tasks, runs and parties, although the keys do."""
    points = [point for run in runs for party in PARTIES for name in TASKS for point in run.points(party, name)]
    tokens = [token for run in runs for name in TASKS for token in run.tokens(name)]
    assert len(set(points)) == len(points) == 2 * 2 * len(TASKS) * COUNT
    assert len(set(tokens)) == len(tokens) == 2 * len(TASKS) * COUNT


@pytest.mark.parametrize(("scalars", "sids"), [("ab", "tt"), ("aa", "tu")], ids=["scalar", "session"])
def test_the_scalar_and_the_session_each_keep_runs_apart(scalars: str, sids: str) -> None:
    """Either one is enough: points stay unlinkable even if a copied machine draws the same scalar again."""
    own = keys(keys_of_file(LISTENER))
    one, other = (
        set(records(curve.hash_and_mask(own, sid.encode() * 32, scalar.encode() * 32), curve.POINT_BYTES))
        for scalar, sid in zip(scalars, sids, strict=True)
    )
    assert len(one) == len(other) == COUNT
    assert not one & other


P = 2**255 - 19
A = 486662


@pytest.mark.more
def test_all_points_lie_on_the_curve(runs: list[RecordedRun]) -> None:
    """Half of the points that are not hashed to the curve lie on its twist, and masking does not change that."""
    for party, name in itertools.product(PARTIES, TASKS):
        for point in runs[0].points(party, name):
            u = int.from_bytes(point, "little")
            assert u < P
            # Euler's criterion: there is a y with y^2 = u^3 + A u^2 + u (RFC 7748 section 4.1).
            assert pow(u * (u * (u + A) + 1), (P - 1) // 2, P) == 1


def test_points_and_tokens_look_random(runs: list[RecordedRun]) -> None:
    points = [run.recording.data(stream, 1, 2, 3) for run in runs for stream in OWN_STREAM.values()]
    tokens = [run.recording.data(Stream.TOKENS, 1, 2, 3) for run in runs]
    for data, width, bits in ((points, curve.POINT_BYTES, 255), (tokens, curve.TOKEN_BYTES, 128)):
        check_uniform(np.frombuffer(b"".join(data), np.uint8).reshape(-1, width), bits)
