"""Reports of a run and of a batch in which every fact is known."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psicli.core.errors import PsicliError
from psicli.report.batch import BatchReport, JobState, State
from psicli.report.report import Report, Status, TaskReport, facts_of

STARTED = "2026-11-29T02:00:00.500+00:00"
BEGAN = datetime.fromisoformat(STARTED).timestamp()
WHO = {"job": "nightly", "party": "alice", "peer": "bob"}
FOUND = {"matched": 3, "matched_percent": 33, "matched_rows": 4, "output_rows": 4}


def a_run(error: PsicliError | None = None, **found: Any) -> dict[str, Any]:
    counts = {"rows": 10, "distinct_items": 9, "matchless_rows": 1, "peer_items": 7, "peer_questions": 8, "bins": 1}
    took = {"seconds": 1.5, "bytes_sent": 640, "bytes_received": 960, "stages": {"reading": 0.25, "matching": 0.5}}
    done = TaskReport("customers", "alice", False, Status.DONE, **counts, **took, **(found or FOUND))  # type: ignore[arg-type]
    done.warnings, done.warning = ["look at the keys"], "no key matched"
    done.drift = [{"measure": "rows", "value": 10, "usual": 20, "low": 18, "high": 22, "distance": 5.25}]
    report = Report("nightly", "alice", "bob", "0.1.0", "native avx2", [done, TaskReport("planes", "bob", False)])
    report.started, report.seconds, report.peak_memory, report.spool_bytes = STARTED, 2.25, 231_000_000, None
    report.certificate_expires = "2026-12-13T02:00:02+00:00"
    report.warnings, report.error, report.peer_version = ["the clock"], error, "0.1.0"
    return facts_of(report, report.error)


def a_batch(*names: str) -> BatchReport:
    jobs = [JobState(name, "bob", f"{name}.yaml", 1, State.DONE, starts=1, exit_code=0, seconds=2.0) for name in names]
    batch = BatchReport("all", jobs, "2026-11-29T02:00:00+00:00", 65, seconds=4.0, computed=3.0, peak_memory=9000)
    batch.warnings = ["a hook failed"]
    return batch
