"""`psicli check` in real processes: every fault that it must find, with the exit code of a run and a hint."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.certificates import Authority, issue, with_tls
from support.processes.expectations import (
    MARK,
    Untouched,
    check_output,
    long_pair,
    marked,
    marked_pair,
    succeeded,
    the_object,
)
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Run, other

from psicli import config
from psicli.check import check, checklist, estimate
from psicli.check.checklist import Checklist, Verdict
from psicli.check.estimate import Size
from psicli.core.errors import InputMissingError, StorageError
from psicli.core.peer_errors import PeerLostError
from psicli.protocol.messages import Hello
from psicli.report.layout import Screen
from psicli.storage.memory import LIBRARIES

ALONE = ("--wait", "0")
KEYS = {"name", "task", "status", "code", "message", "hint"}
# The rows that say something in numbers, for programs too.
IN_FIGURES = {"link", "estimate", "plan"}
MEASURED = r"(bob|alice): [\d.]+ [MGk]bit/s there, [\d.]+ [MGk]bit/s back, round trip [\d.]+ ms"


def start(pair: Pair, party: str, *arguments: str, **how: Any) -> Run:
    """Write the party's job file and start a check of it."""
    return pair.start_command("check", "--config", pair.job_file(party), *arguments, **how)


def found(result: Result) -> dict[str, dict[str, Any]]:
    """Return the rows of a check's JSON object by name. No value of an input may be anywhere in the output."""
    assert MARK not in result.text
    assert "Traceback" not in result.text
    assert " ERROR " not in result.stderr
    told = the_object(result.stdout)
    assert told["exit_code"] == result.code
    assert all(set(row) - {"figures"} == KEYS for row in told["checks"])
    assert {row["name"] for row in told["checks"] if "figures" in row} <= IN_FIGURES
    assert all((row["status"] == "fail") == (row["code"] != 0) for row in told["checks"])
    rows = {row["name"]: row for row in told["checks"]}
    assert len(rows) == len(told["checks"]), told
    return rows


def fails(result: Result, name: str, code: int, sentence: str, advice: str) -> dict[str, dict[str, Any]]:
    """Check that this row fails with this advice, and that no other row fails."""
    rows = found(result)
    assert result.code == code, result.text
    assert [row["name"] for row in rows.values() if row["status"] == "fail"] == [name], result.text
    assert rows[name]["code"] == code
    assert re.search(sentence, rows[name]["message"]), rows[name]
    assert advice in rows[name]["hint"], rows[name]
    return rows


def check_both(pair: Pair, *arguments: str) -> tuple[Result, Result]:
    runs = [start(pair, party, "--json", *arguments) for party in PARTIES]
    return runs[0].result(), runs[1].result()


# Nothing wrong ---------------------------------------------------------------------------------------------------


def test_both_sides_check_and_leave_everything_as_it_was(pair: Pair) -> None:
    marked_pair(pair)
    untouched = Untouched(pair)
    alice, bob = start(pair, LISTENER, "--json"), start(pair, DIALER)
    rows, text = found(alice.result()), bob.result()
    assert alice.result().code == text.code == 0
    assert list(rows) == [
        "config", "lock", "kernel", "certificate", "input", "output", "state", "peer", "clock", "version", "agreement",
        "keys", "space", "link", "estimate", "plan",
    ]  # fmt: skip
    assert rows["peer"]["message"].endswith("and runs `psicli check` too")
    assert re.fullmatch(MEASURED, rows["link"]["message"])
    figures = rows["link"]["figures"]
    measured = "round_trip_seconds", "sending_bytes_per_second", "receiving_bytes_per_second"
    assert all(figures[name] > 0 for name in measured)
    assert set(figures["peer_points_per_second"]) == {"hash_and_mask", "mask"}
    # The peer says how fast it is with two digits.
    assert all(rate == float(f"{rate:.1e}") > 0 for rate in figures["peer_points_per_second"].values())
    assert rows["keys"]["message"].endswith(": all 4 rows can be read, and all of them have a key; 4 distinct keys")
    assert rows["keys"]["task"] == "people"
    expected, plan = (rows[name]["figures"] for name in ("estimate", "plan"))
    assert re.match(r"about [\d.]+ s \(start [\d.]+ s.*\), at most about ", rows["estimate"]["message"])
    assert 0 < expected["start_seconds"] < expected["seconds"] < 600
    assert expected["traffic_bytes"] == 84 * 4
    assert (plan["best"], [*plan["plans"]]) == ("as_is", ["as_is", "rr22"])
    assert plan["plans"]["as_is"]["seconds"] == expected["seconds"]
    assert rows["plan"]["message"].startswith("best as the job file says; the start takes ")
    lines = text.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines[:-2] if not line.startswith(" ")] == ["ok"] * 16
    assert lines[-1] == "16 ok, 0 warn, 0 fail: nothing would stop a run"
    assert MARK not in text.text
    untouched.check()
    pair.nothing_left()


