"""Tests of failures: one party or the link fails, and the other party learns only what it may; commits are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.memory.machines import PATIENCE
from support.memory.sessions import (
    ALICE,
    BOB,
    Signal,
    both,
    joined,
    messages_of,
    numbers,
    run,
    small,
    succeeded,
    task_sid_of,
)

from psicli import curve
from psicli.core.errors import (
    DurationError,
    MalformedInputError,
    MatchRateError,
    PeerSizeError,
    PsicliError,
    StorageError,
    TerminatedBySignal,
)
from psicli.core.peer_errors import PeerFailedError, PeerGoneError, PeerPolicyError, PeerStoppedError
from psicli.items.partitions import Matches
from psicli.protocol.messages import (
    Abort,
    Commit,
    Done,
    End,
    Frame,
    Message,
    Offer,
    Open,
    Ready,
    Received,
    TaskMessage,
    Working,
)
from psicli.protocol.task import Disclosure, Phase, Progress
from psicli.session import agreement, session
from psicli.session.agreement import Deadline
from psicli.session.session import UNCONFIRMED, UNNAMED_FAILURE

BAD_ROW = MalformedInputError(place="in.csv:7", fault="the row has 1 field, but the header has 2", advice="")


@pytest.mark.parametrize("failing", [ALICE, BOB])
@pytest.mark.parametrize("terms", [{}, {"broadcast": True}, {"receiver": BOB}], ids=["alice", "both", "bob"])
def test_a_task_that_cannot_be_read_spares_the_ones_before_it(failing: str, terms: dict[str, Any]) -> None:
    def fail() -> None:
        raise BAD_ROW

    plans = small(5, **terms)
    plans[failing == BOB][2]._before = fail
    ends = joined(*plans)
    run(ends)
    mine, theirs = ends if failing == ALICE else ends[::-1]
    assert mine.failure is BAD_ROW
    assert isinstance(theirs.failure, PeerFailedError)
    for end in ends:
        for plan in end.plans[:2]:
            assert plan.calls[:2] == ["started", "exchanged"]
            assert plan.found == (set(numbers(3, 5)) if plan.output else None)
        assert [plan.calls for plan in end.plans[3:]] == [[], []]
        assert "exchanged" not in end.plans[2].calls
    assert mine.plans[2].calls == ["started"]
    # Only the failure class is sent.
    assert [m for m in theirs.link.received if isinstance(m, Abort)] == [Abort(65)]


def test_an_output_that_fails_after_received_stays_hidden_from_the_sender() -> None:
    alice, bob = small(4)
    alice[1].alone_failure = StorageError(path=Path("out.csv"), reason="no space left on device")
    ends = joined(alice, bob)
    run(ends)
    succeeded(ends)
    assert [plan.calls[-1] for plan in alice] == ["alone"] * 4
    assert [plan.found for plan in alice] == [set(numbers(3, 5)), None, set(numbers(3, 5)), set(numbers(3, 5))]
    failing = messages_of(ends[0].link.sent, 1)
    assert [type(m) for m in failing] == [type(m) for m in messages_of(ends[0].link.sent, 0)]
    assert isinstance(failing[-1], Received)


def test_an_output_that_fails_before_commit_stops_both() -> None:
    alice, bob = small(2, broadcast=True)
    failure = StorageError(path=Path("out.csv"), reason="no space left on device")

    def fail(matches: Matches) -> None:
        raise failure

    assert bob[0].output is not None
    assert alice[0].output is not None
    bob[0].output.stage = fail  # type: ignore[method-assign]
    ends = joined(alice, bob)
    run(ends)
    assert ends[1].failure is failure
    # A full disk counts as "stopped", after which a retry makes sense.
    assert isinstance(ends[0].failure, PeerStoppedError)
    assert not alice[0].output.published
    assert not bob[0].output.published


@pytest.mark.parametrize("failure", [BAD_ROW, TerminatedBySignal(), ZeroDivisionError()], ids=["65", "143", "70"])
def test_between_the_lists_and_the_bitmap_every_failure_looks_the_same(failure: Exception) -> None:
    """The class of the receiver's failure could reveal a match to the sender, so even a signal is not named."""
    alice, bob = both("t0", numbers(0, 20), numbers(10, 30), receiver=ALICE, broadcast=True)
    ends = joined([alice], [bob])

    def fail(progress: Progress) -> None:
        assert ends[0].session is not None
        live = ends[0].session._turns.get(0)
        if live is not None and live.party.disclosure is Disclosure.UNIFORM:
            raise failure

    alice.at_progress = fail
    run(ends)
    assert ends[0].failure is failure
    assert isinstance(ends[1].failure, PeerStoppedError)
    assert [m for m in ends[1].link.received if isinstance(m, Abort)] == [Abort(UNNAMED_FAILURE)]


