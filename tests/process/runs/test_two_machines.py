"""Follow docs/two-machines.md as a reader would, between two network namespaces that act as two machines."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support.docs.blocks import read_blocks
from support.docs.generate import ROOT
from support.docs.story import groups
from support.processes.machines import Machine
from support.processes.runner import DIALER, LISTENER
from support.waiting import DEADLINE


@pytest.mark.more
def test_the_page_as_written(machines: dict[str, Machine]) -> None:
    alice, bob = machines[LISTENER], machines[DIALER]
    reports: dict[str, str] = {}
    for group in groups(read_blocks(ROOT / "docs" / "two-machines.md")):
        block = group[0]
        if block.language == "test":
            carry(machines, block.text)
        elif block.language == "yaml":
            party, name = block.title.split("/")
            (machines[party].folder / name).write_text(block.text)
        else:
            started = {each.title: machines[each.title].start(each.text) for each in group}
            reports |= {party: succeed(process) for party, process in started.items()}

    assert (alice.folder / "out" / "customers.csv").read_text() == "id,since\nc-002,2024-05-17\n"
    assert all("customers" in report for report in reports.values())
    assert not (bob.folder / "ca.key").exists()
    assert not (alice.folder / "bob.key").exists()
    # Hellos, points and TLS take at least this many bytes in each direction.
    assert min(alice.received(), bob.received()) > 2000


def carry(machines: dict[str, Machine], command: str) -> None:
    """Copy files from one party to the other, as the page tells the reader to do: `cp PARTY/FILE… PARTY/`."""
    copy, *files, goal = command.split()
    assert copy == "cp"
    for file in files:
        party, name = file.split("/")
        shutil.copy(machines[party].folder / name, machines[goal.rstrip("/")].folder / name)


def succeed(process: subprocess.Popen[str]) -> str:
    """Return the standard output of a command, which must succeed."""
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, stdout + stderr
    assert "Traceback" not in stderr
    return stdout
