"""No secret of a bin is in Ray's object store, its spilled objects, its logs or its processes, nor in what psicli says.

The actors record their secrets. The search also finds what does lie in each of these places, so it works.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.clusters import keeper
from support.clusters.cluster import Cluster
from support.clusters.fixtures import StartCluster
from support.clusters.jobs import use
from support.clusters.places import Secrets, Watch, files, memory
from support.processes.expectations import csv_data, succeeded
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side, failing_at
from support.waiting import wait_until

HOOK = Path(keeper.__file__).with_name("hook")
# What the actors say on their standard error, for Ray to write down.
SAID = b"said by an actor"
MARK = "zq7vk3xw9p"
# The nodes read only large inputs, and long keys make few rows large.
ROWS, BINS, LONG = 20_000, 2, "x" * 3500
SECRET = {"scalars", "orders", "unmasked", "products"}
# The environment of a cluster that spills all it can: objects of any size, as soon as one percent of the store is full.
SPILLING = {"RAY_object_spilling_threshold": "0.01", "RAY_min_spilling_size": "1"}


# Puts objects of one megabyte into the object store, and keeps them.
PUTS = """
import os, sys, ray
ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False, configure_logging=False)
kept = [ray.put(bytes.fromhex(sys.argv[1]) * 32768) for _ in range(20)]
print("put", flush=True)
sys.stdin.read()
"""


@pytest.mark.more
def test_the_search_finds_what_is_in_the_store_and_what_is_spilled(pair: Pair, start_cluster: StartCluster) -> None:
    spilled, secret = pair.folder / "spilled", os.urandom(32)
    spilled.mkdir()
    cluster = start_cluster(1, environment=SPILLING, arguments=(f"--object-spilling-directory={spilled}",))
    secrets = Secrets({"put": secret})
    environment = {**os.environ, **cluster.environment, "RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-c", PUTS, secret.hex()]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        with Watch(cluster.nodes, spilled) as watch:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"put\n"
            wait_until(lambda: any(octets for _, octets in files(spilled)), "an object is spilled")
        driver.kill()
    assert any(secrets.within(octets) for octets in watch.stores)
    assert any(secrets.within(octets) for octets in watch.spills.values())


@pytest.mark.more
@pytest.mark.parametrize("party", [PARTIES[0], pytest.param(PARTIES[1], marks=pytest.mark.slow)])
def test_no_secret_leaves_an_actor(pair: Pair, start_cluster: StartCluster, party: str) -> None:
    recorded, spilled = pair.folder / "secrets", pair.folder / "spilled"
    for folder in (recorded, spilled):
        folder.mkdir()
    path = f"{HOOK}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    environment = {"PYTHONPATH": path, "TEST_SECRETS": str(recorded), **SPILLING}
    cluster = start_cluster(2, environment=environment, arguments=(f"--object-spilling-directory={spilled}",))
    write_job(pair)
    use(pair, cluster, party)
    places: dict[str, bytes] = {}
    with Watch(cluster.nodes, spilled) as watch:
        held = failing_at("report.written:stop")
        said = ("-v", "--json", "--trace", str(pair.path(party, "trace.json")))
        runs = {
            each: pair.start(each, *(said if each == party else ()), env=held if each == party else {})
            for each in PARTIES
        }
        runs[party].wait_until_stopped()
        places["the head"] = memory(psutil.Process(runs[party].pid))
        places |= memories_of_ray(cluster)
        runs[party].send(signal.SIGCONT)
        results = {each: run.result() for each, run in runs.items()}
    succeeded(results.values())
    logs = {f"log {name}": octets for node in cluster.nodes for name, octets in files(node.session / "logs")}
    places |= logs
    places |= {f"spilled {name}": octets for name, octets in watch.spills.items()}
    places |= {f"store {number}": octets for number, octets in enumerate(watch.stores)}
    places |= {"stdout": results[party].stdout, "stderr": results[party].stderr.encode()}
    places["trace"] = pair.path(party, "trace.json").read_bytes()

    kinds = {kind: b"".join(each.read_bytes() for each in recorded.glob(f"{kind}-*")) for kind in (*SECRET, "masked")}
    secrets = Secrets(kinds)
    for kind, octets in kinds.items():
        assert len(octets) >= 32 * (BINS if kind in ("scalars", "orders") else ROWS), kind
    found = {place: secrets.within(octets) for place, octets in places.items()}
    # The head sends the masked points.
    in_head = found.pop("the head")
    assert "masked" in in_head
    # A sender applies the bitmaps of a broadcast itself, so it may know the orders.
    assert in_head & SECRET <= ({"orders"} if party == DIALER else set())
    assert {place: kinds & SECRET for place, kinds in found.items() if kinds & SECRET} == {}
    assert any(SAID in octets for octets in logs.values())


def write_job(pair: Pair) -> None:
    for party, first in zip(PARTIES, (0, ROWS // 3), strict=True):
        rows = ([f"{MARK}-{number}-{LONG}"] for number in range(first, first + ROWS))
        pair.path(party, "in.csv").write_bytes(csv_data(["id"], rows))
        pair.jobs[party]["pipeline"] = {"bin_items": 16_384, "frame_items": 4096}
    side = Side(["id"], "in.csv", "out/rows.csv")
    pair.add("rows", side, side, receiver=LISTENER, broadcast_result=True)


def memories_of_ray(cluster: Cluster) -> dict[str, bytes]:
    """Return the memory of every process of Ray's own."""
    actors = {each.pid for each in cluster.workers()}
    found = {}
    for each in cluster.processes():
        # Ray ends its idle workers at any time.
        with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            if each.pid not in actors:
                found[f"{each.name()} {each.pid}"] = memory(each)
    return found
