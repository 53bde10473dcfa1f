"""Runs that skip the tasks with a bad input or output of either party, and run the others."""

from __future__ import annotations

import gzip
import json
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.jobs import resumed
from support.jobs.resumed import opened
from support.processes.expectations import MARK, OLD, check_output, csv_data, marked, the_object
from support.processes.proxy import Proxy
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Run, failing_at, free_ports, other

Spoil = Callable[[Pair, str, dict[str, Any]], None]


def content(octets: bytes, name: str = "bad.csv") -> Spoil:
    def spoil(pair: Pair, party: str, task: dict[str, Any]) -> None:
        pair.path(party, name).write_bytes(octets)
        task["input_path"] = {party: name}

    return spoil


def no_input(pair: Pair, party: str, task: dict[str, Any]) -> None:
    task["input_path"] = {party: "absent.csv"}


def no_column(pair: Pair, party: str, task: dict[str, Any]) -> None:
    task["keys"] = {party: ["Id"]}


def no_output(pair: Pair, party: str, task: dict[str, Any]) -> None:
    task["output_path"] = {party: "absent/deep/out.csv"}


BAD_ROW = content(marked(1, 2) + f"{MARK}-7,{MARK},x\n".encode())
# What is wrong, the exit code, and what the party with the fault says about it.
SPOILS: dict[str, tuple[Spoil, int, str]] = {
    "no-input": (no_input, 66, r"absent\.csv: no such file"),
    "no-column": (no_column, 66, "no column 'Id'"),
    "no-output": (no_output, 73, r"absent/deep/out\.csv: "),
    "bad-row": (BAD_ROW, 65, r"bad\.csv:4: the row has 3 fields"),
    "cut-gzip": (content(gzip.compress(marked(1))[:-9], "bad.csv.gz"), 65, r"bad\.csv\.gz: "),
}


def job(pair: Pair, bad: Sequence[str], *, party: str = DIALER, broadcast: bool = True) -> None:
    """Add one task for each name; those that are names of SPOILS are bad for this party. All outputs are old."""
    for each, numbers in ((LISTENER, range(1, 60)), (DIALER, range(40, 90))):
        pair.path(each, "in.csv").write_bytes(marked(*numbers))
        job = pair.jobs[each]
        job["keep_going"] = True
        for name in bad:
            task = {"name": name, "keys": {each: ["id"]}, "input_path": {each: "in.csv"}}
            output = f"out/{name}.csv"
            pair.path(each, output).write_bytes(OLD)
            job["tasks"].append(task | {"output_path": {each: output}, "broadcast_result": broadcast})
            if each == party and name in SPOILS:
                SPOILS[name][0](pair, party, job["tasks"][-1])


def run(pair: Pair, *arguments: str) -> dict[str, Result]:
    return results(pair, {party: pair.start(party, "--json", *arguments) for party in PARTIES})


def results(pair: Pair, runs: Mapping[str, Run]) -> dict[str, Result]:
    found = {party: run.result() for party, run in runs.items()}
    for result in found.values():
        assert "Traceback" not in result.text
        assert MARK not in result.text
    pair.nothing_left()
    return found


