"""Sessions that skip tasks: a party cannot take part in some of them, and the others run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory.sessions import ALICE, BOB, Party, Plan, Signal, TapLink, both, joined, numbers, run, succeeded

from psicli.core.errors import MalformedInputError, PeerSizeError, PsicliError
from psicli.core.peer_errors import PeerEndsRunError, PeerPolicyError, SkipEndsRunError
from psicli.exchange.worker import Worker
from psicli.protocol.messages import Abort, Frame, Message, Offer, Open, Skip

BIN_ITEMS = 128
COMMON = set(numbers(100, 130))
WORKS, NO_FILE, BAD_ROW = "works", "no file", "bad row"
STATES = (WORKS, NO_FILE, BAD_ROW)
BAD = MalformedInputError(place="in.csv:3", fault="the row has 1 field", advice="")


def fail() -> None:
    raise BAD


def spoil(plan: Plan, state: str) -> None:
    """Let a plan fail before its Offer or before its Open, and let its party go on without it."""
    plan.keep_going = True
    if state == NO_FILE:
        plan.at_finding = BAD
    elif state == BAD_ROW:
        plan._before = fail


def pair(name: str, states: tuple[str, str], receiver: str = ALICE, *, broadcast: bool = False) -> tuple[Plan, Plan]:
    """Return a task of several bins as alice's and bob's plans, which fail as the states say."""
    plans = both(name, numbers(0, 130), numbers(100, 250), receiver=receiver, broadcast=broadcast)
    for plan, state in zip(plans, states, strict=True):
        spoil(plan, state)
    return plans


def session(pairs: Sequence[tuple[Plan, Plan]], links: tuple[TapLink, TapLink] | None = None) -> tuple[Party, Party]:
    return joined([each[0] for each in pairs], [each[1] for each in pairs], bin_items=BIN_ITEMS, links=links)


def check_ends(pairs: Sequence[tuple[Plan, Plan]], states: Sequence[tuple[str, str]]) -> None:
    """Assert that every task in which both take part gave its result, and no other one gave any."""
    for plans, (alices, bobs) in zip(pairs, states, strict=True):
        runs = (alices, bobs) == (WORKS, WORKS)
        for plan, own, other in zip(plans, (alices, bobs), (bobs, alices), strict=True):
            learns = plan.receives or plan.broadcast
            assert plan.found == (COMMON if runs and learns else None)
            if runs:
                assert plan.calls == [
                    "started",
                    "exchanged",
                    *(["alone"] if plan.receives and not plan.broadcast else []),
                ]
                continue
            *said, closed = plan.calls
            assert closed == "closed"
            # An earlier fault of the peer spares this party the rest of its work.
            assert said.count("skipped") == (own != WORKS and not (own == BAD_ROW and other == NO_FILE))
            assert {*said} - {"skipped"} <= {"the peer skipped for 65"}
            assert own != WORKS or said == ["the peer skipped for 65"]


@pytest.mark.more
@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(STATES), st.sampled_from(STATES), st.sampled_from((ALICE, BOB)), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
def test_all_other_tasks_run(tasks: list[tuple[str, str, str, bool]]) -> None:
    states = [(alices, bobs) for alices, bobs, _, _ in tasks]
    pairs = [pair(f"t{i}", each[:2], each[2], broadcast=each[3]) for i, each in enumerate(tasks)]
    ends = session(pairs)
    run(ends)
    succeeded(ends)
    check_ends(pairs, states)


@pytest.mark.sample(1)
@pytest.mark.parametrize("state", [NO_FILE, BAD_ROW])
@pytest.mark.parametrize("at", [[0], [2], [4], [1, 2, 3], [0, 1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize("party", [0, 1], ids=[ALICE, BOB])
def test_a_skipped_task_of_any_place(party: int, at: list[int], state: str) -> None:
    """The first, the last, one between two others, several, and all; only the class is sent."""
    own = [state if i in at else WORKS for i in range(5)]
    states = [(each, WORKS) if party == 0 else (WORKS, each) for each in own]
    pairs = [pair(f"t{i}", each) for i, each in enumerate(states)]
    ends = session(pairs)
    run(ends)
    succeeded(ends)
    check_ends(pairs, states)
    sent = ends[party].link.sent
    assert [each for each in sent if isinstance(each, Skip)] == [Skip(i, 65) for i in at]
    of_skipped = [each for each in sent if isinstance(each, Offer | Open | Frame) and each.task in at]
    assert of_skipped == ([Offer(i) for i in at] if state == BAD_ROW else [])
    # A peer that has not opened the task yet does not tell its count any more.
    answers = {each.task: type(each) for each in ends[1 - party].link.sent if isinstance(each, Skip | Open)}
    assert all(answers[i] in (Skip, Open) for i in at if state == BAD_ROW)
    assert not any(isinstance(each, Abort) for end in ends for each in end.link.sent)


@pytest.mark.sample(1)
@pytest.mark.parametrize("state", [NO_FILE, BAD_ROW])
def test_a_task_is_skipped_while_bins_of_another_one_are_under_way(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first task's points are held back until the second one's skip has arrived."""
    skipped = Signal()
    mask_own = Worker.mask_own

    def hold(worker: Worker, start: int, stop: int) -> bytes:
        skipped.wait()
        return mask_own(worker, start, stop)

    monkeypatch.setattr(Worker, "mask_own", hold)
    states = [(WORKS, WORKS), (state, WORKS), (WORKS, WORKS)]
    pairs = [pair(f"t{i}", each) for i, each in enumerate(states)]
    ends = session(pairs)

    def note(message: Message) -> None:
        if isinstance(message, Skip):
            skipped.set()

    ends[1].link.on_receive = note
    run(ends)
    succeeded(ends)
    check_ends(pairs, states)


