"""The clusters that the other tests of this folder use are real, and nothing is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from support.clusters.cluster import Cluster, running
from support.clusters.fixtures import StartCluster
from support.waiting import wait_until

pytestmark = pytest.mark.more
ACTORS = """
import os, sys, ray
ray.init(os.environ["RAY_ADDRESS"], namespace="test", log_to_driver=False, configure_logging=False)
class Actor:
    def pid(self):
        return os.getpid()
actors = [ray.remote(num_cpus=1)(Actor).remote() for _ in range(int(sys.argv[1]))]
print(*ray.get([actor.pid.remote() for actor in actors]), flush=True)
sys.stdin.read()
"""


@contextmanager
def actors(cluster: Cluster, count: int) -> Iterator[set[int]]:
    """Yield the processes of as many actors of one driver."""
    with subprocess.Popen(
        [sys.executable, "-c", ACTORS, str(count)],
        env={**os.environ, **cluster.environment, "RAY_ADDRESS": cluster.address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        yield {int(pid) for pid in driver.stdout.readline().split()}
        driver.kill()


def names(processes: Iterable[psutil.Process]) -> Iterator[str]:
    """Yield the names of processes; Ray also starts some that soon end."""
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            yield each.name()


def test_an_actor_is_a_process_of_its_node(cluster: Cluster) -> None:
    with actors(cluster, 2) as pids:
        assert {each.pid for each in cluster.workers()} == pids
        assert [len(node.workers()) for node in cluster.nodes] == [1, 1]
        assert len(cluster.left()) == 3
    cluster.nothing_left()


def test_nodes_come_and_go(start_cluster: StartCluster) -> None:
    cluster = start_cluster(2)
    # Any core that this process may use.
    core = min(os.sched_getaffinity(0))
    cluster.add(cpus=2, core=core)
    with actors(cluster, 4):
        assert [len(node.workers()) for node in cluster.nodes] == [1, 1, 2]
        assert cluster.nodes[2].raylet().cpu_affinity() == [core]
        cluster.nodes[1].kill()
        assert cluster.nodes[1].processes() == []
        cluster.nodes[2].raylet().kill()
        wait_until(lambda: not cluster.nodes[2].processes(), "the node's processes follow its raylet")
        assert len(cluster.workers()) == 1
    cluster.nothing_left()


def test_nothing_is_left_of_a_cluster(start_cluster: StartCluster) -> None:
    """Its driver still runs, and so does another cluster."""
    with actors(start_cluster(1), 1), running(1) as cluster, actors(cluster, 1):
        processes = cluster.processes()
        assert {*names(processes)} >= {"raylet", "gcs_server", "ray::Actor"}
        cluster.stop()
        assert not [each for each in processes if each.is_running()]
        assert not cluster.folder.exists()
