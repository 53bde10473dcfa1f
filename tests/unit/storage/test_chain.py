"""The chain of the ledger: every way to change the files is named, by an examination and by the next run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.processes.runner import failing_at

from psicli.core.errors import BrokenLedgerError, PolicyError
from psicli.storage import ledger as ledger_module
from psicli.storage.ledger import Ledger, Opening, chain

ROOT = Path(__file__).parents[3]
SID = "{:064x}".format
# The lines of `three_tasks`: begin, three times open and close, end.
LINES = 8
Content = tuple[bytes | None, bytes | None]


def opening(number: int) -> Opening:
    return Opening("nightly", "customers", "bob", SID(number), "/data/in.csv", ("id",), 12, 34, 34, "alice")


def one_run(state: Path, tasks: int = 3) -> list[str]:
    """Record one run with some tasks; return the warnings."""
    warnings: list[str] = []
    ledger = Ledger(state, warnings.append)
    ledger.begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")
    for number in range(tasks):
        ledger.open(opening(number))
        ledger.close(SID(number), None, 7)
    ledger.end(None, session_id="ab")
    return warnings


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    assert one_run(state) == []
    return state


def kinds(state: Path, anchor: str | None = None) -> list[str]:
    return [fault.kind for fault in Ledger(state).verify(anchor).faults]


def texts(state: Path) -> list[str]:
    return [fault.text for fault in Ledger(state).verify().faults]


def content(state: Path) -> tuple[list[bytes], bytes]:
    return (state / "ledger.jsonl").read_bytes().splitlines(keepends=True), (state / "ledger.head").read_bytes()


def put(state: Path, ledger: bytes | None, head: bytes | None) -> None:
    for name, octets in (("ledger.jsonl", ledger), ("ledger.head", head)):
        if octets is None:
            (state / name).unlink()
        else:
            (state / name).write_bytes(octets)


def later(line: bytes, by: timedelta) -> bytes:
    """Return a line with another time."""
    moment = datetime.fromisoformat(line[10:35].decode()) + by
    return line[:10] + moment.isoformat(timespec="seconds").encode() + line[35:]


def changed(at: int, old: bytes = b"alice", new: bytes = b"Alice") -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        line = lines[at].replace(old, new).replace(b'"bob"', b'"Bob"')
        return [*lines[:at], line, *lines[at + 1 :]]

    return change


def follower(lines: list[bytes]) -> bytes:
    """Return a line that continues the chain."""
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": "end", "run": "x", "outcome": "done"}
    return chain.sealed(entry, len(lines) + 1, chain.digest(lines[-1]))


# What is done to the lines, and what is found.
TAMPERINGS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], list[str]]] = {
    "changed first": (changed(0), ["changed: line 1"]),
    "changed": (changed(3), ["changed: line 4"]),
    "changed two": (lambda lines: changed(4)(changed(3)(lines)), ["changed: line 4", "changed: line 5"]),
    "changed last open": (changed(5), ["changed: line 6"]),
    "another number": (
        changed(3, b'"number": 4', b'"number": 9'),
        ["inserted: line 4 of the file", "removed: line 4"],
    ),
    "removed first": (lambda lines: lines[1:], ["removed: line 1"]),
    "removed": (lambda lines: lines[:3] + lines[4:], ["removed: line 4"]),
    "removed several": (lambda lines: lines[:2] + lines[5:], ["removed: lines 3 to 5"]),
    "removed last": (lambda lines: lines[:-1], ["gone from the end: line 8"]),
    "older copy": (lambda lines: lines[:3], ["gone from the end: lines 4 to 8"]),
    "all but the first": (lambda lines: lines[:1], ["gone from the end: lines 2 to 8"]),
    "emptied": (lambda lines: [], ["gone from the end: lines 1 to 8"]),
    "cut in the last line": (lambda lines: [*lines[:-1], lines[-1][:-20]], ["changed: line 8"]),
    "inserted first": (lambda lines: [b"{}\n", *lines], ["inserted: line 1 of the file"]),
    "inserted": (lambda lines: [*lines[:4], b'{"event": "open"}\n', *lines[4:]], ["inserted: line 5 of the file"]),
    "inserted copy": (lambda lines: [*lines[:4], lines[1], *lines[4:]], ["inserted: line 5 of the file"]),
    "inserted a line that follows": (
        lambda lines: [*lines[:4], follower(lines[:4]), *lines[4:]],
        ["inserted: line 5 of the file"],
    ),
    "appended": (lambda lines: [*lines, b'{"event": "open"}\n'], ["inserted: line 9 of the file"]),
    "appended with the right digest": (lambda lines: [*lines, follower(lines)], ["inserted: line 9 of the file"]),
    "appended without its end": (lambda lines: [*lines, follower(lines)[:-1]], ["inserted: line 9 of the file"]),
    "appended text without an end": (lambda lines: [*lines, b"nothing"], ["inserted: line 9 of the file"]),
    "a blank at the end of the first": (lambda lines: [lines[0][:-1] + b" \n", *lines[1:]], ["changed: line 1"]),
    "a blank at the end of the last": (lambda lines: [*lines[:-1], lines[-1][:-1] + b" \n"], ["changed: line 8"]),
    "other ends of lines": (
        lambda lines: [line[:-1] + b"\r\n" for line in lines],
        [f"changed: line {number}" for number in range(1, 9)],
    ),
    "swapped": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], ["moved: line 4"]),
    "moved to the end": (lambda lines: [*lines[:2], *lines[3:], lines[2]], ["moved: line 3"]),
    "moved to the start": (lambda lines: [lines[4], *lines[:4], *lines[5:]], ["moved: line 5"]),
    "back-dated": (
        lambda lines: [*lines[:3], later(lines[3], -timedelta(days=2)), *lines[4:]],
        ["changed: line 4", "back-dated: line 4 is earlier than the line before it"],
    ),
    "another ledger": (
        lambda lines: [follower(lines[:1])],
        ["removed: line 1", "gone from the end: lines 3 to 8"],
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_change_is_named_and_the_next_run_warns_once(state: Path, name: str) -> None:
    lines, head = content(state)
    tamper, expected = TAMPERINGS[name]
    put(state, b"".join(tamper(lines)), head)
    found = texts(state)
    assert len(found) == len(expected), found
    for text, start in zip(found, expected, strict=True):
        assert text.startswith(start)
    (warning,) = one_run(state)
    assert "is not as psicli left it" in warning
    assert found[0] in warning
    assert "max_runs_per_day cannot count" in warning
    # The break stays visible for ever, but the next run has nothing new to warn of.
    assert one_run(state) == []
    assert set(found) <= {text.partition(" records: ")[2] for text in texts(state)}


@pytest.mark.parametrize(
    ("tampered", "kind"),
    [
        (lambda lines, head: (None, head), chain.GONE),
        (lambda lines, head: (b"".join(lines), None), chain.HEAD_GONE),
        (lambda lines, head: (b"".join(lines), b"nothing"), chain.HEAD_GONE),
        (lambda lines, head: (b"".join(lines), b""), chain.HEAD_GONE),
        (lambda lines, head: (b"".join(lines), chain.Head(boot=head[-17:-1].decode()).encode()), chain.INSERTED),
    ],
    ids=["ledger gone", "head gone", "head damaged", "head emptied", "older head"],
)
def test_a_file_that_is_gone_or_older(
    state: Path, tampered: Callable[[list[bytes], bytes], Content], kind: str
) -> None:
    put(state, *tampered(*content(state)))
    assert kind in kinds(state)
    assert len(one_run(state)) == 1
    assert one_run(state) == []
    assert chain.RECORDED in kinds(state)


def test_both_files_gone_is_a_new_ledger(state: Path) -> None:
    head = Ledger(state).verify().head
    put(state, None, None)
    assert (kinds(state), kinds(state, head)) == ([], [chain.ANCHOR])
    ledger = Ledger(state, pytest.fail)
    ledger.begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")
    assert ledger.is_new
    assert kinds(state, head) == [chain.ANCHOR]


def test_a_head_noted_elsewhere_is_found(state: Path) -> None:
    noted = Ledger(state).verify().head
    one_run(state)
    verdict = Ledger(state).verify(noted)
    assert (verdict.faults, verdict.anchor, verdict.lines) == ((), LINES, 2 * LINES)
    # The owner can compute everything again, but not so that it has the old head.
    lines, _ = content(state)
    again = [later(line, timedelta(hours=1)) for line in lines]
    for at, line in enumerate(again):
        before = chain.digest(again[at - 1]) if at else chain.digest(b"")
        again[at] = line[:-67] + before.encode() + line[-3:]
    size = sum(map(len, again))
    put(state, b"".join(again), chain.Head(len(again), chain.digest(again[-1]), size).encode())
    assert kinds(state) == []
    assert kinds(state, noted) == [chain.ANCHOR]


def test_a_clock_that_was_set_back_is_named(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for back, expected in ((timedelta(minutes=4), []), (timedelta(minutes=15), ["back-dated"])):
        moment = (datetime.now(UTC) - back).isoformat(timespec="seconds")
        monkeypatch.setattr(ledger_module, "_now", lambda moment=moment: moment)
        one_run(state, tasks=0)
        assert kinds(state) == expected
    (warning,) = one_run(state, tasks=0)
    assert "back-dated: line 11" in warning


def test_lines_of_an_older_version_are_before_the_chain(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o700)
    (state / "ledger.jsonl").write_text('{"event": "open"}\n{"event": "note"}\n{"event": "op')
    assert one_run(state) == []
    verdict = Ledger(state).verify()
    assert (verdict.before, verdict.lines, verdict.faults) == (3, LINES, ())
    lines, head = content(state)
    put(state, b"".join(lines[1:]), head)
    assert texts(state) == ["changed: the lines before the chain"]
    assert len(one_run(state)) == 1


def test_a_change_while_a_run_records_is_found_at_its_next_line(state: Path) -> None:
    warnings: list[str] = []
    ledger = Ledger(state, warnings.append)
    ledger.begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")
    lines, head = content(state)
    put(state, b"".join(lines[:-2]), head)
    ledger.open(opening(9))
    assert len(warnings) == 1


@pytest.mark.parametrize("trace", ["sketches-0123", "task-0123"])
def test_a_ledger_that_is_gone_leaves_traces(state: Path, trace: str) -> None:
    (state / trace).touch()
    assert (kinds(state), one_run(state)) == ([], [])
    for octets in (None, b""):
        put(state, octets, octets)
        assert kinds(state) == [chain.GONE]
        (warning,) = one_run(state)
        assert "gone: the whole ledger, of whose runs the state folder holds traces; they no longer count" in warning
        assert one_run(state) == []
        assert kinds(state) == [chain.RECORDED]


def test_a_strict_ledger_records_nothing_after_a_break(state: Path) -> None:
    lines, head = content(state)
    put(state, b"".join(lines[1:]), head)
    for _ in range(2):
        with pytest.raises(BrokenLedgerError, match="removed: line 1"):
            Ledger(state, pytest.fail, strict=True).begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")
        assert content(state) == (lines[1:], head)
    assert len(one_run(state)) == 1
    Ledger(state, pytest.fail, strict=True).begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")


def test_a_deleted_line_no_longer_counts_but_not_silently(state: Path) -> None:
    def refuse(runs: int) -> None:
        raise PolicyError(detail=str(runs))

    with pytest.raises(PolicyError, match="3"):
        Ledger(state).open(opening(9), refuse)
    lines, head = content(state)
    put(state, b"".join(lines[:3] + lines[4:]), head)
    warnings: list[str] = []
    ledger = Ledger(state, warnings.append)
    ledger.begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")
    with pytest.raises(PolicyError, match="2"):
        ledger.open(opening(9), refuse)
    assert "max_runs_per_day cannot count runs whose lines are missing" in warnings[0]


# Kills and concurrent runs ---------------------------------------------------------------------------------------

KILLED = """
    import sys
    from pathlib import Path
    from psicli.core import failpoints
    from psicli.storage.ledger import Ledger, Opening

    failpoints.arm()
    ledger = Ledger(Path(sys.argv[1]))
    ledger.begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")
    for number in range(int(sys.argv[2])):
        ledger.open(Opening("j", "t", "bob", f"{number:064x}", "/in.csv", ("id",), 1, 1, 1))
