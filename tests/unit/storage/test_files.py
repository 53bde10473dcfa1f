"""Atomic files: what is at the target after each way to end, and the leftovers of killed runs; file suffixes."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from psicli.core.errors import CannotCreateError, StorageError, UnknownFormatError
from psicli.core.formats import Compression, FileFormat, Format, file_format
from psicli.storage.files import AtomicFile, check_writable, exposure, make_folder, missing_folder

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextmanager
def umask(value: int) -> Iterator[None]:
    old = os.umask(value)
    try:
        yield
    finally:
        os.umask(old)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Simulate a full disk: writes beyond `size` fail with EFBIG (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_privileges() -> Iterator[None]:
    """Become the user nobody for a moment, since root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_publish_replaces_the_target_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_bytes(b"old")
    with AtomicFile(target) as output:
        output.file.write(b"new")
        output.seal()
        assert target.read_bytes() == b"old"
        output.publish()
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["out.csv"]


def test_publish_seals(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "out.csv") as output:
        output.file.write(b"new")
        output.publish()
    assert (tmp_path / "out.csv").read_bytes() == b"new"


def test_the_temporary_file_is_hidden_and_next_to_the_target(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "out.csv"):
        (name,) = names(tmp_path)
        assert name.startswith(".out.csv.psicli-")
        assert name.endswith(".tmp")


@pytest.mark.parametrize("sealed", [False, True])
def test_leaving_without_publish_keeps_the_old_file(tmp_path: Path, sealed: bool) -> None:
    target = tmp_path / "out.csv"
    target.write_bytes(b"old")
    with AtomicFile(target) as output:
        output.file.write(b"new")
        if sealed:
            output.seal()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out.csv"]


def test_discard_may_be_repeated(tmp_path: Path) -> None:
    output = AtomicFile(tmp_path / "out.csv")
    output.discard()
    output.discard()
    assert names(tmp_path) == []


def test_an_exception_discards_the_file(tmp_path: Path) -> None:
    def write_and_stop() -> None:
        with AtomicFile(tmp_path / "out.csv") as output:
            output.file.write(b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_stop()
    assert names(tmp_path) == []


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_a_new_file_is_this_users_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask), AtomicFile(tmp_path / "out.csv") as output:
        (temporary,) = names(tmp_path)
        assert stat.S_IMODE(os.stat(tmp_path / temporary).st_mode) == 0o600
        output.publish()
    assert stat.S_IMODE(os.stat(tmp_path / "out.csv").st_mode) == 0o600


@needs_root
def test_a_group_that_could_read_the_old_file_can_read_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.touch()
    os.chown(target, -1, 4711)
    target.chmod(0o640)
    with AtomicFile(target) as output:
        output.publish()
    found = target.stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (4711, 0o640)
    # A file of another user grants nothing.
    os.chown(target, NOBODY, 4711)
    target.chmod(0o666)
    with AtomicFile(target) as output:
        output.publish()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400])
def test_the_mode_of_the_file_replaced_is_kept_from_the_start(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "out.csv"
    target.touch()
    target.chmod(mode)
    with umask(0o027), AtomicFile(target) as output:
        (temporary,) = set(names(tmp_path)) - {"out.csv"}
        assert stat.S_IMODE(os.stat(tmp_path / temporary).st_mode) == mode
        output.publish()
    assert stat.S_IMODE(os.stat(target).st_mode) == mode


@pytest.mark.parametrize("exists", [False, True])
def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "data.csv"
    if exists:
        real.write_bytes(b"old")
    link = tmp_path / "out.csv"
    link.symlink_to(real)
    with AtomicFile(link) as output:
        output.file.write(b"new")
        output.publish()
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert names(real.parent) == ["data.csv"]


def test_a_path_of_links_and_dots_leads_where_the_system_would_go(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "up").symlink_to("a/b")
    (tmp_path / "a" / "b" / "c").symlink_to("../../a//./b/")
    with AtomicFile(tmp_path / "up" / ".." / "b" / "c" / "out.csv") as output:
        output.publish()
    assert names(tmp_path / "a" / "b") == ["c", "out.csv"]
    assert missing_folder(tmp_path / "up" / ".." / "new" / "out.csv") == tmp_path / "a" / "new"


def test_a_folder_renamed_meanwhile_keeps_its_output(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with AtomicFile(tmp_path / "a" / "out.csv") as output:
        output.file.write(b"new")
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "a").mkdir()
        output.publish()
    assert (tmp_path / "b" / "out.csv").read_bytes() == b"new"
    assert names(tmp_path / "a") == []


def test_two_writers_of_one_target_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with AtomicFile(target) as one, AtomicFile(target) as two:
        one.file.write(b"one")
        two.file.write(b"two")
        one.publish()
        assert target.read_bytes() == b"one"
        two.publish()
    assert target.read_bytes() == b"two"
    assert names(tmp_path) == ["out.csv"]


def make_nothing(folder: Path) -> Path:
    return folder / "missing" / "out.csv"


def folder_as_target(folder: Path) -> Path:
    (folder / "out.csv").mkdir()
    return folder / "out.csv"


def make_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "out.csv")
    return folder / "out.csv"