@pytest.mark.more
@pytest.mark.parametrize("runs", [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)])
def test_a_check_meets_a_waiting_run_and_does_not_end_it(pair: Pair, runs: str) -> None:
    """A check neither takes nor ends a session, on either side."""
    marked_pair(pair)
    first = pair.start(runs)
    first.wait_for("listening on" if runs == LISTENER else "connecting to")
    checks = other(runs)
    rows = found(start(pair, checks, "--json").result())
    assert rows["peer"]["status"] == "ok"
    assert rows["peer"]["message"].endswith("and is waiting in `psicli run`")
    assert rows["agreement"]["status"] == "ok"
    assert rows["link"]["status"] == "ok"
    assert rows["link"]["message"].startswith("the link was not measured: ")
    assert "figures" not in rows["link"]
    second = pair.start(checks)
    succeeded([first.result(), second.result()])
    for party in PARTIES:
        check_output(pair, party, 0, "out/people.csv")


@pytest.mark.more
@pytest.mark.parametrize("party", [LISTENER, pytest.param(DIALER, marks=pytest.mark.more)])
def test_a_party_that_does_not_want_to_measure_the_link(pair: Pair, party: str) -> None:
    marked_pair(pair)
    runs = {each: start(pair, each, "--json", *(["--no-probe"] if each == party else [])) for each in PARTIES}
    rows = {each: found(run.result()) for each, run in runs.items()}
    assert all(run.result().code == 0 for run in runs.values())
    assert "link" not in rows[party]
    assert rows[other(party)]["link"]["status"] == "ok"
    assert re.search(f"not measured: {party} is older, or has --no-probe", rows[other(party)]["link"]["message"])


@pytest.mark.more
def test_quiet_prints_nothing_if_nothing_is_wrong(pair: Pair) -> None:
    marked_pair(pair)
    result = start(pair, LISTENER, "-q", *ALONE).result()
    assert (result.code, result.stdout, result.stderr) == (0, b"", "")
    pair.path(LISTENER, "in.csv").unlink()
    result = start(pair, LISTENER, "-q", *ALONE).result()
    first, hint, _, last = result.stdout.decode().splitlines()
    assert re.fullmatch(r"fail  people: input     \S+/in\.csv: no such file", first)
    assert hint.strip().startswith("hint: Check input_path")
    assert re.fullmatch(r"\d+ ok, 0 warn, 1 fail: a run would fail with exit code 66", last)


# Job file and machine --------------------------------------------------------------------------------------------


