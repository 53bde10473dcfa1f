"""What a user sees who asks for `protocol: rr22`, also where it cannot be."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.processes import altered
from support.processes.certificates import issue, with_tls
from support.processes.expectations import failed, succeeded, the_object
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side

from psicli import curve, ole


@pytest.fixture
def asked(pair: Pair) -> Pair:
    """A job in which both parties ask for rr22."""
    pair.add("customers", Side(["id"], "in.csv", "out.csv"), Side(["id"], "in.csv"))
    for party in PARTIES:
        pair.path(party, "in.csv").write_text("id\n1\n2\n")
        pair.jobs[party]["psi"] = {**pair.jobs[party].get("psi", {}), "protocol": "rr22"}
    return pair


def check_of(pair: Pair, party: str) -> list[dict[str, Any]]:
    """Return the rows of a check of this party's side."""
    result = pair.start_command("check", "--json", "--wait=0", "--config", pair.job_file(party)).result()
    rows: list[dict[str, Any]] = json.loads(result.stdout)["checks"]
    return rows


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_count(asked: Pair, command: str) -> None:
    task = asked.jobs[LISTENER]["tasks"][0]
    task["result"] = "count"
    del task["output_path"]
    result = asked.start_command(command, "--config", asked.job_file(LISTENER)).result()
    assert result.code == 78
    path = asked.job_file(LISTENER)
    lines = path.read_text().splitlines()
    at, of_result = (1 + next(n for n, line in enumerate(lines) if text in line) for text in ("rr22", "result: count"))
    assert (
        f"{path}:{at}: psi.protocol: rr22 does not go with `result: count` (line {of_result}); a count needs ecdh; "
        "give task 'customers' `protocol: ecdh`, or `result: rows`"
    ) in (told := result.stdout.decode() if command == "check" else result.stderr)
    # Either of the streams stays empty.
    assert result.stdout.decode() + result.stderr == told
    assert "Traceback" not in told


def test_a_protocol_that_does_not_exist(asked: Pair) -> None:
    asked.jobs[LISTENER]["psi"]["protocol"] = "kkrt"
    result = asked.start_command("run", "--config", asked.job_file(LISTENER)).result()
    assert (result.code, result.stdout) == (78, b"")
    assert "psi.protocol: is the text 'kkrt'; give ecdh or rr22" in result.stderr


@pytest.mark.sample(1)
@pytest.mark.parametrize("command", ["run", "check"])
def test_the_parties_choose_different_protocols(asked: Pair, command: str) -> None:
    """Both see the same table, and no data is sent; a version that knows no rr22 sends what ecdh sends."""
    del asked.jobs[DIALER]["psi"]["protocol"]
    runs = [asked.start_command(command, "--config", asked.job_file(party)) for party in PARTIES]
    alice, bob = (run.result() for run in runs)
    assert (alice.code, bob.code) == (78, 78)
    for result, row in ((alice, ["rr22", "ecdh"]), (bob, ["ecdh", "rr22"])):
        text = result.text
        assert "the two job files disagree" in text
        rows = [line.split() for line in text.splitlines() if line.startswith("  ") and "customers: protocol" in line]
        assert ["customers:", "protocol", *row] in rows
        assert "Make these fields the same in both job files" in " ".join(text.split())
    assert not asked.path(LISTENER, "out.csv").exists()
    asked.nothing_left()


@pytest.mark.more
def test_a_check_says_how_fast_each_protocol_is_here(asked: Pair) -> None:
    """One row about this machine, for those that the job uses; `--json` has the speeds by which the plan compares."""
    rows = {row["name"]: row for row in check_of(asked, DIALER)}
    by_rr22 = r"by rr22 [\d,]+ items per second as the receiver, [\d,]+ as the sender"
    assert re.fullmatch(f".* backend: {by_rr22}", rows["kernel"]["message"])
    figures = rows["estimate"]["figures"]
    assert set(figures["points_per_second"]) == {"hash_and_mask", "mask"}
    assert set(figures["vectors_per_second"]) == {"receive_items", "receive_bins", "send_items", "send_bins"}
    assert all(rate > 0 for rate in figures["vectors_per_second"].values())
    asked.jobs[DIALER]["tasks"].append({**asked.jobs[DIALER]["tasks"][0], "name": "more", "protocol": "ecdh"})
    rows = {row["name"]: row for row in check_of(asked, DIALER)}
    of_ecdh = r"[\d,]+ own items per second, [\d,]+ items of the peer per second"
    assert re.fullmatch(f".* backend: {of_ecdh}; {by_rr22}", rows["kernel"]["message"])