"""


def started(state: Path, lines: int, failpoint: str = "") -> subprocess.Popen[bytes]:
    code = [sys.executable, "-c", textwrap.dedent(KILLED), str(state), str(lines)]
    return subprocess.Popen(code, cwd=ROOT, env={**os.environ, **failing_at(failpoint)})


@pytest.mark.sample(4)
@pytest.mark.parametrize("new", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("point", ["head.written", "appended", "synced"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_at_any_moment_is_no_tampering(tmp_path: Path, point: str, nth: int, new: bool) -> None:
    state = tmp_path / "state"
    if not new:
        one_run(state)
    assert started(state, 3, f"ledger.{point}:kill:{nth}").wait() == -9
    assert kinds(state) == []
    assert one_run(state) == []
    assert kinds(state) == []


@pytest.mark.parametrize("size", range(0, 200, 40))
def test_a_line_that_was_not_written_to_its_end_is_no_tampering(state: Path, size: int) -> None:
    lines, _ = content(state)
    line = follower(lines)
    end = sum(map(len, lines))
    head = chain.Head(LINES, chain.digest(lines[-1]), end).before(line, end)
    put(state, b"".join([*lines, line[:size]]), head.encode())
    assert kinds(state) == []
    assert one_run(state) == []
    verdict = Ledger(state).verify()
    assert (verdict.faults, verdict.torn, verdict.lines) == ((), int(size > 0), 2 * LINES)


@pytest.mark.parametrize("restarted", [False, True], ids=["same start", "restarted"])
@pytest.mark.parametrize("committed", [False, True], ids=["pending", "committed"])
def test_a_line_that_lacks_only_its_newline_is_written(state: Path, committed: bool, restarted: bool) -> None:
    """The disk was full exactly before the newline, and the next run was killed when it had written the head."""
    lines, known = content(state)
    boot = "0" * 16 if restarted else known[-17:-1].decode()
    line = follower(lines)
    end = sum(map(len, lines))
    head = chain.Head(LINES, chain.digest(lines[-1]), end, boot=boot).before(line, end)
    if committed:
        head = head.after().before(follower([*lines, line]), end + len(line))
    put(state, b"".join([*lines, line[:-1]]), head.encode())
    assert kinds(state) == []
    assert Ledger(state).verify().lines == LINES + 1
    assert one_run(state) == []
    verdict = Ledger(state).verify()
    assert (verdict.faults, verdict.torn, verdict.lines) == ((), 0, 2 * LINES + 1)


def test_a_restart_of_the_system_may_leave_a_torn_line(state: Path) -> None:
    lines, known = content(state)
    head = known.replace(known[-17:], b"0" * 16 + b"\n")
    put(state, b"".join([*lines, follower(lines)[:30]]), head)
    assert kinds(state) == []
    assert one_run(state) == []
    verdict = Ledger(state).verify()
    assert (verdict.faults, verdict.torn, verdict.lines) == ((), 1, 2 * LINES)


def test_a_restart_of_the_system_may_lose_what_was_written_last(state: Path) -> None:
    """The end of a run is on the disk. Of a run that did not end, either file may lack what followed its open."""
    lines, head = content(state)
    ledger = Ledger(state, pytest.fail)
    ledger.begin("nightly", "alice", "bob", "1.0", "127.0.0.1:1")
    ledger.open(opening(9))
    ledger.close(SID(9), None, 7)
    more, later_head = content(state)
    here, other = later_head[-17:], b"0" * 16 + b"\n"
    for octets, known in ((more[:-1], later_head), (more, head), (more[:-2], head)):
        put(state, b"".join(octets), known)
        assert kinds(state) != []
        put(state, b"".join(octets), known.replace(here, other))
        assert kinds(state) == []
        assert one_run(state) == []
        assert kinds(state) == []
    for octets in (more[:-2], lines, lines[:-1], [*more[:3], *more[4:]]):
        put(state, b"".join(octets), later_head.replace(here, other))
        assert kinds(state) != []


def test_runs_that_write_at_the_same_time_make_one_chain(state: Path) -> None:
    runs = [started(state, 20) for _ in range(4)]
    assert [run.wait() for run in runs] == [0] * 4
    verdict = Ledger(state).verify()
    assert (verdict.faults, verdict.lines) == ((), LINES + 4 * 21)


# Costs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def years(tmp_path: Path) -> Path:
    """Return a state folder whose ledger has 100,000 lines."""
    state = tmp_path / "years"
    state.mkdir(0o700)
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": "note", "text": "x" * 250}
    lines, last = [], chain.digest(b"")
    for number in range(1, 100_001):
        lines.append(chain.sealed(entry, number, last, covers=number == 1))
        last = chain.digest(lines[-1])
    size = sum(map(len, lines))
    put(state, b"".join(lines), chain.Head(len(lines), last, size).encode())
    return state


def fastest(work: Callable[[], None]) -> float:
    """Return the shortest of three times that this thread needs for some work [s]."""

    def seconds() -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return min(seconds() for _ in range(3))


@pytest.mark.more
def test_years_of_lines_are_checked_at_once(years: Path) -> None:
    def check() -> None:
        assert one_run(years, tasks=0) == []

    def hash_each_line() -> None:
        with open(years / "ledger.jsonl", "rb") as lines:
            for line in lines:
                chain.digest(line)

    # It takes two to four times as long on a machine of any speed, and an examination of each line twenty times.
    assert fastest(check) < 8 * fastest(hash_each_line)
    assert kinds(years) == []