@pytest.mark.sample(1)
@pytest.mark.parametrize("state", [NO_FILE, BAD_ROW])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_peer_that_does_not_keep_going_finishes_the_earlier_tasks(at: int, state: str) -> None:
    pairs = [pair(f"t{i}", (state if i == at else WORKS, WORKS)) for i in range(5)]
    for _, bobs in pairs:
        bobs.keep_going = False
    ends = session(pairs)
    run(ends)
    alice, bob = ends
    assert isinstance(bob.failure, SkipEndsRunError)
    assert isinstance(alice.failure, PeerEndsRunError)
    assert (alice.failure.code, bob.failure.code) == (80, 80)
    assert Abort(80) in bob.link.sent
    check_ends(pairs[:at], [(WORKS, WORKS)] * at)
    for alices, bobs in pairs[at:]:
        assert alices.found is None
        assert "exchanged" not in alices.calls + bobs.calls


def test_a_refusal_before_a_skipped_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob's policy refuses the second task; alice has skipped the third by then."""
    pairs = [pair(f"t{i}", (NO_FILE if i == 2 else WORKS, WORKS)) for i in range(4)]

    def refuse(peer_items: int) -> None:
        raise PeerSizeError(task="t1", items="130 items", padding="", than="more", name="max_peer_items", limit=1)

    pairs[1][1].at_opening = refuse
    ends = session(pairs)
    run(ends)
    assert isinstance(ends[1].failure, PeerSizeError)
    assert isinstance(ends[0].failure, PeerPolicyError)
    check_ends(pairs[:1], [(WORKS, WORKS)])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "failure", [PsicliError(detail="another error"), ValueError("an error of psicli"), PeerSizeError()]
)
def test_any_other_failure_ends_the_run(failure: Exception) -> None:
    pairs = [pair(f"t{i}", (WORKS, WORKS)) for i in range(3)]

    def raise_it() -> None:
        raise failure

    pairs[1][0]._before = raise_it
    ends = session(pairs)
    run(ends)
    assert ends[0].failure is failure
    assert not any(isinstance(each, Skip) for end in ends for each in end.link.sent)
    check_ends(pairs[:1], [(WORKS, WORKS)])


def test_the_input_that_was_read_for_a_skipped_task_is_freed() -> None:
    read = Signal()
    pairs = [pair("t0", (WORKS, WORKS)), pair("t1", (WORKS, WORKS))]
    closed: list[Callable[[], None]] = []

    def wait_and_fail() -> None:
        read.wait()
        fail()

    pairs[0][0]._before = wait_and_fail
    prepare = pairs[0][1].prepare

    def watched(partition_sid: bytes):  # type: ignore[no-untyped-def]
        prepared = prepare(partition_sid)
        close = prepared.items.close
        prepared.items.close = lambda: (closed.append(close), close())  # type: ignore[method-assign,func-returns-value]
        return prepared

    pairs[0][1].prepare = watched  # type: ignore[method-assign]
    ends = session(pairs)

    def note(message: Message) -> None:
        if isinstance(message, Open):
            read.set()

    ends[0].link.on_receive = note
    run(ends)
    succeeded(ends)
    assert len(closed) == 1
    assert [each.task for each in ends[1].link.sent if isinstance(each, Open)] == [0, 1]