@pytest.mark.more
def test_every_error_in_the_job_file_is_a_row(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[DIALER]["surprise"] = "1"
    pair.jobs[DIALER]["tasks"][0]["input_path"] = {DIALER: "in.xlsx"}
    result = start(pair, DIALER, "--json").result()
    rows = the_object(result.stdout)["checks"]
    assert (result.code, the_object(result.stdout)["exit_code"]) == (78, 78)
    assert [(row["name"], row["status"], row["code"]) for row in rows] == [("config", "fail", 78)] * 2
    for mistake in ("surprise: unknown field", r".*'in\.xlsx' has no known suffix"):
        assert any(re.search(rf"job\.yaml:\d+: {mistake}", row["message"]) for row in rows), rows


@pytest.mark.more
def test_standard_input_is_not_read(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[DIALER]["tasks"][0]["input_path"] = {DIALER: "-"}
    fails(start(pair, DIALER, "--json", *ALONE).result(), "config", 78, "task people: standard input", "--only")


@pytest.mark.more
def test_a_port_that_is_taken(pair: Pair) -> None:
    marked_pair(pair)
    with socket.create_server(("127.0.0.1", pair.port)):
        result = start(pair, LISTENER, "--json").result()
    fails(result, "lock", 75, f"127.0.0.1:{pair.port}: the port is in use", "--port-offset")


@pytest.mark.more
def test_a_lock_that_is_held(pair: Pair) -> None:
    """It also is if the same party is started twice on one machine."""
    marked_pair(pair)
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    rows = fails(start(pair, LISTENER, "--json").result(), "lock", 75, rf"in use by .* \(pid {alice.pid},", "--lock-")
    assert "peer" not in rows


@pytest.mark.more
def test_a_check_holds_the_port_as_a_check(pair: Pair) -> None:
    marked_pair(pair)
    waiting = start(pair, LISTENER)
    waiting.wait_for("waiting up to 30 s for bob")
    text = pair.start_command("status").result().stdout.decode()
    assert re.search(rf"^overlap +alice +checking +{waiting.pid} ", text, re.MULTILINE), text


def _other_key(pair: Pair) -> None:
    pair.jobs[DIALER]["tasks"][0]["keys"] = {DIALER: ["Id"]}


def _float_key(pair: Pair) -> None:
    pq.write_table(pa.table({"id": [1.0, 2.5]}), pair.path(DIALER, "in.parquet"))
    pair.jobs[DIALER]["tasks"][0].update(keys={DIALER: ["id"]}, input_path={DIALER: "in.parquet"})


def _no_folder(pair: Pair) -> None:
    pair.jobs[DIALER]["tasks"][0]["output_path"] = {DIALER: "no/where/people.csv"}


def _bad_row(pair: Pair) -> None:
    pair.path(DIALER, "in.csv").write_bytes(marked(1, column="code") + f"{MARK},{MARK},{MARK}\n".encode())


def _open_state(pair: Pair) -> None:
    (pair.folder / "state").mkdir(mode=0o700)
    (pair.folder / "state").chmod(0o777)


LOCAL = [
    pytest.param(_other_key, "input", 66, "no column 'Id'; the file has 'code'", "Check keys", id="missing column"),
    pytest.param(_float_key, "input", 65, "key column 'id' is of type '?double", "Cast the column", id="float key"),
    pytest.param(
        _no_folder,
        "output",
        73,
        "its folder does not exist",
        "Check that its folder exists",
        id="no output folder",
        marks=pytest.mark.slow,
    ),
    pytest.param(_bad_row, "keys", 65, r"in\.csv:3: the row has 3 fields", "must be in quotes", id="bad row"),
    pytest.param(
        _open_state, "state", 73, "have access to it", "chmod 700 ", id="open state folder", marks=pytest.mark.slow
    ),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("spoil", "name", "code", "sentence", "advice"), LOCAL)
def test_what_is_wrong_on_this_side(
    pair: Pair, spoil: Callable[[Pair], None], name: str, code: int, sentence: str, advice: str
) -> None:
    marked_pair(pair)
    spoil(pair)
    fails(start(pair, DIALER, "--json", *ALONE).result(), name, code, sentence, advice)


@pytest.mark.more
def test_an_error_beyond_the_first_rows_is_found_with_full(pair: Pair) -> None:
    """Many rows without a key are a warning."""
    marked_pair(pair)
    rows = b"".join(b"%d,xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n,y\n" % number for number in range(150_000))
    pair.path(DIALER, "in.csv").write_bytes(b"code,note\n" + rows + b"one,two,three\n")
    result = start(pair, DIALER, "--json", *ALONE).result()
    keys = found(result)["keys"]
    assert (result.code, keys["status"], found(result)["spelling"]["status"]) == (0, "ok", "warn")
    assert re.search(
        r"'code' \(string, whole numbers\): the first [\d,]+ of about (299|30\d),\d{3} rows can be read",
        keys["message"],
    )
    fails(
        start(pair, DIALER, "--json", "--full", *ALONE).result(), "keys", 65, r"in\.csv:300002: the row has 3", "quotes"
    )


@pytest.mark.more
def test_a_disk_that_is_too_small(pair: Pair) -> None:
    marked_pair(pair)
    pair.path(LISTENER, "in.csv").write_bytes(marked(*range(80_000)))
    # Only the disk differs inside the namespace.
    command = [sys.executable, "-m", "psicli", "check", "--config", pair.job_file(LISTENER), "--json", *ALONE]
    script = f'mount -t tmpfs -o size=1m tmpfs {pair.path(LISTENER, "out")} && exec "$@"'
    state = {"PSICLI_STATE_DIR": str(pair.folder / "state")}
    try:
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", *command], capture_output=True, env={**os.environ, **state}
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if not done.stdout and b"Traceback" not in done.stderr:
        pytest.skip("no file system may be mounted here")
    result = Result(done.returncode, done.stdout, done.stderr.decode(), time.monotonic())
    rows = the_object(result.stdout)["checks"]
    (failed,) = (row for row in rows if row["status"] == "fail")
    assert (result.code, failed["name"], failed["code"]) == (74, "space", 74)
    assert re.search(
        r"/out: not enough disk space: the job may need about 2\.\d MB there, and only 1\.0 MB is free",
        failed["message"],
    )
    assert failed["hint"].startswith("Free space there")


# The other side --------------------------------------------------------------------------------------------------


@pytest.mark.more
@pytest.mark.parametrize("party", [LISTENER, pytest.param(DIALER, marks=pytest.mark.slow)])
def test_a_peer_that_is_absent(pair: Pair, party: str) -> None:
    marked_pair(pair)
    result = start(pair, party, "--json", "--wait", "0.3").result()
    fails(result, "peer", 69, f"{other(party)} did not answer within 0 s: ", f"Check that {other(party)} has started")
    pair.nothing_left()


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_own_rows_are_shown_before_the_peer_is_awaited(pair: Pair, party: str) -> None:
    marked_pair(pair)
    _no_folder(pair)
    with open(pair.folder / "rows", "w+") as rows:
        run = start(pair, party, shell=f">{rows.name}")
        run.wait_for(f"waiting up to 30 s for {other(party)}")
        names = [line[6:].split("  ")[0] for line in rows if line[0] != " "]
        assert names == [
            "config", "lock", "kernel", "certificate", "people: input", "people: output", "people: keys", "state",
            "space",
        ]  # fmt: skip
        run.send(signal.SIGINT)
        assert run.result().code == 130


@pytest.mark.more
def test_settings_that_disagree(pair: Pair) -> None:
    """The check shows the same table as a run, and the run on the other side keeps waiting."""
    marked_pair(pair)
    alice = pair.start(LISTENER)
    alice.wait_for("listening on")
    pair.jobs[DIALER]["tasks"][0]["broadcast_result"] = False
    pair.jobs[DIALER]["tasks"][0].pop("output_path")
    rows = fails(
        start(pair, DIALER, "--json").result(), "agreement", 78, "job files disagree", "Make these fields the same"
    )
    _, head, row = rows["agreement"]["message"].splitlines()
    assert (head.split(), row.split()) == (
        ["field", "ours", "theirs"],
        ["people:", "broadcast_result", "false", "true"],
    )
    assert rows["peer"]["status"] == "ok"
    pair.jobs[DIALER]["tasks"][0].update(broadcast_result=True, output_path={DIALER: "out/people.csv"})
    succeeded([pair.start(DIALER).result(), alice.result()])


@pytest.mark.more
def test_a_foreign_authority(pair: Pair) -> None:
    issue(pair.folder, {LISTENER: LISTENER, DIALER: DIALER})
    Authority().issue(pair.folder, "foreign", [DIALER])
    marked_pair(with_tls(pair, bob="foreign"))
    bob = start(pair, DIALER, "--json")
    bob.wait_for("waiting up to 30 s for alice")
    alice = start(pair, LISTENER, "--json", "--wait", "5")
    fails(bob.result(), "peer", 77, "alice at .* refused this side's certificate .*foreign.pem", "Ask alice to check")
    fails(alice.result(), "peer", 69, "ended in the TLS handshake", "Compare this with bob's certificate and ca_file")


@pytest.mark.more
def test_certificates_that_expire_soon(pair: Pair) -> None:
    """A warning is not a failure."""
    issue(pair.folder, {LISTENER: LISTENER, DIALER: DIALER})
    with_tls(marked_pair(pair))
    for result, party in zip(check_both(pair), PARTIES, strict=True):
        assert result.code == 0, result.text
        rows = found(result)
        warned = {name: row for name, row in rows.items() if row["status"] == "warn"}
        assert list(warned) == ["certificate", "peer certificate"]
        assert re.fullmatch(MEASURED, rows["link"]["message"])
        assert re.search(rf"/{party}\.pem expires on .*: renew it in time", warned["certificate"]["message"])
        assert warned["peer certificate"]["message"].startswith(f"{other(party)}'s certificate expires on ")
        assert all("psicli certs" in row["hint"] for row in warned.values())


@pytest.mark.slow
def test_swapped_parties(pair: Pair) -> None:
    """Each machine runs as the other party; a run reports the same."""
    issue(pair.folder, {LISTENER: LISTENER, DIALER: DIALER})
    marked_pair(with_tls(pair, alice=DIALER, bob=LISTENER))
    for party, result in zip(PARTIES, check_both(pair), strict=True):
        sentence = rf"/{other(party)}\.pem: this party's certificate names {other(party)}, which is the other party"
        rows = fails(result, "certificate", 77, sentence, "Check that self_party")
        assert "peer" not in rows
    pair.link(DIALER, connect_retry_times=1)
    assert pair.run()[0].code == 77


@pytest.mark.more
def test_the_same_party_on_both_sides(pair: Pair) -> None:
    """The dialer's job file says that it is alice and that the other party is bob; a run reports the same."""
    marked_pair(pair)
    job = pair.jobs[DIALER]
    job["self_party"] = LISTENER
    job["cluster"]["nodes"] = [{"party": DIALER, "address": f"127.0.0.1:{pair.port}"}, {"party": LISTENER}]
    for field in ("keys", "input_path", "output_path"):
        job["tasks"][0][field] = {LISTENER: job["tasks"][0][field][DIALER]}
    sentence = "introduced itself as alice, which is this party"
    for result in check_both(pair):
        fails(result, "agreement", 76, f"bob broke the protocol: it {sentence}", "whether both sides were started")
    for result in pair.run():
        assert result.code == 76
        assert sentence in result.stderr


@pytest.mark.slow
def test_a_party_started_twice_on_two_machines(pair: Pair) -> None:
    """The listener would reject the second dialer; its check does not disturb the session."""
    long_pair(pair)
    alice, bob = pair.start(LISTENER), pair.start(DIALER)
    alice.wait_for("exchanging")
    # Another host name leads to another lock, as on another machine.
    pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"localhost:{pair.port}"
    result = start(pair, DIALER, "--json").result()
    fails(result, "peer", 75, "alice already has a session with another run", "whether this party was started twice")
    assert alice.lasts(0)
    bob.kill()


# Rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.more
@pytest.mark.parametrize(
    ("off", "status", "message"),
    [
        (0.2, Verdict.OK, "bob's clock and this one agree"),
        (59.0, Verdict.OK, "bob's clock is 59 s ahead of this one"),
        (-61.0, Verdict.WARN, "bob's clock is 61 s behind this one"),
        (4000.0, Verdict.WARN, "bob's clock is 4,000 s ahead of this one"),
    ],
)
def test_clocks_that_differ(pair: Pair, off: float, status: Verdict, message: str) -> None:
    job = config.load_job(marked_pair(pair).job_file(LISTENER), variables={})
    now = time.time()
    hellos = [
        Hello("9.9", party, "overlap", (), 1024, 1 << 14, os.urandom(32), clock_ms=int(1000 * (now + off)))
        for party in PARTIES
    ]
    rows = Checklist("bob")
    check._compare(rows, job, hellos[0], hellos[1], now)
    found = {row.name: row for row in rows.rows}
    assert (found["clock"].status, found["clock"].message) == (status, message)
    assert found["version"].status is Verdict.WARN


def test_the_exit_code_is_that_of_the_first_failure_that_a_run_meets() -> None:
    rows = Checklist("bob")
    rows.fail("space", StorageError(path="disk", reason="full"))
    rows.add("clock", "late", good=False)
    rows.fail("peer", PeerLostError(detail="gone"))
    rows.fail("input", InputMissingError(place="in.csv", fault="no such file", advice=""), "second")
    rows.add("output", "fine", "second")
    rows.add("config", "fine")
    assert [row.name for row in rows.rows] == ["config", "input", "output", "peer", "clock", "space"]
    assert rows.exit_code == 66
    assert checklist.summary(rows) == "\n2 ok, 1 warn, 3 fail: a run would fail with exit code 66"


def test_rows_are_aligned_although_each_is_shown_alone() -> None:
    rows = Checklist("bob")
    rows.add("config", "fine")
    rows.fail("input", InputMissingError(place="in.csv", fault="no such file", advice="Make it."), "second")
    rows.fail("input", InputMissingError(place="b.csv", fault="no such file", advice="Make it."), "third")
    longest = checklist.longest_name(["second", "third"], secure=False)
    assert longest == "second: spelling"
    listing = checklist.Listing(longest)
    assert [listing.text(row) for row in rows.rows] == [
        "ok    config            fine",
        "fail  second: input     in.csv: no such file\n                        hint: Make it.",
        "fail  third: input      b.csv: no such file",
    ]
    listing = checklist.Listing(longest, Screen(30, colour=True), quiet=True)
    ok, second, third = (listing.text(row).splitlines() for row in rows.rows)
    assert ok == []
    assert second[:2] == ["\x1b[31mfail\x1b[0m  second:     in.csv: no", "      input       such file"]
    assert second[2:] == ["                  hint: Make", "                  it."]
    assert third == ["\x1b[31mfail\x1b[0m  third:      b.csv: no", "      input       such file"]


def test_the_memory_of_a_small_job_is_that_of_the_libraries(pair: Pair) -> None:
    marked_pair(pair).jobs[LISTENER]["pipeline"] = {"memory": "512MB"}
    job = config.load_job(pair.job_file(LISTENER), variables={})
    small = [(job.tasks[0], Size(3, 30, 40, 40))]
    assert LIBRARIES < estimate.memory_bytes(job, small) < 1.01 * LIBRARIES
    large = [(job.tasks[0], Size(10**9, 10**10, 10**10, 10**10))] * 2
    assert 0.8 * job.pipeline.memory < estimate.memory_bytes(job, large) <= job.pipeline.memory


# What interrupted runs leave ------------------------------------------------------------------------------------------
