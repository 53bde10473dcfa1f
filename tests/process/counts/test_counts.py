"""Runs with `result: count`: the receiver learns how many items match, and nothing else is written or said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.clusters.cluster import Cluster
from support.clusters.jobs import use
from support.jobs.batches import whole_job
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Side, other

LIMITS = {"min_peer_items": 1, "max_runs_per_day": 50}
MATCHING = [f"k-{number}" for number in range(3000)]


def counting(pair: Pair, receiver: str = LISTENER, **terms: object) -> None:
    """Add a task with `result: count` to both job files, and the limits that its sender needs."""
    side = Side(["id"], "in.csv")
    pair.add("overlap", side, side, receiver=receiver, result="count", **terms)
    pair.jobs[other(receiver)]["policy"] = dict(LIMITS)


def write(pair: Pair, **keys: Sequence[str]) -> None:
    for party, values in keys.items():
        pair.path(party, "in.csv").write_text("".join(f"{key},x\n" for key in ("id", *values)))


def report_of(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.text
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.mark.sample(2)
@pytest.mark.parametrize("receiver", PARTIES)
@pytest.mark.parametrize(
    ("alice", "bob", "count"),
    [
        (MATCHING, [f"other-{key}" for key in MATCHING], 0),
        (MATCHING, MATCHING[::-1], 3000),
        (MATCHING[:2000], MATCHING[700:], 1300),
        ([*MATCHING[:50], *MATCHING[:50] * 40, *[""] * 9], [*MATCHING[40:60] * 3, ""], 10),
        (["one"], ["one"], 1),
    ],
    ids=["none", "all", "some", "repeated rows and nulls", "one item"],
)
def test_the_receiver_learns_the_number(
    pair: Pair, receiver: str, alice: Sequence[str], bob: Sequence[str], count: int
) -> None:
    counting(pair, receiver)
    write(pair, alice=alice, bob=bob)
    files = {party: pair.files(party) for party in PARTIES}
    results = dict(zip(PARTIES, pair.run("--json"), strict=True))
    reports = {party: report_of(result)["tasks"][0] for party, result in results.items()}
    assert reports[receiver]["matched"] == count
    assert reports[other(receiver)]["matched"] is None
    for report in reports.values():
        assert (report["result"], report["output"], report["output_rows"]) == ("count", None, None)
        assert report["bins"] == 1
    assert {party: pair.files(party) for party in PARTIES} == files
    assert {path.name for path in (pair.folder / "state").rglob("*")} & {"meta", "bins"} == set()
    pair.nothing_left()


@pytest.mark.sample(1)
@pytest.mark.parametrize("empty", PARTIES)
def test_an_empty_list(pair: Pair, empty: str) -> None:
    """The count is 0 if the sender has no items; a receiver without items has fewer than the sender's limit."""
    counting(pair)
    write(pair, **{empty: [], other(empty): MATCHING})
    alice, bob = pair.run("--json")
    assert (alice.code, bob.code) == ((80, 79) if empty == LISTENER else (0, 0))
    assert json.loads(alice.stdout)["tasks"][0]["matched"] == (None if empty == LISTENER else 0)


@pytest.fixture
def small(pair: Pair) -> Pair:
    counting(pair)
    write(pair, alice=MATCHING[:500], bob=MATCHING[100:])
    return pair


def test_the_report_says_what_stays_hidden(small: Pair) -> None:
    alice, bob = small.run()
    assert "400 of 500 items match; which ones stays hidden" in alice.stdout.decode()
    assert "none (alice learns how many match)" in bob.stdout.decode()


@pytest.mark.more
def test_the_log_says_what_the_peer_will_learn(small: Pair) -> None:
    _, bob = small.run("--verbose")
    assert (
        "alice will learn how many distinct items bob has and only how many of its own items bob also has" in bob.stderr
    )


@pytest.mark.more
def test_a_parquet_input(small: Pair) -> None:
    parquet.write_table(pa.table({"id": [*MATCHING[:500], None]}), small.path(LISTENER, "in.parquet"))
    small.jobs[LISTENER]["tasks"][0]["input_path"] = {LISTENER: "in.parquet"}
    alice, bob = small.run("--json")
    assert report_of(alice)["tasks"][0]["matched"] == 400
    assert bob.code == 0


@pytest.mark.more
def test_a_list_larger_than_a_bin_is_one_bin(small: Pair) -> None:
    for party in PARTIES:
        small.jobs[party]["pipeline"] = {"bin_items": 16_384, "frame_items": 1024}
    write(small, alice=[f"{n}" for n in range(20_000)], bob=[f"{n}" for n in range(1000, 40_000, 2)])
    alice, bob = small.run("--json")
    assert report_of(alice)["tasks"][0]["matched"] == 9500
    assert [report_of(each)["tasks"][0]["bins"] for each in (alice, bob)] == [1, 1]


@pytest.mark.more
def test_tasks_with_rows_and_with_counts_in_one_job(small: Pair) -> None:
    """Also with --only, and with the roles of the parties changing."""
    for name, receiver in (("rows", LISTENER), ("back", DIALER)):
        told = Side(["id"], "in.csv", f"out/{name}.csv")
        sides = [told if receiver == party else Side(["id"], "in.csv") for party in PARTIES]
        small.add(name, *sides, receiver=receiver)
    small.add("again", Side(["id"], "in.csv"), Side(["id"], "in.csv"), receiver=DIALER, result="count")
    small.jobs[LISTENER]["policy"] = dict(LIMITS)
    alice, bob = map(report_of, small.run("--json"))
    assert [task["matched"] for task in alice["tasks"]] == [400, 400, None, None]
    assert [task["matched"] for task in bob["tasks"]] == [None, None, 400, 400]
    assert len(small.path(LISTENER, "out/rows.csv").read_text().splitlines()) == 401
    alice, bob = map(report_of, small.run("--json", "--only=again"))
    assert [task["matched"] for task in (*alice["tasks"], *bob["tasks"])] == [None, 400]


