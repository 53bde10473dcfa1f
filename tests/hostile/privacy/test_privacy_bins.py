"""What each party and the network can observe in real runs of tasks with many bins; see also test_privacy.py.

These tests know the random draws of both parties and can therefore tell items from padding; nobody else may be able to.
The tests of scalars, orders and padding have been checked against versions of psicli with the defects they look for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from support.chance import check_scattered, check_uniform, check_unrelated
from support.hostile.bins_seen import (
    OWN_STREAM,
    RecordedRun,
    SeenBin,
    Task,
    blank,
    check_messages,
    due,
    due_bins,
    due_capacity,
    into_bins,
    is_part,
    keys_of_one_bin,
    play,
    random_keys,
    real_keys,
    see_bin,
    skewed_keys,
)
from support.processes import altered
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair
from support.processes.tapped import item, tapped_pair

from psicli import curve
from psicli.protocol.messages import (
    Commit,
    Done,
    Offer,
    Open,
    Ready,
    Received,
    Restart,
    Stream,
    task_session_id,
)

# Each worker process of pytest that runs one of these needs the runs, which take long.
pytestmark = pytest.mark.more

# Tasks of 2 to 8 bins -----------------------------------------------------------------------------------------------

COUNTS = 34_000, 20_000
ALIKE = ["random", "again", "skewed", "of-one-bin"]
TASKS = {
    "random": Task(random_keys(*COUNTS, seed=23)),
    # The same keys as in the task before.
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
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RecordedRun]:
    """Return two recorded runs of the same job over the same files."""
    with tapped_pair(tmp_path_factory.mktemp("runs")) as (pair, port):
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
def test_the_traffic_depends_only_on_the_two_counts(runs: list[RecordedRun], name: str) -> None:
    """The counts determine the number, sizes and order of messages; each bin has exactly its capacity of points."""
    for run in runs:
        check_messages(run.recording, run.number(name), run.tasks[name])


def test_only_counts_are_sent_if_a_party_has_no_items(runs: list[RecordedRun]) -> None:
    for run, name in itertools.product(runs, ["none", "nobody-there", "nothing-told", "nothing-at-all"]):
        sent = {type(m) for party in PARTIES for m in run.recording.of_task(party, run.number(name))}
        assert sent == {Offer, Open, Done} | ({Ready, Commit} if TASKS[name].broadcast else {Received})


def test_bins_hold_different_numbers_of_items(runs: list[RecordedRun]) -> None:
    """Bins of one capacity hold different numbers of items; otherwise the test of the traffic would prove little."""
    alike = 0
    for run in runs:
        for party, name in itertools.product(PARTIES, ALIKE):
            bins = run.bins(party, name)
            assert len({len(seen.points) for seen in bins}) == 1
            alike += len({len(seen.keys) for seen in bins}) == 1
        # Ten keys cannot put two into each of eight bins.
        assert min(len(seen.keys) for seen in run.bins(LISTENER, "few")) <= 1
    # By chance, four bins are alike once in 200,000 runs of this test; two times four are once in 10^11.
    assert alike <= 1


def test_scalars_and_padding_are_fresh_for_every_bin(runs: list[RecordedRun]) -> None:
    """Bins, tasks, parties and runs never share a scalar or padding, and no scalar is used as padding."""
    seen = [seen for run in runs for _, _, seen in run.all_bins()]
    assert len(seen) == 2 * 2 * (4 * 4 + 8 + 2)
    drawn = [each.scalar for each in seen] + [fill for each in seen for fill in each.padding]
    assert len(set(drawn)) == len(drawn) > 40_000


def test_nothing_on_the_wire_comes_twice(runs: list[RecordedRun]) -> None:
    """No point or token of an item or of padding repeats between bins, tasks, parties and runs."""
    sent = [each for run in runs for each in run.records_on_the_wire()]
    assert len(set(sent)) == len(sent) > 1_000_000


def in_order_of(order: str, own: Sequence[str], file: Sequence[str]) -> list[str]:
    """Sort a bin's keys, which come in the order of their partition hashes, by another order."""
    by = {
        "file": {key: at for at, key in enumerate(file)}.__getitem__,
        "key": lambda key: key,
        "hash of the key": lambda key: hashlib.sha256(key.encode()).digest(),
        "hash of the item": lambda key: hashlib.sha256(item(key)).digest(),
    }
    return [*own] if order == "partition hash" else sorted(own, key=by[order])


