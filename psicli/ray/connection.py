"""The connection of a run to the party's Ray cluster. Start reading at connected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psicli.config import Job


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive. memory: what Ray may give to workers there [bytes]."""

    id: str
    address: str
    host: str
    cpus: int
    memory: int
    is_head: bool


class Cluster:
    """The cluster that a run is connected to. warnings: what the user should know before the run."""

    def __init__(self, address: str, warnings: tuple[str, ...]) -> None:
        self.address = address
        self.warnings = warnings

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive now, the head first; raises RayLostError."""
        raise NotImplementedError


@contextmanager
def connected(job: Job) -> Iterator[Cluster]:
    """Connect to the cluster of the job, which must have `workers.ray`, and check that every node can do its bins.

    At the end, the connection leaves nothing in the cluster. Raises RayMissingError, RayConfigError, RayUnreachableError
    and RayBusyError.
    """
    raise NotImplementedError
    yield Cluster("", ())
