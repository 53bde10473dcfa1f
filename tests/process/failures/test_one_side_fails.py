"""Runs in which one party fails and tells its peer, and errors in a job file, which need no peer.

Values that must not appear outside the data files contain MARK; the tests search the messages of failing runs for it.
"""

from __future__ import annotations

import gzip
import signal
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.altered import program, refuse_patiently
from support.processes.expectations import (
    MARK,
    OLD,
    SOON,
    Untouched,
    failed,
    marked,
    marked_pair,
    the_object,
)
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, other

# One party fails and tells its peer ---------------------------------------------------------------------------------

Spoil = Callable[[Pair, str], None]


def _input(content: bytes, name: str = "in.csv") -> Spoil:
    def spoil(pair: Pair, party: str) -> None:
        pair.path(party, name).write_bytes(content)
        pair.jobs[party]["tasks"][0]["input_path"] = {party: name}
        pair.jobs[party]["tasks"][0]["keys"] = {party: ["id"]}

    return spoil


def _no_input(pair: Pair, party: str) -> None:
    pair.path(party, "in.csv").unlink()


def _other_key(pair: Pair, party: str) -> None:
    pair.jobs[party]["tasks"][0]["keys"] = {party: ["Id"]}


def _float_key(pair: Pair, party: str) -> None:
    pq.write_table(pa.table({"id": [1.0, 2.5]}), pair.path(party, "in.parquet"))
    pair.jobs[party]["tasks"][0].update(keys={party: ["id"]}, input_path={party: "in.parquet"})


def _no_output_folder(pair: Pair, party: str) -> None:
    pair.jobs[party]["tasks"][0]["output_path"] = {party: "no/where/people.csv"}


BAD_ROW = f"{MARK}-7,{MARK}".encode()
LOCAL_FAILURES = [
    pytest.param(LISTENER, _no_input, 66, r"in\.csv: no such file", id="missing input, listener"),
    pytest.param(DIALER, _no_input, 66, r"in\.csv: no such file", id="missing input, dialer"),
    pytest.param(LISTENER, _other_key, 66, r"no column 'Id'; the file has 'id', 'note'", id="missing column, listener"),
    pytest.param(DIALER, _other_key, 66, r"no column 'Id'; the file has 'code', 'note'", id="missing column, dialer"),
    pytest.param(DIALER, _float_key, 65, r"the key column 'id' is of type '?double", id="float key"),
    pytest.param(LISTENER, _no_output_folder, 73, r"no/where/people\.csv: .*folder does not exist", id="no folder"),
    pytest.param(
        DIALER, _no_output_folder, 73, r"no/where/people\.csv: .*folder does not exist", id="no folder, dialer"
    ),
    pytest.param(DIALER, _input(b""), 65, r"in\.csv: the file is empty", id="empty file"),
    pytest.param(LISTENER, _input(marked(1) + BAD_ROW + b"\xff\n"), 65, r"in\.csv:3: not UTF-8", id="not UTF-8"),
    pytest.param(
        LISTENER, _input(marked(1) + BAD_ROW + b",x\n"), 65, r"in\.csv:3: the row has 3", id="ragged, listener"
    ),
    pytest.param(DIALER, _input(marked(1) + BAD_ROW + b",x\n"), 65, r"in\.csv:3: the row has 3", id="ragged, dialer"),
    pytest.param(DIALER, _input(marked(1) + b'"' + BAD_ROW + b"\n"), 65, r"in\.csv:3: a quote opened", id="open quote"),
    pytest.param(LISTENER, _input(marked(1) + b"\t" + BAD_ROW + b"\n"), 65, r"in\.csv:3: .*control", id="control"),
    pytest.param(DIALER, _input(gzip.compress(marked(1))[:-9], "in.csv.gz"), 65, r"in\.csv\.gz: .*gzip", id="cut gzip"),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("party", "spoil", "code", "sentence"), LOCAL_FAILURES)
def test_one_side_fails_and_the_other_is_told(pair: Pair, party: str, spoil: Spoil, code: int, sentence: str) -> None:
    marked_pair(pair)
    spoil(pair, party)
    untouched = Untouched(pair)
    runs = {each: pair.start(each, "--verbose", "--json") for each in PARTIES}
    results = {each: run.result() for each, run in runs.items()}
    failed(results[party], code, sentence)
    failed(results[other(party)], 80, f"{party} failed: ")
    untouched.check()
    assert all(the_object(result.stdout)["seconds"] < SOON for result in results.values())


@pytest.mark.more
def test_both_sides_fail_at_the_same_time(pair: Pair) -> None:
    marked_pair(pair)
    _no_input(pair, LISTENER)
    _other_key(pair, DIALER)
    alice, bob = pair.run("--json")
    failed(alice, 66, "no such file")
    failed(bob, 66, "no column 'Id'")
    assert all(the_object(result.stdout)["seconds"] < SOON for result in (alice, bob))


