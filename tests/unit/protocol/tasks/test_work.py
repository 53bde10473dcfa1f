"""Tests of the work that the state machines hand out, and of the results that they accept."""

from __future__ import annotations

import pytest
from support.memory.machines import FRAME_ITEMS, MachinePair, made_up_points
from support.memory.tasks import FRAME, both_outcomes, copied, each_partitioning, frame, moments, opened, roles

from psicli.core.errors import LocalProtocolError
from psicli.protocol.messages import Frame, Stream
from psicli.protocol.points import MAX_PENDING_FRAMES
from psicli.protocol.receiver import Receiver
from psicli.protocol.sender import Sender
from psicli.protocol.task import Phase, TaskParty
from psicli.protocol.work import CheckLists, MaskOwn, MaskPeer, Prepare, PublishOutput, SliceBitmap, StageOutput


@roles
def test_only_work_that_was_handed_out_is_completed(role: type[TaskParty]) -> None:
    party = opened(role, 9, 9).bins[0]
    points = made_up_points(role, 0, 8)
    with pytest.raises(LocalProtocolError):
        party.completed(MaskOwn(0, 8), points)
    work = party.next_work(room=True)
    assert work == MaskOwn(0, 8)
    second = party.next_work(room=True)
    assert second == MaskOwn(8, 9)
    assert party.next_work(room=True) is None
    for other in (MaskOwn(0, 8), second, CheckLists(), PublishOutput(), StageOutput()):
        with pytest.raises(LocalProtocolError) as caught:
            party.completed(other, points)
        assert caught.value.code == 70
    assert len(party.completed(work, points)) == 1
    with pytest.raises(LocalProtocolError):
        party.completed(work, points)


@roles
def test_nothing_is_computed_before_the_secrets_are_drawn(role: type[TaskParty]) -> None:
    machine = opened(role, 9, 9, prepare=False)
    party = machine.bins[0]
    machine.receive(frame(party.peer_stream, 0, bytes(FRAME)))
    work = party.next_work(room=True)
    assert work == Prepare()
    assert party.next_work(room=True) is None
    party.completed(work)
    assert [type(party.next_work(room=True)) for _ in range(3)] == [MaskOwn, MaskPeer, MaskOwn]


@pytest.mark.parametrize("size", [0, FRAME - 32, FRAME - 1, FRAME + 32])
@roles
def test_a_result_of_the_wrong_size_is_an_internal_error(role: type[TaskParty], size: int) -> None:
    party = opened(role, 9, 9).bins[0]
    work = party.next_work(room=True)
    assert work is not None
    with pytest.raises(LocalProtocolError):
        party.completed(work, bytes(size))


@both_outcomes
@each_partitioning
def test_without_room_nothing_makes_a_frame(broadcast: bool, partitioning: dict[str, int]) -> None:
    """The receiver goes on masking, which drains the link; the sender's masking makes tokens and must wait."""
    drained = 0
    for role in (Receiver, Sender):
        for moment in moments(role, broadcast, bool(partitioning)):
            machine = copied(moment.machine)
            for lane in (machine, *machine.bins.values()):
                work = lane.next_work(room=False)
                if work is None:
                    continue
                assert not isinstance(work, MaskOwn | SliceBitmap)
                assert lane.frames_under_way == 0
                if isinstance(work, MaskPeer):
                    assert role is Receiver
                    drained += 1
                sent = lane.completed(work)
                assert not any(isinstance(message, Frame) for message in sent)
    assert drained


@roles
def test_the_number_of_frames_that_work_in_progress_will_send(role: type[TaskParty]) -> None:
    machine = opened(role, 3 * FRAME_ITEMS, 3 * FRAME_ITEMS)
    party = machine.bins[0]
    machine.receive(frame(party.peer_stream, 0, bytes(FRAME)))
    pieces = [party.next_work(room=True) for _ in range(3)]
    assert [type(piece) for piece in pieces] == [MaskOwn, MaskPeer, MaskOwn]
    assert party.frames_under_way == (3 if role is Sender else 2)
    sent = 0
    for piece in pieces:
        assert piece is not None
        size = FRAME // 2 if isinstance(piece, MaskPeer) and role is Sender else FRAME
        sent += sum(isinstance(message, Frame) for message in party.completed(piece, bytes(size)))
    assert sent == (3 if role is Sender else 2)
    assert party.frames_under_way == 0


