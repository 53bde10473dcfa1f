"""The facts of a run with many tasks, as `facts_of` of a report returns them, with every number from a seed."""

from __future__ import annotations

import random
from typing import Any

from psicli.core.stages import MAX_INTERVALS, Stage
from psicli.report.report import Report, Status, TaskReport, facts_of

# When the tasks of a run are in each stage, of 0 to 1, and how much of this time.
_SHARES = {
    Stage.READING: (0.0, 0.3, 0.9),
    Stage.COMPUTING: (0.25, 0.9, 0.7),
    Stage.WAITING_FOR_PEER: (0.3, 0.85, 0.2),
    Stage.WAITING_FOR_ROOM: (0.3, 0.85, 0.1),
    Stage.MATCHING: (0.4, 0.95, 0.3),
    Stage.WRITING: (0.95, 1.0, 1.0),
}


def many_tasks(count: int = 100, seed: int = 1) -> dict[str, Any]:
    """Return the facts of a run of so many tasks, each with as long a timeline as there can be."""
    draw = random.Random(seed)
    report = Report("nightly", "airline", "registry", "1.0", "native avx2", [])
    report.run, report.session_id = f"{draw.getrandbits(128):032x}", f"{draw.getrandbits(256):064x}"
    report.started, report.peer_version = "2026-03-09T02:10:00.000+00:00", "1.0"
    report.certificate_expires = report.peer_certificate_expires = "2026-04-30T12:00:00+00:00"
    begin = 12.0
    for number in range(count):
        seconds = draw.lognormvariate(3, 0.6)
        report.tasks.append(_task(number, begin, seconds, draw))
        begin += 0.7 * seconds
    report.warnings = ["the certificate in airline.pem expires on 2026-04-30 12:00 UTC, in 52 days: renew it in time"]
    report.close(begin + 60, 612_000_000)
    return facts_of(report, None)


def _task(number: int, begin: float, seconds: float, draw: random.Random) -> TaskReport:
    task = TaskReport(f"region-{number:03}-customers", "airline", broadcast_result=number % 3 == 0)
    task.status, task.seconds = Status.DONE, seconds
    task.rows = draw.randrange(10_000, 2_000_000)
    task.distinct_items = round(task.rows * 0.93)
    task.matchless_rows = draw.randrange(50)
    task.peer_items = draw.randrange(10_000, 5_000_000)
    task.peer_questions, task.bins = round(task.peer_items * 1.08), task.peer_items // 1_000_000 + 1
    task.matched = round(task.distinct_items * draw.uniform(0.2, 0.4))
    task.matched_percent = 100 * task.matched // task.distinct_items
    task.matched_rows = task.output_rows = round(task.matched * 1.05)
    task.output_holds, task.output = "matched", f"/data/out/2026-03-09/{task.name}.csv"
    task.output_sha256, task.task_sid = f"{draw.getrandbits(256):064x}", f"{draw.getrandbits(256):064x}"
    task.key_columns = ["email (string)"]
    task.bytes_sent, task.bytes_received = 66 * task.distinct_items, 66 * task.peer_items
    task.timeline = [each for stage in Stage for each in _intervals(stage, begin, seconds, draw)]
    task.timeline.sort(key=lambda each: each[1])
    task.stages = {stage.value: sum(end - at for name, at, end in task.timeline if name == stage) for stage in Stage}
    if number % 10 == 0:
        task.warnings = [f"{draw.randrange(2, 900)} keys of 'email' have spaces at their ends: keys must be equal"]
    return task


def _intervals(stage: Stage, begin: float, seconds: float, draw: random.Random) -> list[tuple[str, float, float]]:
    """Return as many intervals of a stage as a timeline holds."""
    first, last, share = _SHARES[stage]
    step = (last - first) * seconds / MAX_INTERVALS
    starts = [begin + first * seconds + number * step for number in range(MAX_INTERVALS)]
    return [(stage.value, at, at + step * share * draw.uniform(0.6, 1.0)) for at in starts]
