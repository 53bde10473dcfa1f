"""Two batches whose jobs share one port."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.job_files import SMALL
from support.processes.runner import PARTIES, free_ports
from support.waiting import DEADLINE

JOBS = ("one", "two", "three")
TASK = """\
  - name: rows
    keys: {alice: [id], bob: [id]}
    input_path: {alice: in.csv, bob: in.csv}
    output_path: {alice: NAME.csv}
"""


def start(folder: Path, party: str, order: tuple[str, ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "psicli", "batch", f"--party={party}", "--json", "--rendezvous=2"]
    return subprocess.Popen(
        [*command, *(f"{name}.yaml" for name in order)],
        cwd=folder,
        env={**os.environ, "PSICLI_STATE_DIR": str(folder / party)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.more
def test_lists_in_other_orders_meet_at_one_port(tmp_path: Path) -> None:
    """A side whose peer is at another job takes that as a peer that has not come, and does not fail."""
    (tmp_path / "in.csv").write_text("id\n1\n")
    with free_ports(1) as ports:
        for name in JOBS:
            job = SMALL.replace("job: j\nself_party: alice\n", f"job: {name}\n").replace("18560", str(ports[0]))
            (tmp_path / f"{name}.yaml").write_text(job + TASK.replace("NAME", name))
        batches = [start(tmp_path, party, order) for party, order in zip(PARTIES, (JOBS, JOBS[::-1]), strict=True)]
        for batch in batches:
            with batch:
                try:
                    _, errors = batch.communicate(timeout=DEADLINE)
                finally:
                    batch.kill()
            assert batch.returncode == 0, errors
    assert all((tmp_path / f"{name}.csv").read_text() == "id\n1\n" for name in JOBS)