TOO_SMALL = PeerSizeError(task="t", items=1, padding="", than="fewer", name="min_peer_items", limit=2)


def refuse(failure: PsicliError) -> Callable[[int], None]:
    def fail(peer_items: int) -> None:
        raise failure

    return fail


@pytest.mark.parametrize("failure", [TOO_SMALL, StorageError(path="ledger.jsonl", reason="full")], ids=["79", "74"])
@pytest.mark.parametrize("broadcast", [False, True], ids=["one-sided", "broadcast"])
@pytest.mark.parametrize("refusing", [0, 1], ids=["receiver", "sender"])
def test_a_task_that_is_refused_spares_the_ones_before_it(refusing: int, broadcast: bool, failure: PsicliError) -> None:
    """Earlier tasks complete, then the session ends: no point of the refused task is sent, no later task is opened."""
    plans = small(4, broadcast=broadcast)
    plans[refusing][2].at_opening = refuse(failure)
    ends = joined(*plans)
    run(ends)
    refused, other = ends[refusing], ends[1 - refusing]
    assert refused.failure is failure
    assert isinstance(other.failure, PeerPolicyError if failure is TOO_SMALL else PeerStoppedError)
    for plan in (*plans[0][:2], *plans[1][:2]):
        assert plan.calls[:2] == ["started", "exchanged"]
    assert [type(message) for message in messages_of(refused.link.sent, 2)] == [Offer, Open]
    assert all(isinstance(message, Offer) for message in messages_of(refused.link.sent, 3))
    assert refused.link.sent[-1] == Abort(failure.code)
    assert plans[refusing][2].calls == ["started"]
    assert plans[refusing][3].calls == []


def test_a_first_task_that_is_refused_sends_only_offer_and_open() -> None:
    for mine, theirs in ((5, 5), (0, 5), (5, 0), (0, 0)):
        alice, bob = both("t0", numbers(0, mine), numbers(0, theirs), receiver=ALICE)
        alice.at_opening = refuse(TOO_SMALL)
        ends = joined([alice], [bob])
        run(ends)
        assert ends[0].failure is TOO_SMALL
        assert [message for message in ends[0].link.sent if not isinstance(message, Working)] == [
            Offer(0),
            Open(0, mine, curve.probe(task_sid_of(ends))),
            Abort(79),
        ]
        assert isinstance(ends[1].failure, PeerPolicyError)


@pytest.mark.parametrize(
    "failure",
    [MatchRateError(task="t", matched=9, own=10, limit=0.5), StorageError(path="o", reason="r"), ZeroDivisionError()],
    ids=["79", "74", "70"],
)
def test_a_refused_result_looks_like_any_other_failure(failure: Exception) -> None:
    """Any failure of the receiver after matching looks the same to the sender: it gets no bitmap and no class."""
    alice, bob = both("t0", numbers(0, 20), numbers(10, 30), receiver=ALICE, broadcast=True)

    def fail(matches: Matches) -> None:
        assert matches.count == 10
        raise failure

    assert alice.output is not None
    alice.output.check = fail  # type: ignore[method-assign]
    ends = joined([alice], [bob])
    run(ends)
    assert ends[0].failure is failure
    assert alice.output.staged is None
    seen = [message for message in ends[1].link.received if not isinstance(message, Working)]
    assert [type(message) for message in seen] == [Offer, Open, *[Frame] * 3, End, Received, Abort]
    assert seen[-1] == Abort(UNNAMED_FAILURE)
    assert isinstance(ends[1].failure, PeerStoppedError)
    assert str(ends[1].failure) == "the other party stopped before the session was complete: it did not say why"