ORDERS = ["file", "key", "hash of the key", "hash of the item", "partition hash"]


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_on_the_wire_is_unrelated_to(runs: list[RecordedRun], order: str) -> None:
    checked = 0
    for run in runs:
        for party, name, seen in run.all_bins():
            if len(seen.keys) >= 400:
                place = dict(zip(seen.keys, seen.item_places, strict=True))
                ordered = in_order_of(order, seen.keys, run.tasks[name].keys(party))
                check_unrelated([place[key] for key in ordered])
                checked += 1
    assert checked == 2 * (2 * 4 * 4 + 8 + 2 * 2)


def check_orders(one: SeenBin, other: SeenBin) -> None:
    """Check that the orders of two bins are unrelated."""
    shorter = min(len(one.places), len(other.places))
    check_unrelated([place for _, place in sorted(zip(one.places[:shorter], other.places[:shorter], strict=True))])


def test_orders_of_bins_tasks_parties_and_runs_are_unrelated(runs: list[RecordedRun]) -> None:
    tasks = ["random", "again", "skewed"]
    of_party = {party: [seen for run in runs for name in tasks for seen in run.bins(party, name)] for party in PARTIES}
    for orders in of_party.values():
        for one, other in itertools.combinations(orders, 2):
            check_orders(one, other)
    for one, other in zip(*of_party.values(), strict=True):
        check_orders(one, other)
        # The orders of the common keys must be unrelated too.
        mine, theirs = (dict(zip(seen.keys, seen.item_places, strict=True)) for seen in (one, other))
        common = sorted(set(mine) & set(theirs))
        check_unrelated([theirs[key] for key in sorted(common, key=mine.__getitem__)])


def test_padding_is_scattered_over_a_bin(runs: list[RecordedRun]) -> None:
    """The positions of padding look random, and the padding is in no order."""
    checked = 0
    for run in runs:
        for _, _, seen in run.all_bins():
            if len(seen.padding) >= 400:
                check_scattered(seen.padding_places, len(seen.places))
                check_unrelated(seen.padding_places)
                checked += 1
    assert checked > 2 * 2 * 4 * 4


def test_padding_looks_like_items_and_both_look_random(runs: list[RecordedRun]) -> None:
    seen = [seen for run in runs for _, _, seen in run.all_bins()]
    for points in (
        np.concatenate([each.points_at(each.padding_places) for each in seen]),
        np.concatenate([each.points_at(each.item_places) for each in seen]),
    ):
        check_uniform(points, 255)
        assert curve.on_curve(points.tobytes())
    tokens = b"".join(run.recording.data(Stream.TOKENS) for run in runs)
    check_uniform(np.frombuffer(tokens, np.uint8).reshape(-1, curve.TOKEN_BYTES), 128)


P = 2**255 - 19
A = 486662


