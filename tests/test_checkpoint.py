"""The checkpoint itself: what it reads back is what was written, or it is not used; and both sides decide the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psicli import checkpoint, curve, resume, state
from psicli.checkpoint import Checkpoint, DoubtfulCheckpointError, Facts, Marks
from psicli.errors import PeerProtocolError, StorageError
from psicli.protocol import History, ResumeOffer, Stream, StreamOffset, agree_on_resume, first_digest, next_digest
from psicli.resume import Mode, Resumer
from psicli.state import task_folder, task_folders

SID = bytes(range(32))
SCALAR, ORDER = bytes([0x77]) * 32, bytes([0x5D]) * 32
CHUNK = 8
FACTS = Facts(
    bound_to={"job": "nightly", "party": "alice", "task": "customers", "terms": "t", "input": [1, 2, 3, 4, "d"]},
    created=0.0,
    task_sid=SID.hex(),
    own_count=20,
    peer_count=12,
    chunk_items=CHUNK,
    receives=True,
)
OWN = [os.urandom(32 * items) for items in (8, 8, 4)]
PEER = [os.urandom(32 * items) for items in (8, 4)]
PRODUCTS = [os.urandom(32 * items) for items in (8, 4)]
TOKENS = [os.urandom(16 * items) for items in (8, 8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return task_folder(tmp_path / "state", "0123456789abcdef")


def chain(stream: int, frames: list[bytes]) -> list[bytes]:
    digests = [first_digest(stream, SID)]
    for frame in frames:
        digests.append(next_digest(digests[-1], frame))
    return digests


def digest_after(stream: Stream, frames: int) -> bytes:
    own, peer = (OWN, PEER) if FACTS.receives else (PEER, OWN)
    lists = {Stream.RECEIVER_POINTS: own, Stream.SENDER_POINTS: peer, Stream.TOKENS: TOKENS}
    return chain(stream, lists[stream])[frames]


def written(folder: Path) -> None:
    """Write a receiver's checkpoint and leave it."""
    kept = Checkpoint.create(folder, replace(FACTS, created=time.time()), SCALAR, ORDER)
    assert kept is not None
    for points in OWN:
        kept.add_own(points)
    for points, products in zip(PEER, PRODUCTS, strict=True):
        kept.add_peer(points, products)
    for tokens in TOKENS:
        kept.add_tokens(tokens)
    marks = kept.marks(digest_after)
    assert marks is not None
    kept.save(marks)
    kept.let_go()


def loaded(folder: Path) -> Checkpoint:
    kept = Checkpoint.load(folder)
    assert kept is not None
    return kept


def test_what_is_read_is_what_was_written(folder: Path) -> None:
    written(folder)
    kept = loaded(folder)
    history = kept.history()
    assert (kept.scalar, kept.order_secret) == (SCALAR, ORDER)
    assert history.chains == {
        Stream.RECEIVER_POINTS: chain(1, OWN),
        Stream.SENDER_POINTS: chain(2, PEER),
        Stream.TOKENS: chain(3, TOKENS),
    }
    kept.go_on_from(2, 1, 2)
    assert [*kept.own_points()] == OWN[:2]
    assert [*kept.peer_points()] == PEER[:1]
    assert [*kept.products()] == PRODUCTS[:1]
    assert [*kept.tokens()] == TOKENS
    assert [kept.made_before(seq) for seq in range(3)] == OWN
    # What is killed now can be gone on from.
    kept.let_go()
    kept = loaded(folder)
    assert {stream: len(chain) - 1 for stream, chain in kept.history().chains.items()} == {1: 2, 2: 1, 3: 2}
    # And on from there, with other frames than those that were cut off.
    kept.add_own(bytes(32 * 4))
    assert [*kept.own_points()] == [*OWN[:2], bytes(32 * 4)]
    assert kept.made_before(2) is None
    kept.discard()


def test_status_shows_what_can_be_gone_on_from(folder: Path) -> None:
    written(folder)
    (shown,) = resume.kept(folder.parent)
    assert shown.pop("since").startswith(str(datetime.now(UTC).year))
    assert shown == {"folder": str(folder), "job": "nightly", "party": "alice", "task": "customers", "done": 1.0}
    assert resume.sweep(folder.parent) == []
    (folder / "meta").unlink()
    assert resume.kept(folder.parent) == []
    assert resume.sweep(folder.parent) == [folder]
    assert not folder.exists()


def test_it_is_its_users_alone_and_goes_whole(folder: Path) -> None:
    written(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    loaded(folder).discard()
    assert task_folders(folder.parent) == []


def test_nobody_else_has_it_meanwhile(folder: Path) -> None:
    written(folder)
    kept = loaded(folder)
    assert Checkpoint.load(folder) is None
    assert Checkpoint.create(folder, FACTS, SCALAR, ORDER) is None
    kept.let_go()
    loaded(folder).discard()


@pytest.mark.parametrize("name", ["meta", "scalar", "order"])
def test_every_byte_of_the_small_files_counts(folder: Path, name: str) -> None:
    written(folder)
    path = folder / name
    octets = path.read_bytes()
    files = {each: each.read_bytes() for each in folder.iterdir()}
    spoilt = [octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :] for at in range(len(octets))]
    spoilt += [octets[:size] for size in range(len(octets))] + [octets + b"\n"]
    for each in spoilt:
        path.write_bytes(each)
        with pytest.raises(DoubtfulCheckpointError):
            Checkpoint.load(folder)
        assert not folder.exists()
        folder.mkdir(mode=0o700)
        for file, data in files.items():
            file.write_bytes(data)
    loaded(folder).discard()


