"""What a batch leaves in its report folder, and what other users see of its jobs."""

from __future__ import annotations

import json
import os

import pytest
from support.many.batches import process_of, wait_for_listeners
from support.many.parties import Parties, all_done, jobs_of
from support.processes.expectations import failed
from support.processes.runner import DIALER, LISTENER


@pytest.mark.more
def test_a_log_that_cannot_be_kept_fails_no_job(four: Parties) -> None:
    """The values for a job's variables are on no command line, which every user can read."""
    kept = four.folder / LISTENER / "reports"
    for each in ("job-1.log", "job-2.json"):
        (kept / each).mkdir(parents=True)
    job = four.deals[0]
    entry = {"config": f"jobs/{job.name}.yaml", "set": {"SECRET": "qz-77"}}
    four.batch(LISTENER, [entry, *(deal.name for deal in four.deals[1:])])
    mine = four.start_batch(LISTENER, f"--report-dir={kept}", "--rendezvous=60")
    wait_for_listeners(mine, 4)
    process = process_of(mine, job)
    assert process is not None
    assert "qz-77" not in " ".join(process.cmdline())
    assert "qz-77" in process.environ()["PSICLI_SETTINGS"]
    all_done(four.start_batch(DIALER).result())
    result = mine.result()
    all_done(result)
    warnings = json.loads(result.stdout)["warnings"]
    assert [warning.partition("cannot write here")[0] for warning in sorted(warnings)] == [
        f"{kept}/job-1.log: ", f"{kept}/job-2.json: ",
    ]  # fmt: skip
    logged = (kept / f"{job.name}.log").read_text()
    assert f"in session with {DIALER}" in logged
    assert json.loads((kept / f"{job.name}.json").read_text()) == jobs_of(result)[job.name]["report"]
    assert {oct(each.stat().st_mode & 0o777) for each in kept.iterdir() if each.is_file()} == {"0o600"}
    four.check()
    four.nothing_left()


def test_a_report_folder_that_cannot_be_used_stops_the_batch_before_it_starts(four: Parties) -> None:
    four.folder.joinpath("file").touch()
    result = four.start_batch(LISTENER, f"--report-dir={four.folder / 'file'}").result()
    failed(result, 73, "file: cannot write here")
    assert "listening" not in result.stderr
    assert not os.listdir(four.folder / LISTENER / "out")
    four.nothing_left()