def make_file_as_folder(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out.csv"


def make_link_loop(folder: Path) -> Path:
    (folder / "out.csv").symlink_to(folder / "out.csv")
    return folder / "out.csv"


def root(tmp_path: Path) -> Path:
    return Path("/")


@pytest.mark.parametrize("make", [make_nothing, folder_as_target, make_fifo, make_file_as_folder, make_link_loop, root])
@pytest.mark.parametrize("attempt", [AtomicFile, check_writable])
def test_what_cannot_be_created_is_73_and_leaves_nothing(tmp_path: Path, make: object, attempt: object) -> None:
    target = make(tmp_path)  # type: ignore[operator]
    before = names(tmp_path)
    with pytest.raises(CannotCreateError) as caught:
        attempt(target)  # type: ignore[operator]
    assert caught.value.code == 73
    assert str(target) in caught.value.message
    assert names(tmp_path) == before


def test_a_folder_without_write_permission_is_73() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        with no_privileges(), pytest.raises(CannotCreateError, match="permission denied"):
            check_writable(Path(name) / "out.csv")
        os.chmod(name, 0o700)


def test_check_writable_leaves_nothing_and_touches_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    check_writable(target)
    assert names(tmp_path) == []
    target.write_bytes(b"old")
    check_writable(target)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("size", [5000, 3 << 20])
def test_a_full_disk_is_74_and_keeps_the_old_file(tmp_path: Path, size: int) -> None:
    # The smaller one stays in the buffer until seal; the larger one fails in write.
    target = tmp_path / "out.csv"
    target.write_bytes(b"old")

    def write() -> None:
        with file_size_limit(4096), AtomicFile(target) as output:
            output.file.write(bytes(size))
            output.publish()

    with pytest.raises(StorageError) as caught:
        write()
    assert caught.value.code == 74
    assert str(target) in caught.value.message
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out.csv"]


def test_no_descriptor_is_left_open(tmp_path: Path, opened: Callable[[], list[str]]) -> None:
    before = opened()
    for publish in (True, False):
        with AtomicFile(tmp_path / "out.csv") as output:
            if publish:
                output.publish()
    with pytest.raises(CannotCreateError):
        AtomicFile(tmp_path / "missing" / "out.csv")
    assert opened() == before


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("-", FileFormat(Format.CSV)),
        ("in/a.csv", FileFormat(Format.CSV)),
        ("a.b.tsv", FileFormat(Format.TSV)),
        (Path("a.csv.gz"), FileFormat(Format.CSV, Compression.GZIP)),
        ("a.tsv.gz", FileFormat(Format.TSV, Compression.GZIP)),
        ("a.csv.zst", FileFormat(Format.CSV, Compression.ZSTD)),
        ("a.tsv.zst", FileFormat(Format.TSV, Compression.ZSTD)),
        ("a.parquet", FileFormat(Format.PARQUET)),
    ],
)
def test_the_suffix_says_the_format(path: str | Path, expected: FileFormat) -> None:
    assert file_format(path) == expected


@pytest.mark.parametrize("path", ["a", "a.xlsx", "a.gz", "a.parquet.gz", "csv", "a.csv/b", ""])
def test_other_suffixes_are_unknown(path: str) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        file_format(path)
    assert caught.value.code == 78
    assert ".parquet" in caught.value.advice


# The folder of an output -----------------------------------------------------------------------------------------


