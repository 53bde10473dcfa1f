"""Runs with per_file: each file of one party is compared with the file of the same name of the other."""

from __future__ import annotations

import gzip
import json
import re
import signal
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from support.processes.expectations import csv_data, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, failing_at, other

MONTHS = [f"2026-{month:02}" for month in range(1, 13)]
LACKED = "2026-05"


def ids(month: str, party: str) -> list[int]:
    """Return the keys of a month: half of them are common, and none is one of another month."""
    start = 1000 * int(month[-2:]) + (20 if party == DIALER else 0)
    return [*range(start, start + 40)]


def common(month: str) -> bytes:
    """Return the output of a month, for a party with the column id."""
    both = sorted({*ids(month, LISTENER)} & {*ids(month, DIALER)})
    return csv_data(["id"], ([str(number)] for number in both))


def write(pair: Pair, party: str, months: Iterable[str]) -> None:
    """Write the files of a party; the parties call them by different names and have other formats."""
    folder = pair.path(party, "in")
    folder.mkdir(exist_ok=True)
    for month in months:
        data = csv_data(["id"], ([str(number)] for number in ids(month, party)))
        if party == LISTENER:
            (folder / f"{month}.csv").write_bytes(data)
        else:
            (folder / f"{month.replace('-', '_')}.CSV.gz").write_bytes(gzip.compress(data))


def job(pair: Pair, alice: Iterable[str] = MONTHS, bob: Iterable[str] = MONTHS, **terms: Any) -> None:
    """Add the group, between two tasks that are no files."""
    for party, months in ((LISTENER, alice), (DIALER, bob)):
        write(pair, party, months)
        pair.path(party, "one.csv").write_bytes(csv_data(["id"], ([str(number)] for number in range(9))))
        one = {"keys": {party: ["id"]}, "input_path": {party: "one.csv"}}
        pattern = "in/*.csv" if party == LISTENER else "in/"
        group = {"name": "months", "per_file": True, "keys": {party: ["id"]}, "input_path": {party: pattern}, **terms}
        tasks = [{"name": "before", **one}, group, {"name": "after", **one}]
        for task in tasks:
            if party == LISTENER or task.get("broadcast_result"):
                task["output_path"] = {party: f"out/{task['name']}.csv" if task is not group else "out/*.csv"}
        pair.jobs[party]["tasks"] = tasks


def run(pair: Pair, *arguments: str) -> dict[str, Result]:
    runs = {party: pair.start(party, "--json", *arguments) for party in PARTIES}
    found = {party: each.result() for party, each in runs.items()}
    for result in found.values():
        assert "Traceback" not in result.text
    pair.nothing_left()
    return found


def tasks(result: Result) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in the_object(result.stdout)["tasks"]}


def statuses(result: Result) -> dict[str, str]:
    return {name.removeprefix("months-"): task["status"] for name, task in tasks(result).items()}


def outputs(pair: Pair, party: str = LISTENER) -> dict[str, bytes]:
    return {path.name.partition(".")[0]: path.read_bytes() for path in pair.path(party, "out").iterdir()}


def check_outputs(pair: Pair, months: Sequence[str]) -> None:
    found = outputs(pair)
    assert sorted(found) == sorted([*months, "before", "after"])
    assert all(found[month] == common(month) for month in months)


def lacking(pair: Pair, lacks: dict[str, Sequence[str]]) -> None:
    """Run a job in which each party lacks files, and check that all others are done and both sides name these."""
    months = {party: [month for month in MONTHS if month not in lacks.get(party, ())] for party in PARTIES}
    job(pair, *(months[party] for party in PARTIES))
    found = run(pair)
    absent = {month: party for party, each in lacks.items() for month in each}
    for party, result in found.items():
        expected = {month: "failed" if month in absent else "done" for month in ["before", *MONTHS, "after"]}
        assert statuses(result) == expected
        assert [*statuses(result)] == [*expected]
        assert result.code == (66 if lacks.get(party) else 80)
        for month, who in absent.items():
            error = tasks(result)[f"months-{month}"]["error"]
            here = who == party
            assert (error["code"], error["party"]) == (66 if here else 80, who)
            said = "this side has no file for" if here else f"{who} has no file for"
            assert re.search(rf"^months: {said} .*months-{month}\b", error["message"])
            assert any(error["message"] in line for line in result.errors)
    check_outputs(pair, [month for month in MONTHS if month not in absent])


@pytest.mark.parametrize("party", [DIALER, pytest.param(LISTENER, marks=pytest.mark.more)])
def test_a_month_that_one_side_lacks_shifts_nothing(pair: Pair, party: str) -> None:
    lacking(pair, {party: [LACKED]})


@pytest.mark.more
def test_each_side_lacks_other_months(pair: Pair) -> None:
    lacking(pair, {LISTENER: ["2026-01", "2026-07"], DIALER: ["2026-02", "2026-12"]})


@pytest.mark.more
def test_all_months_are_there(pair: Pair) -> None:
    job(pair)
    for result in run(pair).values():
        assert result.code == 0
        assert {*statuses(result).values()} == {"done"}
    check_outputs(pair, MONTHS)


