"""The spool and the state folder: files of a run, leftovers of killed runs, and disks without space."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.waiting import wait_until

from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, InternalError, SpoolSpaceError, StateFolderError, StorageError
from psicli.storage.spool import Spool
from psicli.storage.state import state_folder

ROOT = Path(__file__).parents[3]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "psicli"


@pytest.fixture
def spool(state: Path) -> Iterator[Spool]:
    with Spool(state) as spool:
        yield spool


def waits_for_a_lock(pid: int) -> bool:
    # An arrow marks the processes that wait.
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def runs_in(state: Path) -> list[Path]:
    return sorted(state.glob("run-*"))


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Start code in another process, which reports its progress on standard output."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


# The state folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PSICLI_STATE_DIR": "/srv/psicli", "XDG_STATE_HOME": "/x"}, "/srv/psicli"),
        ({"XDG_STATE_HOME": "/x"}, "/x/psicli"),
        ({"PSICLI_STATE_DIR": "~/psicli", "HOME": "/h"}, "/h/psicli"),
        ({"XDG_STATE_HOME": "x", "HOME": "/h"}, "/h/.local/state/psicli"),
        ({"PSICLI_STATE_DIR": "", "XDG_STATE_HOME": "", "HOME": "/h"}, "/h/.local/state/psicli"),
    ],
)
def test_where_the_state_folder_is(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("PSICLI_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(expected)


def test_a_run_that_needs_no_disk_touches_none(state: Path) -> None:
    with Spool(state) as spool:
        assert spool.peak == 0
    assert not state.parent.exists()
    assert spool.peak == 0


def test_files_are_private_and_deleted_at_the_end(state: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(state)
        file = spool.file("points", 1000)
    finally:
        os.umask(before)
    (folder,) = runs_in(state)
    assert [mode(path) for path in (state, folder)] == [0o700] * 2
    assert {mode(path) for path in (*folder.iterdir(), state / "lock")} == {0o600}
    assert sum(path.stat().st_size for path in folder.iterdir()) == 1000
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        file.fileno()
    assert runs_in(state) == []


@pytest.mark.parametrize("names", [[], ["points"]])
def test_a_closed_spool_makes_no_file(state: Path, names: list[str]) -> None:
    """A thread that still reads an input when the run ends would leave a folder that nobody removes."""
    with Spool(state) as spool:
        for name in names:
            spool.file(name, 1000)
    with pytest.raises(StorageError, match="the run has ended"):
        spool.file("late", 1000)
    assert list(state.glob("run-*")) == []


def test_a_file_is_deleted_when_it_is_closed(spool: Spool, state: Path) -> None:
    one, other = spool.file("one", 5000), spool.file("other", 300)
    spool.reserve(other, 700)
    assert spool.peak == 5700
    one.close()
    one.close()
    assert [path.name.partition("-")[2] for path in runs_in(state)[0].iterdir() if path.name != "lock"] == ["other"]
    spool.file("third", 5100).close()
    assert spool.peak == 5800


def test_a_file_keeps_what_is_written(spool: Spool) -> None:
    file = spool.file("rows", 100)
    assert [file.append(data) for data in (b"abc", memoryview(b"def"), b"", np.array([7, 8]))] == [0, 3, 6, 6]
    into = bytearray(4)
    file.read_at(3, memoryview(into))
    assert into == b"def\x07"
    with pytest.raises(InternalError):
        file.read_at(98, memoryview(into))


@pytest.mark.parametrize("permissions", [0o755, 0o705, 0o701])
def test_an_empty_folder_that_others_can_only_read_is_closed_to_them(state: Path, permissions: int) -> None:
    """As mkdir makes it."""
    state.mkdir(parents=True)
    state.chmod(permissions)
    Spool(state).close()
    assert mode(state) == 0o700


@pytest.mark.parametrize(("permissions", "name"), [(0o770, None), (0o777, None), (0o755, "ledger.jsonl")])
def test_a_folder_that_others_have_access_to_is_refused(state: Path, permissions: int, name: str | None) -> None:
    """Others may have put a file there, or have read one."""
    state.mkdir(parents=True)
    if name is not None:
        (state / name).touch()
    state.chmod(permissions)
    with pytest.raises(StateFolderError, match="cannot be the state folder: other users have access to it") as caught:
        Spool(state)
    assert caught.value.code == 73
    assert caught.value.advice == f"Run `chmod 700 {state}`, or set PSICLI_STATE_DIR to another folder."
    assert mode(state) == permissions


def test_a_folder_of_another_user_is_refused(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.mkdir(0o700, parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: state.stat().st_uid + 1)
    with pytest.raises(StateFolderError, match="it belongs to another user"):
        Spool(state)


def test_a_state_folder_that_is_not_a_folder_is_refused(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(0o700)
    state.parent.mkdir()
    for make in (lambda: state.write_text(""), lambda: state.symlink_to(target), lambda: state.symlink_to("nowhere")):
        make()
        with pytest.raises(CannotCreateError):
            Spool(state)
        state.unlink()
    (tmp_path / "file").write_text("")
    with Spool(tmp_path / "file" / "psicli") as spool, pytest.raises(CannotCreateError) as caught:
        spool.file("points", 1)
    assert caught.value.code == 73


# Leftovers of killed runs --------------------------------------------------------------------------------------

HOLD = """
    import os, sys, time
    from pathlib import Path
    from psicli.storage.spool import Spool
    spool = Spool(Path(sys.argv[1]))
    file = spool.file("points", 10_000)
    file.append(b"kept")
    print("ready", flush=True)
    sys.stdin.read()
    kept = bytearray(4)
    file.read_at(0, memoryview(kept))
    print(bytes(kept), flush=True)
    spool.close()