def test_the_folder_of_an_output_is_made_in_one_that_exists(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert missing_folder(folder / "rows.csv") == folder
    assert not folder.exists()
    old = os.umask(0)
    try:
        assert make_folder(folder / "rows.csv") == folder
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (folder / "rows.csv", tmp_path / "no" / "where" / "rows.csv"):
        assert make_folder(path) is None
    assert not (tmp_path / "no").exists()
    # The folder behind a link is the one that counts.
    (tmp_path / "link.csv").symlink_to(tmp_path / "other" / "rows.csv")
    assert make_folder(tmp_path / "link.csv") == tmp_path / "other"
    (tmp_path / "file").touch()
    assert make_folder(tmp_path / "file" / "rows.csv") is None


# Leftovers of killed runs ----------------------------------------------------------------------------------------


def left_over(target: Path, number: int = 1) -> Path:
    """Create the temporary file of a run that no longer exists."""
    path = target.with_name(f".{target.name}.psicli-{number:016x}.tmp")
    path.write_bytes(b"half an output")
    return path


def test_the_next_run_removes_the_leftovers_of_killed_runs(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    target.write_bytes(b"old")
    for number in range(3):
        left_over(target, number)
    check_writable(target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"rows.csv": b"old"}


def test_the_file_of_a_running_writer_stays(tmp_path: Path) -> None:
    """This also holds when the file is complete but not yet published."""
    target = tmp_path / "rows.csv"
    for sealed in (False, True):
        with AtomicFile(target) as written:
            written.file.write(b"new")
            if sealed:
                written.seal()
            check_writable(target)
            assert len(list(tmp_path.glob(".rows.csv.psicli-*.tmp"))) == 1
            written.publish()
        assert target.read_bytes() == b"new"


def test_files_of_others_stay(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    others = [
        left_over(tmp_path / "rows2.csv"),
        left_over(tmp_path / "xrows.csv"),
        left_over(elsewhere / "rows.csv"),
        tmp_path / ".rows.csv.psicli-0123.tmp",
        tmp_path / ".rows.csv.psicli-0123456789abcdef.tmp.gz",
        tmp_path / ".rows-csv.psicli-0123456789abcdef.tmp",
    ]
    for path in others:
        path.write_bytes(b"precious")
    link = tmp_path / ".rows.csv.psicli-00000000000000aa.tmp"
    link.symlink_to(others[0])
    pipe = tmp_path / ".rows.csv.psicli-00000000000000bb.tmp"
    os.mkfifo(pipe)
    (tmp_path / ".rows.csv.psicli-00000000000000cc.tmp").mkdir()
    before = sorted(tmp_path.rglob("*"))
    check_writable(target)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(path.read_bytes() == b"precious" for path in others)


def test_a_temporary_file_that_another_run_removes_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer creates another one."""
    target = tmp_path / "rows.csv"
    lock, moments = fcntl.flock, iter([True, False])

    def raced(descriptor: int, operation: int) -> None:
        if next(moments, False):
            next(tmp_path.glob(".rows.csv.psicli-*.tmp")).unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", raced)
    with AtomicFile(target) as written:
        written.file.write(b"new")
        written.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert target.read_bytes() == b"new"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are written as usual; leftovers stay, since no run can tell whether they are still in use."""
    target = tmp_path / "rows.csv"
    left = left_over(target)

    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    check_writable(target)
    with AtomicFile(target) as written:
        written.publish()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([left.name, "rows.csv"])


# Private keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o600, None),
        (0o400, None),
        (0o644, "is open to every user of this machine (mode 0644): type `chmod o= "),
        (0o602, "is open to every user of this machine (mode 0602): type `chmod o= "),
        (0o620, "is open to its group (mode 0620): type `chmod g= "),
    ],
)
def test_a_private_key_that_others_can_read_or_replace(tmp_path: Path, mode: int, said: str | None) -> None:
    key = tmp_path / "a key"
    key.touch()
    key.chmod(mode)
    warning = exposure(key)
    assert (warning is None) if said is None else f"the private key {key} {said}'{key}'`" == warning


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("owner", "mode", "said"),
    [
        # A site that gives a key to a group.
        (0, 0o640, None),
        (65534, 0o640, "is open to its group"),
        (65534, 0o600, None),
        (1234, 0o640, r"belongs to another user \(user id 1234\): type `chown 65534 "),
    ],
)
def test_a_private_key_of_another_user(tmp_path: Path, owner: int, mode: int, said: str | None) -> None:
    key = tmp_path / "own.key"
    key.touch()
    os.chown(key, owner, 65534)
    key.chmod(mode)
    with patch.object(os, "geteuid", return_value=65534):
        warning = exposure(key)
    assert (warning is None) if said is None else re.search(said, warning or "")
