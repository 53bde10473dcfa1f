"""Finished bins on disk: what is read back is what was written, or it is not used; and both sides decide the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

from psicli.config import load_job
from psicli.core.errors import (
    AnsweredTwiceError,
    InputChangedError,
    PeerGoneError,
    PeerProtocolError,
    PsicliError,
    StorageError,
)
from psicli.job import finished, resume
from psicli.job.finished import RECEIVED, DoubtfulStateError, Facts, FinishedBins, look
from psicli.job.resume import Mode, TaskKeeper
from psicli.protocol.bins import agree_on_resume, capacity, every_bin, number_of_bins
from psicli.protocol.messages import Kept
from psicli.storage import state
from psicli.storage.ledger import Ledger
from psicli.storage.state import task_folder, task_folders
from psicli.tables import fingerprint

SID = bytes(range(32))
# A mean of 63 items a bin, padded to 159, and of 50 items, padded to 146.
BINS, OWN, PEER = 16, 1000, 800
CAPACITIES = 159, 146
FACTS = Facts(
    bound_to={"job": "nightly", "party": "alice", "task": "customers", "terms": "t", "input": [1, 2, 3, 4, "d"]},
    created=0.0,
    partition_sid=SID.hex(),
    own_count=OWN,
    peer_count=PEER,
    bins=BINS,
    receives=True,
    broadcast=True,
)
# What a slot holds, whatever matched [bytes].
SIZES = {
    (True, True): 20 + 19, (True, False): 20, (False, True): 32, (False, False): 0,
}  # fmt: skip
ROLES = pytest.mark.parametrize(("receives", "broadcast"), SIZES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return task_folder(tmp_path / "state", "0123456789abcdef")


def facts(receives: bool = True, broadcast: bool = True, *, age: float = 0.0) -> Facts:
    return replace(FACTS, created=time.time() - age, receives=receives, broadcast=broadcast)


def created(folder: Path, facts: Facts) -> FinishedBins:
    kept = FinishedBins.create(folder, facts)
    assert kept is not None
    return kept


def data_of(number: int, facts: Facts) -> bytes:
    """Return what a test keeps of a bin: no two bins have the same."""
    return bytes([number + 1]) * SIZES[facts.receives, facts.broadcast]


def written(folder: Path, what: Facts | None = None, numbers: tuple[int, ...] = (0, 5, 3, 15)) -> Facts:
    """Keep some bins and leave them."""
    what = what or facts()
    kept = created(folder, what)
    for number in numbers:
        kept.put(number, data_of(number, what))
    kept.let_go()
    return what


def loaded(folder: Path) -> FinishedBins:
    kept = FinishedBins.load(folder)
    assert kept is not None
    return kept


# The files -------------------------------------------------------------------------------------------------------


@ROLES
def test_what_is_read_is_what_was_written(folder: Path, receives: bool, broadcast: bool) -> None:
    what = written(folder, facts(receives, broadcast))
    assert what.capacities == CAPACITIES
    kept = loaded(folder)
    assert kept.facts == what
    assert kept.finished == 1 << 0 | 1 << 3 | 1 << 5 | 1 << 15
    assert kept.data() == {number: data_of(number, what) for number in (0, 3, 5, 15)}
    # And on from there: what is put again takes the place of what was there.
    kept.put(4, data_of(4, what))
    kept.put(5, data_of(9, what))
    kept.let_go()
    kept = loaded(folder)
    assert kept.data() == {number: data_of(9 if number == 5 else number, what) for number in (0, 3, 4, 5, 15)}
    kept.discard()


def test_a_sender_knows_which_bins_the_receiver_needs_no_more(folder: Path) -> None:
    what = facts(receives=False)
    kept = created(folder, what)
    kept.put(0, bytes(32))
    kept.put(1, bytes(32))
    kept.put(1, bytes(32), state=RECEIVED)
    for _ in range(2):
        assert [kept.is_received(number) for number in range(3)] == [False, True, False]
        kept.let_go()
        kept = loaded(folder)
    assert kept.finished == 0b11
    kept.discard()


@ROLES
def test_the_size_does_not_depend_on_what_matched(folder: Path, receives: bool, broadcast: bool) -> None:
    sizes = set()
    for value in (b"\0", b"\xff", b"\x5a"):
        kept = created(folder, facts(receives, broadcast))
        for number in range(BINS):
            kept.put(number, value * SIZES[receives, broadcast])
        sizes.add(tuple((path.name, path.stat().st_size) for path in sorted(folder.iterdir()) if path.name == "bins"))
        kept.discard()
    assert sizes == {(("bins", BINS * (1 + SIZES[receives, broadcast] + 8)),)}


def test_a_slot_is_what_the_counts_say_and_nothing_else(folder: Path) -> None:
    kept = created(folder, facts())
    for wrong in (b"", bytes(38), bytes(40)):
        with pytest.raises(AssertionError):
            kept.put(0, wrong)
    assert kept.finished == 0
    kept.discard()


def test_status_shows_what_can_be_resumed(folder: Path) -> None:
    written(folder)
    (shown,) = resume.kept(folder.parent)
    assert shown.pop("since").startswith(str(datetime.now(UTC).year))
    names = {"job": "nightly", "party": "alice", "task": "customers"}
    assert shown == {"folder": str(folder), **names, "done": 0.25, "bins": 16, "finished_bins": 4}
    assert resume.sweep(folder.parent) == []
    kept = loaded(folder)
    kept.conclude({"output_sha256": None})
    kept.let_go()
    assert [(each["done"], each["finished_bins"]) for each in resume.kept(folder.parent)] == [(1.0, 16)]
    (folder / "meta").unlink()
    assert resume.kept(folder.parent) == []
    assert resume.sweep(folder.parent) == [folder]
    assert not folder.exists()


def test_it_is_its_users_alone_and_goes_whole(folder: Path) -> None:
    written(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["bins", "lock", "meta"]
    loaded(folder).discard()
    assert task_folders(folder.parent) == []


def test_nobody_else_has_it_meanwhile(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(folder)
    kept = loaded(folder)
    assert FinishedBins.load(folder) is None
    assert FinishedBins.create(folder, facts()) is None
    assert "another run keeps bins of this task; this one cannot be resumed" in caplog.text
    kept.let_go()
    loaded(folder).discard()


def test_what_is_begun_anew_holds_nothing_of_before(folder: Path) -> None:
    written(folder)
    (folder / "meta.new").write_bytes(b"half")
    kept = created(folder, facts())
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "meta"]
    assert kept.finished == 0
    kept.let_go()
    assert loaded(folder).data() == {}


def refused(folder: Path, files: dict[str, bytes], why: str = "damaged") -> None:
    """Check that what is in the folder is not used and removed, and put the good files there again."""
    with pytest.raises(DoubtfulStateError, match=why):
        FinishedBins.load(folder)
    assert not folder.exists()
    folder.mkdir(mode=0o700)
    for name, octets in files.items():
        (folder / name).write_bytes(octets)


def test_every_byte_of_meta_counts(folder: Path) -> None:
    written(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    octets = files["meta"]
    spoilt = [octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :] for at in range(len(octets))]
    spoilt += [octets[:size] for size in range(len(octets))] + [octets + b"\n"]
    for each in spoilt:
        (folder / "meta").write_bytes(each)
        refused(folder, files)
    loaded(folder).discard()


@ROLES
def test_every_byte_of_a_finished_bin_counts(folder: Path, receives: bool, broadcast: bool) -> None:
    what = written(folder, facts(receives, broadcast), (0, 2))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    octets, slot = files["bins"], what.slot_bytes
    assert len(octets) == 3 * slot
    # A byte where no bin was finished makes one up.
    for at in range(len(octets)):
        (folder / "bins").write_bytes(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :])
        refused(folder, files, "it is damaged")
    for size in range(2 * slot + 1, 3 * slot):
        (folder / "bins").write_bytes(octets[:size])
        refused(folder, files, "it is damaged")
    loaded(folder).discard()


def test_a_bin_that_was_never_written_whole_is_simply_not_finished(folder: Path) -> None:
    """A crash may leave the file short, or with a hole where nothing was written."""
    what = written(folder, numbers=(0, 1, 2))
    octets = (folder / "bins").read_bytes()
    (folder / "bins").write_bytes(octets[: 2 * what.slot_bytes])
    kept = loaded(folder)
    assert kept.finished == 0b11
    kept.let_go()
    (folder / "bins").write_bytes(octets[: what.slot_bytes] + bytes(what.slot_bytes) + octets[2 * what.slot_bytes :])
    kept = loaded(folder)
    assert kept.finished == 0b101
    kept.let_go()
    (folder / "bins").unlink()
    assert loaded(folder).finished == 0


def test_no_bin_is_taken_for_another_or_for_one_of_another_task(folder: Path) -> None:
    what = written(folder, numbers=(0, 1))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    slot = what.slot_bytes
    slots = files["bins"][:slot], files["bins"][slot:]
    for wrong in (slots[1] + slots[0], slots[0] * 2, bytes(slot) + slots[0], bytes(slot * BINS) + slots[0]):
        (folder / "bins").write_bytes(wrong)
        refused(folder, files, "it is damaged")
    (folder / "meta").write_bytes(replace(what, partition_sid=bytes(32).hex()).to_octets())
    refused(folder, files, "it is damaged")
    # The same slots of another size.
    (folder / "meta").write_bytes(replace(what, own_count=OWN + 500).to_octets())
    refused(folder, files, "it is damaged")
    loaded(folder).discard()


def test_a_meta_of_another_version_is_not_used(folder: Path) -> None:
    what = written(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    octets = what.to_octets()
    for old, new in ((b'"bins": 16', b'"buns": 16'), (b'"bins": 16, ', b""), (b"finished bins 1", b"finished bins 2")):
        whole = octets[:-65].replace(old, new)
        (folder / "meta").write_bytes(whole + finished.hashlib.sha256(whole).hexdigest().encode() + b"\n")
        refused(folder, files, "another version|damaged")
    loaded(folder).discard()


@pytest.mark.parametrize(("age", "why"), [(-3600, "from the future"), (25 * 3600, "more than 24 hours old")])
def test_it_is_not_for_another_day(folder: Path, age: float, why: str) -> None:
    created(folder, facts(age=age)).let_go()
    with pytest.raises(DoubtfulStateError, match=why):
        look(folder)
    with pytest.raises(DoubtfulStateError, match=why):
        FinishedBins.load(folder)
    assert not folder.exists()


@pytest.mark.parametrize("age", [-200, 23.9 * 3600])
def test_it_is_for_a_day(folder: Path, age: float) -> None:
    created(folder, facts(age=age)).let_go()
    loaded(folder).discard()


# How it goes -----------------------------------------------------------------------------------------------------


def conclude(kept: FinishedBins) -> None:
    kept.conclude({"output_sha256": None})
    assert sorted(path.name for path in task_folders(kept._folder.path.parent)[0].iterdir()) == ["lock", "meta"]
    assert kept.data() == {}
    assert kept.finished == every_bin(BINS)
    kept.discard()


@pytest.mark.parametrize("end", [conclude, FinishedBins.discard])
def test_what_is_in_the_bins_is_overwritten_and_not_only_unlinked(
    folder: Path, end: Callable[[FinishedBins], None]
) -> None:
    """Another name of the file shows it."""
    written(folder)
    other = folder.parent / "other-name"
    os.link(folder / "bins", other)
    size = other.stat().st_size
    end(loaded(folder))
    assert other.read_bytes() == bytes(size)
    assert task_folders(folder.parent) == []


@pytest.mark.parametrize("drop", [resume.sweep, lambda state: FinishedBins.load(task_folders(state)[0])])
def test_bins_of_what_is_not_used_are_overwritten_too(folder: Path, drop: Callable[[Path], object]) -> None:
    written(folder)
    other = folder.parent / "other-name"
    os.link(folder / "bins", other)
    (folder / "meta").write_bytes(b"")
    with suppress(DoubtfulStateError):
        drop(folder.parent)
    assert task_folders(folder.parent) == []
    assert other.read_bytes() == bytes(other.stat().st_size)


def test_a_result_outlives_its_bins(folder: Path) -> None:
    written(folder)
    kept = loaded(folder)
    kept.conclude({"output_sha256": "ab", "matched": 7})
    kept.let_go()
    again = loaded(folder)
    assert again.facts.result == {"output_sha256": "ab", "matched": 7}
    assert (again.finished, again.data()) == (every_bin(BINS), {})
    again.discard()


def test_what_cannot_be_swept_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder)
    (folder / "meta").write_bytes(b"")

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(state.shutil, "rmtree", fail)
    with pytest.raises(StorageError, match="it cannot be removed: permission denied"):
        resume.sweep(folder.parent)


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_disk_that_fails_ends_what_is_kept_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(folder)
    other = folder.parent / "other-name"
    os.link(folder / "bins", other)
    kept = loaded(folder)
    monkeypatch.setattr(finished.os, "fdatasync", full)
    kept.put(7, data_of(7, kept.facts))
    assert "given up, it cannot be resumed: no space left on device" in caplog.text
    assert not folder.exists()
    assert other.read_bytes() == bytes(other.stat().st_size)
    # Whoever has it need not know.
    kept.put(8, data_of(8, kept.facts))
    kept.conclude({"output_sha256": None})
    kept.discard()
    kept.let_go()
    assert not folder.exists()
    assert caplog.text.count("given up") == 1


def test_a_result_that_cannot_be_kept_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(folder)
    kept = loaded(folder)
    monkeypatch.setattr(finished, "replace_file", full)
    kept.conclude({"output_sha256": None})
    assert "given up" in caplog.text
    assert not folder.exists()


def test_where_nothing_can_be_kept_there_is_a_warning_and_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finished, "replace_file", full)
    assert FinishedBins.create(folder, facts()) is None
    assert "no bins can be kept, this task cannot be resumed: no space left on device" in caplog.text
    assert task_folders(folder.parent) == []


def test_nothing_is_written_any_more_once_it_is_left_to_another_run(folder: Path) -> None:
    what = written(folder, numbers=(1,))
    kept = loaded(folder)
    kept.let_go()
    other = loaded(folder)
    kept.put(2, data_of(2, what))
    kept.conclude({"output_sha256": None})
    kept.discard()
    other.let_go()
    assert loaded(folder).data() == {1: data_of(1, what)}


# What a task may continue from -----------------------------------------------------------------------------------


class Keeping:
    """A sender's keeper of one task, one run after the other, without any exchange."""

    def __init__(self, pair: Pair, monkeypatch: pytest.MonkeyPatch, *, receives: bool = False) -> None:
        monkeypatch.setenv("PSICLI_STATE_DIR", str(pair.folder / "state"))
        self.party = DIALER if not receives else LISTENER
        for party in PARTIES:
            pair.path(party, "in.csv").write_bytes(b"id\na\n")
        pair.add("customers", Side(["id"], "in.csv", "out/rows.csv"), Side(["id"], "in.csv"))
        self.job = load_job(pair.job_file(self.party), variables={})
        self.ledger = Ledger(pair.folder / "state")
        self.ledger.prepare()

    def begin(self, mode: Mode = Mode.AUTO) -> tuple[TaskKeeper, Kept | None]:
        """Begin a run; return its keeper, and what it could continue from."""
        task = self.job.tasks[0]
        keeper = TaskKeeper(mode, self.job, task, self.ledger, lambda: {"output_sha256": None})
        found = keeper.find()
        keeper.settle(resumed=found is not None)
        assert isinstance(task.input_path, Path)
        keeper.confirm(fingerprint(task.input_path, "in.csv")[:-1])
        party = SimpleNamespace(
            partition_sid=SID if found is None else found.partition_sid,
            own_count=OWN,
            peer_count=PEER,
            number_of_bins=BINS,
            broadcast=False,
        )
        keeper.begin(party)  # type: ignore[arg-type]
        return keeper, found


