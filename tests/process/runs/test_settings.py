"""The settings of a run: variables, backend, threads, frames, bins and the trace file."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.kernel import backends
from support.processes.expectations import (
    MARK,
    Untouched,
    check_output,
    failed,
    marked,
    marked_pair,
    succeeded,
    the_object,
)
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side, Tap

from psicli.protocol import wire
from psicli.protocol.messages import HelloOctets

# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.more
def test_variables_environment_and_port_offset(pair: Pair) -> None:
    """The command line and the environment supply the party, the port offset and part of a path."""
    marked_pair(pair)
    for party in PARTIES:
        job = pair.jobs[party]
        del job["self_party"]
        job["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{pair.port - 1000}"
        job["tasks"][0]["output_path"] = {party: "out/${DAY}-$${x}.csv"}
    offset = ["--port-offset", "1000"]
    runs = [
        pair.start(LISTENER, "--party", LISTENER, "--set", "DAY=monday", *offset, env={"DAY": "overridden"}),
        pair.start(
            DIALER,
            config=False,
            env={
                "PSICLI_CONFIG": str(pair.path(DIALER, "job.yaml")),
                "PSICLI_PARTY": DIALER,
                "PSICLI_PORT_OFFSET": "1000",
                "PSICLI_JSON": "1",
                "DAY": "monday",
            },
        ),
    ]
    succeeded(results := [run.result() for run in runs])
    assert the_object(results[1].stdout)["party"] == DIALER
    for party in PARTIES:
        check_output(pair, party, 0, "out/monday-${x}.csv")


@pytest.mark.parametrize("arguments", [(), ("--config", "job.yaml", "--set", "DAY")])
def test_a_wrong_command_line(pair: Pair, arguments: tuple[str, ...]) -> None:
    result = pair.start_as_is(*arguments).result()
    assert (result.code, result.stdout) == (2, b"")
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


# The curve backend --------------------------------------------------------------------------------------------------


def test_runs_use_the_native_backend(pair: Pair) -> None:
    """An installation may lack the native backend, but CI may not: its tests would be skipped there."""
    compilers = [*shlex.split(sysconfig.get_config_var("CC") or "cc")[:1], "cc", "gcc", "clang"]
    if not os.environ.get("CI") and not any(map(shutil.which, compilers)):
        pytest.skip("there is no C compiler to build it with")
    marked_pair(pair)
    runs = [pair.start(party, "--json") for party in PARTIES]
    results = [run.result() for run in runs]
    succeeded(results)
    for result in results:
        assert the_object(result.stdout)["backend"].startswith("native ")
        assert " WARNING " not in result.stderr


@pytest.mark.more
@pytest.mark.parametrize("name", backends.NAMES, ids=backends.label)
def test_every_backend_works_with_the_reference(tapped: tuple[Pair, int], name: str) -> None:
    """Both backends compute the same points, and the frame size suits the slower one."""
    pair, port = tapped
    marked_pair(pair)
    tap = Tap(port, pair.port)
    names = {LISTENER: name, DIALER: "reference"}
    try:
        runs = {party: pair.start(party, "-v", env=backends.environment(names[party])) for party in PARTIES}
        results = {party: run.result() for party, run in runs.items()}
        succeeded(results.values())
        hellos = [wire.decode(side[0]) for side in tap.messages()]
    finally:
        tap.close()
    for party, result in results.items():
        check_output(pair, party, 0, "out/people.csv")
        assert f", {names[party]} backend, " in result.stdout.decode()
    assert all(isinstance(hello, HelloOctets) for hello in hellos)
    frame_items = {hello.party: hello.frame_items for hello in (wire.decode_hello(each.octets) for each in hellos)}
    expected = {"reference": 2048, "native portable": 4096}.get(name, 16_384)
    assert frame_items == {DIALER: 2048, LISTENER: expected}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("PSICLI_BACKEND", "PSICLI_BACKEND is 'abacus', but must be native or reference"),
        ("PSICLI_NATIVE_PATH", "PSICLI_NATIVE_PATH (is 'abacus', which this machine cannot run|asks for the native)"),
    ],
)
def test_an_unknown_backend(pair: Pair, variable: str, sentence: str) -> None:
    marked_pair(pair)
    result = pair.start(LISTENER, "--json", env={variable: "abacus"}).result()
    failed(result, 78, sentence)
    assert the_object(result.stdout)["exit_code"] == 78


def test_no_core_dump_can_hold_a_scalar(pair: Pair) -> None:
    marked_pair(pair)
    # Start psicli from a shell that allows core dumps.
    run = pair.start(LISTENER, before="ulimit -S -c $(ulimit -H -c)")
    run.wait_for("listening on")
    limits = Path(f"/proc/{run.pid}/limits").read_text()
    assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.MULTILINE)


@pytest.mark.more
def test_the_job_file_sets_the_threads(pair: Pair) -> None:
    marked_pair(pair)
    pair.jobs[LISTENER]["pipeline"] = {"threads": 3}
    pair.link(LISTENER, connect_retry_times=1)
    code = """