def tasks(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = the_object(result.stdout)["tasks"]
    return found


def statuses(result: Result) -> list[str]:
    return [each["status"] for each in tasks(result)]


def check(pair: Pair, found: Mapping[str, Result], names: Sequence[str], party: str) -> None:
    """Check both reports and all outputs of a job; the tasks named after SPOILS were bad for this party."""
    bad = [name for name in names if name in SPOILS]
    # The checks before the session come before anything that is read.
    first = next((name for name in bad if name.startswith("no-")), bad[0])
    for each, result in found.items():
        report = the_object(result.stdout)
        assert statuses(result) == ["failed" if name in bad else "done" for name in names]
        assert result.code == report["exit_code"] == (SPOILS[first][1] if each == party else 80)
        assert report["error"] in [task["error"] for task in report["tasks"]]
        for index, (name, task) in enumerate(zip(names, report["tasks"], strict=True)):
            if name not in bad:
                assert task["error"] is None
                assert task["output_rows"] == 20
                check_output(pair, each, index, f"out/{name}.csv")
                continue
            assert (task["output"], task["task_sid"], task["matched"]) == (None, None, None)
            if name != "no-output":
                assert pair.path(each, f"out/{name}.csv").read_bytes() == OLD
            _, code, sentence = SPOILS[name]
            if each != party:
                code, sentence = 80, f"{party} could not take part in task {name} .exit code {code}: an"
            assert (task["error"]["code"], task["error"]["party"]) == (code, party)
            assert re.search(sentence, task["error"]["message"])
            # The log has every error, and says at once which task is skipped.
            assert any(re.search(sentence, line) for line in result.errors)
            assert re.search(rf"WARNING overlap {name}: skipped: .*{sentence}", result.stderr)
    # A task that the other party skips only after this party's Open counts as a run.
    assert [len(opened(pair, name)) for name in names if name not in bad] == [1] * (len(names) - len(bad))
    assert all(len(opened(pair, name)) <= 1 for name in bad)


@pytest.mark.parametrize("broadcast", [True, pytest.param(False, marks=pytest.mark.more)])
@pytest.mark.parametrize("party", [DIALER, pytest.param(LISTENER, marks=pytest.mark.more)])
def test_tasks_of_bad_files_are_skipped(pair: Pair, party: str, broadcast: bool) -> None:
    """Every kind of bad file of one party, between good tasks; the listener receives unless both do."""
    if not broadcast and party == DIALER:
        # A sender writes no output, so its output path cannot be bad.
        names = ["first", "no-input", "bad-row", "middle", "cut-gzip", "last"]
    else:
        names = ["first", *SPOILS, "last"]
    job(pair, names, party=party, broadcast=broadcast)
    found = run(pair)
    if broadcast:
        check(pair, found, names, party)
    assert [found[each].code for each in (party, other(party))] == [66, 80]
    for result in found.values():
        assert statuses(result) == ["failed" if name in SPOILS else "done" for name in names]


@pytest.mark.more
@pytest.mark.parametrize(
    "names",
    [["bad-row", "x", "y"], ["x", "y", "no-input"], ["x", "no-input", "y", "bad-row", "z"]],
    ids=["first", "last", "between"],
)
def test_the_place_of_a_skipped_task_does_not_matter(pair: Pair, names: list[str]) -> None:
    job(pair, names)
    check(pair, run(pair), names, DIALER)


@pytest.mark.more
def test_all_tasks_are_skipped(pair: Pair) -> None:
    names = ["bad-row", "no-input", "cut-gzip", "no-output"]
    job(pair, names)
    check(pair, run(pair), names, DIALER)


@pytest.mark.more
def test_both_parties_have_bad_files(pair: Pair) -> None:
    """Each ends with the code of its own first fault; a task that both skip is a fault of each."""
    job(pair, ["a", "b", "c", "d"])
    no_input(pair, DIALER, pair.jobs[DIALER]["tasks"][0])
    BAD_ROW(pair, LISTENER, pair.jobs[LISTENER]["tasks"][1])
    for party in PARTIES:
        no_column(pair, party, pair.jobs[party]["tasks"][2])
    found = run(pair)
    assert [found[party].code for party in PARTIES] == [66, 66]
    codes = {party: [each["error"] and each["error"]["code"] for each in tasks(found[party])] for party in PARTIES}
    assert codes == {LISTENER: [80, 65, 66, None], DIALER: [66, 80, 66, None]}
    # The error of the run is this party's own, although the other one's came first.
    assert "'Id'" in the_object(found[LISTENER].stdout)["error"]["message"]
    for party in PARTIES:
        check_output(pair, party, 3, "out/d.csv")


@pytest.mark.more
@pytest.mark.parametrize("bad", ["no-input", "bad-row"])
def test_a_peer_that_does_not_keep_going_ends_the_run(pair: Pair, bad: str) -> None:
    job(pair, ["x", bad, "y"])
    pair.jobs[LISTENER]["keep_going"] = False
    found = run(pair)
    assert [found[party].code for party in PARTIES] == [80, SPOILS[bad][1]]
    assert f"bob could not take part in task {bad} (exit code {SPOILS[bad][1]}" in found[LISTENER].stderr
    assert "with `keep_going: true` in this side's job file" in found[LISTENER].stderr
    assert re.search(SPOILS[bad][2], found[DIALER].stderr)
    assert "alice stopped because this side skipped a task, and alice's job file does not set" in found[DIALER].stderr
    for party in PARTIES:
        assert [each["status"] for each in tasks(found[party])][:2] == ["done", "failed"]
        check_output(pair, party, 0, "out/x.csv")
        assert pair.path(party, "out/y.csv").read_bytes() == OLD


@pytest.mark.more
def test_a_party_that_does_not_keep_going_ends_the_run_at_its_own_fault(pair: Pair) -> None:
    job(pair, ["x", "bad-row", "y"])
    pair.jobs[DIALER]["keep_going"] = False
    found = run(pair)
    assert [found[party].code for party in PARTIES] == [80, 65]
    assert [statuses(found[party]) for party in PARTIES] == [["done", "failed", "not started"]] * 2


@pytest.mark.more
def test_a_list_of_paths_and_only(pair: Pair) -> None:
    """A list makes one task of each path, and each is skipped alone; `--only` leaves the others out as ever."""
    job(pair, ["days"])
    for party in PARTIES:
        names = [f"out/{day}.csv" for day in (1, 2, 3)]
        inputs = ["in.csv", "absent.csv" if party == LISTENER else "in.csv", "in.csv"]
        pair.jobs[party]["tasks"][0].update(input_path={party: inputs}, output_path={party: names})
    found = run(pair)
    assert [found[party].code for party in PARTIES] == [66, 80]
    assert [each["name"] for each in tasks(found[DIALER])] == ["days-1", "days-2", "days-3"]
    assert [statuses(found[party]) for party in PARTIES] == [["done", "failed", "done"]] * 2
    assert {path.name for path in pair.path(DIALER, "out").iterdir()} == {"days.csv", "1.csv", "3.csv"}
    found = run(pair, "--only", "days-1", "--only", "days-3", "--resume", "never")
    assert [found[party].code for party in PARTIES] == [0, 0]


@pytest.mark.more
def test_after_the_file_is_corrected_only_its_task_runs(pair: Pair) -> None:
    job(pair, ["x", "bad-row", "y"])
    run(pair)
    pair.path(DIALER, "bad.csv").write_bytes(marked(*range(40, 90)))
    found = run(pair)
    for party in PARTIES:
        assert found[party].code == 0, found[party].text
        assert found[party].stderr.count("done by an earlier run; input and output are unchanged") == 2
        for index, name in enumerate(["x", "bad-row", "y"]):
            check_output(pair, party, index, f"out/{name}.csv")
            assert len(opened(pair, name)) == 1


@pytest.mark.more
def test_a_large_task_resumes_after_a_skip_and_a_kill(pair: Pair) -> None:
    """The code is that of the bad file, but what ended the run decides what the next one resumes."""
    resumed.job(pair)
    for party in PARTIES:
        pair.jobs[party]["keep_going"] = True
        pair.jobs[party]["tasks"].insert(0, {**pair.jobs[party]["tasks"][0], "name": "bad"})
    pair.jobs[LISTENER]["tasks"][0]["output_path"] = {LISTENER: "out/bad.csv"}
    no_input(pair, DIALER, pair.jobs[DIALER]["tasks"][0])
    point = resumed.MIDDLE[LISTENER]
    runs = {party: resumed.start(pair, party, point if party == LISTENER else "") for party in PARTIES}
    assert runs[LISTENER].result().code == -signal.SIGKILL
    survivor = runs[DIALER].result()
    assert survivor.code == 66
    assert [each["error"]["code"] for each in tasks(survivor)[:2]] == [66, 69]
    assert "alice disconnected before the session was complete" in survivor.stderr
    pair.jobs[DIALER]["tasks"][0]["input_path"] = {DIALER: "in.csv"}
    share = resumed.resumed_share(resumed.run_again(pair), resumed.FIRST)
    assert 0 < share < 1


@pytest.mark.more
@pytest.mark.parametrize("point", ["skip.sending:stop", "skip.arrived:stop"])
@pytest.mark.parametrize("bad", ["no-input", "bad-row"])
def test_the_connection_breaks_around_a_skip(tmp_path: Path, point: str, bad: str) -> None:
    """What was under way is sent again, and nothing is skipped twice."""
    with free_ports(2) as ports:
        pair = Pair(tmp_path, ports[0])
        proxy = Proxy(ports[1], ports[0])
        try:
            names = ["x", bad, "y"]
            job(pair, names)
            pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{ports[1]}"
            for party in PARTIES:
                pair.link(party, reconnect_window_ms=600_000)
            stopped = DIALER if "sending" in point else LISTENER
            runs = {
                party: pair.start(party, "--json", env=failing_at(point if party == stopped else ""))
                for party in PARTIES
            }
            runs[stopped].wait_until_stopped()
            made = proxy.made
            proxy.reset()
            runs[stopped].send(signal.SIGCONT)
            found = results(pair, runs)
            assert proxy.made > made
            check(pair, found, names, DIALER)
        finally:
            pair.kill()
            proxy.close()


@pytest.mark.more
def test_the_option_of_a_simulation(pair: Pair) -> None:
    """The option works like the field, and the text of a report names every skipped task."""
    for name in ("a", "b", "c"):
        pair.path(LISTENER, f"{name}.csv").write_bytes(csv_data(["id"], [["1"], ["2"]]))
    pair.jobs[LISTENER]["tasks"] = [
        {
            "name": name,
            "keys": {party: ["id"] for party in PARTIES},
            "input_path": {LISTENER: f"{name}.csv", DIALER: "a.csv" if name != "c" else "absent.csv"},
            "output_path": {LISTENER: f"out/{name}.csv"},
        }
        for name in ("a", "c", "d", "b")
    ]
    config = ("--config", pair.job_file(LISTENER))
    result = pair.start_command("simulate", *config).result()
    assert result.code == 66
    assert not [*pair.path(LISTENER, "out").iterdir()]
    result = pair.start_command("simulate", *config, "--keep-going").result()
    assert result.code == 66, result.text
    assert {path.name for path in pair.path(LISTENER, "out").iterdir()} == {"a.csv", "b.csv"}
    text = result.stdout.decode()
    assert text.count("2 of 4 done") == 2
    for sentence in (
        "error: bob could not take part in task c (exit code 66: an input file or one of its key columns does not",
        "error: alice could not take part in task d (exit code 66: an input file or one of its key columns does not",
        "d.csv: no such file",
        "absent.csv: no such file",
    ):
        assert sentence in text
    parties = json.loads(pair.start_command("simulate", *config, "--keep-going", "--json").result().stdout)["parties"]
    assert [parties[party]["exit_code"] for party in PARTIES] == [66, 66]
