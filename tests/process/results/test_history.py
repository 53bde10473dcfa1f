"""psicli history and psicli ledger, on ledgers of ninety nights."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.history.data import ANOMALIES, series
from support.history.ledgers import write_ledger
from support.processes.runner import Result, Run

from psicli.report.history.series import Night, Series

# A task with failed nights and gaps, whose last night lacks half of its rows, and one of another job with a formula for
# a name, of whose result this party knows nothing.


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history") / "state"
    nightly = series("weekends", 1, nights=60)
    nightly.nights[40] = Night(nightly.nights[40].time, "f" * 16, "failed", 69, "peer lost")
    del nightly.nights[50]
    nightly.nights[-1] = replace(ANOMALIES["half the rows"](nightly.nights[-1]), drift_accepted=("rows", "rate"))
    sent = [Night(each.time, each.run, "done", None, None, 9, 9, 9, None, None, 1.0) for each in nightly.nights[:20]]
    write_ledger(folder, nightly, Series("=sent", "@people", "airline", "bank", sent))
    return folder


def psicli(state: Path, *arguments: str, encoding: str = "utf-8", code: int = 0) -> str:
    run = Run(arguments, env={"PSICLI_STATE_DIR": str(state), "PYTHONIOENCODING": encoding})
    result: Result = run.result()
    run.kill()
    assert result.code == code, result.text
    return result.stdout.decode(encoding) if code == 0 else result.stderr


def test_a_line_for_each_task(state: Path) -> None:
    header, *lines = psicli(state, "history").splitlines()
    assert header.split()[:4] == ["job", "task", "peer", "runs"]
    (nightly,) = (line for line in lines if line.startswith("nightly"))
    assert nightly.split()[1:4] == ["customers", "registry", "59"]
    rows, items = (each for each in nightly.split("; ") if ", usually " in each)
    assert (rows.endswith(" (accepted)"), items.endswith(" (accepted)")) == (True, False)
    trend = next(word for word in nightly.split() if "█" in word)
    assert ("x" in trend, "·" in trend) == (True, True)
    (sent,) = (line for line in lines if line.startswith("=sent"))
    assert "%" not in sent
    ascii_only = psicli(state, "history", "nightly", encoding="ascii")
    assert ascii_only.isascii()
    assert "8" in ascii_only.splitlines()[1].split("%)")[1].split()[0]


@pytest.mark.more
def test_json_has_each_run_with_its_ranges(state: Path) -> None:
    tasks = json.loads(psicli(state, "history", "nightly", "--json"))["tasks"]
    assert [(task["job"], task["task"], len(task["runs"])) for task in tasks] == [("nightly", "customers", 59)]
    first, *_, last = tasks[0]["runs"]
    assert first["usual"] == {}
    assert (first["drift_accepted"], last["drift_accepted"]) == ([], ["rows", "rate"])
    assert last["usual"]["rows"]["outside"]
    assert last["usual"]["rows"]["low"] > last["rows"]
    assert not last["usual"]["rate"]["outside"]
    # What is shown is cut; ranges come from all runs.
    (shown,) = json.loads(psicli(state, "history", "nightly", "--json", "--last", "1"))["tasks"][0]["runs"]
    assert shown == last
    cut = json.loads(psicli(state, "history", "nightly", "--json", "--since", last["time"]))["tasks"][0]["runs"]
    assert cut == [last]


def test_csv_holds_no_formula(state: Path) -> None:
    rows = [*csv.DictReader(io.StringIO(psicli(state, "history", "--csv")))]
    assert len(rows) == 79
    assert {(row["job"], row["task"]) for row in rows} == {("nightly", "customers"), ("'=sent", "'@people")}
    assert all(not value.startswith(("=", "+", "-", "@")) for row in rows for value in row.values())
    assert {row["drift_accepted"] for row in rows} == {"", "rows,rate"}
    (failed,) = (row for row in rows if row["outcome"] == "failed")
    assert (failed["code"], failed["cause"], failed["rows"], failed["rows_low"]) == ("69", "peer lost", "", "")


@pytest.mark.more
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "JOB: the ledger has no 'nope'"),
        (["nightly", "--task", "nope"], "--task: the ledger has no 'nope'"),
        (["--since", "yesterday"], "Invalid value for '--since'"),
        (["--json", "--csv"], "Use --json or --csv, not both."),
    ],
)
def test_what_is_not_there(state: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in psicli(state, "history", *arguments, code=2)


@pytest.mark.more
def test_an_empty_ledger(tmp_path: Path) -> None:
    assert psicli(tmp_path, "history") == "The ledger has no tasks.\n"


@pytest.mark.more
def test_the_last_records_of_the_ledger(state: Path) -> None:
    facts = json.loads(psicli(state, "ledger", "--json", "--last", "3"))
    everything = json.loads(psicli(state, "ledger", "--json"))
    assert facts["tasks"] == everything["tasks"][-3:]
    assert [run["run"] for run in facts["runs"]] == [task["run"] for task in facts["tasks"]]
    since = everything["tasks"][-2]["time"]
    assert len(psicli(state, "ledger", "--since", since).splitlines()) == 3
    assert psicli(state, "ledger", "--since", "2999-01-01") == (
        "The ledger has no such tasks since 2999-01-01 00:00:00 UTC.\n"
    )
    assert "--verify examines the whole ledger" in psicli(state, "ledger", "--verify", "--last", "3", code=2)
