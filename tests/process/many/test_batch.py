"""Jobs of many tasks in one session."""

from __future__ import annotations

import pytest
from support.jobs.batches import batch, check_task, write
from support.processes.expectations import OLD, check_output, csv_data, failed, succeeded, the_object
from support.processes.runner import (
    DIALER,
    LISTENER,
    PARTIES,
    Pair,
    Side,
    other,
)


def test_twelve_tasks_in_one_session_on_one_port(pair: Pair) -> None:
    batch(pair)
    runs = [pair.start(party, "--json") for party in PARTIES]
    results = [run.result() for run in runs]
    succeeded(results)
    reports = [the_object(result.stdout) for result in results]
    for party, report in zip(PARTIES, reports, strict=True):
        for task, reported in enumerate(report["tasks"]):
            check_task(pair, party, task, reported)
    assert [task["name"] for task in reports[0]["tasks"]] == [f"task-{task}" for task in range(12)]
    assert sum(task["matched"] or 0 for report in reports for task in report["tasks"]) > 100
    # All tasks share one connection, one session and one port.
    assert len({report["session_id"] for report in reports}) == 1
    for result, peer in zip(results, PARTIES[::-1], strict=True):
        assert result.stderr.count(f"in session with {peer}") == 1
    assert results[0].stderr.count(f"listening on 127.0.0.1:{pair.port}") == 1
    assert results[1].stderr.count("connecting to") == 1
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_a_bad_row_in_the_middle_of_twelve(pair: Pair, party: str) -> None:
    """Both parties complete the tasks before it and run none after it, and both reports show this."""
    batch(pair)
    bad = 6
    pair.path(party, "bad.csv").write_bytes(csv_data(["id", "day"], [["1", "mon"], ["2"]]))
    pair.jobs[party]["tasks"][bad].update(input_path={party: "bad.csv"}, keys={party: ["id", "day"]})
    for each in PARTIES:
        for task in range(bad, 12):
            pair.path(each, pair.jobs[each]["tasks"][task]["output_path"][each]).write_bytes(OLD)
    runs = {each: pair.start(each, "--json") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    failed(results[party], 65, r"bad\.csv:3: the row has 1 field, but the header has 2")
    failed(results[other(party)], 80, f"{party} failed")
    for each, result in results.items():
        tasks = the_object(result.stdout)["tasks"]
        for task in range(bad):
            check_task(pair, each, task, tasks[task])
        statuses = [task["status"] for task in tasks[bad:]]
        assert statuses == ["failed"] + ["not started"] * (11 - bad)
        for task in range(bad, 12):
            assert pair.path(each, pair.jobs[each]["tasks"][task]["output_path"][each]).read_bytes() == OLD
    pair.nothing_left()


@pytest.mark.more
def test_an_output_that_cannot_be_written_fails_only_on_its_side(pair: Pair) -> None:
    """The sender of a one-sided task does not notice, and both parties complete the tasks after it."""
    for party in PARTIES:
        for name, rows in (("long", 400), ("short", 3)):
            write(pair.path(party, f"{name}.csv"), ["id", "note"], [[str(row), "note " * 5] for row in range(rows)])
    for name in ("long", "short"):
        pair.add(name, Side(["id"], f"{name}.csv", f"out/{name}.csv"), Side(["id"], f"{name}.csv"))
    pair.path(LISTENER, "out/long.csv").write_bytes(OLD)
    # Limit files to 8 blocks: the long output exceeds this, the short one does not.
    alice = pair.start(LISTENER, "--json", before="ulimit -f 8")
    bob = pair.start(DIALER, "--json")
    results = [alice.result(), bob.result()]
    failed(results[0], 74, r"out/long\.csv: .*file too large")
    succeeded(results[1:])
    statuses = [[task["status"] for task in the_object(result.stdout)["tasks"]] for result in results]
    assert statuses == [["failed", "done"], ["done", "done"]]
    assert pair.path(LISTENER, "out/long.csv").read_bytes() == OLD
    check_output(pair, LISTENER, 1, "out/short.csv")
    pair.nothing_left()


@pytest.mark.more
def test_only_some_tasks(pair: Pair) -> None:
    batch(pair, 4)
    flags = ["--only", "task-3", "--only", "task-1"]
    runs = [pair.start(LISTENER, "--json", *flags), pair.start(DIALER, "--json", *reversed_pairs(flags))]
    results = [run.result() for run in runs]
    succeeded(results)
    for party, result in zip(PARTIES, results, strict=True):
        # The order is that of the job file, not that of the flags.
        tasks = the_object(result.stdout)["tasks"]
        assert [task["name"] for task in tasks] == ["task-1", "task-3"]
        for task, reported in zip((1, 3), tasks, strict=True):
            check_task(pair, party, task, reported)
        assert all(path.stem.split(".")[0] in ("1", "3") for path in pair.path(party, "out").iterdir())


def reversed_pairs(flags: list[str]) -> list[str]:
    return [*flags[2:], *flags[:2]]


@pytest.mark.more
def test_only_is_part_of_the_agreement(pair: Pair) -> None:
    batch(pair, 3)
    alice, bob = pair.start(LISTENER, "--only", "task-0"), pair.start(DIALER)
    for result, row in (
        (alice.result(), "tasks task-0 task-0, task-1, task-2"),
        (bob.result(), "tasks task-0, task-1, task-2 task-0"),
    ):
        failed(result, 78, "the two job files disagree")
        assert [" ".join(line.split()) for line in result.below("disagree")] == ["field ours theirs", row]
    unknown = pair.start(LISTENER, "--only", "task-7").result()
    failed(unknown, 2, "task-7")