@pytest.mark.sample(1)
@pytest.mark.parametrize("party", PARTIES)
def test_the_cause_is_told_before_the_peer_and_outlives_ctrl_c(pair: Pair, party: str) -> None:
    """Without Ctrl-C, the run would wait for its peer for ever."""
    marked_pair(pair)
    _no_input(pair, party)
    run = pair.start(party, "--json", program=program(refuse_patiently))
    run.wait_for(f"cannot start; notifying {other(party)}")
    assert run.said("no such file")
    run.send(signal.SIGINT)
    failed(result := run.result(), 66, "no such file")
    told = the_object(result.stdout)
    assert (told["exit_code"], told["error"]["code"]) == (66, 66)


# Errors in one job file: no peer is needed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("job: [overlap\nself_party: alice\n", r"job\.yaml:\d+: YAML: "),
        ("\t- job\n", r"job\.yaml:1: YAML: "),
        ("", r"job\.yaml:1: job file: is empty"),
    ],
)
def test_bad_yaml(pair: Pair, text: str, mistake: str) -> None:
    path = pair.path(LISTENER, "job.yaml")
    path.write_text(text)
    failed(pair.start_as_is("--config", path).result(), 78, mistake)


def test_all_errors_in_a_job_file_are_reported_together(pair: Pair) -> None:
    marked_pair(pair)
    job = pair.jobs[DIALER]
    job["surprise"] = "1"
    job["tasks"][0]["recever"] = DIALER
    job["cluster"]["link_desc"]["connect_retry_times"] = "many"
    job["tasks"][0]["input_path"] = {DIALER: "in.xlsx"}
    result = pair.start(DIALER).result()
    failed(result, 78, r"job\.yaml:\d+: surprise: unknown field")
    for mistake in ("tasks[0].recever: unknown field; did you mean receiver?", "'many' is not a whole", "'in.xlsx'"):
        assert mistake in result.stderr
    assert pair.path(DIALER, "out/people.csv").read_bytes() == OLD


def test_an_unknown_party(pair: Pair) -> None:
    marked_pair(pair)
    failed(pair.start(LISTENER, "--party", "carol").result(), 2, "'carol' is not a party of this job")


def test_no_job_file(pair: Pair) -> None:
    failed(
        pair.start_as_is("--config", pair.path(LISTENER, "absent.yaml")).result(), 66, "absent.yaml: no such job file"
    )


# Two job files that disagree ----------------------------------------------------------------------------------------


def _other_job_and_one_key_more(pair: Pair) -> None:
    pair.jobs[LISTENER]["job"] = "other"
    pair.jobs[DIALER]["tasks"][0]["keys"][DIALER].append("note")


def _third_party(pair: Pair) -> None:
    job = pair.jobs[DIALER]
    job["self_party"] = "carol"
    job["cluster"]["nodes"][1]["party"] = "carol"
    for field in ("keys", "input_path", "output_path"):
        job["tasks"][0][field] = {"carol": job["tasks"][0][field][DIALER]}


DISAGREEMENTS = [
    (lambda pair: pair.jobs[DIALER]["psi"].update(receiver=DIALER), ["people: receiver alice bob"]),
    (lambda pair: pair.jobs[DIALER]["tasks"][0].update(name="persons"), ["tasks people persons"]),
    (
        lambda pair: pair.jobs[DIALER]["tasks"][0].update(broadcast_result=False),
        ["people: broadcast_result true false"],
    ),
    (
        _other_job_and_one_key_more,
        ["job other overlap", "people: number of key columns 1 2"],
    ),
]


@pytest.mark.sample(1)
@pytest.mark.parametrize(("change", "fields"), DISAGREEMENTS, ids=["receiver", "task", "broadcast", "job and keys"])
def test_the_parties_disagree(pair: Pair, change: Callable[[Pair], object], fields: list[str]) -> None:
    """Both parties stop and show the same table, each with its own values under `ours`."""
    marked_pair(pair)
    change(pair)
    untouched = Untouched(pair)
    alice, bob = pair.run()
    for result, turned in ((alice, False), (bob, True)):
        failed(result, 78, "the two job files disagree")
        table = [" ".join(line.split()) for line in result.below("the two job files disagree")]
        assert len(table) == 1 + len(fields), table
        for field, row in zip(fields, table[1:], strict=True):
            name, ours, theirs = field.rsplit(" ", 2)
            assert row == (f"{name} {theirs} {ours}" if turned else field)
    untouched.check()


def test_a_party_the_other_does_not_expect(pair: Pair) -> None:
    marked_pair(pair)
    _third_party(pair)
    untouched = Untouched(pair)
    alice, carol = pair.run()
    failed(alice, 78, "the two job files disagree")
    assert [" ".join(line.split()) for line in alice.below("disagree")] == [
        "field ours theirs",
        "party of bob bob carol",
    ]
    failed(carol, 78, "disagree")
    untouched.check()
