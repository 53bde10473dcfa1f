"""The rows about the party's own Ray cluster."""

from __future__ import annotations

import platform
from importlib import metadata

from psicli import __version__, curve
from psicli.check.checklist import Checklist
from psicli.check.estimate import POINTS
from psicli.config import Job
from psicli.core.errors import counted, in_units


def check_cluster(found: Checklist, job: Job, rates: dict[str, float] | None) -> dict[str, float] | None:
    """Connect to the cluster as a run does; return the speed of its workers together, by operation [points per second].

    rates: that of this machine, which the nodes are assumed to be like.
    """
    with found.trying("cluster"):
        # Imported late because a check without a cluster does not need it.
        from psicli.ray.connection import connected
        from psicli.ray.probe import capacity, needs_of_worker

        with connected(job) as cluster:
            nodes, free = cluster.nodes(), cluster.free_cores()
        cores, protection = sum(node.cpus for node in nodes), " and ".join(cluster.protection)
        versions = f"psicli {__version__}, Ray {metadata.version('ray')} and Python {platform.python_version()}"
        found.add(
            "cluster",
            f"{cluster.address} answers; {counted(len(nodes), 'node')} with {counted(cores, 'core')}, "
            f"all with {versions}, {f'with {protection}' if protection else 'without TLS or token authentication'}",
        )
        for warning in cluster.warnings:
            found.add("cluster", warning, good=False, hint="docs/cluster.md says how to set up a cluster.")
        workers, used = capacity(job, nodes)
        cpus, memory = needs_of_worker(job)
        each = f"{counted(cpus, 'core') if cpus else 'all cores of its node'} and {in_units(memory)} of memory"
        enough = free >= (cpus or min(node.cpus for node in nodes if node.room(cpus, memory)))
        busy = "" if enough else f"; now, other programs leave {counted(free, 'core')} free"
        message = f"room for {counted(workers, 'worker')}, each with {each}{busy}"
        hint = "A run waits up to a minute for cores. `ray status` on this machine shows how many are in use."
        found.add("workers", message, good=enough, hint=hint)
        # The bins of rr22 are computed by this process.
        share = used / curve.threads()
        return {name: rate * (share if name in POINTS else 1) for name, rate in (rates or {}).items()} or None
    return rates
