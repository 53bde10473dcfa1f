"""Run the benchmarks on a few rows to show that they work; their figures do not matter here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import network
import pytest

BENCHES = Path(network.__file__).parent
FIGURE = r"[0-9.,]+"
CASES = [
    (
        "memory.py --rows 2000 4000 --memory 400MB",
        rf" 2,000 +{FIGURE} .* MB\n +4,000 .*\n2,000 to 4,000 rows: time per row [-+]{FIGURE}%, peak memory alice [-+]",
    ),
    ("wide.py --rows 2000 --columns 30 --runs 1", rf"3 columns, .* 200 matched .*\n(.*\n)+30 columns take {FIGURE}x "),
    (
        "resume.py --rows 60000 --bin-items 16384 --kill 0.5 --cut",
        rf"alice killed at 50% of the bins: the next run took {FIGURE} s.*\nbob killed at 50% of the bins: the next ",
    ),
    ("frames.py --rows 2000 --runs 1", rf"command line: {FIGURE} s; .*\nintersect takes {FIGURE}x as long"),
    ("whole/end_to_end.py --rows 3000 --runs 1", rf"kernel alone: {FIGURE} s \(1.00x\), .*\npsicli: {FIGURE} s \("),
    ("overlap.py --rows 3000", rf"alice: two or more .*\n(.*\n)+the kernel used {FIGURE}% of the time of \d+ cores"),
    (
        "start/start.py --rows 200 --runs 1",
        rf"psicli run, 200 rows +{FIGURE} +{FIGURE} +{FIGURE} .*\n(.*\n)+numpy +{FIGURE}",
    ),
    (
        "many.py --jobs 3 --rows 300 --rounds 1 --late 0.2",
        rf"each peer is late by 0.2 s\n(.*\n)+batch: {FIGURE}x as fast as one after another; .*\n +its own verdict: \w",
    ),
    (
        "modes.py --batch --files 2 --rows 300 --runs 1",
        rf"one task of 600 rows +{FIGURE} s +1.00x.*\n2 tasks of 300 rows, one session +{FIGURE} s (.*\n)+2 runs, one",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "said"), CASES, ids=[command.split(".")[0] for command, _ in CASES])
def test_a_bench_prints_its_figures(command: str, said: str) -> None:
    name, *arguments = command.split()
    bench = [sys.executable, str(BENCHES / name), *arguments]
    done = subprocess.run(bench, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout), done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--rate 20mbit",
            rf" 2,000 +loopback +ecdh +{FIGURE} s +{FIGURE} s +[-+]\d+% .*\n"
            rf" +2,000 +loopback +rr22 +{FIGURE} s +{FIGURE} s +[-+]\d+% .*\n(.*\n)+the largest error is \d+% ",
        ),
        ("--constants", rf"FIXED +{FIGURE} +{FIGURE} .*\nWAITING .*\nTASK .*\nREADING .*\nMOVING .*\nRESULT .*\n"),
    ],
)
def test_the_bench_of_estimates_prints_its_figures(flags: str, said: str) -> None:
    bench = [sys.executable, "-m", "planner.estimates", "--rows", "2000", "--runs", "1", *flags.split()]
    done = subprocess.run(bench, cwd=BENCHES, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout), done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_network_bench_leaves_nothing_behind() -> None:
    if reason := network.missing():
        pytest.skip(reason)
    bench = [sys.executable, str(BENCHES / "network.py"), "--rate", "20mbit", "--rows", "2000", "--fast-rows", "2000"]
    with subprocess.Popen(bench, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            said, complaints = running.communicate(timeout=120)
        finally:
            running.kill()
    assert running.returncode == 0, complaints
    assert re.search(rf"2,000 x 2,000 rows at 20mbit: {FIGURE} s\nbob to alice: .* busy\n", said), said
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    # The namespaces of another run may exist.
    assert f"psicli-{running.pid}-" not in left.stdout