def test_a_receiver_without_room_masks_all_that_comes() -> None:
    machine = opened(Receiver, 100, 80)
    party = machine.bins[0]
    for seq in range(10):
        machine.receive(frame(Stream.SENDER_POINTS, seq, bytes(FRAME)))
        work = party.next_work(room=False)
        assert work == MaskPeer(seq, bytes(FRAME))
        assert party.completed(work) == []
    assert party.next_work(room=False) is None
    assert party.next_work(room=True) == MaskOwn(0, FRAME_ITEMS)


@roles
def test_only_a_few_frames_are_held(role: type[TaskParty]) -> None:
    machine = opened(role, 1, 80)
    party = machine.bins[0]
    own = party.next_work(room=True)
    assert own == MaskOwn(0, 1)
    party.completed(own, bytes(32))
    for seq in range(MAX_PENDING_FRAMES):
        assert machine.wants_input
        machine.receive(frame(party.peer_stream, seq, bytes(FRAME)))
    assert not machine.wants_input
    work = party.next_work(room=True)
    assert work is not None
    party.completed(work, bytes(FRAME // 2) if role is Sender else b"")
    assert machine.wants_input


def test_only_a_few_frames_of_tokens_are_held() -> None:
    """A sender that sends all tokens at the same time has to wait."""
    pair = MachinePair(10 * FRAME_ITEMS, 1, broadcast=False)
    pair.run_until(lambda: pair.receiver.party.opened)
    while pair.work(pair.receiver) or pair.deliver(pair.sender) or pair.work(pair.sender):
        pass
    assert len([each for each in pair.sent(Frame) if each.stream == Stream.TOKENS]) == 10
    while pair.deliver(pair.receiver):
        pass
    assert len(pair.receiver.party.bins[0]._queued) == MAX_PENDING_FRAMES
    assert pair.receiver.inbox
    pair.run()


def test_only_a_few_frames_of_the_bitmap_are_held() -> None:
    pair = MachinePair(1, 10 * FRAME_ITEMS, broadcast=True)
    receiver, sender = pair.ends
    pair.run_until(lambda: sender.party.phase is Phase.RESULT)
    while pair.work(receiver):
        pass
    assert len([each for each in pair.sent(Frame) if each.stream == Stream.BITMAP]) == 10
    while pair.deliver(sender):
        pass
    assert len(sender.party._queued) == 4
    assert sender.inbox
    pair.run()


@roles
def test_own_and_peer_frames_take_turns(role: type[TaskParty]) -> None:
    machine = opened(role, 4 * FRAME_ITEMS, 4 * FRAME_ITEMS)
    party = machine.bins[0]
    for seq in range(4):
        machine.receive(frame(party.peer_stream, seq, bytes(FRAME)))
    kinds = []
    for _ in range(8):
        work = party.next_work(room=True)
        assert work is not None
        kinds.append(type(work))
        party.completed(work, bytes(FRAME // 2 if isinstance(work, MaskPeer) and role is Sender else FRAME))
    assert kinds == [MaskOwn, MaskPeer] * 4


@roles
def test_no_message_is_handled_between_commit_and_publishing(role: type[TaskParty]) -> None:
    """Otherwise the end of the link, or a late failure of the peer, could stop a committed output."""
    pair = MachinePair(3, 3, broadcast=True)
    end = pair.end(role)
    pair.run_until(lambda: end.party.phase is Phase.COMMITTED)
    assert not end.party.wants_input
    work = end.party.next_work(room=True)
    assert work == PublishOutput()
    assert not end.party.wants_input
    end.party.completed(work)
    assert end.party.wants_input
