"""What the nodes of a cluster are like, and whether they can do the bins of a job."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from psicli import __version__
from psicli.config import Job, RayWorkers
from psicli.core import signals
from psicli.core.errors import counted, in_units
from psicli.core.records import dataclass
from psicli.ray.errors import NodeLostError, NodeUnfitError, NoRoomError, RayInsecureError

# How long a node may take to start a process that imports psicli [s].
_PROBE_TIMEOUT = 60.0
# The ports of Ray's workers, unless `ray start` says otherwise.
_WORKER_PORTS = range(10002, 20000)
_EVERY_NODE = "Install the same versions of psicli, Ray and Python on every node."


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive. memory: what Ray may promise to workers there [bytes]."""

    id: str
    address: str
    host: str
    cpus: int
    memory: int
    is_head: bool

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Node:
        """Return the node of an entry in Ray's table."""
        has = entry["Resources"]
        return cls(
            id=entry["NodeID"],
            address=entry["NodeManagerAddress"],
            host=entry["NodeManagerHostname"],
            cpus=int(has.get("CPU", 0)),
            memory=int(has.get("memory", 0)),
            is_head="node:__internal_head__" in has,
        )

    @property
    def name(self) -> str:
        return f"{self.host} ({self.address})"

    def room(self, cpus: int | None, memory: int) -> int:
        """Return how many workers fit here. cpus: cores of each; None means all. memory: of each [bytes]."""
        by_cpus = min(self.cpus, 1) if cpus is None else self.cpus // cpus
        return min(by_cpus, self.memory // memory)


def needs_of_worker(job: Job) -> tuple[int | None, int]:
    """Return the cores of each worker, None for all of its node, and its memory [bytes]."""
    workers = job.pipeline.ray
    assert workers is not None
    return workers.worker_cpus, workers.worker_memory or job.pipeline.memory


def capacity(job: Job, nodes: Sequence[Node]) -> tuple[int, int]:
    """Return how many workers the nodes have room for, at most `max_workers`, and their cores in all."""
    workers = job.pipeline.ray
    assert workers is not None
    cpus, memory = needs_of_worker(job)
    cores = [cpus or node.cpus for node in nodes for _ in range(node.room(cpus, memory))][: workers.max_workers]
    return len(cores), sum(cores)


def check_cluster(job: Job, address: str, nodes: Sequence[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Check all nodes; return what the user should know, and what the cluster has of TLS and token authentication.

    Raises NodeLostError, NodeUnfitError, RayInsecureError and NoRoomError.
    """
    workers = job.pipeline.ray
    assert workers is not None
    facts = _probe(nodes)
    for node in nodes:
        _check_versions(node, facts[node.id], strict=job.policy.strict)
    protection = tuple(word for name, word in _PROTECTION.items() if all(found[name] for found in facts.values()))
    warnings = [_exposure(address, nodes, protection, workers), *_slow(nodes, facts), _port(job)]
    _check_room(job, address, nodes)
    return tuple(filter(None, warnings)), protection


# The facts -------------------------------------------------------------------------------------------------------


def _facts() -> Callable[[], dict[str, Any]]:
    """Return the function that finds out the facts of a node.

    It is made here because Ray sends such a function as a whole. It sends one of a module as its name, and a node
    without psicli could only fail.
    """

    def facts() -> dict[str, Any]:
        import os
        import platform

        import ray

        found = {
            "ray": ray.__version__,
            "python": platform.python_version(),
            "tls": os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"),
            "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
        }
        try:
            # Ray keeps this process for a worker, which then starts sooner.
            import psicli.ray.actor  # noqa: F401
            from psicli import __version__, curve

            return {**found, "psicli": __version__, "backend": curve.backend()}
        except ImportError as exc:
            return {**found, "missing": exc.name}

    return facts


def _probe(nodes: Sequence[Node]) -> dict[str, dict[str, Any]]:
    """Return the facts of each node, by its id; raises NodeLostError."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    facts = ray.remote(_facts())
    asked = {
        facts.options(num_cpus=0, max_retries=0, scheduling_strategy=On(node.id, soft=False)).remote(): node
        for node in nodes
    }
    found: dict[str, dict[str, Any]] = {}
    left, deadline = list(asked), time.monotonic() + _PROBE_TIMEOUT
    while left:
        signals.check()
        done, left = ray.wait(left, timeout=signals.SLICE)
        for ref in done:
            try:
                found[asked[ref].id] = ray.get(ref)
            except ray.exceptions.RayError as exc:
                raise NodeLostError(node=asked[ref].name, fault="was lost while psicli checked it") from exc
        if left and time.monotonic() > deadline:
            raise NodeLostError(node=asked[left[0]].name, fault=f"did not answer within {_PROBE_TIMEOUT:.0f} s")
    return found


# The checks ------------------------------------------------------------------------------------------------------


def _check_versions(node: Node, facts: Mapping[str, Any], *, strict: bool) -> None:
    """Raise NodeUnfitError unless a node has this process's versions, and, with policy.strict, the kernel."""
    import ray

    if "missing" in facts:
        raise NodeUnfitError(node=node.name, fault=f"lacks the Python package {facts['missing']}", advice=_EVERY_NODE)
    own = {"psicli": __version__, "ray": ray.__version__, "python": platform.python_version()}
    for name, here in own.items():
        if facts[name] != here:
            fault = f"has {_NAMES[name]} {facts[name]}, and this machine has {here}"
            raise NodeUnfitError(node=node.name, fault=fault, advice=_EVERY_NODE)
    if strict and not _is_native(facts):
        fault = f"has the {facts['backend']} backend, and policy.strict needs the native one"
        raise NodeUnfitError(node=node.name, fault=fault, advice="Install psicli there with a C compiler.")


_NAMES = {"psicli": "psicli", "ray": "Ray", "python": "Python"}


def _is_native(facts: Mapping[str, Any]) -> bool:
    return str(facts["backend"]).startswith("native")


_PROTECTION = {"tls": "TLS", "token": "token authentication"}


def _exposure(address: str, nodes: Sequence[Node], protection: Sequence[str], workers: RayWorkers) -> str | None:
    """Return what others could do with the cluster, if anything; raises RayInsecureError."""
    lacking = [word for word in _PROTECTION.values() if word not in protection]
    if len({node.address for node in nodes}) > 1:
        nodes_there, lack = counted(len(nodes), "node"), " and no ".join(lacking)
        error = RayInsecureError(address=address, nodes=nodes_there, lack=lack)
        if lacking and not workers.insecure:
            raise error
        return error.message if lacking else None
    # On one machine, TLS would protect nothing.
    if _PROTECTION["token"] in lacking:
        return (
            f"the Ray cluster at {address} has no token authentication: whoever reaches one of its ports, another user "
            "of this machine too, can run programs as this user (RAY_AUTH_MODE=token prevents that)"
        )
    return None


def _slow(nodes: Sequence[Node], facts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for node in nodes:
        if not _is_native(facts[node.id]):
            yield f"node {node.name} computes with the {facts[node.id]['backend']} backend, which is slow"


def _port(job: Job) -> str | None:
    port = job.listener.listen_port
    if job.listens and port in _WORKER_PORTS:
        return (
            f"Ray gives its workers ports from {_WORKER_PORTS[0]} to {_WORKER_PORTS[-1]}, and one may take {port}, the "
            "port of this job; choose another (address in the job file), or other ones for Ray (--min-worker-port)"
        )
    return None


def _check_room(job: Job, address: str, nodes: Sequence[Node]) -> None:
    """Raise NoRoomError if no node has room for a worker."""
    cpus, memory = needs_of_worker(job)
    if any(node.room(cpus, memory) for node in nodes):
        return
    largest = max(nodes, key=lambda node: (node.cpus >= (cpus or 1), node.memory, node.cpus))
    has = f"the largest, {largest.name}, has {counted(largest.cpus, 'core')} and {in_units(largest.memory)}"
    raise NoRoomError(address=address, cpus=counted(cpus or 1, "core"), memory=in_units(memory), largest=has)
