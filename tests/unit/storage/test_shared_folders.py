"""What other users put into folders that they share with this one: into those for locks, and into those of outputs."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.locks import (
    BECOME_NOBODY,
    HOST,
    NOBODY,
    another_process,
    gets_it,
    needs_root,
    own,
    port_of,
    refused,
)

from psicli.core.errors import CannotCreateError, FileThereError, ForeignFileError, PortBusyError
from psicli.storage import locks
from psicli.storage.files import AtomicFile, append_to, check_writable, create_files, make_folder
from psicli.storage.locks import Holder, hold_port, holders

# What other users can put there ----------------------------------------------------------------------------------


def _file(path: Path) -> None:
    path.touch()


def _folder(path: Path) -> None:
    path.mkdir(mode=0o777)
    path.chmod(0o777)


def _symlink(path: Path) -> None:
    target = path.with_name("theirs")
    target.mkdir()
    os.chown(target, NOBODY, NOBODY)
    path.symlink_to(target)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("not-there"))


SQUATS = [_file, _folder, _symlink, _dangling, os.mkfifo]


@needs_root
@pytest.mark.parametrize("put", SQUATS, ids=lambda put: put.__name__)
def test_another_user_who_takes_the_name_of_the_folder_blocks_nobody(
    folder: Path, port: int, put: Any, caplog: pytest.LogCaptureFixture
) -> None:
    put(own(folder))
    os.chown(own(folder), NOBODY, NOBODY, follow_symlinks=False)
    state = Path(os.environ["PSICLI_STATE_DIR"])
    with hold_port("nightly", "alice", HOST, port, 0):
        assert (state / "locks" / f"port-{port}.lock").exists()
        refused(port)
        assert [holder.pid for holder in holders()] == [os.getpid()]
    assert {f"no locks in {own(folder)}" in record.message for record in caplog.records} == {True}
    assert not (folder / "not-there").exists()
    if own(folder).is_dir():
        assert [*own(folder).iterdir()] == []


def test_without_any_folder_the_port_decides(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(locks, "SHARED_FOLDERS", (tmp_path / "nowhere", tmp_path / "file"))
    monkeypatch.setenv("PSICLI_STATE_DIR", str(tmp_path / "file" / "state"))
    gets_it(port)
    assert "no folder for locks can be used: only the port keeps two runs apart" in caplog.messages
    with socket.create_server((HOST, port)), pytest.raises(PortBusyError):
        gets_it(port)


@needs_root
def test_a_full_folder_is_not_used(tmp_path: Path, folder: Path, port: int, caplog: pytest.LogCaptureFixture) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=2,mode=1777", "none", folder]).returncode:
        pytest.skip("this machine mounts no file systems")
    try:
        (folder / "filler").touch()
        with hold_port("nightly", "alice", HOST, port, 0):
            refused(port)
        assert f"no locks in {own(folder)}: no space left on device; psicli tries the next folder" in caplog.text
    finally:
        subprocess.run(["umount", folder], check=True)


@needs_root
def test_folders_and_files_of_others_are_read_with_care(folder: Path, port: int) -> None:
    """A user speaks only for himself, and cannot keep a reader busy or waiting."""
    record = json.dumps({**GOOD, "phase": "exchanging"})
    theirs = own(folder, NOBODY)
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    names = ["a.json", "fifo.json", f"port-{port}.json"]
    os.mkfifo(theirs / "fifo.json")
    (theirs / "a.json").symlink_to("/proc/self/environ")
    (theirs / names[2]).write_text(record)
    # Folders whose names are numbers of other users, and a record that belongs to somebody else.
    for number in range(100_000, 100_200):
        own(folder, number).mkdir()
        os.chown(own(folder, number), NOBODY, NOBODY)
    (own(folder, 100_000) / "a.json").write_text(record)
    with ExitStack() as opened:
        for path in (theirs / names[2], own(folder, 100_000) / "a.json"):
            file = opened.enter_context(open(path))
            fcntl.flock(file, fcntl.LOCK_EX)
        assert holders() == []
        os.chown(theirs / names[2], NOBODY, NOBODY)
        assert [(holder.user, holder.pid) for holder in holders()] == [("nobody", 7)]
        for number in range(2000):
            (theirs / f"{number}.json").touch()
        assert len(holders()) <= 1
        # Whatever a record says, it keeps nobody from a port that is free.
        gets_it(port)


GOOD = vars(Holder("nightly", "alice", "127.0.0.1:1", 7, "root", "2026-01-01T00:00:00+00:00"))
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "not UTF-8": b"\xff\xfe\x00\xd8",
    "another kind": b"[1, 2]",
    "a number": b"7",
    "no job": json.dumps({name: value for name, value in GOOD.items() if name != "job"}).encode(),
    "a pid that is none": json.dumps({**GOOD, "pid": "init"}).encode(),
    "an endless pid": json.dumps({**GOOD, "pid": float("inf")}).encode(),
    "a pid of many digits": json.dumps(GOOD).replace("7", "7" * 3000).encode(),
    "no percentage": json.dumps({**GOOD, "percent": [1]}).encode(),
    "deep": b"[" * 4096,
    "deep objects": b'{"a":' * 800,
    "huge": json.dumps(GOOD).encode() + b" " * (1 << 20),
    "escapes": json.dumps({**GOOD, "job": "\x1b]0;owned\x07\x1b[2J", "user": "\u202eroot\n"}).encode(),
    "long": json.dumps({**GOOD, "job": "x" * 3000}).encode(),
    "other types": json.dumps({**GOOD, "job": {"a": [1]}, "since": None, "task": 7}).encode(),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_is_shown_harmlessly(folder: Path, port: int, content: bytes) -> None:
    """The lock still holds; the content of its record is only shown, never trusted."""
    with hold_port("nightly", "alice", HOST, port, 0):
        (own(folder) / f"port-{port}.json").write_bytes(content)
        message = refused(port).message
        shown = [str(value) for holder in holders() for value in vars(holder).values()]
        for text in (message, *shown):
            assert text.isascii()
            assert text.isprintable()
        assert len(message) < 1000
        assert sum(map(len, shown)) < 2000
    # And the next holder's record is clean.
    with hold_port("nightly", "alice", HOST, port, 0):
        assert [(holder.job, holder.pid) for holder in holders()] == [("nightly", os.getpid())]


@needs_root
def test_two_users_on_one_port(folder: Path, port: int) -> None:
    """The bind decides, and the message still names the holder: as the owner of the record, whatever it says."""
    with another_process(folder, port_of(port), user=BECOME_NOBODY) as process, socket.create_server((HOST, port)):
        # The other process holds only its lock; what listens on the port does not matter here.
        message = refused(port).message
        assert message.startswith(f"{HOST}:{port} is in use by job nightly of alice (pid {process.pid}, nobody, since ")
        assert [(holder.user, holder.phase) for holder in holders()] == [("nobody", "starting")]
    with another_process(folder, port_of(port), user=BECOME_NOBODY):
        gets_it(port)


# Outputs ---------------------------------------------------------------------------------------------------------


def create(path: Path) -> None:
    create_files({path: (b"octets", 0o600)})


# Whoever owns a folder can write to it.
SHARED = [(0, 0o1777), (0, 0o777), (0, 0o1770), (0, 0o770), (NOBODY, 0o755), (NOBODY, 0o555)]
WAYS: list[Callable[[Path], object]] = [AtomicFile, check_writable, create, make_folder]


@needs_root
@pytest.mark.parametrize(("owner", "mode"), SHARED)
@pytest.mark.parametrize("way", WAYS)
def test_no_link_of_another_user_is_followed_in_a_shared_folder(
    tmp_path: Path, owner: int, mode: int, way: Callable[[Path], object]
) -> None:
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    for folder in (shared, mine):
        folder.mkdir()
    (mine / "out.csv").write_bytes(b"precious")
    shared.chmod(mode)
    os.chown(shared, owner, owner)
    for name, target in (("folder", mine), ("out.csv", mine / "out.csv"), ("chain", shared / "folder")):
        (shared / name).symlink_to(target)
        if name != "chain":
            os.chown(shared / name, NOBODY, NOBODY, follow_symlinks=False)
    paths = ["folder/new.csv", "folder/out.csv", "chain/new.csv", "folder/made/new.csv"]
    for path in [*paths, *([] if way in (create, make_folder) else ["out.csv"])]:
        # make_folder leaves the complaint to the output that follows.
        with nullcontext() if way is make_folder else pytest.raises(CannotCreateError, match="link of another user"):
            assert way(shared / path) is None
    if way is create:
        with pytest.raises(FileThereError):
            create(shared / "out.csv")
    assert (mine / "out.csv").read_bytes() == b"precious"
    assert os.listdir(mine) == ["out.csv"]


@needs_root
@pytest.mark.parametrize(("owner", "mode"), SHARED)
def test_no_file_of_another_user_is_replaced_in_a_shared_folder(tmp_path: Path, owner: int, mode: int) -> None:
    tmp_path.chmod(mode)
    os.chown(tmp_path, owner, owner)
    (tmp_path / "out.csv").write_bytes(b"theirs")
    os.chown(tmp_path / "out.csv", NOBODY, NOBODY)
    reason = "it belongs to another user, in a folder that others can write to"
    with pytest.raises(ForeignFileError, match=reason) as caught:
        AtomicFile(tmp_path / "out.csv")
    assert caught.value.advice == "Remove that link or file, or choose a folder that only you can write to."
    assert (tmp_path / "out.csv").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["out.csv"]
    # Somebody who owns the folder may do so, if nobody else can write to it.
    os.chown(tmp_path, 0, 0)
    tmp_path.chmod(0o755)
    with AtomicFile(tmp_path / "out.csv") as output:
        output.publish()


@needs_root
def test_a_folder_of_another_user_that_somebody_names_takes_new_outputs(tmp_path: Path) -> None:
    """A colleague may own the folder of a project, even one that he has made in a shared folder."""
    tmp_path.chmod(0o1777)
    theirs = tmp_path / "project"
    theirs.mkdir(0o755)
    os.chown(theirs, NOBODY, NOBODY)
    create(theirs / "trace.json")
    for content in (b"first", b"second"):
        with AtomicFile(theirs / "out.csv") as output:
            output.file.write(content)
            output.publish()
    assert (theirs / "out.csv").read_bytes() == b"second"


@needs_root
def test_the_sentence_says_which_part_of_a_path_is_a_link(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    (tmp_path / "out.csv").symlink_to("victim")
    (tmp_path / "folder").symlink_to(".")
    for name in ("out.csv", "folder"):
        os.chown(tmp_path / name, NOBODY, NOBODY, follow_symlinks=False)
    ending = "a symbolic link of another user, in a folder that others can write to"
    with pytest.raises(ForeignFileError, match=f"out.csv: cannot write here: it is {ending}"):
        AtomicFile(tmp_path / "out.csv")
    with pytest.raises(ForeignFileError, match=f"it leads through {tmp_path}/folder, {ending}"):
        AtomicFile(tmp_path / "folder" / "new.csv")


@needs_root
def test_a_log_is_this_users_alone_and_goes_into_no_file_of_another(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "mine").write_bytes(b"precious")
    for number in range(2):
        with append_to(tmp_path / "new.log") as log:
            log.write(b"%d" % number)
    assert (tmp_path / "new.log").read_bytes() == b"01"
    assert (tmp_path / "new.log").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link.log").symlink_to("mine")
    (tmp_path / "theirs.log").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo.log")
    (tmp_path / "folder.log").mkdir()
    os.chown(tmp_path / "link.log", NOBODY, NOBODY, follow_symlinks=False)
    os.chown(tmp_path / "theirs.log", NOBODY, NOBODY)
    for name in ("link", "theirs", "fifo", "folder"):
        with pytest.raises(CannotCreateError):
            append_to(tmp_path / f"{name}.log")
    assert (tmp_path / "mine").read_bytes() == b"precious"