# The backend --------------------------------------------------------------------------------------------------------


def test_a_run_with_a_wrong_backend_meets_nobody(asked: Pair) -> None:
    result = asked.start(LISTENER, program=altered.program(altered.with_empty_code)).result()
    failed(result, 70, "backend failed its self-check: wrong answer from compress")
    assert "listening" not in result.stderr


def test_the_report_names_both_backends(asked: Pair) -> None:
    results = asked.run("--json")
    succeeded(results)
    names = dict.fromkeys((curve.backend(), ole.backend()))
    for result in results:
        assert the_object(result.stdout)["backend"] == " (rr22: ".join(names) + ")" * (len(names) - 1)


@pytest.mark.more
@pytest.mark.skipif(len(curve.BACKENDS) == 1, reason="the native backend was not built")
def test_a_kernel_that_is_missing_for_rr22_only(asked: Pair) -> None:
    """The report names what computes instead, a check warns, and a strict policy refuses it."""
    asked.program = altered.program(altered.without_vector_kernel)
    name = f"{curve.backend()} (rr22: reference)"
    (checked,) = (row for row in check_of(asked, LISTENER) if row["name"] == "kernel")
    assert (checked["status"], checked["message"].partition(" backend: ")[0]) == ("warn", name)
    assert checked["hint"].startswith("The native backend is 10 to 50 times as fast; ")
    results = asked.run("--json")
    succeeded(results)
    for result in results:
        assert the_object(result.stdout)["backend"] == name
        assert "the native rr22 kernel is not available (it was not built)" in result.stderr
    issue(asked.folder, {LISTENER: LISTENER, DIALER: DIALER})
    with_tls(asked)
    asked.jobs[LISTENER]["policy"] = {"strict": True}
    result = asked.start(LISTENER).result()
    failed(result, 78, re.escape(f"policy.strict needs the native backend, but this run would use {name}"))
    assert "listening" not in result.stderr
    asked.jobs[LISTENER]["psi"]["protocol"] = "ecdh"
    (checked,) = (row for row in check_of(asked, LISTENER) if row["name"] == "kernel")
    assert checked["status"] == "ok"


@pytest.mark.more
@pytest.mark.skipif(len(curve.BACKENDS) == 1, reason="the native backend was not built")
def test_a_native_kernel_that_is_asked_for_and_missing_for_rr22_only(asked: Pair) -> None:
    """No task by rr22 begins on another one, and those by ecdh do not mind."""
    asked.program = altered.program(altered.without_vector_kernel)
    asked.environment = {"PSICLI_BACKEND": "native", "PSICLI_NATIVE_PATH": ""}
    sentence = "PSICLI_BACKEND asks for the native rr22 kernel, which is not available: it was not built"
    result = asked.start(LISTENER).result()
    failed(result, 78, sentence)
    assert "listening" not in result.stderr
    (checked,) = (row for row in check_of(asked, LISTENER) if row["name"] == "kernel")
    assert (checked["status"], checked["message"]) == ("fail", sentence)
    planned = asked.start_command("batch", "--dry-run", asked.job_file(LISTENER)).result()
    assert planned.code == 0, planned.text
    assert f"has no estimate: {sentence}" in " ".join(planned.text.split())
    for party in PARTIES:
        asked.jobs[party]["psi"]["protocol"] = "ecdh"
    rows = {row["name"]: row for row in check_of(asked, LISTENER)}
    assert rows["kernel"]["status"] == "ok"
    assert rows["estimate"]["figures"]["vectors_per_second"] == {}
    # What cannot run here is no advice.
    assert "rr22" not in rows["plan"]["figures"]["plans"]
    succeeded(asked.run())