@pytest.mark.parametrize("name", ["own-points", "peer-points", "products", "tokens"])
def test_no_frame_is_taken_for_another(folder: Path, name: str) -> None:
    written(folder)
    path = folder / name
    octets = path.read_bytes()
    kept = loaded(folder)
    for at in (0, len(octets) // 2, len(octets) - 1):
        path.write_bytes(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :])
        with pytest.raises(DoubtfulCheckpointError, match="damaged"):
            kept.history()
    path.write_bytes(octets[:-1])
    with pytest.raises(DoubtfulCheckpointError, match="missing"):
        kept.history()
    # What no `meta` counts is not looked at.
    path.write_bytes(octets + b"more")
    kept.history()
    kept.discard()


@pytest.mark.parametrize(("age", "why"), [(-3600, "from the future"), (25 * 3600, "more than 24 hours old")])
def test_it_is_not_for_another_day(folder: Path, age: float, why: str) -> None:
    kept = Checkpoint.create(folder, replace(FACTS, created=time.time() - age), SCALAR, ORDER)
    assert kept is not None
    kept.let_go()
    with pytest.raises(DoubtfulCheckpointError, match=why):
        Checkpoint.look(folder)
    with pytest.raises(DoubtfulCheckpointError, match=why):
        Checkpoint.load(folder)
    assert not folder.exists()


def test_the_scalar_goes_before_anything_else_does(folder: Path) -> None:
    """It is overwritten, not only unlinked: another name of the file shows it."""
    written(folder)
    other = folder.parent / "other-name"
    os.link(folder / "scalar", other)
    kept = loaded(folder)
    kept.complete(Marks((3, ""), (2, ""), (2, ""), ""))
    assert other.read_bytes() == bytes(64)
    assert not (folder / "scalar").exists()
    assert kept.scalar == b""
    kept.conclude({"output_sha256": None})
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "meta"]
    kept.discard()


@pytest.mark.parametrize("drop", [resume.sweep, lambda state: Checkpoint.load(task_folders(state)[0])])
def test_the_scalar_of_what_is_not_used_is_overwritten_too(folder: Path, drop: Callable[[Path], object]) -> None:
    written(folder)
    other = folder.parent / "other-name"
    os.link(folder / "scalar", other)
    (folder / "meta").write_bytes(b"")
    with suppress(DoubtfulCheckpointError):
        drop(folder.parent)
    assert task_folders(folder.parent) == []
    assert other.read_bytes() == bytes(64)


def test_what_cannot_be_swept_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder)
    (folder / "meta").write_bytes(b"")

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(state.shutil, "rmtree", fail)
    with pytest.raises(StorageError, match="it cannot be removed: permission denied"):
        resume.sweep(folder.parent)


def test_a_frame_is_answered_once(folder: Path) -> None:
    """Who asks for other tokens after a break is refused, also for frames that no `meta` counted."""
    facts = replace(FACTS, created=time.time(), receives=False, own_count=12, peer_count=20)
    kept = Checkpoint.create(folder, facts, SCALAR, ORDER)
    assert kept is not None
    for seq in (1, 0):
        kept.answer(seq, OWN[seq])
    products, _ = curve.mask(b"".join(OWN[:1]), SCALAR)
    assert len(products) == 8 * 32
    kept.add_peer(OWN[0], products)
    tokens = [curve.tokens(products, SID)]
    digests = {
        Stream.RECEIVER_POINTS: chain(1, OWN),
        Stream.SENDER_POINTS: chain(2, []),
        Stream.TOKENS: chain(3, tokens),
    }
    marks = kept.marks(lambda stream, frames: digests[stream][frames])
    assert marks is not None
    kept.save(marks)
    kept.let_go()
    again = loaded(folder)
    assert again.history().chains[Stream.TOKENS] == chain(3, tokens)
    again.answer(0, OWN[0])
    again.answer(1, OWN[1])
    again.answer(2, OWN[2])
    with pytest.raises(PeerProtocolError, match="frame 1 is not the one that was answered"):
        again.answer(1, OWN[0])
    again.let_go()
    octets = bytearray((folder / "answered").read_bytes())
    octets[45] ^= 1
    (folder / "answered").write_bytes(octets)
    with pytest.raises(DoubtfulCheckpointError, match="damaged"):
        loaded(folder).history()


def test_a_disk_that_fails_ends_the_checkpoint_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(folder)
    kept = loaded(folder)
    kept.history()
    kept.go_on_from(1, 1, 1)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "replace_file", fail)
    kept.save(Marks((3, ""), (2, ""), (2, ""), ""))
    assert "this task could not be resumed: no space left on device" in caplog.text
    assert not kept.usable
    assert not folder.exists()
    kept.add_own(OWN[0])
    # What the earlier run had made is made once more.
    assert kept.made_before(1) is None
    kept.discard()


