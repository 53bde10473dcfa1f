"""Tasks of many bins: their inputs, the messages they must send, and their bins as the recorded draws reveal them."""

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
from support.memory.pair import records
from support.processes.altered import Alterations
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side
from support.processes.tapped import Recording, item, record

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
    Stream,
    partition_key,
    task_session_id,
)
from psicli.protocol.wire import encode

BIN_ITEMS = 16_384
# A bin takes several frames; all but the last are full.
FRAME_ITEMS = 4096
OWN_STREAM = {LISTENER: Stream.RECEIVER_POINTS, DIALER: Stream.SENDER_POINTS}
DIGEST = bytes(32)


# Inputs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The inputs of a task: the rows of each party's file, which may repeat keys."""

    rows: Mapping[str, Sequence[str]]
    broadcast: bool = False

    def keys(self, party: str) -> list[str]:
        """Return the distinct keys in the order of the file."""
        return [key for key in dict.fromkeys(self.rows[party]) if key]

    @property
    def counts(self) -> tuple[int, int]:
        """The number of distinct keys of the receiver and of the sender."""
        return len(self.keys(LISTENER)), len(self.keys(DIALER))


def overlapping(everybody: Sequence[str], counts: tuple[int, int]) -> dict[str, list[str]]:
    """Give each party this many keys in its own order, such that half of the smaller party's keys are common."""
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
    """Return consecutive numbers in order, one of them many times, and rows with a null key."""
    common = min(counts) // 2
    first = {LISTENER: 1, DIALER: counts[0] - common + 1}
    found = {}
    for party, count in zip(PARTIES, counts, strict=True):
        own = [str(number) for number in range(first[party], first[party] + count)]
        found[party] = [*own, *own[-1:] * 50_000, *[""] * 5000]
    return found


def keys_of_one_bin(*counts: int, bins: int) -> dict[str, list[str]]:
    """Return keys whose items would all fall into one bin in a certain other run."""
    other_key = partition_key(hashlib.sha256(b"another run").digest())
    bits = bins.bit_length() - 1
    found: list[str] = []
    step = 1 << 20
    for start in itertools.count(0, step):
        numbers = np.arange(start, start + step)
        digits = (numbers[:, None] // 10 ** np.arange(9, -1, -1) % 10 + ord("0")).astype(np.uint8)
        # Encode the items, each of ten digits.
        head = np.broadcast_to(np.frombuffer(item("0" * 10)[:5], np.uint8), (step, 5))
        packed = curve.packed_items(records(np.hstack([head, digits]).tobytes(), 15))
        hashes = np.frombuffer(curve.keyed_hashes(packed, other_key), np.uint8).reshape(-1, 16)
        first = hashes[:, 0].astype(int) << 8 | hashes[:, 1]
        found += [f"{number:010}" for number in numbers[first >> (16 - bits) == 1]]
        if len(found) >= sum(counts):
            return overlapping(found, counts)
    raise AssertionError


# The messages that the two counts require ---------------------------------------------------------------------------


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
    """Return the messages that both parties must send, computed only from the counts; all bytes are zero."""
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
    """Return whether a message belongs to the tokens of a bin."""
    return is_part(message, Stream.TOKENS) and getattr(message, "bin", -1) == number


def check_messages(recording: Recording, number: int, task: Task) -> None:
    """Check that both parties sent exactly the required messages, with these sizes and in the order of their lists."""
    expected = due(number, task.counts, broadcast=task.broadcast)
    for party in PARTIES:
        octets = sum(len(encode(message)) for message in recording.of_task(party, number))
        sent = [blank(message) for message in recording.of_task(party, number)]
        # The last Received carries the digest, whichever bin it is for.
        digests = [[m.digest for m in each if isinstance(m, Received)] for each in (sent, expected[party])]
        assert digests[0] == digests[1]
        assert Counter(map(without_digest, sent)) == Counter(map(without_digest, expected[party]))
        assert octets == sum(len(encode(message)) for message in expected[party])
        # Two bins are under way at a time, so their tokens and Received may come in either order.
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
    """Check that the receiver begins each bin only after it has sent Received for the bin two places before it."""
    at = {(message.bin, type(message)): place for place, message in reversed([*enumerate(sent)]) if is_of_bin(message)}
    for (number, kind), place in at.items():
        if kind is Received and (number + 2, Frame) in at:
            assert place < at[number + 2, Frame]


def is_of_bin(message: Message) -> bool:
    return isinstance(message, Received) or is_part(message, Stream.RECEIVER_POINTS)


# Bins as the draws reveal them --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenBin:
    """The points of one attempt at one bin, split into items and padding.

    keys: in the order of their partition hashes. padding: in the order in which it was drawn. places: the positions on
    the wire of the keys, then of the padding.
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
    """Return the keys of each bin in the order of their hashes, which anyone who has the keys can compute."""
    if not bins:
        return []
    key = partition_key(sid)
    hashed = sorted((hashlib.sha256(key + item(value)).digest(), value) for value in values)
    found: list[list[str]] = [[] for _ in range(bins)]
    for digest, value in hashed:
        found[int.from_bytes(digest[:8], "big") * bins >> 64].append(value)
    return found


def see_bin(recording: Recording, party: str, where: tuple[int, str, int, int], own: list[str]) -> SeenBin:
    """Split a bin into items and padding; where: number and name of the task, bin and attempt.

    Check that one draw is the scalar of all points and that each point is an own item or a record of one other draw.
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
class RecordedRun:
    """One recorded run of a job, as the network and both parties see it."""

    recording: Recording
    tasks: Mapping[str, Task]

    def number(self, name: str) -> int:
        # Messages with task number 0 are shorter than the others, so a warm-up task takes that number.
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


def play(pair: Pair, port: int, tasks: Mapping[str, Task], alterations: Alterations | None = None) -> RecordedRun:
    """Run a job of these tasks after a warm-up task of one row; return the recorded run."""
    everything = {"warm-up": Task({party: ["1"] for party in PARTIES}), **tasks}
    for party in PARTIES:
        pair.jobs[party]["pipeline"] = {"bin_items": BIN_ITEMS, "frame_items": FRAME_ITEMS}
        pair.jobs[party]["tasks"] = []
        for name, task in everything.items():
            pair.path(party, f"{name}.csv").write_text("".join(f"{key},x\n" for key in ("id", *task.rows[party])))
    for name, task in everything.items():
        told = Side(["id"], f"{name}.csv", f"out/{name}.csv" if task.broadcast else None)
        pair.add(name, Side(["id"], f"{name}.csv", f"out/{name}.csv"), told, broadcast_result=task.broadcast)
    recording = record(pair, port, alterations=alterations)
    for result in recording.results.values():
        assert result.code == 0, result.text
    for name, task in tasks.items():
        common = set(task.keys(LISTENER)) & set(task.keys(DIALER))
        for party in PARTIES if task.broadcast else [LISTENER]:
            lines = pair.path(party, f"out/{name}.csv").read_text().splitlines()[1:]
            assert Counter(lines) == Counter(f"{key},x" for key in task.rows[party] if key in common)
    return RecordedRun(recording, tasks)
