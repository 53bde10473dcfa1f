"""psicli status --watch: on a terminal, in a pipe, and as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from support.processes.expectations import long_pair
from support.processes.runner import PARTIES, Pair
from support.waiting import DEADLINE, wait_until


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.more
def test_an_object_a_line(pair: Pair) -> None:
    output = pair.folder / "lines"
    watcher = pair.start_command("status", "--watch", "0.1", "--json", shell=f">{output}")
    wait_until(lambda: len(lines_of(output)) > 2, "three lines")
    watcher.send(signal.SIGINT)
    result = watcher.result()
    assert (result.code, result.stderr) == (0, "")
    found = [json.loads(line) for line in lines_of(output)]
    assert all({"time", "running", "batches", "left_over", "kept"} == {*each} for each in found)
    assert sorted(each["time"] for each in found) == [each["time"] for each in found]


@pytest.mark.more
def test_a_text_each_time_that_something_has_changed(pair: Pair) -> None:
    output = pair.folder / "text"
    watcher = pair.start_command("status", "--watch=0.1", shell=f">{output}")
    wait_until(lambda: lines_of(output), "a first text")
    long_pair(pair)
    runs = [pair.start(party) for party in PARTIES]
    wait_until(lambda: f"127.0.0.1:{pair.port}" in output.read_text(), "the running job")
    for run in runs:
        run.send(signal.SIGTERM)
    for run in runs:
        run.result()
    watcher.send(signal.SIGTERM)
    result = watcher.result()
    assert (result.code, "stopped by SIGTERM" in result.stderr) == (143, True)
    texts = output.read_text().split("\n\n")
    headings = [text.partition("\n")[0] for text in texts if re.match("[0-9]{4}-", text)]
    assert len(headings) > 1
    assert all(re.fullmatch(r"[0-9-]{10} [0-9:]{8} UTC", heading) for heading in headings)
    bodies = [text.partition("\n")[2] for text in texts]
    assert all(one != other for one, other in pairwise(bodies))
    assert "\x1b" not in output.read_text()


@pytest.mark.parametrize("more", [(), pytest.param(("--json",), marks=pytest.mark.more)])
def test_it_ends_when_its_reader_does(pair: Pair, more: tuple[str, ...]) -> None:
    result = pair.start_command("status", "--watch", "0.1", *more, shell="| head -n 1").result()
    assert result.code == 0
    assert len(result.stdout.splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--watch", "--clean"),
        ("--watch", "2", "batch.yaml"),
        ("--watch", "--max-age", "1h", "a.yaml"),
        ("--watch", "0"),
        ("--watch", "nan"),
        ("--watch", "soon"),
    ],
)
@pytest.mark.more
def test_what_does_not_go_with_it(pair: Pair, arguments: tuple[str, ...]) -> None:
    result = pair.start_command("status", *arguments).result()
    assert (result.code, result.stdout) == (2, b"")
    assert "--watch" in result.stderr


class Terminal:
    """A terminal with psicli status --watch in it, which shows the runs of other tests, too.

    size: its lines and columns.
    """

    def __init__(self, pair: Pair, size: tuple[int, int] = (24, 80), **environment: str) -> None:
        self.output = b""
        self._near, far = pty.openpty()
        termios.tcsetwinsize(far, size)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PSICLI_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "psicli", "status", "--watch", "0.1"],
            stdin=far,
            stdout=far,
            stderr=far,
            env={**inherited, "TERM": "xterm", "PSICLI_STATE_DIR": str(pair.folder / "state"), **environment},
            start_new_session=True,
        )
        os.close(far)

    def read_until(self, there: Callable[[bytes], object]) -> None:
        while not there(self.output):
            self.output += self._read()

    def end(self) -> int:
        """Type Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        while part := self._read():
            self.output += part
        os.close(self._near)
        return self.process.wait(DEADLINE)

    def _read(self) -> bytes:
        try:
            return os.read(self._near, 65536)
        except OSError:
            # The program has closed the terminal.
            return b""


@pytest.mark.more
def test_a_terminal_is_drawn_in_place_and_left_as_it_was(pair: Pair) -> None:
    terminal = Terminal(pair)
    terminal.read_until(lambda output: output.count(b"\x1b[H") > 3)
    assert terminal.end() == 0
    text = terminal.output.decode()
    # On the other screen, without a cursor; each time from the top left, nothing is erased before it is overwritten.
    assert text.startswith("\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H")
    assert text.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert "\x1b[2J" not in text
    frames = text.split("\x1b[H")[1:]
    assert all(frame.startswith("every 0.1 s, until Ctrl-C: psicli status") for frame in frames)
    # A frame never scrolls.
    assert all(frame.count("\n") < 24 for frame in frames)
    assert all(frame.partition("\x1b[?")[0].endswith("\x1b[K\x1b[J") for frame in frames)


@pytest.mark.more
def test_a_terminal_without_escapes_gets_text(pair: Pair) -> None:
    terminal = Terminal(pair, TERM="dumb")
    terminal.read_until(lambda output: b"UTC\r\n" in output)
    assert terminal.end() == 0
    assert b"\x1b" not in terminal.output


@pytest.mark.more
def test_nothing_is_left_of_a_run_that_was_watched(pair: Pair) -> None:
    long_pair(pair)
    terminal = Terminal(pair, (1000, 500))
    runs = [pair.start(party) for party in PARTIES]
    # The row of each run, whatever other tests have on this machine.
    rows = [re.compile(rb"people: exchanging \d+ %% +%d " % run.pid) for run in runs]
    terminal.read_until(lambda output: all(row.search(output) for row in rows))
    assert terminal.end() == 0
    for run in runs:
        run.send(signal.SIGTERM)
    assert {run.result().code for run in runs} <= {69, 80, 143}
    pair.nothing_left()