def test_padding_lies_on_the_curve(runs: list[RecordedRun]) -> None:
    """Half of the points that are not hashed to the curve lie on its twist, and masking does not change that."""
    for party, name in itertools.product(PARTIES, ["random", "few", "told"]):
        for seen in runs[0].bins(party, name):
            for point in seen.points_at(seen.padding_places[:200]):
                u = int.from_bytes(point.tobytes(), "little")
                assert u < P
                # Euler's criterion: there is a y with y^2 = u^3 + A u^2 + u (RFC 7748 section 4.1).
                assert pow(u * (u * (u + A) + 1), (P - 1) // 2, P) == 1


def test_tokens_of_padding_look_like_those_of_items(runs: list[RecordedRun]) -> None:
    """Each of the receiver's points has its token at the same position; no token shows whether it is for padding."""
    for run in runs:
        found: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for name in ["random", "again", "skewed", "of-one-bin", "told"]:
            for number, seen in enumerate(run.bins(LISTENER, name)):
                data = run.recording.data_of_bin(Stream.TOKENS, run.number(name), number)
                tokens = np.frombuffer(data, np.uint8).reshape(-1, curve.TOKEN_BYTES)
                assert len(tokens) == len(seen.places)
                found[True].append(tokens[seen.padding_places])
                found[False].append(tokens[seen.item_places])
        for each in found.values():
            check_uniform(np.concatenate(each), 128)


def test_a_bitmap_marks_the_matches_and_no_padding(runs: list[RecordedRun]) -> None:
    for run in runs:
        common = set(TASKS["told"].keys(LISTENER)) & set(TASKS["told"].keys(DIALER))
        for number, seen in enumerate(run.bins(DIALER, "told")):
            data = run.recording.data_of_bin(Stream.BITMAP, run.number("told"), number)
            bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
            places = dict(zip(seen.keys, seen.item_places, strict=True))
            assert {*np.flatnonzero(bits).tolist()} == {places[key] for key in common & places.keys()}


@pytest.mark.parametrize(
    "places",
    [range(9000, 10_000), range(0, 10_000, 10), [*range(1000)], [at * 10 + at % 2 for at in range(1000)]],
    ids=["last", "every tenth", "first", "nearly every tenth"],
)
def test_padding_in_a_pattern_is_detected(places: Sequence[int]) -> None:
    with pytest.raises(AssertionError):
        check_scattered(places, 10_000)
    check_scattered(random.Random(26).sample(range(10_000), 1000), 10_000)


# A bin that starts again --------------------------------------------------------------------------------------------


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_a_second_attempt_has_nothing_of_the_first(tapped: tuple[Pair, int], party: str) -> None:
    """Both parties use fresh scalars, padding and orders, and so fresh points and tokens."""
    pair, port = tapped
    task = TASKS["random"]
    run = play(pair, port, {"random": task}, {party: [altered.restart_two_bins]})
    restarts = {p: [m for m in run.recording.of_task(p, 1) if isinstance(m, Restart)] for p in PARTIES}
    assert restarts == {p: [Restart(1, 0, 1), Restart(1, 1, 1)] for p in PARTIES}
    expected = due(1, task.counts, broadcast=False)
    for each in PARTIES:
        sent = [blank(message) for message in run.recording.of_task(each, 1)]
        # The tokens of the first attempt may be incomplete, so the test compares only points.
        points = [m for m in sent if is_part(m, OWN_STREAM[each])]
        again = [m for m in points if m.attempt]
        assert again == [dataclasses.replace(m, attempt=1) for m in expected[each] if is_part(m, OWN_STREAM[each])
                         and m.bin < 2]  # fmt: skip
        assert [m for m in points if not m.attempt] == [m for m in expected[each] if is_part(m, OWN_STREAM[each])]
    seen: dict[tuple[str, int, int], SeenBin] = {}
    for each in PARTIES:
        cut = into_bins(task.keys(each), task_session_id(run.recording.sid, "random"), 4)
        for number, attempt in itertools.product((0, 1), (0, 1)):
            where = 1, "random", number, attempt
            seen[each, number, attempt] = see_bin(run.recording, each, where, cut[number])
    for each, number in itertools.product(PARTIES, (0, 1)):
        check_orders(seen[each, number, 0], seen[each, number, 1])
    drawn = [bin.scalar for bin in seen.values()] + [fill for bin in seen.values() for fill in bin.padding]
    assert len(set(drawn)) == len(drawn)
    records_sent = run.records_on_the_wire()
    assert len(set(records_sent)) == len(records_sent)


# Many bins ----------------------------------------------------------------------------------------------------------

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
    """Run all checks above on 64 bins of each kind of data."""
    task = Task(MANY[kind]())
    assert task.counts == MANY_COUNTS
    assert due_bins(task.counts) == 64
    run = play(*tapped, {"many": task})
    check_messages(run.recording, 1, task)
    sent = run.records_on_the_wire()
    assert len(set(sent)) == len(sent) > 64 * (2 * 10_272 + 9616)
    for party in PARTIES:
        bins = run.bins(party, "many")
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
    everything = run.recording.data(Stream.RECEIVER_POINTS) + run.recording.data(Stream.SENDER_POINTS)
    assert curve.on_curve(everything)
    assert not {seen.scalar for seen in run.bins(LISTENER, "many")} & {seen.scalar for seen in run.bins(DIALER, "many")}