@pytest.mark.more
def test_no_name_in_common(pair: Pair) -> None:
    job(pair, MONTHS[:2], MONTHS[2:4])
    for result in run(pair).values():
        assert result.code == 66
        assert statuses(result) == {"before": "done", **dict.fromkeys(MONTHS[:4], "failed"), "after": "done"}
        assert "months: no file has a partner: " in result.stderr
        assert "alice has months-2026-01, months-2026-02" in result.stderr
        assert "bob has months-2026-03, months-2026-04" in result.stderr
    check_outputs(pair, [])


@pytest.mark.more
def test_only_a_group_and_nothing_in_common(pair: Pair) -> None:
    job(pair, MONTHS[:1], MONTHS[1:2])
    for result in run(pair, "--only", "months").values():
        assert result.code == 66
        assert statuses(result) == dict.fromkeys(MONTHS[:2], "failed")
    assert outputs(pair) == {}


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_a_side_without_any_file(pair: Pair, party: str) -> None:
    """The run ends on both sides, or goes on with the other tasks if both keep going; the files are named."""
    job(pair, *([] if each == party else MONTHS[:3] for each in PARTIES))
    found = run(pair)
    assert [found[each].code for each in (party, other(party))] == [66, 80]
    assert "no file" in found[party].stderr
    assert outputs(pair) == {}
    found = run(pair, "--keep-going")
    assert [found[each].code for each in (party, other(party))] == [66, 80]
    for result in found.values():
        assert {month: statuses(result)[month] for month in MONTHS[:3]} == dict.fromkeys(MONTHS[:3], "failed")
        assert (statuses(result)["before"], statuses(result)["after"]) == ("done", "done")
    assert f"{party} has no file for months-2026-01, months-2026-02, months-2026-03" in found[other(party)].stderr
    assert "months-2026-01, months-2026-02, months-2026-03" in found[party].stderr
    check_outputs(pair, [])


@pytest.mark.more
def test_only_one_side_makes_tasks_of_files(pair: Pair) -> None:
    job(pair, MONTHS[:1], MONTHS[:1])
    pair.jobs[DIALER]["tasks"][1] |= {"per_file": False, "input_path": {DIALER: "in/2026_01.CSV.gz"}}
    for result in run(pair).values():
        assert result.code == 78
        assert re.search(r"months: per_file +(true +false|false +true)", result.stderr)
    assert outputs(pair) == {}


@pytest.mark.more
def test_both_sides_write_into_folders(pair: Pair) -> None:
    """A folder takes outputs with the names of the inputs, and their formats; it may not exist before."""
    job(pair, MONTHS[:2], MONTHS[:2], broadcast_result=True)
    for party in PARTIES:
        pair.jobs[party]["tasks"][1]["output_path"] = {party: "months/"}
    for result in run(pair).values():
        assert result.code == 0
    for month in MONTHS[:2]:
        assert pair.path(LISTENER, f"months/{month}.csv").read_bytes() == common(month)
        packed = pair.path(DIALER, f"months/{month.replace('-', '_')}.CSV.gz").read_bytes()
        assert gzip.decompress(packed) == common(month)


@pytest.mark.more
@pytest.mark.parametrize("only", [["months-2026-02"], ["months-2026-02", "after", "months-2026-03"]])
def test_some_files_of_a_group(pair: Pair, only: list[str]) -> None:
    job(pair)
    for result in run(pair, *(f"--only={name}" for name in only)).values():
        assert result.code == 0
        assert sorted(tasks(result)) == sorted(only)
    assert sorted(outputs(pair)) == sorted(name.removeprefix("months-") for name in only)


@pytest.mark.more
def test_a_file_that_only_names(pair: Pair) -> None:
    job(pair, MONTHS[:2], MONTHS[:2])
    result = pair.start(LISTENER, "--only=months-2026-13", "--json").result()
    assert result.code == 66
    assert "in/*.csv has no file for months-2026-13" in result.stderr
    result = pair.start(LISTENER, "--only=month-2026-01", "--json").result()
    assert result.code == 2
    assert "'month-2026-01' is not a task of this job" in result.stderr


@pytest.mark.more
@pytest.mark.parametrize("party", PARTIES)
def test_a_killed_batch_goes_on_with_the_files_that_are_left(pair: Pair, party: str) -> None:
    """A run that goes on does only what is not done, also if a file has come since."""
    job(pair, MONTHS[:4], [month for month in MONTHS[:4] if month != "2026-03"])
    at = {LISTENER: "output.renamed:kill:3", DIALER: "received.arrived:kill:4"}
    runs = {each: pair.start(each, "--json", env=failing_at(at[party] if each == party else "")) for each in PARTIES}
    assert runs[party].result().code == -signal.SIGKILL
    assert runs[other(party)].result().code in (66, 69, 80)
    write(pair, DIALER, ["2026-03"])
    found = run(pair)
    for result in found.values():
        assert result.code == 0
        resumed = [name for name, task in tasks(result).items() if task["resumed"] == 1]
        assert "before" in resumed
        assert "months-2026-03" not in resumed
    check_outputs(pair, MONTHS[:4])


