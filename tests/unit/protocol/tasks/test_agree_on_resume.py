"""Tests of the agreement to resume: each party decides alone, and both decide the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.bins import agree_on_resume, every_bin, number_of_bins
from psicli.protocol.messages import Kept

SID = bytes(range(32))
BIN_ITEMS = 100
COUNTS = 500, 300
TASK_BINS = number_of_bins(*COUNTS, BIN_ITEMS)


def kept(finished: int = 0, *, complete: bool = False, sid: bytes = SID, receives: bool = True) -> Kept:
    return Kept(sid, *(COUNTS if receives else COUNTS[::-1]), TASK_BINS, finished, complete)


@st.composite
def offers(draw: st.DrawFn, *, receives: bool) -> Kept | None:
    """Return an Offer that a party may make for the run of SID or of another one, or None."""
    if draw(st.integers(0, 5)) == 0:
        return None
    sid = SID if draw(st.integers(0, 5)) else bytes(32)
    complete = draw(st.booleans())
    finished = every_bin(TASK_BINS) if complete else draw(st.integers(0, every_bin(TASK_BINS)))
    return kept(finished, complete=complete, sid=sid, receives=receives)


@settings(max_examples=500, deadline=None)
@given(offers(receives=True), offers(receives=False), st.booleans())
def test_both_sides_decide_the_same(receiver: Kept | None, sender: Kept | None, broadcast: bool) -> None:
    shared = {"broadcast": broadcast, "bin_items": BIN_ITEMS}
    one = agree_on_resume(receiver, sender, receives=True, **shared)  # type: ignore[arg-type]
    other = agree_on_resume(sender, receiver, receives=False, **shared)  # type: ignore[arg-type]
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert replace(one, own_count=one.peer_count, peer_count=one.own_count) == other
        assert receiver is not None
        assert sender is not None
        assert (one.partition_sid, one.own_count, one.peer_count) == (receiver.partition_sid, *COUNTS)
        # A bin is skipped only if the receiver has it and the sender has answered it.
        assert one.finished == receiver.finished & sender.finished
        # The task is complete only if neither party has any work left.
        assert one.complete == (receiver.complete or (receiver.finished == every_bin(TASK_BINS) and not broadcast))
        if broadcast:
            assert receiver.complete == sender.complete == one.complete


@pytest.mark.parametrize("receives", [True, False])
@pytest.mark.parametrize("broadcast", [True, False])
def test_offers_of_different_runs_start_afresh(receives: bool, broadcast: bool) -> None:
    mine = kept(1, receives=receives)
    theirs = kept(1, receives=not receives)
    shared = {"receives": receives, "broadcast": broadcast, "bin_items": BIN_ITEMS}
    assert agree_on_resume(mine, theirs, **shared) is not None  # type: ignore[arg-type]
    others = (
        None, replace(theirs, partition_sid=bytes(32)), replace(theirs, own_count=theirs.own_count + 1),
        replace(theirs, peer_count=theirs.peer_count + 1), replace(theirs, bins=2 * TASK_BINS),
    )  # fmt: skip
    for other in others:
        assert agree_on_resume(mine, other, **shared) is None  # type: ignore[arg-type]
    # A receiver cannot have a bin that the sender never answered; a sender may have answered more than was received.
    receiver_ahead = (kept(0b11), kept(0b01, receives=False))
    sender_ahead = (kept(0b01), kept(0b11, receives=False))
    for pair, fits in ((receiver_ahead, False), (sender_ahead, True)):
        decided = agree_on_resume(*(pair if receives else pair[::-1]), **shared)  # type: ignore[arg-type]
        assert (decided is not None) is fits
        assert decided is None or decided.finished == 0b01
    # The size of a bin differs from that of the interrupted run.
    assert agree_on_resume(mine, theirs, **{**shared, "bin_items": 1 << 14}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bins": 3}, "a task of 3 bins"),
        ({"bins": 0, "finished": 0}, "a task of 0 bins"),
        ({"bins": 1 << 17}, "a task of 131,072 bins"),
        ({"finished": 1 << TASK_BINS}, "bins that the task does not have"),
        ({"complete": True}, "as complete although its bins are not"),
        ({"own_count": 0}, f"a task of {TASK_BINS} bins"),
    ],
)
def test_an_impossible_offer_is_refused(changes: dict[str, int], why: str) -> None:
    for mine in (None, kept(1)):
        with pytest.raises(PeerProtocolError, match=why):
            agree_on_resume(
                mine, replace(kept(1, receives=False), **changes), receives=True, broadcast=False, bin_items=BIN_ITEMS
            )


def test_the_constants_of_this_file_are_right() -> None:
    assert TASK_BINS > 4
