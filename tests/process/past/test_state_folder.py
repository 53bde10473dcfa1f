"""`psicli status` of a state folder: what interrupted runs left behind, and a folder that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes.expectations import the_object
from support.processes.runner import Pair

from psicli.storage.state import left_over, run_folder


@pytest.mark.more
def test_status_removes_files_of_killed_runs_and_never_those_of_a_running_one(pair: Pair) -> None:
    state = pair.folder / "state"
    with run_folder(state) as held:
        stale = state / "run-1-0123456789abcdef"
        (stale / "inner").mkdir(parents=True)
        (stale / "inner" / "spool").write_bytes(b"x")
        assert left_over(state) == [stale]
        text = pair.start_command("status").result()
        assert f"left behind by an interrupted run: {stale}; `psicli status --clean` removes it" in text.stdout.decode()
        told = the_object(pair.start_command("status", "--json", "--clean").result().stdout)
        assert told["removed"] == [str(stale)]
        assert not stale.exists()
        assert held.is_dir()
        last = pair.start_command("status", "--clean").result()
        assert (last.code, last.stdout.decode().splitlines()[-1]) == (0, "There is nothing to remove.")
    assert left_over(Path(state), remove=True) == []


@pytest.mark.more
def test_status_without_a_state_folder(pair: Pair) -> None:
    (pair.folder / "state").mkdir(mode=0o700)
    (pair.folder / "state").chmod(0o777)
    assert pair.start_command("status").result().code == 0
    result = pair.start_command("status", "--clean").result()
    assert result.code == 73
    assert "have access to it" in result.stderr
