"""Tests of what a failing party may disclose and of secrets in reprs, and known answers of ids and digests."""

from __future__ import annotations

import random

from support.memory.machines import FRAME_ITEMS, TASK, MachinePair, setup
from support.memory.tasks import both_outcomes, each_partitioning, frame, moments, opened

from psicli.protocol.messages import (
    Commit,
    Done,
    End,
    Frame,
    Hello,
    HelloOctets,
    Kept,
    Offer,
    Open,
    Received,
    Stream,
    TaskTerms,
    session_id,
    task_session_id,
)
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.streams import OutgoingStream, Place, StreamShape, first_digest, next_digest
from psicli.protocol.task import Disclosure
from psicli.protocol.work import CheckLists, KeepBits, KeepTokens, MaskOwn, MaskPeer, Prepare


@each_partitioning
@both_outcomes
def test_a_failure_of_the_sender_is_always_named(broadcast: bool, partitioning: dict[str, int]) -> None:
    assert {moment.machine.disclosure for moment in moments(Sender, broadcast, bool(partitioning))} == {
        Disclosure.NAMED
    }


def expected_disclosure(pair: MachinePair, broadcast: bool) -> set[Disclosure]:
    """Return what R may disclose, derived from the messages that it has sent and received and the work it has done."""
    end = pair.receiver
    done = [type(each) for each, _ in end.work]
    if not broadcast:
        if any(each.digest for each in pair.sent(Received)):
            return {Disclosure.NOTHING}
        ends = [(message.bin, message.stream) for message in end.received if isinstance(message, End)]
        arrived = {number for number, _ in ends if {(number, 2), (number, 3)} <= set(ends)}
        if arrived or CheckLists in done or pair.sent(Received):
            return {Disclosure.UNIFORM}
        tokens = [message for message in end.received if isinstance(message, Frame) and message.stream == Stream.TOKENS]
        last = {each.seq for each in tokens} & {end.party.bins[0]._points_out.shape.frames - 1 if tokens else -1}
        # The checks may have begun once the last tokens have arrived.
        return {Disclosure.NAMED, Disclosure.UNIFORM} if last else {Disclosure.NAMED}
    told = {message.bin for message in pair.sent(End, Receiver) if message.stream == Stream.BITMAP}
    exchanges = end.party.opened and len(told) < pair.number_of_bins
    return {Disclosure.UNIFORM if exchanges else Disclosure.NAMED}


@each_partitioning
@both_outcomes
def test_what_a_failure_of_the_receiver_discloses(broadcast: bool, partitioning: dict[str, int]) -> None:
    """One-sided: uniform as soon as a bin can be compared, nothing after the last Received.

    Broadcast: uniform from the first point to the last bitmap, named before and after.
    """
    n = 96 if partitioning else 20
    pair = MachinePair(n, n, broadcast=broadcast, **partitioning)
    seen = set()
    while not pair.finished:
        for step in pair.steps():
            expected = expected_disclosure(pair, broadcast)
            assert pair.receiver.party.disclosure in expected
            seen |= expected
            step()
    assert seen == ({Disclosure.NAMED, Disclosure.UNIFORM} if broadcast else set(Disclosure))


@both_outcomes
def test_masking_after_the_last_end_is_uniform_too(broadcast: bool) -> None:
    """A receiver that masks the last frames slowly has received the last End but has not begun the checks."""
    pair = MachinePair(1, 3 * FRAME_ITEMS, broadcast=broadcast)
    receiver, sender = pair.ends
    pair.run_until(lambda: pair.sent(End, Receiver) != [])
    while pair.deliver(sender) or pair.work(sender):
        pass
    while pair.deliver(receiver):
        pass
    # The sender has finished its checks and ended both streams.
    assert [message.stream for message in receiver.received if isinstance(message, End)] == [2, 3]
    assert receiver.party.disclosure is Disclosure.UNIFORM
    assert [type(piece) for piece, _ in receiver.work] == [Prepare, MaskOwn]


MASKED = bytes.fromhex("ba154c18a4d5ec8251a12bb027e3533c034c7da8e64f5a4b6cd8dfcae45af527")
D_0 = "a8dd8e035044f60784e067b51ae8ca58f3f93fd8e20a17af9e026c7dab1f95a5"
D_1 = "b4999bf78fcb84259af973b191ade4b8804125fd4b65807d768027e1db3d1306"


def test_known_session_ids() -> None:
    sid = session_id(b"listener", b"dialer")
    assert sid.hex() == "95913ff3cb6dfb44e2038aee79f66bb75069885a082f451592f895c1d90976e9"
    assert session_id(b"dialer", b"listener") != sid
    assert session_id(b"listenerd", b"ialer") != sid
    known = "cc7b3dbb36631844039b983d2c418cf529a8312308a6a412b13e1d50ca6451ed"
    assert task_session_id(sid, "customers").hex() == known


def test_known_stream_digests() -> None:
    """Stream 1 of a receiver with the one masked point of the known answers and the bin sid 00 01 … 1f."""
    outgoing = OutgoingStream(Place(TASK, 0, 0, bytes(range(32))), StreamShape(Stream.RECEIVER_POINTS, 1, FRAME_ITEMS))
    assert outgoing.frame(MASKED) == frame(1, 0, MASKED)
    assert outgoing.end() == End(TASK, 0, 0, 1, 1, bytes.fromhex(D_1))
    assert first_digest(Stream.RECEIVER_POINTS, bytes(range(32))).hex() == D_0
    assert next_digest(bytes.fromhex(D_0), MASKED).hex() == D_1


def test_no_repr_shows_data_digests_or_nonces() -> None:
    secret = random.Random(7).randbytes(32)
    kept = Kept(secret, 5, 6, 1, 1)
    party = opened(Receiver, 1, 1, task_sid=secret)
    shown = [
        Hello("0.1.0", "alice", "nightly", (TaskTerms("customers", "alice", False, 1),), 2048, 2**14, secret),
        HelloOctets(secret),
        kept,
        Offer(0, kept),
        Open(0, 5, secret),
        Frame(0, 0, 0, 1, 2, secret),
        End(0, 0, 0, 1, 5, secret),
        Received(0, 0, 0, secret),
        Commit(0, secret),
        Done(0, secret),
        MaskPeer(0, secret),
        KeepTokens(0, secret),
        KeepBits(0, secret),
        setup(task_sid=secret, probe=secret),
        party,
        party.bins[0],
    ]
    for value in shown:
        for text in (repr(value), str(value)):
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text
            assert "\\x" not in text