import sys
from pathlib import Path
from psicli import curve
from psicli.config import load_job
from psicli.job.run import run_job
from psicli.report.console import Console
from psicli.storage.locks import PortLock
report = run_job(load_job(Path(sys.argv[-1]), variables={}), Console(-1), PortLock())
print(report.exit_code, curve.threads())
"""
    run = pair.start(LISTENER, program=("-c", code))
    assert run.result().stdout == b"69 3\n"


@pytest.mark.more
def test_the_job_file_sets_depth_frames_and_bins(pair: Pair) -> None:
    """The parties use the smaller of their frame and bin sizes; the outputs do not change."""
    pair.path(LISTENER, "in.csv").write_bytes(marked(*range(20_000)))
    pair.path(DIALER, "in.csv").write_bytes(marked(*range(18_000, 23_000), column="code"))
    sides = Side(["id"], "in.csv", "out/o.csv"), Side(["code"], "in.csv", "out/o.csv")
    pair.add("people", *sides, broadcast_result=True)
    pair.jobs[LISTENER]["pipeline"] = {"depth": 1, "frame_items": 2048, "bin_items": 16_384, "memory": "400MB"}
    pair.jobs[DIALER]["pipeline"] = {"depth": 64, "frame_items": 1024, "bin_items": 32_768}
    runs = [pair.start(party, "--json", "--trace", pair.path(party, "t.json")) for party in PARTIES]
    succeeded(results := [run.result() for run in runs])
    assert [the_object(result.stdout)["tasks"][0]["bins"] for result in results] == [2, 2]
    for party in PARTIES:
        check_output(pair, party, 0, "out/o.csv")
    events = the_trace(pair, LISTENER)
    masked = Counter(event["name"] for event in events if event["ph"] == "X")
    # Both bins have the same capacity.
    assert (masked["mask own"], masked["mask peer"]) == (2 * 11, 2 * 3)
    # One piece of work per bin, two bins at a time.
    assert max(event["args"]["pieces"] for event in events if event["name"] == "under way") == 2


# The trace ----------------------------------------------------------------------------------------------------------


def the_trace(pair: Pair, party: str, name: str = "t.json") -> list[dict[str, Any]]:
    """Return the events of a trace, which must hold no value."""
    octets = pair.path(party, name).read_bytes()
    assert MARK.encode() not in octets
    assert str(pair.folder).encode() not in octets
    return json.loads(octets)["traceEvents"]  # type: ignore[no-any-return]


@pytest.mark.more
def test_a_trace_of_a_run(pair: Pair) -> None:
    marked_pair(pair, broadcast=False)
    environment = {"PSICLI_TRACE": str(pair.path(DIALER, "t.json"))}
    runs = [pair.start(LISTENER, "--trace", pair.path(LISTENER, "t.json")), pair.start(DIALER, env=environment)]
    alice, bob = [run.result() for run in runs]
    succeeded([alice, bob])
    assert {pair.path(party, "t.json").stat().st_mode & 0o777 for party in PARTIES} == {0o600}
    steps = {party: {e["name"] for e in the_trace(pair, party) if e["ph"] == "X"} for party in PARTIES}
    both = {"read input", "count items", "fetch bin", "mask own", "mask peer", "keep", "check lists"}
    assert {*both, "match", "write output"} <= steps[LISTENER]
    assert both <= steps[DIALER]
    # The sender's trace must hold no step that depends on a match.
    assert not {"match", "write output"} & steps[DIALER]
    lanes = {e["args"]["name"] for e in the_trace(pair, LISTENER) if e["name"] == "thread_name"}
    assert {"MainThread", "psicli-reader_0", "psicli-matcher_0", "psicli-writer_0"} <= lanes
    pair.nothing_left()


@pytest.mark.more
def test_a_run_that_fails_leaves_its_trace(pair: Pair) -> None:
    marked_pair(pair)
    pair.path(DIALER, "in.csv").write_bytes(b"code,note\n1,2,3\n")
    results = [pair.start(party, "--trace", pair.path(party, "t.json")) for party in PARTIES]
    assert [run.result().code for run in results] == [80, 65]
    assert "read input" in {event["name"] for event in the_trace(pair, DIALER)}
    # The other party leaves a trace too, whatever it was doing when it learned of the failure.
    assert the_trace(pair, LISTENER)


@pytest.mark.more
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent/t.json", "its folder does not exist"),
        ("out", "it is a folder"),
        ("in.csv", "the job itself uses this file"),
        ("out/../out/people.csv", "the job itself uses this file"),
        ("job.yaml", "the job itself uses this file"),
    ],
)
def test_a_trace_that_cannot_be_written_is_reported_before_the_session(pair: Pair, name: str, reason: str) -> None:
    untouched = Untouched(marked_pair(pair))
    other_side = pair.start(DIALER)
    result = pair.start(LISTENER, "--trace", pair.path(LISTENER, name)).result()
    failed(result, 73, reason)
    assert "in session" not in result.stderr
    assert other_side.result().code == 80
    untouched.check()
