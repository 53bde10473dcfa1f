"""The spool: a run's files and what becomes of them, and lists of records, whose answers hang on no memory."""

from __future__ import annotations

import fcntl
import os
import resource
import secrets
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psicli import spool as spool_module
from psicli.errors import CannotCreateError, InternalError, SpoolSpaceError, StorageError
from psicli.spool import Cut, Records, Spool, Storage, Streams
from psicli.state import state_folder

ROOT = Path(__file__).parent.parent
u2 = st.integers(0, 3)
widths = pytest.mark.parametrize("width", [16, 32])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "psicli"


@pytest.fixture
def spool(state: Path) -> Iterator[Spool]:
    with Spool.open(state) as spool:
        yield spool


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def runs_in(state: Path) -> list[Path]:
    return sorted(state.glob("run-*"))


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Start code in a process of its own; it tells of its progress on standard output."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


# The state folder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PSICLI_STATE_DIR": "/srv/psicli", "XDG_STATE_HOME": "/x"}, "/srv/psicli"),
        ({"XDG_STATE_HOME": "/x"}, "/x/psicli"),
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
    with Spool.open(state) as spool:
        Records(Cut(16, 1000, 1 << 20, spool), 1000).append(bytes(16_000))
    assert not state.parent.exists()
    assert spool.peak == 0


