"""What each command imports: a run pays for every module, so it imports none that it does not use."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.processes.certificates import issue, with_tls
from support.processes.runner import DIALER, PARTIES, Pair, Side

# Makes Python write the name of every module that it looks for to standard error.
TRACED = {"PYTHONPROFILEIMPORTTIME": "1"}
MODULE = re.compile(r"^import time: +\d+ \| +\d+ \| +(\S+)$", re.MULTILINE)

# What reads the version of an installed package.
METADATA = {"importlib.metadata", "importlib.resources", "zipfile"}
# What only some commands, inputs and settings use. A library that others only look for is named by one of its modules.
RARE = METADATA | {
    *("pandas.core", "polars", "duckdb", "ray", "psutil", "phonenumbers", "dateutil.tz", "pydantic"),
    *("jinja2", "markupsafe", "prometheus_client", "tqdm"),
    *("asyncio.events", "grpc.aio._call", "google.protobuf.text_format"),
    *("psicli.api", "psicli.batch", "psicli.check", "psicli.setup", "psicli.config.batch", "psicli.config.schema"),
    *("psicli.cli.certs", "psicli.cli.check", "psicli.cli.first", "psicli.cli.many", "psicli.cli.past"),
    *("psicli.report.pages.render", "psicli.report.metrics.run", "psicli.report.bars", "psicli.report.batch"),
}
# What only some inputs, outputs, keys and connections need.
READING_PARQUET = {"pyarrow.parquet", "pyarrow.fs", "psicli.tables.parquet"}
WRITING_PARQUET = {"psicli.outputs.columnar", "psicli.outputs.metadata"}
VECTORS = {"psicli.ole", "psicli.protocol.rr22", "psicli.exchange.vector_worker"}
CERTIFICATES = {"cryptography.x509", "psicli.transport.tls", "psicli.transport.certs"}
PARTICULAR = {
    *READING_PARQUET | WRITING_PARQUET | CERTIFICATES | VECTORS,
    *("pyarrow.compute", "numpy.ma"),
    *("psicli.items.forms.rules", "psicli.items.forms.convert", "psicli.items.forms.probe"),
    *("psicli.tables.arrow", "psicli.tables.jsonl", "psicli.tables.many.input", "psicli.tables.databases"),
    "psicli.outputs.jsonl",
}
# What a command does not need that reads no table and meets no peer.
LIBRARIES = {"grpc", "google", "numpy", "pyarrow", "cryptography", "ssl", "asyncio"}
JOBS = {"yaml", "psicli.config", "psicli.job"}
# The packages of others that a run of a CSV job without TLS imports or looks for, besides those of the installation.
OF_A_RUN = {
    *("psicli", "click", "yaml", "numpy", "pyarrow", "grpc", "google", "typing_extensions"),
    *("cryptography", "_cffi_backend", "bcrypt", "cloudpickle", "pandas", "dateutil"),
    # gRPC looks for the first three, a module of Python for the last.
    *("grpc_tools", "grpc_health", "grpc_reflection", "org"),
}


def modules(stderr: str) -> set[str]:
    """Return the modules that a process has looked for since psicli began, and the packages that hold them."""
    found = MODULE.findall(stderr)
    assert "psicli" in found, stderr
    ours = found[found.index("psicli") :]
    return {".".join(parts[:end]) for parts in (name.split(".") for name in ours) for end in range(1, len(parts) + 1)}


def of_command(*arguments: str, code: int = 0) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "psicli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return modules(done.stderr)


def of_runs(pair: Pair, **files: str) -> list[set[str]]:
    """Run both parties; return the modules of the listener, then of the dialler. files: options with names of files."""
    runs = []
    for party in PARTIES:
        options = [f"--{name}={pair.path(party, file)}" for name, file in files.items()]
        runs.append(pair.start(party, *options, env=TRACED))
    results = [run.result() for run in runs]
    assert [result.code for result in results] == [0, 0], results[0].text + results[1].text
    return [modules(result.stderr) for result in results]


def with_csv(pair: Pair) -> Pair:
    for party in PARTIES:
        pair.path(party, "in.csv").write_text("id,n\na,1\nb,2\n")
    pair.add("t", Side(["id"], "in.csv", "out.csv"), Side(["id"], "in.csv"))
    return pair


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("arguments", "used"),
    [
        ("--version", ""),
        ("--help", "psicli.cli.certs psicli.cli.check psicli.cli.first psicli.cli.many psicli.cli.past"),
        ("run --help", ""),
        ("completion bash", ""),
        ("certs --help", "psicli.cli.certs"),
        ("config schema", "yaml psicli.config psicli.config.batch psicli.config.schema"),
    ],
)
def test_a_command_without_a_job(arguments: str, used: str) -> None:
    assert of_command(*arguments.split()) & (LIBRARIES | JOBS | RARE) <= set(used.split())


def test_a_job_file_with_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("job: x\n")
    assert of_command("run", str(tmp_path / "job.yaml"), code=78) & (LIBRARIES | RARE) == set()


def test_a_run_of_a_csv_job(pair: Pair) -> None:
    with_csv(pair)
    for found in of_runs(pair):
        assert found & (RARE | PARTICULAR) == set()
        others = {name for name in found if not re.search(r"^_sysconfigdata|\.", name)} - sys.stdlib_module_names
        assert others <= OF_A_RUN


@pytest.mark.more
def test_a_run_of_a_parquet_job(pair: Pair) -> None:
    for party in PARTIES:
        pq.write_table(pa.table({"id": ["a", "b"]}), pair.path(party, "in.parquet"))
    pair.add("t", Side(["id"], "in.parquet", "out.parquet"), Side(["id"], "in.parquet"))
    listener, dialer = of_runs(pair)
    assert listener & (RARE | PARTICULAR) == READING_PARQUET | WRITING_PARQUET
    assert dialer & (RARE | PARTICULAR) == READING_PARQUET


def test_a_run_by_rr22(pair: Pair) -> None:
    for party in PARTIES:
        pair.jobs[party]["psi"]["protocol"] = "rr22"
    for found in of_runs(with_csv(pair)):
        assert found & (RARE | PARTICULAR) == VECTORS


@pytest.mark.more
def test_a_run_with_tls(pair: Pair) -> None:
    issue(pair.folder, {party: party for party in PARTIES})
    with_tls(with_csv(pair))
    for found in of_runs(pair):
        assert found & (RARE | PARTICULAR) == CERTIFICATES


@pytest.mark.more
def test_a_check(pair: Pair) -> None:
    job = with_csv(pair).job_file(DIALER)
    run = pair.start_command("check", str(job), "--wait", "0", env=TRACED)
    assert modules(run.result().stderr) & RARE <= {"psicli.check", *METADATA}


def test_metrics_and_pages_import_what_they_need(pair: Pair) -> None:
    first, second = of_runs(with_csv(pair), metrics="run.prom", report="run.html")
    assert all(name in found for name, found in itertools.product(("jinja2", "prometheus_client"), (first, second)))
