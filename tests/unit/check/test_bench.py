"""`psicli bench`: what it measures, what it prints, and that it stops on a signal."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kernel import backends
from support.processes.runner import Result, Run
from support.waiting import wait_until

from psicli import curve, ole
from psicli.check import bench
from psicli.core.errors import SelfCheckError

BRIEFLY = ("--seconds", "0.02")
CORES = curve.threads()
BEST = next(iter(curve.BACKENDS))


def run(*arguments: str, **how: Any) -> Result:
    process = Run(["bench", *arguments], **how)
    try:
        return process.result()
    finally:
        process.kill()


def facts_of(**how: Any) -> dict[str, Any]:
    result = run(*BRIEFLY, "--json", **how)
    assert result.code == 0, result.text
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def expected_rows(in_use: str) -> Iterator[tuple[str, str, int, int]]:
    """Yield the backend, operation, threads and processes of every measurement."""
    yield "cryptography", "X25519", 1, 1
    for name in curve.BACKENDS:
        for operation in ("hash_and_mask", "mask"):
            yield name, operation, 1, 1
            if name in backends.NATIVE and CORES > 1:
                yield name, operation, CORES, 1
    if in_use in backends.NATIVE and CORES > 1:
        yield in_use, "mask", 1, CORES


@pytest.mark.more
@pytest.mark.parametrize("in_use", [BEST, "reference"])
def test_everything_is_measured(in_use: str) -> None:
    facts = facts_of(env=backends.environment(in_use))
    rows = facts["measurements"]
    named = [tuple(row[name] for name in ("backend", "operation", "threads", "processes")) for row in rows]
    assert sorted(named) == sorted(expected_rows(in_use))
    assert (facts["backend"], facts["cores"], facts["seconds"]) == (in_use, CORES, 0.02)
    assert facts["cpu"]
    for row in rows:
        assert row["points_per_second"] * row["microseconds_per_point"] == pytest.approx(1e6, rel=0.01)
        assert 0.001 < row["ratio_to_cryptography"] < 1000
    assert [row["ratio_to_cryptography"] for row in rows if row["backend"] == "cryptography"] == [1]
    assert all(row["ratio_to_one_thread"] == 1 for row in rows if row["threads"] == row["processes"] == 1)
    # The hash in Python costs much more than the multiplication in C.
    assert facts["hash_and_mask_time_to_mask"].keys() == curve.BACKENDS.keys()
    assert facts["hash_and_mask_time_to_mask"]["reference"] > 2
    assert (facts["threads_to_processes"] is not None) == (in_use in backends.NATIVE and CORES > 1)
    vectors = "reference" if in_use == "reference" else next(iter(ole.BACKENDS))
    assert facts["rr22"]["backend"] == vectors
    rates = facts["rr22"]["vectors_per_second"]
    assert rates.keys() == {"receive_items", "receive_bins", "send_items", "send_bins"}
    assert all(10 * rates[f"{role}_bins"] < rates[f"{role}_items"] for role in ("receive", "send"))


@pytest.mark.more
def test_the_table_marks_the_backend_that_a_job_uses() -> None:
    result = run(*BRIEFLY)
    assert result.code == 0, result.text
    lines = result.stdout.decode().splitlines()
    assert re.fullmatch(rf"psicli \S+ on .+, {CORES} cores; median of \d+ rounds", lines[0])
    table = [line for line in lines if re.search(r" (X25519|mask|hash_and_mask)  +[0-9,]+ +[0-9.]+ ", line)]
    assert len(table) == 1 + 2 * len(curve.BACKENDS)
    assert [line.split("  ")[0] for line in table if "* " in line] == [f"{BEST}*"] * 2
    assert ("processes with one thread each" in lines[-1]) == (BEST in backends.NATIVE and CORES > 1)
    of_rr22 = [line for line in lines if line.startswith("rr22 as the ")]
    assert [line.split()[3] for line in of_rr22] == ["receiver,", "sender,"]
    assert all(re.search(r" thread: [0-9,]{4,} items/s, and [1-9]\d* ms for each bin$", line) for line in of_rr22)
    assert not re.search("nan|inf", "".join(lines))
    if BEST in backends.NATIVE:
        assert result.stderr == ""


@pytest.mark.sample(2)
@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_a_time_that_cannot_be_used(seconds: str) -> None:
    result = run("--seconds", seconds)
    assert (result.code, result.stdout) == (2, b"")


@pytest.mark.more
def test_the_command_line_overrides_the_environment_in_every_process() -> None:
    result = run(*BRIEFLY, env={"PSICLI_SECONDS": "soon", "PSICLI_JSON": "perhaps"})
    assert result.code == 2
    result = run(*BRIEFLY, env={"PSICLI_SECONDS": "soon"})
    assert result.code == 0, result.text


def test_a_backend_with_wrong_results_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def __getattr__(self, name: str) -> Any:
            return getattr(curve.BACKENDS["reference"], name)

        def tokens(self, points: memoryview, prefix: bytes) -> bytes:
            return bytes(len(points) // 2)

    monkeypatch.setitem(curve.BACKENDS, "native wrong", Wrong())
    monkeypatch.setenv("PSICLI_BACKEND", "reference")
    with pytest.raises(SelfCheckError, match=r"native wrong .*tokens"):
        bench.measure(0.01)


def children(pid: int) -> set[int]:
    """Return the children of a process."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.add(int(path.parent.name))
    return found


def handles_sigterm(pid: int) -> bool:
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_stops_on_a_signal(number: signal.Signals, code: int) -> None:
    process = Run(["bench", "--seconds", "300"])
    try:
        wait_until(lambda: handles_sigterm(process.pid), "it handles signals")
        if BEST in backends.NATIVE and CORES > 1:
            wait_until(lambda: len(children(process.pid)) >= CORES, "its workers are there")
        workers = children(process.pid)
        process.send(number)
        # The deadline of the test is much shorter than the measurement.
        result = process.result()
        assert (result.code, result.stdout) == (code, b""), result.text
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    finally:
        process.kill()
