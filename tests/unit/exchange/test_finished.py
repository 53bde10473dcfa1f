"""Tests of finished bins on disk: they are read back exactly as written, or not used at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from psicli.core.errors import StorageError
from psicli.exchange import finished
from psicli.exchange.finished import RECEIVED, DoubtfulStateError, FinishedBins, Manifest, read_manifest
from psicli.protocol.bins import capacity, every_bin
from psicli.storage import state
from psicli.storage.state import task_folder, task_folders

SID = bytes(range(32))
# A bin has a mean of 63 items and is padded to 159; the peer's have 50, padded to 146.
BINS, OWN, PEER = 16, 1000, 800
CAPACITIES = 159, 146
MANIFEST = Manifest(
    bound_to={"job": "nightly", "party": "alice", "task": "customers", "terms": "t", "input": [1, 2, 3, 4, "d"]},
    created=0.0,
    partition_sid=SID.hex(),
    own_count=OWN,
    peer_count=PEER,
    bins=BINS,
    receives=True,
    broadcast=True,
)
# The size of a slot's data, which does not depend on the matches [bytes].
SIZES = {
    (True, True): 20 + 19, (True, False): 20, (False, True): 32, (False, False): 0,
}  # fmt: skip
ROLES = pytest.mark.parametrize(("receives", "broadcast"), SIZES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return task_folder(tmp_path / "state", "0123456789abcdef")


def manifest(receives: bool = True, broadcast: bool = True, *, age: float = 0.0) -> Manifest:
    return replace(MANIFEST, created=time.time() - age, receives=receives, broadcast=broadcast)


def created(folder: Path, manifest: Manifest) -> FinishedBins:
    kept = FinishedBins.create(folder, manifest)
    assert kept is not None
    return kept


def data_of(number: int, manifest: Manifest) -> bytes:
    """Return test data for a bin; no two bins have the same."""
    return bytes([number + 1]) * SIZES[manifest.receives, manifest.broadcast]


def written(folder: Path, what: Manifest | None = None, numbers: tuple[int, ...] = (0, 5, 3, 15)) -> Manifest:
    """Save some bins and release the folder."""
    what = what or manifest()
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
    what = written(folder, manifest(receives, broadcast))
    assert what.capacities == CAPACITIES
    kept = loaded(folder)
    assert kept.manifest == what
    assert kept.finished == 1 << 0 | 1 << 3 | 1 << 5 | 1 << 15
    assert kept.data() == {number: data_of(number, what) for number in (0, 3, 5, 15)}
    # A bin that is saved again replaces the earlier one.
    kept.put(4, data_of(4, what))
    kept.put(5, data_of(9, what))
    kept.let_go()
    kept = loaded(folder)
    assert kept.data() == {number: data_of(9 if number == 5 else number, what) for number in (0, 3, 4, 5, 15)}
    kept.discard()


def test_a_sender_knows_which_bins_were_received(folder: Path) -> None:
    what = manifest(receives=False)
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
        kept = created(folder, manifest(receives, broadcast))
        for number in range(BINS):
            kept.put(number, value * SIZES[receives, broadcast])
        sizes.add(tuple((path.name, path.stat().st_size) for path in sorted(folder.iterdir()) if path.name == "bins"))
        kept.discard()
    assert sizes == {(("bins", BINS * (1 + SIZES[receives, broadcast] + 8)),)}


def test_a_slot_has_exactly_the_size_that_the_counts_give(folder: Path) -> None:
    kept = created(folder, manifest())
    for wrong in (b"", bytes(38), bytes(40)):
        with pytest.raises(AssertionError):
            kept.put(0, wrong)
    assert kept.finished == 0
    kept.discard()


def test_status_shows_what_can_be_resumed(folder: Path) -> None:
    written(folder)
    (shown,) = finished.checkpoints(folder.parent)
    assert shown.pop("since").startswith(str(datetime.now(UTC).year))
    names = {"job": "nightly", "party": "alice", "task": "customers"}
    assert shown == {"folder": str(folder), **names, "done": 0.25, "bins": 16, "finished_bins": 4}
    assert finished.sweep(folder.parent) == []
    kept = loaded(folder)
    kept.conclude({"output_sha256": None})
    kept.let_go()
    assert [(each["done"], each["finished_bins"]) for each in finished.checkpoints(folder.parent)] == [(1.0, 16)]
    loaded(folder).leave(run_succeeded=True)
    assert finished.checkpoints(folder.parent) == []
    loaded(folder).leave(run_succeeded=False)
    assert len(finished.checkpoints(folder.parent)) == 1
    (folder / "meta").unlink()
    assert finished.checkpoints(folder.parent) == []
    assert finished.sweep(folder.parent) == [folder]
    assert not folder.exists()


def test_only_the_user_has_access_and_everything_is_removed(folder: Path) -> None:
    written(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["bins", "lock", "meta"]
    loaded(folder).discard()
    assert task_folders(folder.parent) == []


def test_only_one_run_holds_a_checkpoint(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(folder)
    kept = loaded(folder)
    assert FinishedBins.load(folder) is None
    assert FinishedBins.create(folder, manifest()) is None
    assert "another run holds this task's checkpoint, so this run cannot be resumed" in caplog.text
    kept.let_go()
    loaded(folder).discard()


def test_a_new_checkpoint_contains_no_old_data(folder: Path) -> None:
    written(folder)
    (folder / "meta.new").write_bytes(b"half")
    kept = created(folder, manifest())
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "meta"]
    assert kept.finished == 0
    kept.let_go()
    assert loaded(folder).data() == {}


def refused(folder: Path, files: dict[str, bytes], why: str = "damaged") -> None:
    """Check that the contents of the folder are refused and removed, then restore the good files."""
    with pytest.raises(DoubtfulStateError, match=why):
        FinishedBins.load(folder)
    assert not folder.exists()
    folder.mkdir(mode=0o700)
    for name, octets in files.items():
        (folder / name).write_bytes(octets)


@pytest.mark.more
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


@pytest.mark.sample(1)
@ROLES
def test_every_byte_of_a_finished_bin_counts(folder: Path, receives: bool, broadcast: bool) -> None:
    what = written(folder, manifest(receives, broadcast), (0, 2))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    octets, slot = files["bins"], what.slot_bytes
    assert len(octets) == 3 * slot
    # A byte in the slot of an unfinished bin would invent a finished one.
    for at in range(len(octets)):
        (folder / "bins").write_bytes(octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :])
        refused(folder, files, "it is damaged")
    for size in range(2 * slot + 1, 3 * slot):
        (folder / "bins").write_bytes(octets[:size])
        refused(folder, files, "it is damaged")
    loaded(folder).discard()


def test_a_bin_that_was_never_written_is_not_finished(folder: Path) -> None:
    """A crash may leave the file short, or with a hole in it."""
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


def test_bins_cannot_be_swapped_or_moved_to_another_task(folder: Path) -> None:
    what = written(folder, numbers=(0, 1))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    slot = what.slot_bytes
    slots = files["bins"][:slot], files["bins"][slot:]
    for wrong in (slots[1] + slots[0], slots[0] * 2, bytes(slot) + slots[0], bytes(slot * BINS) + slots[0]):
        (folder / "bins").write_bytes(wrong)
        refused(folder, files, "it is damaged")
    (folder / "meta").write_bytes(replace(what, partition_sid=bytes(32).hex()).to_octets())
    refused(folder, files, "it is damaged")
    # Here the counts give another slot size.
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


@pytest.mark.parametrize(("age", "why"), [(-3600, "in the future"), (25 * 3600, "more than 24 hours old")])
def test_a_checkpoint_of_another_day_is_refused(folder: Path, age: float, why: str) -> None:
    created(folder, manifest(age=age)).let_go()
    with pytest.raises(DoubtfulStateError, match=why):
        read_manifest(folder)
    with pytest.raises(DoubtfulStateError, match=why):
        FinishedBins.load(folder)
    assert not folder.exists()


@pytest.mark.parametrize("age", [-200, 23.9 * 3600])
def test_a_checkpoint_is_valid_for_a_day(folder: Path, age: float) -> None:
    created(folder, manifest(age=age)).let_go()
    loaded(folder).discard()


# Removal and failures --------------------------------------------------------------------------------------------


def conclude(kept: FinishedBins) -> None:
    kept.conclude({"output_sha256": None})
    assert sorted(path.name for path in task_folders(kept._folder.path.parent)[0].iterdir()) == ["lock", "meta"]
    assert kept.data() == {}
    assert kept.finished == every_bin(BINS)
    kept.discard()


@pytest.mark.parametrize("end", [conclude, FinishedBins.discard])
def test_the_bins_are_overwritten_and_not_only_unlinked(folder: Path, end: Callable[[FinishedBins], None]) -> None:
    """A hard link shows what happens to the data."""
    written(folder)
    other = folder.parent / "other-name"
    os.link(folder / "bins", other)
    size = other.stat().st_size
    end(loaded(folder))
    assert other.read_bytes() == bytes(size)
    assert task_folders(folder.parent) == []


@pytest.mark.parametrize("drop", [finished.sweep, lambda state: FinishedBins.load(task_folders(state)[0])])
def test_the_bins_of_a_refused_checkpoint_are_overwritten_too(folder: Path, drop: Callable[[Path], object]) -> None:
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
    assert again.manifest.result == {"output_sha256": "ab", "matched": 7}
    assert (again.finished, again.data()) == (every_bin(BINS), {})
    again.discard()


def test_a_folder_that_cannot_be_swept_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder)
    (folder / "meta").write_bytes(b"")

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(state.shutil, "rmtree", fail)
    with pytest.raises(StorageError, match="cannot delete this folder: permission denied"):
        finished.sweep(folder.parent)


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_failing_disk_ends_only_the_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(folder)
    other = folder.parent / "other-name"
    os.link(folder / "bins", other)
    kept = loaded(folder)
    monkeypatch.setattr(finished.os, "fdatasync", full)
    kept.put(7, data_of(7, kept.manifest))
    assert "dropped the checkpoint, so this task cannot be resumed: no space left on device" in caplog.text
    assert not folder.exists()
    assert other.read_bytes() == bytes(other.stat().st_size)
    # All later calls are harmless, so the caller need not know.
    kept.put(8, data_of(8, kept.manifest))
    kept.conclude({"output_sha256": None})
    kept.discard()
    kept.let_go()
    assert not folder.exists()
    assert caplog.text.count("dropped the checkpoint") == 1


def test_a_result_that_cannot_be_saved_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(folder)
    kept = loaded(folder)
    monkeypatch.setattr(finished, "replace_file", full)
    kept.conclude({"output_sha256": None})
    assert "dropped the checkpoint" in caplog.text
    assert not folder.exists()


def test_a_checkpoint_that_cannot_be_created_is_only_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finished, "replace_file", full)
    assert FinishedBins.create(folder, manifest()) is None
    assert "cannot write a checkpoint, so this task cannot be resumed: no space left on device" in caplog.text
    assert task_folders(folder.parent) == []


def test_nothing_is_written_after_another_run_took_over(folder: Path) -> None:
    what = written(folder, numbers=(1,))
    kept = loaded(folder)
    kept.let_go()
    other = loaded(folder)
    kept.put(2, data_of(2, what))
    kept.conclude({"output_sha256": None})
    kept.discard()
    other.let_go()
    assert loaded(folder).data() == {1: data_of(1, what)}


def test_the_constants_of_this_file_are_right() -> None:
    assert (capacity(OWN, BINS), capacity(PEER, BINS)) == CAPACITIES
