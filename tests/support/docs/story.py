"""Run the code blocks of a page as a reader would, and compare what they print with what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from support.docs.blocks import Block

# For one block, in which psicli runs a few times [s].
LIMIT = 60
# An address of the pages; the test uses a free port of this machine.
ADDRESS = re.compile(r"\b(?:alice\.example\.com|0\.0\.0\.0|127\.0\.0\.1):\d{4,5}\b")
RUN = ("sh", "python", "test")
FILES = ("yaml", "csv", "text")

# What differs from one run to the next, and what a page shows for it.
MASKS = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:[+-]\d\d:\d\d|Z| UTC)?|\d{4}-\d\d-\d\d"), "DATE"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"\bport \d+"), "port N"),
    (re.compile(r"(?<=[\w\]]):\d{4,5}\b"), ":N"),
    (re.compile(r"\b[\d.,]+ (s|ms|min|[kMG]?B|(points|items)/s)\b"), r"N \1"),
    (re.compile(r"[ \t]+"), " "),
]
# Keep the folder and the variables that a block leaves for the next one of the same place.
KEEP = 'trap \'pwd > "$PLACE/cwd"; env -0 > "$PLACE/env"\' EXIT\n'


@dataclass
class Place:
    """Where commands are typed: a folder, and a shell whose folder and variables last from block to block."""

    shell: Path
    folder: Path
    environment: dict[str, str]

    def start(self, block: Block) -> Process:
        """Start the commands of a block."""
        program = [sys.executable, "-c"] if block.language == "python" else ["bash", "-e", "-o", "pipefail", "-c"]
        script = block.text if block.language == "python" else KEEP + block.text
        stdout, stderr = (self.shell / f"{block.line}.{name}" for name in ("stdout", "stderr"))
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [*program, script],
                cwd=self.folder,
                env={**self.environment, "PLACE": str(self.shell)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return Process(self, block, process)

    def keep(self) -> None:
        """Take over the folder and the variables that the last commands left."""
        if (self.shell / "cwd").exists():
            self.folder = Path((self.shell / "cwd").read_text().removesuffix("\n"))
            pairs = (self.shell / "env").read_text().rstrip("\0").split("\0")
            self.environment = dict(pair.split("=", 1) for pair in pairs)


@dataclass
class Process:
    """The commands of a block while they run."""

    place: Place
    block: Block
    popen: subprocess.Popen[bytes]

    def finish(self) -> str:
        """Wait for the end; return what was printed. Raises AssertionError if the commands fail or take too long."""
        try:
            code: int | str = self.popen.wait(LIMIT)
        except subprocess.TimeoutExpired:
            code = f"none after {LIMIT} s"
            self.kill()
        printed = "".join(
            (self.place.shell / f"{self.block.line}.{name}").read_text("utf-8", "backslashreplace")
            for name in ("stdout", "stderr")
        )
        assert code == 0, f"line {self.block.line}: exit code {code}\n{self.block.text}\n{printed}"
        self.place.keep()
        return printed

    def kill(self) -> None:
        """End the commands and everything that they started."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


@dataclass
class Story:
    """A page whose blocks run one after the other, below an empty folder."""

    folder: Path
    port: int
    environment: dict[str, str]
    places: dict[str, Place] = field(default_factory=dict)
    printed: str = ""

    def run(self, blocks: Sequence[Block]) -> None:
        """Run the blocks of a page, write its files and compare its outputs."""
        for group in groups(blocks):
            if group[0].language in RUN:
                self._run_together(group)
            elif group[0].language == "text" and not group[0].title:
                self._compare(group[0])
            else:
                self._write(group[0])

    def _run_together(self, group: Sequence[Block]) -> None:
        processes: list[Process] = []
        try:
            for block in group:
                processes.append(self._place(block.title).start(self._here(block)))
            printed = [process.finish() for process in processes]
        finally:
            for process in processes:
                process.kill()
        self.printed = "".join(text for text, block in zip(printed, group, strict=True) if block.language != "test")

    def _here(self, block: Block) -> Block:
        """Return a block with the port of this story, if its program names an address; commands get it from files."""
        text = ADDRESS.sub(f"127.0.0.1:{self.port}", block.text)
        return replace(block, text=text) if block.language == "python" else block

    def _compare(self, block: Block) -> None:
        """Check that the lines of a block were printed next to each other; where it has a line …, any lines may be."""
        printed = "\n" + masked(self.printed)
        for part in filter(None, re.split(r"^ ?(?:…|\.\.\.) ?\n", masked(block.text), flags=re.MULTILINE)):
            assert f"\n{part}" in printed, f"line {block.line}: expected\n{part}\nin{printed}"
            printed = "\n" + printed.partition(f"\n{part}")[2]

    def _write(self, block: Block) -> None:
        if not block.title.startswith("/"):
            path = self._place("").folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ADDRESS.sub(f"127.0.0.1:{self.port}", block.text))

    def _place(self, title: str) -> Place:
        """Return the place that a title names; a terminal is in the folder where the page is."""
        if title not in self.places:
            terminal = not title or title.endswith("terminal")
            folder = self._place("").folder if title and terminal else self.folder if terminal else self.folder / title
            shell = self.folder / ".shells" / (title or "page")
            shell.mkdir(parents=True)
            folder.mkdir(exist_ok=True)
            state = {"HOME": str(folder), "PSICLI_STATE_DIR": str(shell / "state")}
            self.places[title] = Place(shell, folder, {**self.environment, **state})
        return self.places[title]


def groups(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Give the blocks that are to be run, written or compared, those that run at the same time together.

    Commands run at the same time if they are in different places and nothing is between them, or if they are in
    different terminals. A `test` command runs before the block that follows it; if none does, it runs together with
    the one before.
    """
    group: list[Block] = []
    for number, block in enumerate(blocks):
        after = blocks[number + 1] if number + 1 < len(blocks) else None
        first = block.language == "test" and after is not None and after.follows and after.language != "test"
        runs = block.language in RUN and not block.not_run
        if runs and group and not first and _together(group[-1], block):
            group.append(block)
            continue
        if group:
            yield group
        group = [block] if runs and not first else []
        if first or _matters(block, blocks[number - 1] if number else None):
            yield [block]
    if group:
        yield group


def _together(before: Block, block: Block) -> bool:
    terminals = before.title.endswith("terminal") and block.title.endswith("terminal")
    return before.title != block.title and (block.follows or terminals)


def _matters(block: Block, before: Block | None) -> bool:
    """Return whether a block is a file to write, or an output of the commands just before it."""
    if block.not_run:
        return False
    if block.language == "text" and not block.title:
        return before is not None and before.language in ("sh", "python") and not before.not_run
    return block.language in FILES and bool(block.title)


def masked(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text


def environment(bin_folder: Path) -> dict[str, str]:
    """Return the variables of a reader's shell, in which `psicli` and `python` are those under test."""
    bin_folder.mkdir()
    for name, arguments in (("psicli", "-m psicli "), ("python", ""), ("python3", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n')
        (bin_folder / name).chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PSICLI_")}
    return {**inherited, "PATH": f"{bin_folder}:{os.environ['PATH']}", "COLUMNS": "80"}
