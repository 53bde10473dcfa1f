"""The notebook of docs/ runs as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.docs.generate import ROOT
from support.processes.runner import free_ports
from support.waiting import DEADLINE

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
# Runs the notebook of standard input in a kernel of its own, and writes it with its outputs. The kernel listens on
# sockets in the folder: another program could take ports that are chosen before it starts.
RUN = """
import sys, nbclient, nbformat, traitlets.config
notebook = nbformat.read(sys.stdin, 4)
sockets = traitlets.config.Config(KernelManager={"transport": "ipc", "ip": sys.argv[1] + "/kernel"})
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", config=sockets).execute(cwd=sys.argv[1])
nbformat.write(notebook, sys.stdout)
"""


def shown(cell: dict[str, Any]) -> str:
    """Return what a cell shows as text."""
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
    return "".join("".join(part) for part in parts)


@pytest.mark.more
def test_the_notebook_runs(tmp_path: Path) -> None:
    with free_ports(1) as (port,):
        text = NOTEBOOK.read_text().replace("127.0.0.1:9560", f"127.0.0.1:{port}")
        folders = {"PSICLI_STATE_DIR": str(tmp_path / "state"), "IPYTHONDIR": str(tmp_path / "ipython")}
        # This interpreter's kernel, whatever else is installed for the user.
        folders |= {"JUPYTER_PATH": str(Path(sys.prefix) / "share/jupyter"), "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(tmp_path)],
            input=text,
            capture_output=True,
            text=True,
            env={**os.environ, **folders},
            timeout=DEADLINE,
        )
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in json.loads(done.stdout)["cells"] if cell["cell_type"] == "code"]
    alice, bob, error = (shown(cell) for cell in cells[-3:])
    assert alice.startswith("waiting  0%\n")
    assert "running rows 100%\n" in alice
    assert "1   ben@x.org   loyal" in alice.replace("0   ben", "1   ben")
    assert "CLEO@x.org" in bob
    assert "eve@x.org" not in bob
    assert error.startswith("69 bob did not answer within 1 s")


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
