"""Whether the nodes of a Ray cluster can do the bins of a job; none of this needs a cluster."""

from __future__ import annotations

import platform
from typing import Any

import pytest
from support.job_files import SMALL, TASK, Load

from psicli import __version__
from psicli.config import Job
from psicli.core.errors import PsicliError
from psicli.ray import probe
from psicli.ray.probe import Node, capacity, check_cluster

ADDRESS = "10.0.0.1:6379"
GB = 10**9


def node(number: int, cpus: int = 4, memory: int = 8 * GB, address: str = "10.0.0.1") -> Node:
    return Node(f"{number:056x}", address, f"host{number}", cpus, memory, is_head=number == 0)


def job_with(load: Load, workers: str = "{ray: auto}", more: str = "", address: str = "127.0.0.1:9560") -> Job:
    text = SMALL.replace("127.0.0.1:18560", address)
    return load(text.replace("tasks:", f"pipeline: {{memory: 2GB, workers: {workers}}}\n{more}tasks:") + TASK)


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the facts of every node, which a test may change."""
    ray = pytest.importorskip("ray")
    found: dict[str, Any] = {
        "ray": ray.__version__, "python": platform.python_version(), "psicli": __version__, "tls": True, "token": True,
        "backend": "native avx2",
    }  # fmt: skip
    monkeypatch.setattr(probe, "_probe", lambda nodes: {each.id: found for each in nodes})
    return found


def refused(job: Job, nodes: list[Node]) -> PsicliError:
    with pytest.raises(PsicliError) as caught:
        check_cluster(job, ADDRESS, nodes)
    assert caught.value.advice
    assert caught.value.code == 78
    return caught.value


def test_a_node_from_the_table_of_ray() -> None:
    entry = {
        "NodeID": "ab", "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "h", "Alive": True,
        "Resources": {"CPU": 4.0, "memory": 8e9, "node:10.0.0.1": 1.0, "node:__internal_head__": 1.0},
    }  # fmt: skip
    assert Node.of(entry) == Node("ab", "10.0.0.1", "h", 4, 8 * GB, is_head=True)
    assert Node.of({**entry, "Resources": {}}) == Node("ab", "10.0.0.1", "h", 0, 0, is_head=False)


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ("{ray: auto}", (2, 10)),
        ("{ray: auto, worker_cpus: 1}", (6, 6)),
        ("{ray: auto, worker_cpus: 4}", (2, 8)),
        ("{ray: auto, worker_cpus: 6}", (1, 6)),
        ("{ray: auto, worker_cpus: 1, worker_memory: 1GB}", (9, 9)),
        ("{ray: auto, worker_cpus: 1, worker_memory: 6GB}", (1, 1)),
        ("{ray: auto, max_workers: 1}", (1, 4)),
    ],
)
def test_room(load: Load, workers: str, expected: tuple[int, int]) -> None:
    nodes = [node(0, 4, 8 * GB), node(1, 6, 5 * GB), node(2, 0, 8 * GB)]
    assert capacity(job_with(load, workers), nodes) == expected


def test_no_room(load: Load, facts: dict[str, Any]) -> None:
    nodes = [node(0, 4, 8 * GB), node(1, 2, 16 * GB)]
    where = "no node of the Ray cluster at 10.0.0.1:6379 has room for a worker, which needs "
    error = refused(job_with(load, "{ray: auto, worker_cpus: 8}"), nodes)
    assert (
        error.message == f"{where}8 cores and 2.0 GB of memory; the largest, host1 (10.0.0.1), has 2 cores and 16.0 GB"
    )
    error = refused(job_with(load, "{ray: auto, worker_cpus: 4, worker_memory: 9GB}"), nodes)
    assert (
        error.message == f"{where}4 cores and 9.0 GB of memory; the largest, host0 (10.0.0.1), has 4 cores and 8.0 GB"
    )


@pytest.mark.parametrize(
    ("name", "other", "fault"),
    [
        ("psicli", "0.0.9", f"has psicli 0.0.9, and this machine has {__version__}"),
        ("ray", "2.1", "has Ray 2.1, and this machine has "),
        ("python", "3.9.1", f"has Python 3.9.1, and this machine has {platform.python_version()}"),
        ("missing", "psicli", "lacks the Python package psicli"),
    ],
)
def test_versions(load: Load, facts: dict[str, Any], name: str, other: str, fault: str) -> None:
    facts[name] = other
    error = refused(job_with(load), [node(0)])
    assert error.message.startswith(f"node host0 (10.0.0.1) of the Ray cluster {fault}")


def test_the_backend_of_a_node(load: Load, facts: dict[str, Any]) -> None:
    facts["backend"] = "reference"
    (warning,), _ = check_cluster(job_with(load), ADDRESS, [node(0)])
    assert warning == "node host0 (10.0.0.1) computes with the reference backend, which is slow"
    job = job_with(load)
    strict = job.model_copy(update={"policy": job.policy.model_copy(update={"strict": True})})
    assert refused(strict, [node(0)]).message.endswith(
        "has the reference backend, and policy.strict needs the native one"
    )


def test_several_machines_need_tls_and_tokens(load: Load, facts: dict[str, Any]) -> None:
    nodes = [node(0), node(1, address="10.0.0.2")]
    assert check_cluster(job_with(load), ADDRESS, nodes) == ((), ("TLS", "token authentication"))
    for tls, token, lack in (
        (False, True, "no TLS:"),
        (True, False, "no token authentication:"),
        (False, False, "no TLS and no token authentication:"),
    ):
        facts.update(tls=tls, token=token)
        error = refused(job_with(load), nodes)
        assert error.message.startswith(f"the Ray cluster at {ADDRESS} has 2 nodes on several machines, and {lack}")
        warnings, protection = check_cluster(job_with(load, "{ray: auto, insecure: true}"), ADDRESS, nodes)
        assert (warnings, len(protection)) == ((error.message,), tls + token)


def test_one_machine_needs_tokens_for_its_other_users(load: Load, facts: dict[str, Any]) -> None:
    nodes = [node(0), node(1)]
    facts["tls"] = False
    assert check_cluster(job_with(load), ADDRESS, nodes) == ((), ("token authentication",))
    facts["token"] = False
    (warning,), _ = check_cluster(job_with(load), ADDRESS, nodes)
    assert warning.startswith(f"the Ray cluster at {ADDRESS} has no token authentication: whoever reaches one of its")


def test_a_port_that_ray_may_take(load: Load, facts: dict[str, Any]) -> None:
    (warning,), _ = check_cluster(job_with(load, address="127.0.0.1:10002"), ADDRESS, [node(0)])
    assert warning.startswith(
        "Ray gives its workers ports from 10002 to 19999, and one may take 10002, the port of this"
    )
    assert check_cluster(job_with(load, address="127.0.0.1:20000"), ADDRESS, [node(0)])[0] == ()
