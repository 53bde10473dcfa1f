"""Follow docs/two-machines.md as a reader would, between two network namespaces that act as two machines."""

from __future__ import annotations

import re
import shutil
import subprocess

from support.docs.generate import ROOT
from support.processes.machines import Machine
from support.processes.runner import DIALER, LISTENER
from support.waiting import DEADLINE

PAGE = (ROOT / "docs" / "two-machines.md").read_text()
# A code block titled PARTY or PARTY/FILE, or a copy comment for a file that the page tells a party to send.
STEP = re.compile(
    r'^```\w+ title="(\w+)(?:/([\w.]+))?"\n(.*?)^```$|^<!-- test: cp ([^\n]+) (\w+)/ -->$', re.DOTALL | re.MULTILINE
)


def test_the_page_as_written(machines: dict[str, Machine]) -> None:
    alice, bob = machines[LISTENER], machines[DIALER]
    started: dict[str, subprocess.Popen[str]] = {}
    reports: dict[str, str] = {}
    end = 0
    for step in STEP.finditer(PAGE):
        # Commands with no text between them run at the same time.
        if PAGE[end : step.start()].strip():
            reports |= {who: succeed(process) for who, process in started.items()}
            started.clear()
        end = step.end()
        party, name, body, files, goal = step.groups()
        if files:
            carry(machines, files.split(), goal)
        elif name:
            (machines[party].folder / name).write_text(body)
        else:
            assert party not in started, body
            started[party] = machines[party].start(body)
    reports |= {who: succeed(process) for who, process in started.items()}

    assert (alice.folder / "out" / "customers.csv").read_text() == "id,since\nc-002,2024-05-17\n"
    assert all("customers" in report for report in reports.values())
    assert not (bob.folder / "ca.key").exists()
    assert not (alice.folder / "bob.key").exists()
    # Hellos, points and TLS take at least this many bytes in each direction.
    assert min(alice.received(), bob.received()) > 2000


def carry(machines: dict[str, Machine], files: list[str], goal: str) -> None:
    """Copy files from one party to the other, as the page tells the reader to do."""
    for file in files:
        party, name = file.split("/")
        shutil.copy(machines[party].folder / name, machines[goal].folder / name)


def succeed(process: subprocess.Popen[str]) -> str:
    """Return the standard output of a command, which must succeed."""
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, stdout + stderr
    assert "Traceback" not in stderr
    return stdout
