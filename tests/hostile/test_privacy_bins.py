"""What each side and the network get to see of tasks of many bins, measured on real runs, as test_privacy.py does.

Who knows the draws of both sides can tell items from padding; nobody else may be able to. The tests of scalars, orders
and padding were seen to fail with psicli broken in the way they look for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pytest
from support.chance import check_scattered, check_uniform, check_unrelated
from support.memory.pair import records
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side
from support.processes.tapped import Recording, item, record, tapped_pair

from psicli import curve
from psicli.protocol.messages import (
    Commit,
    Done,
    End,
    Frame,
    Message,
    Offer,
    Open,
    Ready,
    Received,
    Restart,
    Stream,
    partition_key,
    task_session_id,
)
from psicli.protocol.wire import encode

BIN_ITEMS = 16_384
# Several frames a bin, all but the last ones full.
FRAME_ITEMS = 4096
OWN_STREAM = {LISTENER: Stream.RECEIVER_POINTS, DIALER: Stream.SENDER_POINTS}
DIGEST = bytes(32)


# What the inputs are --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A task's inputs: the rows of each party's file, of which the distinct keys may be fewer."""

    rows: Mapping[str, Sequence[str]]
    broadcast: bool = False

    def keys(self, party: str) -> list[str]:
        """Return the distinct keys in the order of the file."""
        return [key for key in dict.fromkeys(self.rows[party]) if key]

    @property
    def counts(self) -> tuple[int, int]:
        """How many the receiver and the sender have."""
        return len(self.keys(LISTENER)), len(self.keys(DIALER))


def overlapping(everybody: Sequence[str], counts: tuple[int, int]) -> dict[str, list[str]]:
    """Give each side so many of the keys, so that half of the smaller side's are common, in orders of their own."""
    common = min(counts) // 2
    found = {LISTENER: [*everybody[: counts[0]]], DIALER: [*everybody[counts[0] - common :][: counts[1]]]}
    for party, own in found.items():
        random.Random(f"order of {party}").shuffle(own)
    return found


def random_keys(*counts: int, seed: int) -> dict[str, list[str]]:
    draw = random.Random(seed)
    return overlapping([f"{draw.getrandbits(64):016x}" for _ in range(sum(counts))], counts)


def real_keys(*counts: int) -> dict[str, list[str]]:
    draw = random.Random(22)
    names = ["anna", "ben", "carla.maria", "dmitri", "eleonore", "fo"]
    hosts = ["example.com", "post.example.org", "a.example"]
    everybody = [f"{draw.choice(names)}{number}@{draw.choice(hosts)}" for number in range(sum(counts))]
    return overlapping(everybody, counts)


def skewed_keys(*counts: int) -> dict[str, list[str]]:
    """Return numbers one after another, in their order; one of them many times, and rows without a key."""
    common = min(counts) // 2
    first = {LISTENER: 1, DIALER: counts[0] - common + 1}
    found = {}
    for party, count in zip(PARTIES, counts, strict=True):
        own = [str(number) for number in range(first[party], first[party] + count)]
        found[party] = [*own, *own[-1:] * 50_000, *[""] * 5000]
    return found


