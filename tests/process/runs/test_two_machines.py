"""README's walk-through as it stands there, between two network namespaces: to psicli, two machines."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
from support.docs.generate import ROOT
from support.processes.machines import Machine
from support.processes.runner import DIALER, LISTENER
from support.waiting import DEADLINE

SECTION = re.search(r"^## Between two machines\n(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def blocks(kind: str) -> list[str]:
    assert SECTION is not None
    return re.findall(rf"^```{kind}\n(.*?)^```$", SECTION[1], re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[tuple[str, str]]:
    """Return who types what."""
    return re.findall(r"^(\w+)\$ +(.*)$", block, re.MULTILINE)


def test_the_walk_through_as_written(machines: dict[str, Machine]) -> None:
    alice, bob = machines[LISTENER], machines[DIALER]
    setting_up, issuing, running = blocks("console")
    for who, command in commands(setting_up):
        succeed(machines[who].start(command))
    carry("Bob sends `bob.csr` to Alice", bob, alice, "bob.csr")
    for who, command in commands(issuing):
        succeed(machines[who].start(command))
    carry("She sends back `bob.pem` and `ca.pem`", alice, bob, "bob.pem", "ca.pem")
    for machine, job in zip((alice, bob), blocks("yaml"), strict=True):
        (machine.folder / "job.yaml").write_text(job)
    provide_data(alice.folder, bob.folder)

    runs = {who: machines[who].start(command) for who, command in commands(running)}
    reports = {who: succeed(run) for who, run in runs.items()}

    assert (alice.folder / "out" / "customers.csv").read_text() == "id,city\n0030,Oslo\n0040,Rome\n"
    assert "customers: done" in reports[LISTENER]
    assert "output   none (the result is alice's)" in reports[DIALER]
    assert not (bob.folder / "ca.key").exists()
    assert not (alice.folder / "bob.key").exists()
    # Both directions carried Hellos, points and TLS.
    assert min(alice.received(), bob.received()) > 2000


def carry(sentence: str, source: Machine, goal: Machine, *names: str) -> None:
    """Do by hand what README asks the two people to do."""
    assert SECTION is not None
    assert sentence in SECTION[1]
    for name in names:
        shutil.copy(source.folder / name, goal.folder / name)


def provide_data(alice: Path, bob: Path) -> None:
    for folder in (alice / "in", alice / "out", bob / "export"):
        folder.mkdir()
    (alice / "in" / "customers.csv").write_text("id,city\n0040,Rome\n0010,Bonn\n0030,Oslo\n")
    pd.DataFrame({"customer_id": ["0030", "0040", "0050"]}).to_parquet(bob / "export" / "crm.parquet")


def succeed(process: subprocess.Popen[str]) -> str:
    """Return standard output of a command that must end well."""
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, stdout + stderr
    assert "Traceback" not in stderr
    return stdout
