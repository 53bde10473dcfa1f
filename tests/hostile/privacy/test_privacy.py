"""What each side and the network get to see, measured on real runs: two processes, their wire recorded.

Inputs come from fixed seeds. Scalars, order secrets and nonces must be fresh in every run, so what is measured differs
from run to run; support/chance.py states how seldom a limit is passed by chance. Each of these tests was seen to fail
with psicli broken in the way it looks for.
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


# Two nights over the same inputs --------------------------------------------------------------------------------

# A side's keys in the order of its file; half of them the other side has too, somewhere else in its file.
COUNT = 2200
# A task over the same keys as the one before it, and one with rows of the same keys many times and without a key.
TASKS = ("first", "again", "often")
OWN_STREAM = {LISTENER: Stream.RECEIVER_POINTS, DIALER: Stream.SENDER_POINTS}


def keys_of_file(party: str) -> list[str]:
    draw = random.Random(20)
    everybody = [f"{draw.getrandbits(64):016x}" for _ in range(3 * COUNT // 2)]
    own = everybody[:COUNT] if party == LISTENER else everybody[-COUNT:]
    random.Random(f"order of {party}").shuffle(own)
    return own


def many_times(values: Sequence[str]) -> list[str]:
    """Return rows whose distinct keys first appear in the same order, some of them twice or a thousand times."""
    again = [*values[::2], *values[:3] * 999, *[""] * 7]
    random.Random(21).shuffle(again)
    return [*values, *again]


@dataclass(frozen=True)
class Night:
    """One run of the job, as the network and both sides saw it."""

    recording: Recording

    def points(self, party: str, name: str) -> list[bytes]:
        return records(self.recording.data(OWN_STREAM[party], self.number(name)), curve.POINT_BYTES)

    def tokens(self, name: str) -> list[bytes]:
        return records(self.recording.data(Stream.TOKENS, self.number(name)), curve.TOKEN_BYTES)

    def number(self, name: str) -> int:
        # The first number has shorter messages than the others, so it is another task's.
        return 1 + TASKS.index(name)

    @cached_property
    def scalars(self) -> dict[tuple[str, str], bytes]:
        return {
            (party, name): self.recording.scalar(party, name, self.points(party, name), keys_of_file(party)[0])
            for party, name in itertools.product(PARTIES, TASKS)
        }

    @cached_property
    def places(self) -> dict[tuple[str, str], list[int]]:
        """Where on the wire each item of a file stands, in the order of the file."""
        found = {}
        for party, name in itertools.product(PARTIES, TASKS):
            masked = curve.hash_and_mask(
                keys(keys_of_file(party)), self.recording.bin_sid(name), self.scalars[party, name]
            )
            place = {point: i for i, point in enumerate(self.points(party, name))}
            found[party, name] = [place[point] for point in records(masked, curve.POINT_BYTES)]
        return found


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[Night]:
    """The same job over the same files, twice."""
    with tapped_pair(tmp_path_factory.mktemp("nights")) as (pair, port):
        for party in PARTIES:
            pair.path(party, "warm-up.csv").write_bytes(csv_data(["1"]))
            pair.path(party, "in.csv").write_bytes(csv_data(keys_of_file(party)))
            pair.path(party, "often.csv").write_bytes(csv_data(many_times(keys_of_file(party))))
            # Several frames a list: an order is one of the whole list.
            pair.jobs[party]["pipeline"] = {"frame_items": 1024}
        for name, file in (("warm-up", "warm-up"), ("first", "in"), ("again", "in"), ("often", "often")):
            pair.add(name, Side(["id"], f"{file}.csv", f"out/{name}.csv"), Side(["id"], f"{file}.csv"))
        return [Night(succeeded(record(pair, port))) for _ in range(2)]


def test_every_point_sent_is_an_own_item_under_a_scalar_of_its_own(nights: list[Night]) -> None:
    for night in nights:
        for (party, name), places in night.places.items():
            assert len(night.points(party, name)) == COUNT
            assert sorted(places) == list(range(COUNT))
    scalars = [scalar for night in nights for scalar in night.scalars.values()]
    assert len(set(scalars)) == len(scalars) == 2 * len(PARTIES) * len(TASKS)


@pytest.mark.parametrize("order", ["file", "key", "hash of the key", "hash of the item"])
def test_the_order_on_the_wire_is_unrelated_to(nights: list[Night], order: str) -> None:
    by = {
        "file": lambda key: 0,
        "key": lambda key: key,
        "hash of the key": lambda key: hashlib.sha256(key.encode()).digest(),
        "hash of the item": lambda key: hashlib.sha256(b"\x01\0\0\0\x10" + key.encode()).digest(),
    }[order]
    for night in nights:
        for (party, _), places in night.places.items():
            listed = sorted(zip(keys_of_file(party), places, strict=True), key=lambda pair: by(pair[0]))
            check_unrelated([place for _, place in listed])


def test_orders_of_runs_tasks_and_parties_are_unrelated(nights: list[Night]) -> None:
    for party in PARTIES:
        orders = [night.places[party, name] for night in nights for name in TASKS]
        for one, other in itertools.combinations(orders, 2):
            check_unrelated([place for _, place in sorted(zip(one, other, strict=True))])
    common = sorted(set(keys_of_file(LISTENER)) & set(keys_of_file(DIALER)))
    assert len(common) == COUNT // 2
    for night in nights:
        for name in TASKS:
            mine, theirs = (dict(zip(keys_of_file(p), night.places[p, name], strict=True)) for p in PARTIES)
            check_unrelated([theirs[key] for key in sorted(common, key=mine.__getitem__)])


def test_repeated_rows_and_rows_without_a_key_do_not_show(nights: list[Night]) -> None:
    """The same set: the same count, the same messages of the same sizes, in each direction."""
    assert Counter(many_times(keys_of_file(LISTENER))).most_common(1)[0][1] == 1001
    for night, party in itertools.product(nights, PARTIES):
        once, often = (night.recording.of_task(party, night.number(name)) for name in ("again", "often"))
        assert [m.count for m in (*once, *often) if isinstance(m, Open)] == [COUNT, COUNT]
        assert Counter(map(shape, once)) == Counter(map(shape, often))
        assert sum(len(encode(m)) for m in once) == sum(len(encode(m)) for m in often)


def shape(message: Message) -> tuple[str, int, int]:
    """What of a message is no random number: its kind, stream and size."""
    return type(message).__name__, getattr(message, "stream", 0), len(encode(message))


def test_nothing_on_the_wire_comes_twice(nights: list[Night]) -> None:
    """Points and tokens of the same keys have nothing in common between tasks, runs and parties."""
    points = [point for night in nights for party in PARTIES for name in TASKS for point in night.points(party, name)]
    tokens = [token for night in nights for name in TASKS for token in night.tokens(name)]
    assert len(set(points)) == len(points) == 2 * 2 * len(TASKS) * COUNT
    assert len(set(tokens)) == len(tokens) == 2 * len(TASKS) * COUNT


@pytest.mark.parametrize(("scalars", "sids"), [("ab", "tt"), ("aa", "tu")], ids=["scalar", "session"])
def test_the_scalar_and_the_session_each_keep_runs_apart(scalars: str, sids: str) -> None:
    """One of the two is enough: points stay unlinkable where a copied machine draws the same scalar again."""
    own = keys(keys_of_file(LISTENER))
    one, other = (
        set(records(curve.hash_and_mask(own, sid.encode() * 32, scalar.encode() * 32), curve.POINT_BYTES))
        for scalar, sid in zip(scalars, sids, strict=True)
    )
    assert len(one) == len(other) == COUNT
    assert not one & other


P = 2**255 - 19
A = 486662


def test_all_points_lie_on_the_curve(nights: list[Night]) -> None:
    """Of points that are not hashed to the curve half lie on its twist, which masking does not change."""
    for party, name in itertools.product(PARTIES, TASKS):
        for point in nights[0].points(party, name):
            u = int.from_bytes(point, "little")
            assert u < P
            # Euler's criterion, for a y with y^2 = u^3 + A u^2 + u (RFC 7748 section 4.1).
            assert pow(u * (u * (u + A) + 1), (P - 1) // 2, P) == 1


def test_points_and_tokens_look_random(nights: list[Night]) -> None:
    points = [night.recording.data(stream, 1, 2, 3) for night in nights for stream in OWN_STREAM.values()]
    tokens = [night.recording.data(Stream.TOKENS, 1, 2, 3) for night in nights]
    for data, width, bits in ((points, curve.POINT_BYTES, 255), (tokens, curve.TOKEN_BYTES, 128)):
        check_uniform(np.frombuffer(b"".join(data), np.uint8).reshape(-1, width), bits)
