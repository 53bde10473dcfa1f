"""Runs of two parties, one or both of which compute on a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.clusters.cluster import Cluster
from support.processes.expectations import succeeded
from support.processes.runner import PARTIES, Pair, Result, Side

SAMPLE = Path(__file__).parents[3] / "sample_data"
# The environment of a run and of a cluster that must still be working when a test interferes with them.
PORTABLE = {"PSICLI_NATIVE_PATH": "portable"}
# Every line of psicli's log begins with the time; those of Ray and of its daemons begin otherwise, or not at all.
LOGGED = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00 (DEBUG|INFO|WARNING|ERROR) ")


def use(pair: Pair, cluster: Cluster | None, *parties: str, **workers: Any) -> None:
    """Let only these parties compute on a cluster. workers: further fields of pipeline.workers."""
    for party in PARTIES:
        # A copy, since both parties may have the same section.
        pipeline = pair.jobs[party]["pipeline"] = dict(pair.jobs[party].get("pipeline", {}))
        pipeline.pop("workers", None)
        if cluster is not None and party in parties:
            pipeline["workers"] = {"ray": cluster.address, **workers}
            pair.environment = {**pair.environment, **cluster.environment}


def only_psicli_speaks(*results: Result) -> None:
    """Check that nothing but psicli's own log is on standard error."""
    for result in results:
        others = [line for line in result.stderr.splitlines() if not LOGGED.match(line)]
        assert others == [], others


def outputs(pair: Pair, *arguments: str) -> Mapping[str, bytes]:
    """Run both parties, and return and remove their outputs."""
    results = pair.run(*arguments)
    succeeded(results)
    only_psicli_speaks(*results)
    found = {}
    for party in PARTIES:
        for path in sorted(pair.path(party, "out").iterdir()):
            found[f"{party}/{path.name}"] = path.read_bytes()
            path.unlink()
    return found


def sample(pair: Pair) -> Pair:
    """Add the tasks of the sample job."""
    for party, name in zip(PARTIES, ("airline", "registry"), strict=True):
        for path in (SAMPLE / name).iterdir():
            pair.path(party, path.name).write_bytes(path.read_bytes())
    alice, bob = PARTIES
    flights, out = "flights.csv", "out/planes.csv"
    pair.add("planes", Side(["tailnum"], flights, out), Side(["registration"], "planes.parquet", out),
             receiver=alice, broadcast_result=True)  # fmt: skip
    pair.add("airports", Side(["dest"], flights), Side(["faa"], "airports.parquet", "out/airports.csv"), receiver=bob)
    pair.add("airlines", Side(["carrier"], flights, "out/airlines.parquet"), Side(["code"], "airlines.csv"))
    return pair