# What both sides decide ------------------------------------------------------------------------------------------

FRAMES = 4
CHAINS = {stream: chain(stream, [bytes([stream, k]) for k in range(FRAMES)]) for stream in (1, 2, 3)}


@st.composite
def histories(draw: st.DrawFn) -> History | None:
    """What a side may have kept of the task that SID stands for, or of another."""
    if draw(st.integers(0, 5)) == 0:
        return None
    sid = SID if draw(st.integers(0, 5)) else bytes(32)
    answered, sender = draw(st.integers(0, FRAMES)), draw(st.integers(0, FRAMES))
    tokens = draw(st.integers(0, answered))
    chains = {1: CHAINS[1][: answered + 1], 2: CHAINS[2][: sender + 1], 3: CHAINS[3][: tokens + 1]}
    complete = draw(st.booleans())
    return History(sid, 10, 10, CHUNK, {} if complete and draw(st.booleans()) else chains, complete)


@settings(max_examples=500, deadline=None)
@given(histories(), histories(), st.booleans())
def test_both_sides_decide_the_same(receiver: History | None, sender: History | None, broadcast: bool) -> None:
    offers = [None if history is None else history.offer() for history in (receiver, sender)]
    one = agree_on_resume(receiver, offers[1], receives=True, broadcast=broadcast)
    other = agree_on_resume(sender, offers[0], receives=False, broadcast=broadcast)
    assert one == other
    if one is not None and not one.over:
        assert one.frames[1] == one.frames[3]
        for history in (receiver, sender):
            assert history is not None
            assert all(frames < len(history.chains[stream]) for stream, frames in one.frames.items())


def offer(**changes: object) -> ResumeOffer:
    base = History(SID, 10, 10, CHUNK, CHAINS).offer()
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [1, 2, 3])
def test_a_peer_that_kept_other_frames_is_refused(stream: int) -> None:
    mine = History(SID, 10, 10, CHUNK, CHAINS)
    offsets = tuple(replace(each, digest=bytes(32)) if each.stream == stream else each for each in offer().offsets)
    with pytest.raises(PeerProtocolError, match=f"stream {stream} is not what was sent"):
        agree_on_resume(mine, offer(offsets=offsets), receives=True, broadcast=False)


def test_an_offer_of_other_streams_is_refused() -> None:
    mine = History(SID, 10, 10, CHUNK, CHAINS)
    offsets = offer().offsets
    for wrong in (offsets[:2], (*offsets, offsets[0]), (*offsets[:2], StreamOffset(4, 0, bytes(32)))):
        with pytest.raises(PeerProtocolError, match="other streams"):
            agree_on_resume(mine, offer(offsets=wrong), receives=True, broadcast=False)


@pytest.mark.parametrize(("receives", "broadcast"), [*product((True, False), repeat=2)])
def test_other_counts_are_another_task(receives: bool, broadcast: bool) -> None:
    mine = History(SID, 10, 10, CHUNK, CHAINS)
    for counts in ({"own_count": 11}, {"peer_count": 11}):
        assert agree_on_resume(mine, offer(**counts), receives=receives, broadcast=broadcast) is None


# What is worth it ------------------------------------------------------------------------------------------------


def test_results_of_small_tasks_are_kept_once_they_are_a_minute_of_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    kept: list[int] = []
    resumer = Resumer(Mode.AUTO, tmp_path)
    for number in range(4):
        now[0] += 25
        resumer.keep_result(lambda number=number: kept.append(number))  # type: ignore[misc]
        assert kept == ([] if number < 2 else [*range(number + 1)])
    always = Resumer(Mode.ALWAYS, tmp_path)
    always.keep_result(lambda: kept.append(9))
    assert kept[-1] == 9


@pytest.mark.parametrize(
    ("mode", "items", "worth"), [("auto", 10, False), ("auto", 10**9, True), ("never", 10**9, False)]
)
def test_only_long_tasks_keep_a_checkpoint_by_themselves(tmp_path: Path, mode: str, items: int, worth: bool) -> None:
    assert Resumer(Mode(mode), tmp_path).keeps(items, items) is worth


def test_only_a_minute_of_work_is_gone_on_from_by_itself(tmp_path: Path) -> None:
    """By the clock, which both sides share, and not by how fast either machine is."""
    spent = (59.0, 61.0)
    assert [Resumer(Mode.AUTO, tmp_path).goes_on(seconds) for seconds in spent] == [False, True]
    assert [Resumer(Mode.ALWAYS, tmp_path).goes_on(seconds) for seconds in spent] == [True, True]


def test_the_time_that_was_spent_adds_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    written(folder)
    for spent in (40.0, 70.0):
        kept = loaded(folder)
        kept.history()
        kept.go_on_from(3, 2, 2)
        now[0] += 40.0 if spent == 40.0 else 30.0
        marks = kept.marks(digest_after)
        assert marks is not None
        kept.save(marks)
        kept.let_go()
        assert Checkpoint.look(folder).spent == spent
