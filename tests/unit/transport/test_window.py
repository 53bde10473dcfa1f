"""What one side may send ahead, and what it sends again."""

from __future__ import annotations

import pytest

from psicli.core.errors import PeerProtocolError
from psicli.transport.window import WINDOW_BYTES, Outbox, cost

BIG = bytes(WINDOW_BYTES // 4)


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


def test_what_has_not_arrived_is_sent_again() -> None:
    outbox = filled(b"0", b"1", b"2", b"3")
    outbox.take(freely=False)
    outbox.confirm(1)
    for _ in range(2):
        outbox.take(freely=False)
    outbox.go_on_after(2)
    assert taken(outbox) == [b"2", b"3"]
    outbox.go_on_after(4)
    assert taken(outbox) == []


def test_the_window_counts_what_arrived_and_was_not_read() -> None:
    outbox = filled(*(bytes([i]) + BIG for i in range(6)))
    taken(outbox)
    outbox.go_on_after(2)
    assert [each[0] for each in taken(outbox)] == [2]


def test_a_drop_leaves_what_is_under_way_and_what_is_owed() -> None:
    outbox = filled(b"0", b"1")
    outbox.take(freely=False)
    outbox.put(b"owed", owed=True)
    outbox.put(b"3")
    outbox.drop()
    assert taken(outbox) == [b"1", b"owed"]


@pytest.mark.parametrize("messages", [0, 3, 1 << 60])
def test_a_number_that_cannot_be_is_refused(messages: int) -> None:
    outbox = filled(b"0", b"1", b"2")
    for _ in range(2):
        outbox.take(freely=False)
    outbox.confirm(1)
    for say in (outbox.confirm, outbox.go_on_after):
        with pytest.raises(PeerProtocolError, match="never sent"):
            say(messages)
    outbox.confirm(2)