def test_the_deadline_ends_the_exchange_but_not_the_writing_of_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time comes while alice writes her first result, and bob still reads his input of the second task."""
    (alice, bob), over, now = small(2), Signal(), [0.0]
    monkeypatch.setattr(agreement, "monotonic", lambda: now[0])
    ends = joined(alice, bob)
    ends[0].terms = replace(ends[0].terms, deadline=Deadline(100.0, "2 min"))
    ends[0].hang_up = over.set
    write, bob[1]._before = alice[0].finish_alone, over.wait

    def write_late(matches: Callable[[], Matches]) -> None:
        now[0] = 100.0
        ends[0].link.wake()
        over.wait()
        write(matches)

    alice[0].finish_alone = write_late  # type: ignore[method-assign]
    run(ends)
    assert isinstance(ends[0].failure, DurationError)
    assert isinstance(ends[1].failure, PeerPolicyError)
    assert alice[0].found == set(numbers(3, 5))
    assert alice[1].found is None


def test_a_signal_stops_both() -> None:
    alice, bob = small(2)

    def stop(progress: Progress) -> None:
        raise TerminatedBySignal()

    bob[0].at_progress = stop
    ends = joined(alice, bob)
    run(ends)
    assert isinstance(ends[1].failure, TerminatedBySignal)
    assert isinstance(ends[0].failure, PeerStoppedError)
    assert alice[0].found is None


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_signal_after_the_commit_leaves_it(tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine, putting an output in place may take longer than a party that a signal stops waits.
    monkeypatch.setattr(session, "STOPPED_TIMEOUT", PATIENCE)
    alice, bob = small(tasks, broadcast=True)
    ends = joined(alice, bob)

    def stop(progress: Progress) -> None:
        assert ends[0].session is not None
        live = ends[0].session._turns.get(0)
        assert live is not None
        if live.party.phase is Phase.COMMITTED:
            raise TerminatedBySignal()

    alice[0].at_progress = stop
    run(ends)
    assert isinstance(ends[0].failure, TerminatedBySignal)
    for plan in (alice[0], bob[0]):
        assert plan.output is not None
        assert plan.output.published
        assert plan.calls == ["started", "exchanged"]
    # The second task may have been committed by then as well.
    assert (ends[1].failure is None) == all(plan.result is not None for plan in bob)
    assert tasks == 2 or ends[1].failure is None


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("last", [Commit, Done])
def test_a_link_that_ends_around_the_commit(last: type[TaskMessage], tasks: int) -> None:
    """Committed outputs stay, with a warning if the last message was lost; later tasks fail."""
    alice, bob = small(tasks, broadcast=True)
    ends = joined(alice, bob)

    def passes(message: Message) -> bool:
        # Drops this message of the first task and everything after it; the second task may have got as far before.
        return not (isinstance(message, last) and message.task == 0)

    run(ends, **{"to_bob" if last is Commit else "to_alice": passes})
    assert alice[0].output is not None
    assert bob[0].output is not None
    assert alice[0].output.published
    assert alice[0].calls == ["started", "exchanged"]
    assert alice[0].result is not None
    assert alice[0].result.warning == UNCONFIRMED
    assert bob[0].output.published == (last is Done)
    assert (bob[0].result is not None) == (last is Done)
    # The second task may have been committed by then as well, and then it stays too.
    assert (ends[0].failure is None) == all(plan.result is not None for plan in alice)
    # For bob a task is complete only if its Commit arrived.
    assert (ends[1].failure is None) == all(plan.result is not None for plan in bob)
    if last is Commit:
        assert isinstance(ends[1].failure, PeerGoneError)


def test_a_link_that_ends_before_ready_publishes_nothing() -> None:
    alice, bob = small(1, broadcast=True)
    ends = joined(alice, bob)
    run(ends, to_alice=lambda message: not isinstance(message, Ready))
    assert isinstance(ends[0].failure, PeerGoneError)
    assert isinstance(ends[1].failure, PeerGoneError)
    for plan in (alice[0], bob[0]):
        assert plan.output is not None
        assert not plan.output.published
        assert plan.result is None
