"""A real Ray cluster of several nodes on this machine, of which nothing is left at its end."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil
from support.clusters import keeper
from support.processes.runner import free_ports
from support.waiting import DEADLINE, wait_until

STORE = 100_000_000
# Ray gives its workers ports of this range by default; each node here has some of its own.
WORKER_PORTS = range(10002, 20000)
PORTS_OF_A_NODE = 100
# What Ray calls its own processes; all others named `ray::…` belong to jobs.
OWN = ("IDLE", "DashboardAgent", "RuntimeEnvAgent", "IDLE_SpillWorker", "IDLE_RestoreWorker")


# Prints what the cluster's own record has as alive, one entry a line.
RECORD = """
import sys
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
state = GlobalState()
state._initialize_global_state(
    GcsClientOptions.create(sys.argv[1], None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
)
for key, each in state.actor_table(None).items():
    if each["State"] != "DEAD":
        print("actor", each["Name"] or key)
for key, each in state.placement_group_table().items():
    if each["state"] != "REMOVED":
        print("placement group", key)
for each in state.job_table():
    if not each["IsDead"]:
        print("job", each["JobID"])
"""


class NoCluster(Exception):
    """Say why Ray cannot start here."""


class Node:
    """One node: a raylet and what belongs to it, in its own folder."""

    def __init__(self, folder: Path, arguments: list[str], core: int | None, environment: Mapping[str, str]) -> None:
        folder.mkdir()
        self.folder = folder
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--temp-dir={folder}", *arguments]
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", keeper.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "RAY_DISABLE_USAGE_STATS": "1", **environment},
            cwd=folder,
            text=True,
            start_new_session=True,
        )
        said = self._stdout.readline().strip()
        if said != keeper.UP:
            self.kill()
            raise NoCluster(f"`ray start` failed: {said}")

    @property
    def _stdout(self) -> IO[str]:
        assert self._keeper.stdout is not None
        return self._keeper.stdout

    @property
    def session(self) -> Path:
        """Return the folder of Ray's session, with its logs, sockets and spilled objects."""
        return (self.folder / "session_latest").resolve()

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the node."""
        if self._keeper.poll() is not None:
            return []
        return [each for each in psutil.Process(self._keeper.pid).children(recursive=True) if not _is_gone(each)]

    def raylet(self) -> psutil.Process:
        return self._named("raylet")

    def gcs(self) -> psutil.Process:
        return self._named("gcs_server")

    def workers(self) -> list[psutil.Process]:
        """Return the processes of actors and tasks that jobs have on the node."""
        found = []
        for each in self.processes():
            titled = title(each)
            if titled.startswith("ray::") and titled.removeprefix("ray::").split()[0] not in OWN:
                found.append(each)
        return found

    def kill(self) -> None:
        """End the node as if its power failed: all its processes at once."""
        self._keeper.communicate()

    def _named(self, name: str) -> psutil.Process:
        found = [each for each in self.processes() if Path(title(each).split(" ")[0]).name == name]
        # A process that it has forked bears its name until it becomes another program.
        return min(found, key=psutil.Process.create_time)


class Cluster:
    """A head and any number of other nodes, each with its own CPUs and folder.

    environment: the variables that a driver needs. Only who knows the token in them can use the cluster, because Ray
    listens on all networks of this machine. of_nodes: further variables of the nodes' processes.
    """

    def __init__(self, folder: Path, stack: ExitStack, of_nodes: Mapping[str, str]) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self._stack = stack
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._of_nodes = {**self.environment, **of_nodes}
        self._port, self._client_port = stack.enter_context(free_ports(2))
        # All nodes have this machine's address, and so the one with the loopback address reaches the head, too.
        self.address = f"127.0.0.1:{self._port}"

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def add(
        self, *, cpus: int = 1, core: int | None = None, store: int = STORE, arguments: tuple[str, ...] = ()
    ) -> Node:
        """Start a node, the first of which is the head.

        core: the core of this machine for all its processes. store: the size of its object store [bytes].

        Raises NoCluster if Ray does not start.
        """
        if self.nodes:
            where = [f"--address={self.address}"]
        else:
            where = ["--head", f"--port={self._port}", f"--ray-client-server-port={self._client_port}"]
            where.append("--include-dashboard=false")
        first = self._stack.enter_context(_worker_ports())
        options = [
            f"--num-cpus={cpus}",
            f"--object-store-memory={store}",
            f"--min-worker-port={first}",
            f"--max-worker-port={first + PORTS_OF_A_NODE - 1}",
            "--dashboard-agent-listen-port=0",
            "--include-log-monitor=false",
            "--disable-usage-stats",
            *arguments,
        ]
        node = Node(self.folder / str(len(self.nodes)), where + options, core, self._of_nodes)
        self._stack.callback(node.kill)
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        """End the cluster and remove its folder; this also happens by itself at the end of `running`."""
        self._stack.close()

    def processes(self) -> list[psutil.Process]:
        return [each for node in self.nodes for each in node.processes()]

    def workers(self) -> list[psutil.Process]:
        return [each for node in self.nodes for each in node.workers()]

    def left(self) -> list[str]:
        """Return the actors, placement groups and drivers' jobs that the cluster's own record has as alive."""
        command = [sys.executable, "-c", RECORD, self.address]
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        return done.stdout.splitlines()

    def nothing_left(self) -> None:
        """Wait until no job has a process, an actor or a placement group on the cluster."""
        wait_until(lambda: not self.workers(), "no worker is left")
        wait_until(lambda: not self.left(), "no actor, placement group or job is left")


def title(process: psutil.Process) -> str:
    """Return how a process calls itself, or nothing if it has ended."""
    with suppress(psutil.NoSuchProcess, IndexError):
        return process.cmdline()[0]
    return ""


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def _worker_ports() -> Iterator[int]:
    """Yield the first of as many ports as a node's workers may need, which no other test process uses."""
    folder = Path(tempfile.gettempdir()) / f"psicli-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for first in range(WORKER_PORTS.start, WORKER_PORTS.stop - PORTS_OF_A_NODE, PORTS_OF_A_NODE):
        with open(folder / str(first), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield first
            return
    raise NoCluster("other tests use all ports of workers")


def installed() -> bool:
    return importlib.util.find_spec("ray") is not None


@contextmanager
def running(count: int = 2, *, environment: Mapping[str, str] | None = None, **how: Any) -> Iterator[Cluster]:
    """Yield a cluster of `count` nodes.

    environment: further variables of the nodes' processes. how: the arguments of Cluster.add.

    Raises NoCluster if Ray is not installed, or does not start.
    """
    if not installed():
        raise NoCluster("Ray is not installed")
    # Ray's sockets are in this folder, and the system limits the length of their paths.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        cluster = Cluster(folder, stack, environment or {})
        for _ in range(count):
            cluster.add(**how)
        yield cluster