def test_files_are_ours_alone_and_gone_at_the_end(state: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool.open(state)
        file = spool.file("points", 1000)
    finally:
        os.umask(before)
    (folder,) = runs_in(state)
    assert [mode(path) for path in (state, folder)] == [0o700] * 2
    assert {mode(path) for path in (*folder.iterdir(), state / "lock")} == {0o600}
    assert sum(path.stat().st_size for path in folder.iterdir()) == 1000
    spool.close()
    spool.close()
    assert file.closed
    assert runs_in(state) == []


def test_a_file_is_gone_when_it_is_closed(spool: Spool, state: Path) -> None:
    one, other = spool.file("one", 5000), spool.file("other", 0)
    other.reserve(300)
    other.reserve(700)
    assert spool.peak == 5700
    one.close()
    one.close()
    assert [path.name.partition("-")[2] for path in runs_in(state)[0].iterdir() if path.name != "lock"] == ["other"]
    spool.file("third", 5100).close()
    assert spool.peak == 5800


def test_a_file_keeps_what_is_written(spool: Spool) -> None:
    file = spool.file("rows", 100)
    assert (file.write(b"abc"), file.write(memoryview(b"def")), file.tell()) == (3, 3, 6)
    file.write_at(4, b"XYZ")
    file.seek(0)
    assert file.read(7) == b"abcdXYZ"
    into = bytearray(4)
    file.read_at(3, memoryview(into))
    assert into == b"dXYZ"
    with pytest.raises(InternalError):
        file.read_at(98, memoryview(into))


@pytest.mark.parametrize("permissions", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_look_into_is_refused(state: Path, permissions: int) -> None:
    state.mkdir(parents=True)
    state.chmod(permissions)
    with pytest.raises(CannotCreateError, match=r"psicli: cannot create it: it is open to other users") as caught:
        Spool.open(state)
    assert caught.value.code == 73
    assert list(state.iterdir()) == []


def test_a_folder_of_somebody_else_is_refused(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.mkdir(0o700, parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: state.stat().st_uid + 1)
    with pytest.raises(CannotCreateError):
        Spool.open(state)


def test_what_is_no_folder_is_refused(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(0o700)
    state.parent.mkdir()
    for make in (lambda: state.write_text(""), lambda: state.symlink_to(target), lambda: state.symlink_to("nowhere")):
        make()
        with pytest.raises(CannotCreateError):
            Spool.open(state)
        state.unlink()
    (tmp_path / "file").write_text("")
    with Spool.open(tmp_path / "file" / "psicli") as spool, pytest.raises(CannotCreateError) as caught:
        spool.file("points", 1)
    assert caught.value.code == 73


# Runs that are gone --------------------------------------------------------------------------------------------

HOLD = """
    import os, sys, time
    from pathlib import Path
    from psicli.spool import Spool
    spool = Spool.open(Path(sys.argv[1]))
    file = spool.file("points", 10_000)
    file.write(b"kept")
    print("ready", flush=True)
    sys.stdin.read()
    file.seek(0)
    print(file.read(4), flush=True)
    spool.close()
"""


def test_what_killed_runs_left_is_removed_and_what_living_ones_have_is_not(state: Path) -> None:
    killed, living = (python(HOLD, state, stdin=subprocess.PIPE) for _ in range(2))
    for process in (killed, living):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert len(runs_in(state)) == 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(runs_in(state)) == 2
    Spool.open(state)
    (left,) = runs_in(state)
    assert left.name.startswith(f"run-{living.pid}-")
    with Spool.open(state) as spool:
        spool.file("tokens", 1)
        assert len(runs_in(state)) == 2
    output, _ = living.communicate()
    assert (output, living.returncode) == ("b'kept'\n", 0)
    killed.communicate()
    assert runs_in(state) == []


def test_a_folder_whose_run_died_before_it_had_a_lock_is_removed(state: Path) -> None:
    (state / "run-1-abc").mkdir(0o700, parents=True)
    (state / "run-1-abc" / "0001-points").write_bytes(b"x")
    (state / "other").mkdir()
    state.chmod(0o700)
    Spool.open(state)
    assert [path.name for path in sorted(state.iterdir())] == ["lock", "other"]


def test_no_one_removes_a_folder_that_is_being_made(state: Path) -> None:
    """Who opens a spool waits for who makes one."""
    state.mkdir(0o700, parents=True)
    with open(state / "lock", "w") as lock:
        os.fchmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = python(HOLD, state, stdin=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        assert runs_in(state) == []
    output, _ = process.communicate()
    assert output == "ready\nb'kept'\n"


# No space ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_space_is_reserved_before_it_is_used(spool: Spool, state: Path, small_files: None) -> None:
    spool.file("before", 700_000)
    with pytest.raises(SpoolSpaceError) as caught:
        Records(Cut(32, 100_000, 100_000, spool), 100_000)
    assert caught.value.code == 74
    assert str(state) in caught.value.message
    # 100,000 records with their positions, and for each bucket an extent that may stay unused.
    assert "4.9 MB more would be needed there beside 0.7 MB" in caught.value.message
    assert "are free: file too large" in caught.value.message
    assert "PSICLI_STATE_DIR" in caught.value.advice
    assert len(list(runs_in(state)[0].iterdir())) == 2


def test_a_list_that_does_not_grow_beyond_what_was_said(spool: Spool) -> None:
    records = Records(Cut(16, 100, 100, spool), 3)
    records.append(bytes(48))
    with pytest.raises(InternalError):
        records.append(bytes(16))


FILL = """
    import sys
    from pathlib import Path
    from psicli.errors import PsicliError
    from psicli.spool import Cut, Records, Spool
    with Spool.open(Path(sys.argv[1])) as spool:
        cut = Cut(32, 10_000, 10_000, spool)
        Records(cut, 10_000)
        try:
            [Records(cut, 10_000) for _ in range(9)]
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


@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_a_failing_disk_is_a_storage_error(spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    records = Records(Cut(16, 100, 100, spool), 100)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    question = records.append if call == "pwrite" else lambda data: records.append(data) or records.has_duplicates()
    with pytest.raises(StorageError, match="failed: input/output error") as caught:
        question(bytes(1600))
    assert caught.value.code == 74


# Streams -------------------------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=9000)), max_size=30),
    total=st.integers(0, 100_000),
    within=st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)),
)
def test_streams_keep_apart(spool: Spool, parts: list[tuple[int, bytes]], total: int, within: tuple[int, int]) -> None:
    """Whatever was foreseen; with parts that meet and cross the ends of extents."""
    with closing(Streams(spool, "parts", 4, total)) as streams:
        expected = [b"", b"", b"", b""]
        for stream, data in parts:
            streams.append(stream, data)
            expected[stream] += data
        start, stop = sorted(within)
        for stream, data in enumerate(expected):
            assert streams.size(stream) == len(data)
            assert streams.read(stream).tobytes() == streams.read(stream, 0, len(data)).tobytes() == data
            assert streams.read(stream, start, stop).tobytes() == data[start:stop]


# Records -------------------------------------------------------------------------------------------------------


def kept(cut: Cut, records: list[bytes], chunk: int = 3) -> Records:
    """Append records a few at a time."""
    kept = Records(cut, len(records))
    for start in range(0, len(records), chunk):
        kept.append(b"".join(records[start : start + chunk]))
    assert len(kept) == len(records)
    return kept


@st.composite
def record_lists(draw: st.DrawFn) -> tuple[int, list[bytes], list[bytes]]:
    """Two lists over few values, so that they meet: records that differ in a single byte, anywhere."""
    width = draw(st.sampled_from([16, 32]))
    record = st.builds(
        lambda at, byte: bytes(at) + bytes([byte]) + bytes(width - at - 1), st.integers(0, width - 1), u2
    )
    return width, draw(st.lists(record, max_size=40)), draw(st.lists(record, max_size=40))


def check_against_sets(cut: Cut, one: list[bytes], other: list[bytes], chunk: int = 3) -> None:
    ours, theirs = kept(cut, one, chunk), kept(cut, other, chunk + 1)
    held = set(other)
    found = ours.found_in(theirs)
    assert found.dtype == np.bool_
    assert found.tolist() == [record in held for record in one]
    assert ours.any_in(theirs) is any(record in held for record in one)
    assert ours.has_duplicates() is (len(set(one)) < len(one))
    assert ours.found_in(ours).all()
    for records in (ours, theirs):
        records.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=record_lists(), chunk=st.integers(1, 7), budget=st.none() | st.integers(0, 60_000),
    longest=st.integers(0, 3000),
)  # fmt: skip
def test_answers_are_those_of_plain_sets(
    spool: Spool, case: tuple[int, list[bytes], list[bytes]], chunk: int, budget: int | None, longest: int
) -> None:
    """Whatever the budget: in memory, in few buckets and in thousands, in one piece each and in many."""
    width, one, other = case
    check_against_sets(Cut(width, longest, budget, spool), one, other, chunk)


@widths
@pytest.mark.parametrize("budget", [None, 1000, 20_000, 300_000])
@pytest.mark.parametrize("common", [0, 1, 2500])
def test_long_lists_meet(spool: Spool, width: int, budget: int | None, common: int) -> None:
    generator = np.random.default_rng(width)
    both, one, other = ([generator.bytes(width) for _ in range(count)] for count in (common, 2500, 3000))
    check_against_sets(Cut(width, 5500, budget, spool), [*one, *both], [*both[::-1], *other], 512)


@widths
@pytest.mark.parametrize("budget", [None, 40_000])
@pytest.mark.parametrize("at", [0, 6, 8, 13])
def test_records_that_are_made_up_to_look_alike(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, width: int, budget: int | None, at: int
) -> None:
    """All bytes but three are the same in all of them: answers are right, and no bucket holds many.

    The secrets of the cut are fixed; with one in a hundred others a bucket would be looked at in two pieces.
    """
    monkeypatch.setattr(secrets, "token_bytes", np.random.default_rng(1).bytes)
    records = []
    for number in range(3000):
        record = bytearray(b"\x55" * width)
        record[at : at + 3] = number.to_bytes(3, "big")
        records.append(bytes(record))
    assert len(set(records)) == 3000
    cut = Cut(width, 3000, budget, spool)
    check_against_sets(cut, records[:2000], records[1000:], 100)
    words = np.frombuffer(b"".join(records), "<u4").reshape(3000, -1)
    if budget is not None:
        assert np.bincount(cut.buckets_of(words)).max() <= cut.piece


def test_buckets_are_of_a_size(spool: Spool) -> None:
    """And another run cuts in another way, so that nobody can foresee it."""
    words = np.frombuffer(np.random.default_rng(0).bytes(100_000 * 32), "<u4").reshape(-1, 8)
    cuts = [Cut(32, 100_000, 400_000, spool) for _ in range(2)]
    assert cuts[0].buckets == 81
    buckets = [cut.buckets_of(words) for cut in cuts]
    for cut, found in zip(cuts, buckets, strict=True):
        counts = np.bincount(found, minlength=cut.buckets)
        assert len(counts) == cut.buckets
        # Pearson's statistic with 80 degrees of freedom, one in a million beyond 152.
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 160
    assert (buckets[0] == buckets[1]).mean() < 0.1


@widths
@pytest.mark.parametrize("budget", [None, 4000])
def test_equal_records_overflow_no_bucket(
    spool: Spool, width: int, budget: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They all fall into one; it is looked at piece by piece."""
    longest = 0
    read = Streams.read

    def watched(self: Streams, *arguments: int) -> object:
        nonlocal longest
        data = read(self, *arguments)
        longest = max(longest, len(data))
        return data

    monkeypatch.setattr(Streams, "read", watched)
    distinct = [number.to_bytes(width, "little") for number in range(300)]
    check_against_sets(Cut(width, 600, budget, spool), [*distinct, *[b"\x07" * width] * 300], distinct[100:], 50)
    assert longest <= 4000


@widths
@pytest.mark.parametrize("budget", [None, 300])
@pytest.mark.parametrize("at", [0, 7, 8, 15, -1])
def test_whole_records_are_compared(spool: Spool, width: int, budget: int | None, at: int) -> None:
    record = bytearray(range(width))
    other = bytearray(record)
    other[at] ^= 0x80
    one, two = bytes(record), bytes(other)
    # A longest list that is longer than these, so that the cut is one for the disk.
    cut = Cut(width, 20, budget, spool)
    assert not kept(cut, [one]).any_in(kept(cut, [two]))
    assert not kept(cut, [one, two]).has_duplicates()
    assert kept(cut, [one]).any_in(kept(cut, [two, one], chunk=1))


@widths
def test_records_are_not_compared_across_their_bounds(width: int) -> None:
    """The same bytes, half a record further on."""
    data = bytes(range(2 * width))
    half = width // 2
    cut = Cut(width)
    assert not kept(cut, [data[half : half + width]]).any_in(kept(cut, [data[:width], data[width:]]))


@widths
@pytest.mark.parametrize("budget", [None, 10])
def test_nothing_at_all(spool: Spool, width: int, budget: int | None) -> None:
    cut = Cut(width, 1, budget, spool)
    empty, some = Records(cut), kept(cut, [bytes(width)])
    assert not empty.has_duplicates()
    assert not empty.any_in(some)
    assert not some.any_in(empty)
    assert not empty.any_in(empty)
    assert empty.found_in(some).shape == (0,)
    assert some.found_in(empty).tolist() == [False]
    some.append(b"")
    assert some.found_in(some).tolist() == [True]


@widths
@pytest.mark.parametrize("budget", [None, 30_000])
@pytest.mark.parametrize("where", [(0, 1), (0, 9_999), (4_095, 4_096), (9_998, 9_999)])
def test_one_pair_among_many_is_found(spool: Spool, width: int, budget: int | None, where: tuple[int, int]) -> None:
    cut = Cut(width, 10_000, budget, spool)
    records = [i.to_bytes(width, "big") for i in range(10_000)]
    assert not kept(cut, records, chunk=512).has_duplicates()
    records[where[1]] = records[where[0]]
    assert kept(cut, records, chunk=512).has_duplicates()


@pytest.mark.parametrize("budget", [0, 4000, None])
def test_duplicates_in_different_pieces_of_a_bucket(spool: Spool, budget: int | None) -> None:
    """Pieces of one or a few records, and all in one bucket."""
    cut = Cut(16, 100, budget, spool)
    cut._factors = np.zeros_like(cut._factors)
    records = [number.to_bytes(16, "little") for number in range(100)]
    assert not kept(cut, records).has_duplicates()
    assert kept(cut, [*records[:99], records[0]]).has_duplicates()
    check_against_sets(cut, records, [*records[50:], *records[60:]])


def test_a_list_in_memory_grows_as_needed() -> None:
    cut = Cut(16)
    records = Records(cut, 2)
    for number in range(50):
        records.append(number.to_bytes(16, "big"))
    assert not records.has_duplicates()
    assert records.found_in(kept(cut, [b"x" * 16, (7).to_bytes(16, "big")])).nonzero()[0].tolist() == [7]


def test_lists_of_two_cuts_are_our_mistake(spool: Spool) -> None:
    one, other = (Records(Cut(16), 0) for _ in range(2))
    with pytest.raises(InternalError):
        one.any_in(other)
    with pytest.raises(InternalError):
        Records(Cut(16, 100, 0), 100)


def test_a_closed_list_gives_its_space_back(spool: Spool, state: Path) -> None:
    cut = Cut(16, 100, 100, spool)
    records = [Records(cut, 100) for _ in range(2)]
    for each in records:
        each.append(bytes(1600))
        assert each.has_duplicates()
        each.close()
        each.close()
    assert [path.name for path in runs_in(state)[0].iterdir()] == ["lock"]


# Memory --------------------------------------------------------------------------------------------------------

MEASURE = """
    import os, sys
    from pathlib import Path
    import numpy as np
    from psicli.spool import Cut, Records, Spool

    def peak():
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def ask(width, count, budget):
        cut = Cut(width, count, budget, spool)
        lists = [Records(cut, count) for _ in range(2)]
        for seed, records in enumerate(lists):
            generator = np.random.default_rng(seed)
            for start in range(0, count, 16_384):
                records.append(generator.bytes(width * min(16_384, count - start)))
        assert not lists[0].has_duplicates() and not lists[0].any_in(lists[1])
        assert lists[0].found_in(lists[0]).all()
        for records in lists:
            records.close()

    with Spool.open(Path(sys.argv[1])) as spool:
        ask(32, 20_000, 100_000)
        before = peak()
        ask(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        print(peak() - before, spool.peak)
"""


@widths
def test_memory_is_bounded_by_the_budget(state: Path, width: int) -> None:
    """Two lists of three million records of 16 or 32 bytes, and 16 MB for each, the answers' three megabytes beside."""
    process = python(MEASURE, state, width, 3_000_000, 16_000_000)
    output, _ = process.communicate()
    grown, spooled = map(int, output.split())
    assert process.returncode == 0
    assert spooled >= 2 * 3_000_000 * width
    assert grown < 2 * 16_000_000 + 3_000_000


def test_memory_of_lists_in_memory(state: Path) -> None:
    """A budget that just suffices bounds them too."""
    count = 1_000_000
    process = python(MEASURE, state, 16, count, count * (16 + spool_module._ASKED_BYTES))
    output, _ = process.communicate()
    grown, spooled = map(int, output.split())
    assert spooled < 10_000_000
    assert grown < 2 * count * (16 + spool_module._ASKED_BYTES) + count


def test_what_cannot_fit_is_refused_before_any_of_it_is_taken(spool: Spool) -> None:
    storage = Storage(spool, 10**6)
    cut = Cut(32, 10**13, storage.share(0.5), spool)
    assert cut.disk_bytes(10**13) > 10**13 * 32
    with pytest.raises(SpoolSpaceError, match=r"[0-9]{6}\.[0-9] GB more would be needed there beside 0\.0 MB"):
        storage.expect(cut.disk_bytes(10**13))
    assert spool.peak == 0
    storage.expect(10**6)


def test_a_list_takes_what_it_was_said_to(spool: Spool) -> None:
    cut = Cut(32, 50_000, 10**6, spool)
    for records in (0, 1, 50_000):
        kept = Records(cut, records)
        assert spool.peak == cut.disk_bytes(records)
        kept.close()
    assert Cut(32, 50_000, 10**9, spool).disk_bytes(50_000) == 0