def keys_of_one_bin(*counts: int, bins: int) -> dict[str, list[str]]:
    """Return keys whose items would all be in one bin if another run had chosen it."""
    other_key = partition_key(hashlib.sha256(b"another run").digest())
    bits = bins.bit_length() - 1
    found: list[str] = []
    step = 1 << 20
    for start in itertools.count(0, step):
        numbers = np.arange(start, start + step)
        digits = (numbers[:, None] // 10 ** np.arange(9, -1, -1) % 10 + ord("0")).astype(np.uint8)
        # The items as they are encoded, ten digits each.
        head = np.broadcast_to(np.frombuffer(item("0" * 10)[:5], np.uint8), (step, 5))
        packed = curve.packed_items(records(np.hstack([head, digits]).tobytes(), 15))
        hashes = np.frombuffer(curve.keyed_hashes(packed, other_key), np.uint8).reshape(-1, 16)
        first = hashes[:, 0].astype(int) << 8 | hashes[:, 1]
        found += [f"{number:010}" for number in numbers[first >> (16 - bits) == 1]]
        if len(found) >= sum(counts):
            return overlapping(found, counts)
    raise AssertionError


# What must travel, from the two numbers alone -------------------------------------------------------------------


def due_capacity(count: int, bins: int) -> int:
    mean = math.ceil(count / bins)
    return count if bins == 1 else min(count, mean + 9 * math.ceil(math.sqrt(mean)) + 24)


def due_bins(counts: tuple[int, int]) -> int:
    if not all(counts):
        return 0
    return next(bins for bins in (1 << n for n in range(17)) if due_capacity(max(counts), bins) <= BIN_ITEMS)


def list_due(task: int, number: int, attempt: int, stream: Stream, count: int) -> list[Message]:
    """Return the messages of one stream of a bin."""
    bits = {Stream.TOKENS: 128, Stream.BITMAP: 1}.get(stream, 256)
    frames: list[Message] = []
    for seq, start in enumerate(range(0, count, FRAME_ITEMS)):
        size = math.ceil(min(FRAME_ITEMS, count - start) * bits / 8)
        frames.append(Frame(task, number, attempt, stream, seq, bytes(size)))
    return [*frames, End(task, number, attempt, stream, count, DIGEST)]


def due(task: int, counts: tuple[int, int], *, broadcast: bool) -> dict[str, list[Message]]:
    """Return what both sides must send: what is no number is zero; nothing else but the counts is known here."""
    bins = due_bins(counts)
    ours, theirs = (due_capacity(count, max(bins, 1)) for count in counts)
    receiver: list[Message] = [Offer(task), Open(task, counts[0], bytes(16))]
    sender: list[Message] = [Offer(task), Open(task, counts[1], bytes(16))]
    for number in range(bins):
        receiver += list_due(task, number, 0, Stream.RECEIVER_POINTS, ours)
        sender += list_due(task, number, 0, Stream.SENDER_POINTS, theirs)
        sender += list_due(task, number, 0, Stream.TOKENS, ours)
        last = number == bins - 1 and not broadcast
        receiver.append(Received(task, number, 0, DIGEST if last else b""))
    if broadcast:
        for number in range(bins):
            receiver += list_due(task, number, 0, Stream.BITMAP, theirs)
        receiver += [Ready(task), Commit(task, DIGEST)]
        sender.append(Ready(task))
    elif not bins:
        receiver.append(Received(task, 0, 0, DIGEST))
    sender.append(Done(task, DIGEST))
    return {LISTENER: receiver, DIALER: sender}


def blank(message: Message) -> Message:
    """Return a message with zeros in place of its octets."""
    octets = {
        field.name: bytes(len(getattr(message, field.name)))
        for field in dataclasses.fields(message)
        if isinstance(getattr(message, field.name), bytes)
    }
    return dataclasses.replace(message, **octets)


def is_part(message: Message, *streams: Stream) -> bool:
    return isinstance(message, Frame | End) and message.stream in streams


def is_token_of(message: Message, number: int) -> bool:
    """Tell whether it is one of the tokens of a bin."""
    return is_part(message, Stream.TOKENS) and getattr(message, "bin", -1) == number


def check_messages(recording: Recording, number: int, task: Task) -> None:
    """Check that both sides sent exactly what is due: so many messages of these sizes, in the order of their lists."""
    expected = due(number, task.counts, broadcast=task.broadcast)
    for party in PARTIES:
        octets = sum(len(encode(message)) for message in recording.of_task(party, number))
        sent = [blank(message) for message in recording.of_task(party, number)]
        # Whichever bin is received last says the digest.
        digests = [[m.digest for m in each if isinstance(m, Received)] for each in (sent, expected[party])]
        assert digests[0] == digests[1]
        assert Counter(map(without_digest, sent)) == Counter(map(without_digest, expected[party]))
        assert octets == sum(len(encode(message)) for message in expected[party])
        # Two bins are under way at a time: the tokens of each come, and end, as its work is done; so does Received.
        orders: list[Callable[[Message], object]] = [
            lambda m: not is_part(m, Stream.TOKENS) and not isinstance(m, Received),
            *(partial(is_token_of, number=number) for number in range(due_bins(task.counts))),
        ]
        for belongs in orders:
            assert [*filter(belongs, sent)] == [*filter(belongs, expected[party])]
        check_two_bins_at_a_time(sent)


def without_digest(message: Message) -> Message:
    return replace(message, digest=b"") if isinstance(message, Received) else message


def check_two_bins_at_a_time(sent: Sequence[Message]) -> None:
    """Check that the receiver begins a bin only after it has received the second one before it."""
    at = {(message.bin, type(message)): place for place, message in reversed([*enumerate(sent)]) if is_of_bin(message)}
    for (number, kind), place in at.items():
        if kind is Received and (number + 2, Frame) in at:
            assert place < at[number + 2, Frame]


def is_of_bin(message: Message) -> bool:
    return isinstance(message, Received) or is_part(message, Stream.RECEIVER_POINTS)


# What who knows the draws can see -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenBin:
    """One attempt at one bin as one side sent it, told apart.

    keys: in the order of their partition hashes; places: where on the wire each of them stands, and after them each
    record of the padding, as it was drawn.
    """

    points: bytes
    scalar: bytes
    keys: list[str]
    padding: list[bytes]
    places: list[int]

    @property
    def item_places(self) -> list[int]:
        return self.places[: len(self.keys)]

    @property
    def padding_places(self) -> list[int]:
        return self.places[len(self.keys) :]

    def points_at(self, places: Sequence[int]) -> np.ndarray:
        return np.frombuffer(self.points, np.uint8).reshape(-1, 32)[places]


def into_bins(values: Iterable[str], sid: bytes, bins: int) -> list[list[str]]:
    """Return the keys of each bin, in the order of their hashes, as anybody can work it out who has the keys."""
    if not bins:
        return []
    key = partition_key(sid)
    hashed = sorted((hashlib.sha256(key + item(value)).digest(), value) for value in values)
    found: list[list[str]] = [[] for _ in range(bins)]
    for digest, value in hashed:
        found[int.from_bytes(digest[:8], "big") * bins >> 64].append(value)
    return found


def see_bin(recording: Recording, party: str, where: tuple[int, str, int, int], own: list[str]) -> SeenBin:
    """Tell a bin apart; where: number and name of the task, bin and attempt.

    Fails unless every point is an own item or a record of one draw, under one draw as the scalar.
    """
    task, name, number, attempt = where
    points = recording.data_of_bin(OWN_STREAM[party], task, number, attempt)
    place = {point: at for at, point in enumerate(records(points, curve.POINT_BYTES))}
    assert len(place) == len(points) // 32
    sid, size = recording.bin_sid(name, number, attempt), 32 * (len(place) - len(own))
    fills = [draw for draw in recording.draws[party] if len(draw) == size] if size else [b""]

    def masked(values: list[bytes], scalar: bytes, tag: bytes) -> list[bytes]:
        return records(curve.hash_and_mask(curve.packed_items(values), sid, scalar, tag), 32)

    def is_scalar(draw: bytes) -> bool:
        if own:
            return masked([item(own[0])], draw, curve.ITEM_TAG)[0] in place
        return any(masked([fill[:32]], draw, curve.PADDING_TAG)[0] in place for fill in fills)

    (scalar,) = (draw for draw in recording.draws[party] if len(draw) == 32 and is_scalar(draw))
    if size:
        fills = [fill for fill in fills if masked([fill[:32]], scalar, curve.PADDING_TAG)[0] in place]
    (fill,) = fills
    found = masked([*map(item, own)], scalar, curve.ITEM_TAG)
    found += masked(records(fill, 32), scalar, curve.PADDING_TAG)
    places = [place[point] for point in found]
    assert sorted(places) == list(range(len(place)))
    return SeenBin(points, scalar, own, records(fill, 32), places)


@dataclass(frozen=True)
class Night:
    """One run of a job, as the network and both sides saw it."""

    recording: Recording
    tasks: Mapping[str, Task]

    def number(self, name: str) -> int:
        # The first number has shorter messages than the others, so it is another task's.
        return 1 + [*self.tasks].index(name)

    @cached_property
    def _seen(self) -> dict[tuple[str, str], list[SeenBin]]:
        return {}

    def bins(self, party: str, name: str) -> list[SeenBin]:
        if (party, name) not in self._seen:
            task, sid = self.tasks[name], task_session_id(self.recording.sid, name)
            cut = into_bins(task.keys(party), sid, due_bins(task.counts))
            self._seen[party, name] = [
                see_bin(self.recording, party, (self.number(name), name, number, 0), own)
                for number, own in enumerate(cut)
            ]
        return self._seen[party, name]

    def all_bins(self) -> Iterator[tuple[str, str, SeenBin]]:
        for party, name in itertools.product(PARTIES, self.tasks):
            yield from ((party, name, seen) for seen in self.bins(party, name))

    def records_on_the_wire(self) -> list[bytes]:
        """Return all points and tokens."""
        widths = {Stream.RECEIVER_POINTS: 32, Stream.SENDER_POINTS: 32, Stream.TOKENS: 16}
        return [each for stream, width in widths.items() for each in records(self.recording.data(stream), width)]


def play(pair: Pair, port: int, tasks: Mapping[str, Task], code: Mapping[str, str] | None = None) -> Night:
    """Run a job of these tasks, and one of one row before them."""
    everything = {"warm-up": Task({party: ["1"] for party in PARTIES}), **tasks}
    for party in PARTIES:
        pair.jobs[party]["pipeline"] = {"bin_items": BIN_ITEMS, "frame_items": FRAME_ITEMS}
        pair.jobs[party]["tasks"] = []
        for name, task in everything.items():
            pair.path(party, f"{name}.csv").write_text("".join(f"{key},x\n" for key in ("id", *task.rows[party])))
    for name, task in everything.items():
        told = Side(["id"], f"{name}.csv", f"out/{name}.csv" if task.broadcast else None)
        pair.add(name, Side(["id"], f"{name}.csv", f"out/{name}.csv"), told, broadcast_result=task.broadcast)
    recording = record(pair, port, code=code)
    for result in recording.results.values():
        assert result.code == 0, result.text
    for name, task in tasks.items():
        common = set(task.keys(LISTENER)) & set(task.keys(DIALER))
        for party in PARTIES if task.broadcast else [LISTENER]:
            lines = pair.path(party, f"out/{name}.csv").read_text().splitlines()[1:]
            assert Counter(lines) == Counter(f"{key},x" for key in task.rows[party] if key in common)
    return Night(recording, tasks)


# The quick ones: 2 to 8 bins ------------------------------------------------------------------------------------

COUNTS = 34_000, 20_000
ALIKE = ["random", "again", "skewed", "of-one-bin"]
TASKS = {
    "random": Task(random_keys(*COUNTS, seed=23)),
    # The same as the one before.
    "again": Task(random_keys(*COUNTS, seed=23)),
    "skewed": Task(skewed_keys(*COUNTS)),
    "of-one-bin": Task(keys_of_one_bin(*COUNTS, bins=4)),
    "few": Task(random_keys(10, 100_000, seed=24)),
    "told": Task(random_keys(17_000, 20_000, seed=25), broadcast=True),
    "none": Task({LISTENER: [], DIALER: [f"{number}" for number in range(20_000)]}),
    "nobody-there": Task({LISTENER: [f"{number}" for number in range(20_000)], DIALER: [""] * 7}),
    "nothing-told": Task({LISTENER: ["", ""], DIALER: [f"{number}" for number in range(20_000)]}, broadcast=True),
    "nothing-at-all": Task({party: [] for party in PARTIES}),
}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[Night]:
    """The same job over the same files, twice."""
    with tapped_pair(tmp_path_factory.mktemp("nights")) as (pair, port):
        return [play(pair, port, TASKS) for _ in range(2)]


def test_the_inputs_are_what_they_should_be() -> None:
    assert {TASKS[name].counts for name in ALIKE} == {COUNTS}
    assert {name: due_bins(task.counts) for name, task in TASKS.items()} == {
        **dict.fromkeys(ALIKE, 4),
        **dict.fromkeys(["none", "nobody-there", "nothing-told", "nothing-at-all"], 0),
        "few": 8,
        "told": 2,
    }
    assert [due_capacity(10, 8), due_capacity(100_000, 8)] == [10, 13_532]
    other_sid = hashlib.sha256(b"another run").digest()
    for party, own in zip(PARTIES, COUNTS, strict=True):
        sizes = [len(cut) for cut in into_bins(TASKS["of-one-bin"].keys(party), other_sid, 4)]
        assert sizes == [0, own, 0, 0]


@pytest.mark.parametrize("name", TASKS)
def test_what_travels_depends_on_the_two_counts_alone(nights: list[Night], name: str) -> None:
    """How many messages, their sizes, and their order; each bin has exactly its capacity of points."""
    for night in nights:
        check_messages(night.recording, night.number(name), night.tasks[name])


def test_nothing_but_counts_travels_where_a_side_has_nothing(nights: list[Night]) -> None:
    for night, name in itertools.product(nights, ["none", "nobody-there", "nothing-told", "nothing-at-all"]):
        sent = {type(m) for party in PARTIES for m in night.recording.of_task(party, night.number(name))}
        assert sent == {Offer, Open, Done} | ({Ready, Commit} if TASKS[name].broadcast else {Received})


def test_bins_are_padded_by_very_different_numbers(nights: list[Night]) -> None:
    """Or the test before says little: bins of the same capacity hold as many items as chance gives them."""
    for night in nights:
        for party, name in itertools.product(PARTIES, ALIKE):
            bins = night.bins(party, name)
            assert len({len(seen.points) for seen in bins}) == 1
            assert len({len(seen.keys) for seen in bins}) > 1
        # Ten keys cannot fill eight bins with two each.
        assert min(len(seen.keys) for seen in night.bins(LISTENER, "few")) <= 1


def test_scalars_and_padding_are_fresh_for_every_bin(nights: list[Night]) -> None:
    """Never shared between bins, tasks, parties and runs; and what one is drawn as, the other is not."""
    seen = [seen for night in nights for _, _, seen in night.all_bins()]
    assert len(seen) == 2 * 2 * (4 * 4 + 8 + 2)
    drawn = [each.scalar for each in seen] + [fill for each in seen for fill in each.padding]
    assert len(set(drawn)) == len(drawn) > 40_000


def test_nothing_on_the_wire_comes_twice(nights: list[Night]) -> None:
    """No point or token, of items and of padding, in bins, tasks, parties and runs."""
    sent = [each for night in nights for each in night.records_on_the_wire()]
    assert len(set(sent)) == len(sent) > 1_000_000


def in_order_of(order: str, own: Sequence[str], file: Sequence[str]) -> list[str]:
    """Return a bin's keys, which come in the order of their partition hashes, in another one."""
    by = {
        "file": {key: at for at, key in enumerate(file)}.__getitem__,
        "key": lambda key: key,
        "hash of the key": lambda key: hashlib.sha256(key.encode()).digest(),
        "hash of the item": lambda key: hashlib.sha256(item(key)).digest(),
    }
    return [*own] if order == "partition hash" else sorted(own, key=by[order])


ORDERS = ["file", "key", "hash of the key", "hash of the item", "partition hash"]


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_on_the_wire_is_unrelated_to(nights: list[Night], order: str) -> None:
    checked = 0
    for night in nights:
        for party, name, seen in night.all_bins():
            if len(seen.keys) >= 400:
                place = dict(zip(seen.keys, seen.item_places, strict=True))
                ordered = in_order_of(order, seen.keys, night.tasks[name].keys(party))
                check_unrelated([place[key] for key in ordered])
                checked += 1
    assert checked == 2 * (2 * 4 * 4 + 8 + 2 * 2)


def check_orders(one: SeenBin, other: SeenBin) -> None:
    """Check that two orders have nothing to do with each other, record by record as they were before."""
    shorter = min(len(one.places), len(other.places))
    check_unrelated([place for _, place in sorted(zip(one.places[:shorter], other.places[:shorter], strict=True))])


def test_orders_of_bins_tasks_parties_and_runs_are_unrelated(nights: list[Night]) -> None:
    tasks = ["random", "again", "skewed"]
    of_party = {
        party: [seen for night in nights for name in tasks for seen in night.bins(party, name)] for party in PARTIES
    }
    for orders in of_party.values():
        for one, other in itertools.combinations(orders, 2):
            check_orders(one, other)
    for one, other in zip(*of_party.values(), strict=True):
        check_orders(one, other)
        # And of the keys that both have.
        mine, theirs = (dict(zip(seen.keys, seen.item_places, strict=True)) for seen in (one, other))
        common = sorted(set(mine) & set(theirs))
        check_unrelated([theirs[key] for key in sorted(common, key=mine.__getitem__)])


def test_padding_stands_anywhere_in_a_bin(nights: list[Night]) -> None:
    """Its places look drawn at random, and are in no order among themselves."""
    checked = 0
    for night in nights:
        for _, _, seen in night.all_bins():
            if len(seen.padding) >= 400:
                check_scattered(seen.padding_places, len(seen.places))
                check_unrelated(seen.padding_places)
                checked += 1
    assert checked > 2 * 2 * 4 * 4


def test_padding_looks_like_items_and_both_look_random(nights: list[Night]) -> None:
    seen = [seen for night in nights for _, _, seen in night.all_bins()]
    for points in (
        np.concatenate([each.points_at(each.padding_places) for each in seen]),
        np.concatenate([each.points_at(each.item_places) for each in seen]),
    ):
        check_uniform(points, 255)
        assert curve.on_curve(points.tobytes())
    tokens = b"".join(night.recording.data(Stream.TOKENS) for night in nights)
    check_uniform(np.frombuffer(tokens, np.uint8).reshape(-1, curve.TOKEN_BYTES), 128)


P = 2**255 - 19
A = 486662


def test_padding_lies_on_the_curve(nights: list[Night]) -> None:
    """Of points that are not hashed to the curve half lie on its twist, which masking does not change."""
    for party, name in itertools.product(PARTIES, ["random", "few", "told"]):
        for seen in nights[0].bins(party, name):
            for point in seen.points_at(seen.padding_places[:200]):
                u = int.from_bytes(point.tobytes(), "little")
                assert u < P
                # Euler's criterion, for a y with y^2 = u^3 + A u^2 + u (RFC 7748 section 4.1).
                assert pow(u * (u * (u + A) + 1), (P - 1) // 2, P) == 1


def test_tokens_of_padding_look_like_those_of_items(nights: list[Night]) -> None:
    """Each point of the receiver's has its token at the same place, and no token tells which it was made for."""
    for night in nights:
        found: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for name in ["random", "again", "skewed", "of-one-bin", "told"]:
            for number, seen in enumerate(night.bins(LISTENER, name)):
                data = night.recording.data_of_bin(Stream.TOKENS, night.number(name), number)
                tokens = np.frombuffer(data, np.uint8).reshape(-1, curve.TOKEN_BYTES)
                assert len(tokens) == len(seen.places)
                found[True].append(tokens[seen.padding_places])
                found[False].append(tokens[seen.item_places])
        for each in found.values():
            check_uniform(np.concatenate(each), 128)


def test_a_bitmap_marks_what_matched_and_no_padding(nights: list[Night]) -> None:
    for night in nights:
        common = set(TASKS["told"].keys(LISTENER)) & set(TASKS["told"].keys(DIALER))
        for number, seen in enumerate(night.bins(DIALER, "told")):
            data = night.recording.data_of_bin(Stream.BITMAP, night.number("told"), number)
            bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
            places = dict(zip(seen.keys, seen.item_places, strict=True))
            assert {*np.flatnonzero(bits).tolist()} == {places[key] for key in common & places.keys()}


@pytest.mark.parametrize(
    "places",
    [range(9000, 10_000), range(0, 10_000, 10), [*range(1000)], [at * 10 + at % 2 for at in range(1000)]],
    ids=["last", "every tenth", "first", "nearly every tenth"],
)
def test_padding_in_a_pattern_is_seen(places: Sequence[int]) -> None:
    with pytest.raises(AssertionError):
        check_scattered(places, 10_000)
    check_scattered(random.Random(26).sample(range(10_000), 1000), 10_000)


# A bin that begins again ----------------------------------------------------------------------------------------

# Begins each of a task's first two bins again once all points of both sides have travelled.
RESTARTING = """
from psicli.exchange.task_exchange import TaskExchange
step = TaskExchange.step
def step_and_restart(self, *, room):
    messages = step(self, room=room)
    bins = self.party.bins
    for number in (0, 1):
        ready = number in bins and bins[number].all_points_sent and bins[number].all_points_arrived
        if self.party.setup.task and ready and not bins[number].place.attempt:
            messages = (messages or []) + self.party.restart(number)
            self._follow()
    return messages
TaskExchange.step = step_and_restart
"""


@pytest.mark.parametrize("party", PARTIES)
def test_a_second_attempt_has_nothing_of_the_first(tapped: tuple[Pair, int], party: str) -> None:
    """Scalars, padding, orders, points and tokens: all of them are drawn again, on both sides."""
    pair, port = tapped
    task = TASKS["random"]
    night = play(pair, port, {"random": task}, {party: RESTARTING})
    restarts = {p: [m for m in night.recording.of_task(p, 1) if isinstance(m, Restart)] for p in PARTIES}
    assert restarts == {p: [Restart(1, 0, 1), Restart(1, 1, 1)] for p in PARTIES}
    expected = due(1, task.counts, broadcast=False)
    for each in PARTIES:
        sent = [blank(message) for message in night.recording.of_task(each, 1)]
        # The tokens of the first attempt are cut off somewhere.
        points = [m for m in sent if is_part(m, OWN_STREAM[each])]
        again = [m for m in points if m.attempt]
        assert again == [dataclasses.replace(m, attempt=1) for m in expected[each] if is_part(m, OWN_STREAM[each])
                         and m.bin < 2]  # fmt: skip
        assert [m for m in points if not m.attempt] == [m for m in expected[each] if is_part(m, OWN_STREAM[each])]
    seen: dict[tuple[str, int, int], SeenBin] = {}
    for each in PARTIES:
        cut = into_bins(task.keys(each), task_session_id(night.recording.sid, "random"), 4)
        for number, attempt in itertools.product((0, 1), (0, 1)):
            where = 1, "random", number, attempt
            seen[each, number, attempt] = see_bin(night.recording, each, where, cut[number])
    for each, number in itertools.product(PARTIES, (0, 1)):
        check_orders(seen[each, number, 0], seen[each, number, 1])
    drawn = [bin.scalar for bin in seen.values()] + [fill for bin in seen.values() for fill in bin.padding]
    assert len(set(drawn)) == len(drawn)
    records_sent = night.records_on_the_wire()
    assert len(set(records_sent)) == len(records_sent)


# Many bins --------------------------------------------------------------------------------------------------------

MANY_COUNTS = 600_000, 560_000
MANY: dict[str, Callable[[], dict[str, list[str]]]] = {
    "real": lambda: real_keys(*MANY_COUNTS),
    "skewed": lambda: skewed_keys(*MANY_COUNTS),
    "of-one-bin": lambda: keys_of_one_bin(*MANY_COUNTS, bins=64),
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", MANY)
def test_sixty_four_bins(tapped: tuple[Pair, int], kind: str, record_property: Callable[[str, object], None]) -> None:
    """All of the above at once, for each kind of data."""
    task = Task(MANY[kind]())
    assert task.counts == MANY_COUNTS
    assert due_bins(task.counts) == 64
    night = play(*tapped, {"many": task})
    check_messages(night.recording, 1, task)
    sent = night.records_on_the_wire()
    assert len(set(sent)) == len(sent) > 64 * (2 * 10_272 + 9616)
    for party in PARTIES:
        bins = night.bins(party, "many")
        file = {key: at for at, key in enumerate(task.keys(party))}
        drawn = [seen.scalar for seen in bins] + [fill for seen in bins for fill in seen.padding]
        assert len(set(drawn)) == len(drawn)
        for seen in bins:
            assert len(seen.places) == due_capacity(len(file), 64)
            check_scattered(seen.padding_places, len(seen.places))
            check_unrelated(seen.padding_places)
            check_unrelated(seen.item_places)
            place = dict(zip(seen.keys, seen.item_places, strict=True))
            check_unrelated([place[key] for key in sorted(seen.keys, key=file.__getitem__)])
            check_unrelated([place[key] for key in sorted(seen.keys)])
        for one, other in itertools.pairwise(bins):
            check_orders(one, other)
        check_uniform(np.concatenate([seen.points_at(seen.padding_places) for seen in bins]), 255)
    everything = night.recording.data(Stream.RECEIVER_POINTS) + night.recording.data(Stream.SENDER_POINTS)
    assert curve.on_curve(everything)
    assert not {seen.scalar for seen in night.bins(LISTENER, "many")} & {
        seen.scalar for seen in night.bins(DIALER, "many")
    }
