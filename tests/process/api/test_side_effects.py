"""A program that calls psicli is the same afterwards: nothing of a run happens in its process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.api.sides import Sides
from support.processes.runner import DIALER, LISTENER, Pair, Side
from support.waiting import DEADLINE

# Compares what a process has before and after a run, both parties of which are called from here: one in the thread of
# a running event loop, and one in a process that multiprocessing starts.
PROGRAM = """
import asyncio, logging, multiprocessing, os, resource, signal, sys, tempfile, threading, warnings
import pandas
import pyarrow as pa
import psicli

HOW, ADDRESS = sys.argv[1:]
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]

def intersect(party, peer):
    frame = pandas.DataFrame({"id": [1, 2]})
    return psicli.intersect(frame, "id", party=party, peer=peer, address=ADDRESS)

def umask():
    # There is no other way to read it than to set it.
    mask = os.umask(0o22)
    os.umask(mask)
    return mask

def state():
    return {
        "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "limits": [resource.getrlimit(limit) for limit in LIMITS],
        "variables": dict(os.environ),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "pool": pa.default_memory_pool().backend_name,
        "cpu threads": pa.cpu_count(),
        "warnings": list(warnings.filters),
        "loggers": [logging.getLogger(name).handlers for name in ("", "psicli", "psicli.api")],
        "level": [logging.getLogger(name).level for name in ("", "psicli")],
        "finders": list(map(str, sys.meta_path)),
        "folder": os.getcwd(),
        "mask": umask(),
        "temporary files": sorted(os.listdir(tempfile.gettempdir())),
    }

async def here():
    return intersect("alice", "bob")

if __name__ == "__main__":
    psicli.run, psicli.load_job
    context = multiprocessing.get_context(HOW)
    # The resource tracker of multiprocessing stays once it runs.
    with context.Pool(1) as pool:
        pool.apply(abs, (-1,))
        before = state()
        there = pool.apply_async(intersect, ("bob", "alice"))
        rows = asyncio.run(here())
        assert there.get(60).id.tolist() == rows.id.tolist() == [1, 2]
        del rows
        after = state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    sys.stdout.write(repr(changed))
"""


@pytest.mark.more
@pytest.mark.parametrize("how", ["spawn", pytest.param("fork", marks=pytest.mark.more)])
def test_nothing_of_the_process_changes(
    sides: Sides, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), how, sides.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert ast.literal_eval(done.stdout) == {}
    assert sides.left() == []


def test_the_command_line_imports_neither_the_api_nor_pandas(pair: Pair) -> None:
    for party in (LISTENER, DIALER):
        pair.path(party, "in.csv").write_text("id\n1\n")
    pair.add("people", Side(["id"], "in.csv", "out/people.parquet"), Side(["id"], "in.csv"))
    pair.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    for result in pair.run():
        assert result.code == 0
        imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if "import time:" in line}
        assert {"psicli.job.run", "pyarrow"} <= imported
        # An attempt of pyarrow to import pandas is refused.
        assert not [name for name in imported if name.startswith(("pandas.", "psicli.api"))]
    version = pair.start_command("--version").result()
    assert "pyarrow" not in version.stderr.replace("|", " ").split()
