"""The ledger: its content, its permissions, which runs count together, and concurrent writers."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from psicli.core.errors import CannotCreateError, MatchRateError, PolicyError, StorageError
from psicli.report.history.records import to_text
from psicli.storage.ledger import Ledger, Opening, chain

ROOT = Path(__file__).parents[3]
OPENING = Opening("nightly", "customers", "bob", "ab" * 32, "/data/in.csv", ("id", "ländle"), 12, 3400, 3600, "alice")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "psicli"


@pytest.fixture
def ledger(state: Path) -> Ledger:
    ledger = Ledger(state)
    ledger.prepare()
    return ledger


def lines(ledger: Ledger) -> list[dict[str, Any]]:
    """Return every line of the file, each of which must be JSON, without its place in the chain."""
    found = [json.loads(line) for line in ledger.path.read_text("ascii").splitlines()]
    return [{name: line[name] for name in line if name not in ("covers", "number", "prev")} for line in found]


def opening(number: int, **facts: Any) -> Opening:
    return replace(OPENING, task_sid=f"{number:064x}", **facts)


def runs_before(ledger: Ledger, what: Opening) -> int:
    """Open a task and return how many runs with the same subject there were before."""
    counted: list[int] = []
    ledger.open(what, counted.append)
    return counted[0]


def written(ledger: Ledger, **facts: Any) -> None:
    """Append a line that an older or newer version of psicli could have written."""
    with open(ledger.path, "a") as file:
        file.write(json.dumps(facts) + "\n")


def open_line(number: int, ago: timedelta, **facts: Any) -> dict[str, Any]:
    moment = (datetime.now(UTC) - ago).isoformat(timespec="seconds")
    return {"event": "open", "time": moment, **vars(opening(number)), **facts}


# Content ---------------------------------------------------------------------------------------------------------


def test_a_line_when_it_opens_and_one_when_it_ends(ledger: Ledger) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    ledger.open(OPENING)
    ledger.open(opening(2, task="planes"))
    ledger.close(OPENING.task_sid, None, 7)
    ledger.close(opening(2).task_sid, MatchRateError(task="planes", matched=9, own=12, limit=0.5), None)
    found = lines(ledger)
    for line in found:
        assert began <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    assert found == [
        {
            "event": "open",
            "job": "nightly",
            "task": "customers",
            "peer": "bob",
            "task_sid": "ab" * 32,
            "input": "/data/in.csv",
            "keys": ["id", "ländle"],
            "distinct_items": 12,
            "peer_items": 3400,
            "peer_questions": 3600,
            "party": "alice",
            "run": "",
        },
        {**found[0], "task": "planes", "task_sid": f"{2:064x}"},
        {"event": "close", "task_sid": "ab" * 32, "peer": "bob", "outcome": "done", "matched": 7},
        {
            "event": "close",
            "task_sid": f"{2:064x}",
            "peer": "bob",
            "outcome": "failed",
            "code": 79,
            "error": "MatchRateError",
        },
    ]


def test_lines_name_the_protocol_unless_it_is_ecdh(ledger: Ledger, state: Path) -> None:
    """Lines of older versions, which knew only ecdh, lack it too."""
    ledger.open(OPENING)
    ledger.open(opening(2, protocol="rr22"))
    assert [line.get("protocol") for line in lines(ledger)] == [None, "rr22"]
    entries = Ledger(state).entries()
    assert [entry.to_json()["protocol"] for entry in entries] == ["ecdh", "rr22"]
    assert ["rr22" in line for line in to_text(entries).splitlines()] == [False, False, True]
    assert not ledger.verify().faults


def test_a_ledger_closes_only_the_tasks_that_it_opened_and_only_once(ledger: Ledger, state: Path) -> None:
    ledger.open(OPENING)
    Ledger(state).close(OPENING.task_sid, None, 1)
    ledger.close("", None, 1)
    ledger.close(OPENING.task_sid, None, 1)
    ledger.close(OPENING.task_sid, None, 2)
    assert [line["event"] for line in lines(ledger)] == ["open", "close"]


def test_entries_are_tasks_with_their_outcome(ledger: Ledger, state: Path) -> None:
    assert Ledger(state / "elsewhere").entries() == ledger.entries() == []
    for number, task in enumerate(("first", "second", "third")):
        ledger.open(opening(number, task=task))
    ledger.close(opening(1).task_sid, MatchRateError(task="second", matched=9, own=12, limit=0.5), 9)
    ledger.close(opening(0).task_sid, None, 1234)
    entries = Ledger(state).entries()
    assert [(entry.opening.task, entry.outcome, entry.code, entry.error, entry.matched) for entry in entries] == [
        ("first", "done", None, None, 1234),
        ("second", "failed", 79, "MatchRateError", 9),
        ("third", "unfinished", None, None, None),
    ]
    header, first, second, third = (re.split(r"  +", line) for line in to_text(entries).splitlines())
    assert header == ["time", "job", "task", "party", "peer", "own", "peer's", "matched", "outcome", "input"]
    assert first[3:] == ["alice", "bob", "12", "3,400", "1,234", "done", "/data/in.csv (id, ländle)"]
    assert "policy (79)" in second
    assert "unfinished" in third


def test_both_parties_may_share_a_ledger(state: Path) -> None:
    """Their task has the same session id on both sides."""
    for peer, matched in (("bob", 3), ("alice", None)):
        ledger = Ledger(state)
        ledger.prepare()
        ledger.open(replace(OPENING, peer=peer))
        ledger.close(OPENING.task_sid, None, matched)
    assert [(entry.opening.peer, entry.matched) for entry in Ledger(state).entries()] == [("bob", 3), ("alice", None)]


# Answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_counted_bin_by_bin_of_one_task_and_peer(ledger: Ledger, state: Path) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    for sid, peer, number in (
        ("ab", "bob", 3),
        ("ab", "bob", 3),
        ("ab", "bob", 0),
        ("cd", "bob", 3),
        ("ab", "al", 1),
        ("ab", "al", -1),
    ):
        Ledger(state).answer(sid, peer, number, 700)
    first = lines(ledger)[0]
    assert began <= datetime.fromisoformat(first.pop("time")) <= datetime.now(UTC)
    assert first == {"event": "answer", "task_sid": "ab", "peer": "bob", "bin": 3, "items": 700}
    assert ledger.answers("ab", "bob") == {3: 2, 0: 1}
    # The bits of a result count as a bin with a negative number.
    assert ledger.answers("ab", "al") == {1: 1, -1: 1}
    assert ledger.answers("ef", "bob") == {}
    # Answers count neither as runs nor as tasks.
    assert runs_before(ledger, opening(0)) == 0
    assert len(ledger.entries()) == 1


def test_an_answer_is_on_the_disk_when_the_call_returns(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(ledger.path.read_bytes()), sync(file)))
    ledger.answer("ab", "bob", 5, 700)
    assert json.loads(synced[-1])["bin"] == 5


def test_answers_of_other_days_and_torn_ones_do_not_count(ledger: Ledger) -> None:
    for number, hours in enumerate((49, 47, 0)):
        moment = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
        written(ledger, event="answer", time=moment, task_sid="ab", peer="bob", bin=number, items=7)
    written(ledger, event="answer", time=moment, task_sid="ab", peer="bob", bin=8)
    with open(ledger.path, "a") as file:
        file.write('{"event": "answer", "time": "2026')
    ledger.answer("ab", "bob", 9, 7)
    assert ledger.answers("ab", "bob") == {1: 1, 2: 1, 9: 1}


def test_a_resumed_task_is_recorded_once(ledger: Ledger, state: Path) -> None:
    def refuse(runs: int) -> None:
        raise PolicyError(detail="no")

    ledger.open(opening(0))
    again = Ledger(state)
    again.open(opening(0), refuse, resumed=True)
    assert [line["event"] for line in lines(ledger)] == ["open"]
    again.close(opening(0).task_sid, None, 3)
    assert [(entry.outcome, entry.matched) for entry in ledger.entries()] == [("done", 3)]
    # A resumed task without a record, or with another peer, counts as a new run.
    with pytest.raises(PolicyError):
        again.open(opening(1), refuse, resumed=True)
    with pytest.raises(PolicyError):
        again.open(opening(0, peer="carol"), refuse, resumed=True)
    again.open(opening(1), resumed=True)
    assert runs_before(ledger, opening(2)) == 2


# Names -----------------------------------------------------------------------------------------------------------


def test_a_name_cannot_write_on_the_terminal(ledger: Ledger) -> None:
    ledger.open(opening(0, input="/in/\x1b[2J\udcff.csv"))
    assert ledger.entries()[0].opening.input == "/in/\x1b[2J\udcff.csv"
    text = to_text(ledger.entries())
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[2J\\udcff.csv" in text


# Runs of a day ---------------------------------------------------------------------------------------------------


def test_runs_with_the_same_subject_count_whatever_their_names_and_outcomes(ledger: Ledger) -> None:
    assert runs_before(ledger, opening(0)) == 0
    assert runs_before(ledger, opening(1, job="other", task="another", distinct_items=1, peer_items=2)) == 1
    ledger.close(opening(0).task_sid, StorageError(path="out.csv", reason="full"), None)
    assert runs_before(ledger, opening(2)) == 2


@pytest.mark.parametrize("other", [{"peer": "carol"}, {"input": "/data/in2.csv"}, {"keys": ("ländle", "id")}])
def test_runs_of_something_else_do_not_count(ledger: Ledger, other: dict[str, Any]) -> None:
    ledger.open(opening(0, **other))
    assert runs_before(ledger, opening(1)) == 0


def test_a_day_has_24_hours(ledger: Ledger) -> None:
    written(ledger, **open_line(0, timedelta(hours=24, seconds=5)))
    written(ledger, **open_line(1, timedelta(hours=23, minutes=59)))
    # The clock has been set back since.
    written(ledger, **open_line(2, timedelta(hours=-3)))
    # Lines as another program would write them.
    for number, ago in ((5, timedelta(hours=25)), (6, timedelta(hours=1))):
        line = open_line(number, ago)
        written(ledger, **{name: line[name] for name in sorted(line, reverse=True)})
    assert runs_before(ledger, opening(3)) == 3
    assert runs_before(ledger, opening(4)) == 4


def test_a_run_that_is_not_allowed_is_not_recorded(ledger: Ledger) -> None:
    def refuse(runs: int) -> None:
        raise PolicyError(detail="no")

    with pytest.raises(PolicyError):
        ledger.open(OPENING, refuse)
    ledger.close(OPENING.task_sid, None, None)
    assert ledger.path.read_bytes() == b""
    assert runs_before(ledger, opening(1)) == 0


def test_runs_that_other_processes_record_count_once(ledger: Ledger, state: Path) -> None:
    assert runs_before(ledger, opening(0)) == 0
    for number in range(1, 4):
        Ledger(state).open(opening(number))
    assert runs_before(ledger, opening(4)) == 4
    assert runs_before(Ledger(state), opening(5)) == 5
    # Somebody has moved the ledger away.
    ledger.path.rename(state / "ledger.old.jsonl")
    assert runs_before(ledger, opening(6)) == 0
    assert runs_before(ledger, opening(7)) == 1


ONE_OF_MANY = """
    import sys
    from pathlib import Path
    from psicli.core.errors import PolicyError
    from psicli.storage.ledger import Ledger, Opening

    def at_most_one(runs):
        if runs >= 1:
            raise PolicyError(detail="no")

    ledger = Ledger(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.read()
    opening = Opening("j", sys.argv[2], "bob", sys.argv[2], "/in.csv", ("id",), 1, 1, 1)
    try:
        ledger.prepare()
        ledger.open(opening, at_most_one)
        print("passed")
    except PolicyError:
        print("refused")
"""


def test_only_one_of_many_concurrent_runs_passes(state: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(ONE_OF_MANY), str(state), str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    said = [process.communicate()[0].strip() for process in processes]
    assert sorted(said) == ["passed"] + ["refused"] * 7
    assert [entry.opening.task for entry in Ledger(state).entries()] == [str(said.index("passed"))]


# Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ['{"event": "open", "time": "2026', "{", '{"event": "open"}', "\0\0\0", "[" * 5000])
def test_a_torn_last_line_is_ignored_and_the_next_line_is_separate(ledger: Ledger, torn: str) -> None:
    ledger.open(opening(0))
    end = ledger.path.stat().st_size
    head = chain.Head(1, chain.digest(ledger.path.read_bytes()), end)
    ledger.path.with_suffix(".head").write_bytes(head.before(b" " * 9999, end).encode())
    with open(ledger.path, "a") as file:
        file.write(torn)
    assert runs_before(ledger, opening(1)) == 1
    assert runs_before(ledger, opening(2)) == 2
    found = ledger.path.read_text().splitlines()
    assert found[1] == torn
    assert [json.loads(line)["task_sid"] for line in (found[0], *found[2:])] == [opening(n).task_sid for n in range(3)]
    assert len(ledger.entries()) == 3


def test_lines_and_fields_of_a_later_version_are_ignored(ledger: Ledger) -> None:
    written(ledger, event="note", time="2026-01-01T00:00:00+00:00")
    written(ledger, **open_line(0, timedelta(), sha256="00"))
    written(
        ledger,
        event="close",
        time="2026-01-01T00:00:00+00:00",
        task_sid=f"{0:064x}",
        peer="bob",
        outcome="done",
        rows=5,
    )
    written(ledger, event="close", time="2026-01-01T00:00:00+00:00", task_sid="unknown", peer="bob", outcome="done")
    written(ledger, **open_line(1, timedelta(), time="2026-01-01T00:00:00"))
    (entry,) = ledger.entries()
    assert (entry.opening.task_sid, entry.outcome) == (f"{0:064x}", "done")
    assert runs_before(ledger, opening(2)) == 1


# Permissions -----------------------------------------------------------------------------------------------------


def test_only_this_user_has_access_to_the_ledger(ledger: Ledger, state: Path) -> None:
    ledger.open(OPENING)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    state.chmod(0o750)
    with pytest.raises(CannotCreateError, match="have access to it"):
        ledger.open(opening(1))
    with pytest.raises(CannotCreateError):
        ledger.entries()


def test_a_ledger_that_is_not_a_regular_file_is_refused(state: Path, tmp_path: Path) -> None:
    state.mkdir(0o700, parents=True)
    path = state / "ledger.jsonl"
    (tmp_path / "elsewhere").write_text("")
    for make, remove in (
        (lambda: path.symlink_to(tmp_path / "elsewhere"), path.unlink),
        (lambda: os.mkfifo(path), path.unlink),
        (path.mkdir, path.rmdir),
    ):
        make()
        with pytest.raises(CannotCreateError, match=r"ledger\.jsonl: cannot write here") as caught:
            Ledger(state).prepare()
        assert caught.value.code == 73
        assert ("it is a link, which psicli does not follow" in caught.value.message) is path.is_symlink()
        remove()


@pytest.fixture
def no_room() -> Iterator[None]:
    """Limit every file to a hundred bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_ledger_that_cannot_be_written_is_74(ledger: Ledger, no_room: None) -> None:
    with pytest.raises(StorageError, match=r"ledger\.jsonl: writing failed: file too large") as caught:
        ledger.open(OPENING)
    assert caught.value.code == 74
    assert ledger.entries() == []


def test_no_descriptor_is_left_open(ledger: Ledger, opened: Callable[[], list[str]]) -> None:
    before = opened()
    ledger.open(OPENING, lambda runs: None)
    ledger.close(OPENING.task_sid, None, None)
    ledger.entries()
    assert opened() == before


def test_a_ledger_that_cannot_be_seen_is_not_empty(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"ledger\.jsonl: reading failed: file name too long"):
        Ledger(tmp_path / ("x" * 300)).entries()