LOST = PeerGoneError(reason="it was killed")


def test_a_bin_is_answered_twice_under_one_partition(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Keeping(pair, monkeypatch)
    for run in range(2):
        keeper, found = keeping.begin()
        assert (found is None) == (run == 0)
        keeper.answering(3, 0, bytes(32))
        keeper.end(LOST)
    # It was not received: the third run starts afresh.
    keeper, found = keeping.begin()
    assert found is None
    assert keeping.ledger.answers(SID.hex(), LISTENER) == {3: 2}


def test_what_is_received_is_no_reason_to_start_afresh_nor_to_answer_a_third_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Keeping(pair, monkeypatch)
    for _ in range(2):
        keeper, _ = keeping.begin()
        keeper.answering(3, 0, bytes(32))
        keeper.received(3, bytes(32))
        keeper.end(LOST)
    keeper, found = keeping.begin()
    assert found is not None
    assert found.finished == 1 << 3
    keeper.answering(4, 0, bytes(32))
    with pytest.raises(AnsweredTwiceError, match="task customers: alice asks a third time") as caught:
        keeper.answering(3, 0, bytes(32))
    assert keeping.ledger.answers(SID.hex(), LISTENER) == {3: 2, 4: 1}
    keeper.end(caught.value)
    assert keeping.begin()[1] is None


def test_a_bin_that_begins_again_is_answered_twice_in_all(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Keeping(pair, monkeypatch)
    keeper, _ = keeping.begin()
    keeper.answering(3, 0, bytes(32))
    keeper.end(LOST)
    keeper, found = keeping.begin()
    assert found is not None
    keeper.answering(3, 0, bytes(32))
    with pytest.raises(AnsweredTwiceError):
        keeper.answering(3, 1, bytes(32))
    assert keeping.ledger.answers(SID.hex(), LISTENER) == {3: 2}


def test_what_an_end_of_a_run_leaves(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that was lost may come back; who broke the protocol, or was refused, begins anew."""
    keeping = Keeping(pair, monkeypatch)
    ends: list[tuple[PsicliError | None, bool]] = [
        (LOST, True), (StorageError(path="out.csv", reason="full"), True), (PeerProtocolError(detail="wrong"), False),
        (AnsweredTwiceError(task="customers"), False), (InputChangedError(path="in.csv"), False), (None, False),
    ]  # fmt: skip
    for error, stays in ends:
        keeper, _ = keeping.begin()
        keeper.answering(0, 0, bytes(32))
        keeper.end(error)
        state = pair.folder / "state"
        assert (resume.kept(state) != []) is stays
        for folder in task_folders(state):
            loaded(folder).discard()
        keeping.ledger.path.unlink()


def test_never_keeps_nothing_and_notes_no_answer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = Keeping(pair, monkeypatch)
    keeper, _ = keeping.begin(Mode.NEVER)
    keeper.answering(0, 0, bytes(32))
    keeper.end(LOST)
    assert task_folders(pair.folder / "state") == []
    assert keeping.ledger.answers(SID.hex(), LISTENER) == {}


# What both sides decide ------------------------------------------------------------------------------------------

BIN_ITEMS = 100
COUNTS = 500, 300
TASK_BINS = number_of_bins(*COUNTS, BIN_ITEMS)


def kept(finished: int = 0, *, complete: bool = False, sid: bytes = SID, receives: bool = True) -> Kept:
    return Kept(sid, *(COUNTS if receives else COUNTS[::-1]), TASK_BINS, finished, complete)


@st.composite
def offers(draw: st.DrawFn, *, receives: bool) -> Kept | None:
    """What a side may have kept of the task that SID stands for, or of another."""
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
        # What need not be exchanged again, the receiver has and the sender has answered.
        assert one.finished == receiver.finished & sender.finished
        # Over is what neither side has any work left for.
        assert one.complete == (receiver.complete or (receiver.finished == every_bin(TASK_BINS) and not broadcast))
        if broadcast:
            assert receiver.complete == sender.complete == one.complete


@pytest.mark.parametrize("receives", [True, False])
@pytest.mark.parametrize("broadcast", [True, False])
def test_what_does_not_fit_is_another_task(receives: bool, broadcast: bool) -> None:
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
    # A receiver that has what no sender answered made it up; a sender may have answered more than was received.
    receiver_ahead = (kept(0b11), kept(0b01, receives=False))
    sender_ahead = (kept(0b01), kept(0b11, receives=False))
    for pair, fits in ((receiver_ahead, False), (sender_ahead, True)):
        decided = agree_on_resume(*(pair if receives else pair[::-1]), **shared)  # type: ignore[arg-type]
        assert (decided is not None) is fits
        assert decided is None or decided.finished == 0b01
    # Other sizes of a bin than those of the run that was cut off.
    assert agree_on_resume(mine, theirs, **{**shared, "bin_items": 1 << 14}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bins": 3}, "a task of 3 bins"),
        ({"bins": 0, "finished": 0}, "a task of 0 bins"),
        ({"bins": 1 << 17}, "a task of 131072 bins"),
        ({"finished": 1 << TASK_BINS}, "bins that the task does not have"),
        ({"complete": True}, "as done whose bins are not"),
        ({"own_count": 0}, f"a task of {TASK_BINS} bins"),
    ],
)
def test_an_offer_no_side_can_make_is_refused(changes: dict[str, int], why: str) -> None:
    for mine in (None, kept(1)):
        with pytest.raises(PeerProtocolError, match=why):
            agree_on_resume(
                mine, replace(kept(1, receives=False), **changes), receives=True, broadcast=False, bin_items=BIN_ITEMS
            )


def test_the_numbers_of_this_test_are_what_they_seem() -> None:
    assert (capacity(OWN, BINS), capacity(PEER, BINS)) == CAPACITIES
    assert TASK_BINS > 4
