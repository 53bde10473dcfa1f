"""Tests of the window: how much may be in flight, what is sent again, and how each direction ends."""

from __future__ import annotations

import pytest

from psicli.core.peer_errors import PeerProtocolError
from psicli.protocol.messages import Frame, Ready
from psicli.transport.window import WINDOW_BYTES, Inbox, Incoming, Outbox, Outgoing, cost

BIG = bytes(WINDOW_BYTES // 4)


def frame(task: int) -> Frame:
    return Frame(task, 0, 0, 1, 0, bytes(32))


def filled(*messages: bytes) -> Outbox:
    outbox = Outbox()
    for message in messages:
        outbox.put(message)
    return outbox


def taken(outbox: Outbox, *, freely: bool = False) -> list[bytes]:
    found = []
    while (octets := outbox.take(freely=freely)) is not None:
        found.append(octets)
    return found


def test_messages_leave_in_order_until_the_window_is_full() -> None:
    outbox = filled(*(bytes([i]) + BIG for i in range(6)))
    assert [each[0] for each in taken(outbox)] == [0, 1, 2]
    assert len(outbox) == 3
    outbox.confirm(2)
    assert [each[0] for each in taken(outbox)] == [3, 4]
    assert [each[0] for each in taken(outbox, freely=True)] == [5]


def test_one_message_always_fits() -> None:
    assert taken(filled(bytes(2 * WINDOW_BYTES), b"next")) == [bytes(2 * WINDOW_BYTES)]


def test_very_small_messages_are_bounded_too() -> None:
    outbox = filled(*(b"x" for _ in range(2 * WINDOW_BYTES // cost(1))))
    assert len(taken(outbox)) == WINDOW_BYTES // cost(1)


def test_messages_that_did_not_arrive_are_sent_again() -> None:
    outbox = filled(b"0", b"1", b"2", b"3")
    outbox.take(freely=False)
    outbox.confirm(1)
    for _ in range(2):
        outbox.take(freely=False)
    outbox.resend_after(2)
    assert taken(outbox) == [b"2", b"3"]
    outbox.resend_after(4)
    assert taken(outbox) == []


def test_the_window_counts_messages_that_arrived_but_were_not_read() -> None:
    outbox = filled(*(bytes([i]) + BIG for i in range(6)))
    taken(outbox)
    outbox.resend_after(2)
    assert [each[0] for each in taken(outbox)] == [2]


def test_a_drop_keeps_messages_in_flight_and_owed_ones() -> None:
    outbox = filled(b"0", b"1")
    outbox.take(freely=False)
    outbox.put(b"owed", owed=True)
    outbox.put(b"3")
    outbox.drop()
    assert taken(outbox) == [b"1", b"owed"]


@pytest.mark.parametrize("messages", [0, 3, 1 << 60])
def test_an_impossible_number_is_refused(messages: int) -> None:
    outbox = filled(b"0", b"1", b"2")
    for _ in range(2):
        outbox.take(freely=False)
    outbox.confirm(1)
    for say in (outbox.confirm, outbox.resend_after):
        with pytest.raises(PeerProtocolError, match="an impossible number of messages"):
            say(messages)
    outbox.confirm(2)


def test_an_outbox_ends_with_bye_or_abort() -> None:
    closed, aborted = Outbox(), filled(b"a")
    closed.close()
    aborted.abort(b"last")
    aborted.close()
    assert (closed.state, aborted.state) == (Outgoing.CLOSING, Outgoing.ABORTED)
    assert taken(aborted) == [b"a", b"last"]


def test_an_inbox_is_full_at_twice_the_window_and_confirms_what_was_read() -> None:
    inbox = Inbox()
    for number in range(8):
        assert not inbox.full
        inbox.put(Ready(number), len(BIG))
    assert inbox.full
    assert not inbox.must_confirm
    assert inbox.pop() == (Ready(0), len(BIG))
    assert inbox.must_confirm
    assert inbox.confirmation() == 1
    assert not inbox.must_confirm
    inbox.confirm_again()
    assert inbox.must_confirm


def test_an_inbox_that_ends_drops_frames_and_later_messages_of_their_tasks() -> None:
    inbox = Inbox()
    for message in (Ready(1), frame(2), Ready(2)):
        inbox.put(message, 1)
    inbox.end()
    for message in (Ready(2), frame(3), Ready(3), Ready(4)):
        inbox.put(message, 1)
    assert [inbox.pop()[0] for _ in range(len(inbox))] == [Ready(1), Ready(4)]


def test_a_closed_inbox_counts_arriving_messages_as_read() -> None:
    inbox = Inbox()
    inbox.put(Ready(0), 1)
    inbox.close()
    inbox.put(Ready(1), 1)
    assert (len(inbox), inbox.arrived, inbox.confirmation()) == (0, 2, 2)


@pytest.mark.parametrize(("said", "state"), [(True, Incoming.ENDED), (False, Incoming.LOST)])
def test_an_inbox_knows_whether_the_last_message_arrived(said: bool, state: Incoming) -> None:
    inbox = Inbox()
    if said:
        inbox.note_last_message()
    inbox.end()
    assert inbox.state is state
    assert inbox.has_last_message is said