"""


def test_folders_of_killed_runs_are_removed_and_those_of_living_runs_are_not(state: Path) -> None:
    killed, living = (python(HOLD, state, stdin=subprocess.PIPE) for _ in range(2))
    for process in (killed, living):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert len(runs_in(state)) == 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(runs_in(state)) == 2
    Spool(state)
    (left,) = runs_in(state)
    assert left.name.startswith(f"run-{living.pid}-")
    with Spool(state) as spool:
        spool.file("tokens", 1)
        assert len(runs_in(state)) == 2
    output, _ = living.communicate()
    assert (output, living.returncode) == ("b'kept'\n", 0)
    killed.communicate()
    assert runs_in(state) == []


def test_a_folder_whose_run_died_before_it_locked_it_is_removed(state: Path) -> None:
    (state / "run-1-abc").mkdir(0o700, parents=True)
    (state / "run-1-abc" / "0001-points").write_bytes(b"x")
    (state / "other").mkdir()
    state.chmod(0o700)
    Spool(state)
    assert [path.name for path in sorted(state.iterdir())] == ["lock", "other"]


def test_no_run_removes_a_folder_that_another_is_creating(state: Path) -> None:
    """A run that opens its spool waits until the other run has locked its new folder."""
    state.mkdir(0o700, parents=True)
    with open(state / "lock", "w") as lock:
        os.fchmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = python(HOLD, state, stdin=subprocess.PIPE)
        wait_until(lambda: waits_for_a_lock(process.pid), "the process waits for the lock")
        assert runs_in(state) == []
    output, _ = process.communicate()
    assert output == "ready\nb'kept'\n"


# No space ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit every file to a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_space_is_reserved_before_it_is_used(spool: Spool, state: Path, small_files: None) -> None:
    spool.file("before", 700_000)
    with pytest.raises(SpoolSpaceError) as caught:
        spool.file("items", 4_000_000)
    assert caught.value.code == 74
    assert str(state) in caught.value.message
    assert "the run needs 4.0 MB besides the 700.0 kB" in caught.value.message
    assert "is free: file too large" in caught.value.message
    assert "PSICLI_STATE_DIR" in caught.value.advice
    assert len(list(runs_in(state)[0].iterdir())) == 2


def test_a_file_that_cannot_fit_is_refused_before_any_space_is_reserved(spool: Spool) -> None:
    with pytest.raises(SpoolSpaceError, match=r"needs [0-9]{6}\.[0-9] GB besides the 0 bytes"):
        spool.file("items", 320 * 10**12)
    assert spool.peak == 0


def test_a_file_that_outgrows_its_reservation_reserves_more(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, small_files: None
) -> None:
    monkeypatch.setattr("psicli.storage.spool._AHEAD_BYTES", 200_000)
    file = spool.file("items", 1000)
    for _ in range(50):
        file.append(bytes(10_000))
    assert 500_000 < spool.peak < 1_000_000
    with pytest.raises(SpoolSpaceError):
        file.append(bytes(1_000_000))


FILL = """
    import sys
    from pathlib import Path
    from psicli.core.errors import PsicliError
    from psicli.storage.spool import Spool
    with Spool(Path(sys.argv[1])) as spool:
        spool.file("first", 300_000)
        try:
            [spool.file("more", 300_000) for _ in range(9)]
        except PsicliError as exc:
            print(exc.code, exc)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=2m tmpfs {tmp_path} && mkdir -m 700 {tmp_path}/s && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", textwrap.dedent(FILL), tmp_path / "s"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert done.stdout.startswith(f"74 {tmp_path}/s: ")
    assert "no space left on device" in done.stdout


@pytest.mark.parametrize("call", ["write", "preadv"])
def test_a_failing_disk_is_a_storage_error(spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    file = spool.file("items", 1600)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match="failed: input/output error") as caught:
        file.read_at(file.append(bytes(1600)), memoryview(bytearray(1600)))
    assert caught.value.code == 74


def test_a_folder_whose_creation_fails_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(name)

    monkeypatch.setattr(failpoints, "hit", fail)
    with Spool(tmp_path / "state") as spool, pytest.raises(RuntimeError, match="created"):
        spool.file("items", 1600)
    assert [*(tmp_path / "state").glob("run-*")] == []