@pytest.mark.more
def test_the_twelfth_file_comes_later(pair: Pair) -> None:
    """Both sides skip the eleven that are done."""
    job(pair, bob=[month for month in MONTHS if month != LACKED])
    assert [run(pair)[party].code for party in PARTIES] == [80, 66]
    write(pair, DIALER, [LACKED])
    for result in run(pair).values():
        assert result.code == 0
        assert [name for name, task in tasks(result).items() if task["resumed"] != 1] == [f"months-{LACKED}"]
    check_outputs(pair, MONTHS)


@pytest.mark.more
def test_a_check_names_what_is_missing(pair: Pair) -> None:
    job(pair, MONTHS[:3], MONTHS[1:4])
    commands = [("check", "--config", pair.job_file(party), "--json") for party in PARTIES]
    for party, started in zip(PARTIES, [pair.start_command(*each) for each in commands], strict=True):
        result = started.result()
        assert result.code == 66
        checks = json.loads(result.stdout)["checks"]
        said = [row["message"] for row in checks if row["name"] == "pairing" and row["code"]]
        lacks, has = ("2026-04", "2026-01") if party == LISTENER else ("2026-01", "2026-04")
        assert sorted(said) == sorted(
            [
                f"months: this side has no file for months-{lacks}, which {other(party)} has; the other tasks are not "
                "affected",
                f"months: {other(party)} has no file for months-{has}; the other tasks are not affected",
            ]
        )
        assert [row["task"] for row in checks if row["name"] == "input"].count("months-2026-02") == 1


@pytest.mark.more
def test_a_simulation(pair: Pair) -> None:
    """Both parties' files are on this machine, and the job file names them for both."""
    job(pair, MONTHS[:3], MONTHS[1:3])
    tasks = [
        {
            **mine,
            "keys": {**mine["keys"], **theirs["keys"]},
            "input_path": {**mine["input_path"], **theirs["input_path"]},
        }
        for mine, theirs in zip(pair.jobs[LISTENER]["tasks"], pair.jobs[DIALER]["tasks"], strict=True)
    ]
    for task in tasks:
        task["input_path"][DIALER] = f"../{DIALER}/{task['input_path'][DIALER]}"
    pair.jobs[LISTENER]["tasks"] = tasks
    result = pair.start_command("simulate", "--config", pair.job_file(LISTENER), "--json").result()
    assert result.code == 66
    reports = json.loads(result.stdout)["parties"]
    found = {party: {task["name"]: task["status"] for task in reports[party]["tasks"]} for party in PARTIES}
    expected = {"months-2026-01": "failed", "months-2026-02": "done", "months-2026-03": "done"}
    assert found == {party: {"before": "done", **expected, "after": "done"} for party in PARTIES}
    check_outputs(pair, MONTHS[1:3])


@pytest.mark.more
def test_the_keys_of_each_file(pair: Pair) -> None:
    job(pair, MONTHS[:2])
    result = pair.start_command("keys", "--config", pair.job_file(LISTENER), "--rows=1", "--json").result()
    assert result.code == 0
    assert [task["task"] for task in json.loads(result.stdout)["tasks"]] == [
        "before", "months-2026-01", "months-2026-02", "after",
    ]  # fmt: skip


@pytest.mark.more
def test_a_batch_with_a_group(pair: Pair) -> None:
    """A job of a batch runs all files, and what is left after a retry."""
    job(pair, MONTHS[:3], MONTHS[:2])
    state = {party: {"PSICLI_STATE_DIR": str(pair.folder / f"state-{party}")} for party in PARTIES}
    commands = {party: ("batch", pair.job_file(party), "--json", "--retries=0") for party in PARTIES}
    found = {party: pair.start_command(*commands[party], env=state[party]) for party in PARTIES}
    for party, code in zip(PARTIES, (80, 66), strict=True):
        result = found[party].result()
        assert result.code == code
        (report,) = [each["report"] for each in json.loads(result.stdout)["jobs"]]
        assert [task["name"] for task in report["tasks"]][1:4] == [f"months-{month}" for month in MONTHS[:3]]
    check_outputs(pair, MONTHS[:2])
    write(pair, DIALER, MONTHS[2:3])
    runs = {party: pair.start_command("retry", "--json", env=state[party]) for party in PARTIES}
    bob = runs[DIALER].result()
    assert bob.code == 0, bob
    assert runs[LISTENER].result().code == 0
    check_outputs(pair, MONTHS[:3])


@pytest.mark.more
def test_the_plan_of_a_batch(pair: Pair) -> None:
    job(pair, MONTHS[:2])
    result = pair.start_command("batch", pair.job_file(LISTENER), "--dry-run", "--json").result()
    assert result.code == 0
    (planned,) = json.loads(result.stdout)["jobs"]
    assert planned["tasks"] == ["before", "months", "after"]
    assert planned["estimate"]["seconds"] > 0