def test_a_limit_on_the_result(small: Pair) -> None:
    """The receiver keeps the count to itself, in its ledger; the sender sees a run like any other."""
    small.jobs[LISTENER]["policy"] = {"max_match_rate": 0.5}
    alice, bob = small.run("--json")
    assert (alice.code, bob.code) == (79, 0)
    assert json.loads(alice.stdout)["tasks"][0]["matched"] is None
    assert "max_match_rate" in alice.stderr


@pytest.mark.more
def test_a_count_in_whole_percent(small: Pair) -> None:
    small.jobs[LISTENER]["policy"] = {"whole_percent": True}
    alice, _ = small.run()
    assert "80 % of 500 items match; which ones stays hidden" in alice.stdout.decode()


@pytest.mark.more
def test_counts_of_files_that_are_tasks(small: Pair) -> None:
    """One file has no partner, so the numbers of the tasks are not those of the job file."""
    for party, months in ((LISTENER, ("01", "02")), (DIALER, ("02", "03"))):
        small.path(party, "in").mkdir()
        for month in months:
            small.path(party, f"in/{month}.csv").write_bytes(small.path(party, "in.csv").read_bytes())
        small.jobs[party]["tasks"][0] |= {"per_file": True, "input_path": {party: "in/*.csv"}}
    rows = Side(["id"], "in.csv", "out/rows.csv")
    small.add("rows", rows, Side(["id"], "in.csv"))
    alice, bob = (json.loads(result.stdout)["tasks"] for result in small.run("--json"))
    found = {task["name"]: (task["result"], task["matched"]) for task in alice if task["status"] == "done"}
    assert found == {"overlap-02": ("count", 400), "rows": ("rows", 400)}
    assert [task["matched"] for task in bob if task["status"] == "done"] == [None, None]


@pytest.mark.more
def test_the_ledger_holds_the_count(small: Pair) -> None:
    small.run()
    lines = [json.loads(line) for line in (small.folder / "state/ledger.jsonl").read_text().splitlines()]
    ended = {line["matched"] for line in lines if "matched" in line}
    assert ended == {400}


def test_a_difference_between_the_job_files(small: Pair) -> None:
    small.jobs[DIALER]["tasks"][0]["result"] = "rows"
    alice, bob = small.run()
    assert (alice.code, bob.code) == (78, 78)
    assert alice.below("the two job files disagree")[1].split() == ["overlap:", "result", "count", "rows"]
    assert bob.below("the two job files disagree")[1].split() == ["overlap:", "result", "rows", "count"]


@pytest.mark.more
def test_a_list_that_memory_has_no_room_for(small: Pair) -> None:
    """Both sides name the party, its room and the memory that it needs, whoever it is."""
    small.jobs[DIALER]["pipeline"] = {"memory": "384MB"}
    write(small, alice=MATCHING, bob=[f"{n}" for n in range(161_000)])
    for result in small.run():
        assert result.code == 78
        error = result.errors[0]
        assert "bob has room for 160,156 distinct items of a task with result: count" in error
        assert "task overlap has 161,000" in error
        assert "Give bob pipeline.memory: 0.4GB" in result.stderr
    small.nothing_left()


@pytest.mark.more
def test_a_task_that_was_cut_off_begins_anew(small: Pair) -> None:
    """A run that ended after the count was done leaves nothing to resume, also in a job of several tasks."""
    told = Side(["id"], "in.csv", "out/rows.csv")
    small.add("rows", told, Side(["id"], "gone.csv"))
    alice, bob = small.run()
    assert 0 not in (alice.code, bob.code)
    assert [*(small.folder / "state").glob("task-*")] == []
    small.path(DIALER, "gone.csv").write_bytes(small.path(DIALER, "in.csv").read_bytes())
    reports = [*map(report_of, small.run("--json"))]
    assert [task["matched"] for task in reports[0]["tasks"]] == [400, 400]
    assert [task["resumed"] for report in reports for task in report["tasks"]] == [None] * 4


def test_runs_are_limited_by_the_sender(small: Pair) -> None:
    small.jobs[DIALER]["policy"]["max_runs_per_day"] = 1
    assert [result.code for result in small.run()] == [0, 0]
    assert [result.code for result in small.run()] == [80, 79]


@pytest.mark.more
def test_a_list_that_differs_little_is_refused_before_its_count_is_known(small: Pair) -> None:
    """The party that fears differences sets the limit, whatever the other one learns."""
    small.jobs[DIALER]["policy"]["min_difference"] = 5
    assert [result.code for result in small.run()] == [0, 0]
    write(small, alice=MATCHING[:500], bob=MATCHING[100:-1])
    assert [result.code for result in small.run()] == [80, 79]


@pytest.mark.more
def test_simulate_needs_no_limits(small: Pair) -> None:
    result = small.start_command("simulate", "--config", whole_job(small)).result()
    assert result.code == 0, result.text
    assert "400 of 500 items match; which ones stays hidden" in result.stdout.decode()


def test_a_batch(small: Pair) -> None:
    runs = [small.start_command("batch", small.job_file(party), "--party", party) for party in PARTIES]
    for run in runs:
        result = run.result()
        assert result.code == 0, result.text


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_workers_on_a_cluster(small: Pair, cluster: Cluster, party: str) -> None:
    """In either role; the other party computes on its own machine."""
    use(small, cluster, party)
    alice, bob = small.run("--json")
    assert report_of(alice)["tasks"][0]["matched"] == 400
    assert report_of(bob)["tasks"][0]["matched"] is None
    small.nothing_left()
