"""The DAGs of docs/examples run in a real Airflow, in an environment of its own that `make test-airflow` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.docs.generate import ROOT
from support.processes.runner import free_ports

# Airflow is large, and its own pins should not decide about those of psicli.
ENVIRONMENT = Path(os.environ.get("PSICLI_AIRFLOW_VENV", ROOT / ".venv-airflow"))
RUN = """
import datetime, runpy, sys
dag = runpy.run_path(sys.argv[1])[sys.argv[2]]
for task in dag.tasks:
    task.retries = 0
ended = dag.test(logical_date=datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc))
sys.exit(ended.state != "success")
"""
LIMIT = 400


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "rows"), [("by_command", "id\nc-003\n"), ("by_python", "id\nc-002\nc-003\n")])
def test_a_dag_runs_the_job_with_the_other_party(tmp_path: Path, name: str, rows: str) -> None:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        pytest.skip("there is no Airflow: type `make test-airflow`")
    psicli = tmp_path / "bin" / "psicli"
    psicli.parent.mkdir()
    psicli.write_text(f'#!/bin/sh\nexec {python} -m psicli "$@"\n')
    psicli.chmod(0o755)
    with free_ports(1) as (port,):
        job = {
            "job": "nightly",
            "cluster": {"nodes": [{"party": "alice", "address": f"127.0.0.1:{port}"}, {"party": "bob"}]},
            "psi": {"receiver": "alice"},
            "tasks": [
                {
                    "name": "customers",
                    "keys": {"alice": ["id"], "bob": ["id"]},
                    "input_path": {"alice": "in-${DATE}.csv", "bob": "bob.csv"},
                    "output_path": {"alice": "out-${DATE}.csv"},
                }
            ],
        }
        for party in ("alice", "bob"):
            # JSON is YAML, too.
            (tmp_path / f"{party}.yaml").write_text(json.dumps({**job, "self_party": party}))
        (tmp_path / "in-2026-03-01.csv").write_text("id\nc-001\nc-003\n")
        (tmp_path / "bob.csv").write_text("id\nc-002\nc-003\n")
        variables = {
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "docs" / "examples"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PSICLI_STATE_DIR": str(tmp_path / "state"),
            "PSICLI_JOB": str(tmp_path / "alice.yaml"),
            "PATH": f"{psicli.parent}:{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        }
        migrate = [python, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, env=variables, capture_output=True, check=True, timeout=LIMIT)
        bob = subprocess.Popen([psicli, "run", "--quiet", tmp_path / "bob.yaml"], env=variables)
        try:
            dag = [python, "-c", RUN, ROOT / "docs" / "examples" / "airflow_dag.py", name]
            done = subprocess.run(dag, env=variables, capture_output=True, text=True, timeout=LIMIT)
            assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
            assert bob.wait(60) == 0
        finally:
            bob.kill()
            bob.wait()
    assert (tmp_path / "out-2026-03-01.csv").read_text() == rows
