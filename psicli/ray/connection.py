"""The connection of a run to the party's own Ray cluster. Start reading at connected.

psicli is an ordinary driver of Ray on the head of the cluster, and starts no cluster itself. It finds out by plain
sockets what Ray would find out after minutes or not at all.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from psicli.config import Job
from psicli.config.fields import ray_address, split_address
from psicli.core import signals
from psicli.core.errors import InterruptedBySignal, PsicliError, VariableError, reason
from psicli.core.records import dataclass
from psicli.ray import check_installed
from psicli.ray.errors import (
    JobOnClusterError,
    ManyClustersError,
    NoClusterHereError,
    NotTheHeadError,
    RayLostError,
    RaySettingsError,
    RaySilentError,
    RayUnreachableError,
)
from psicli.ray.probe import Node, check_cluster

T = TypeVar("T")

# The names of psicli's actors in a cluster are its own.
NAMESPACE = "psicli"
# Settings of Ray that it reads when it is loaded; a user may have set them. Its own messages are not for a terminal.
# Without the second one, Ray ends the process 60 s after its head has ended. The third one keeps Ray from sending the
# current folder to all nodes if `uv run` started psicli. Without the last one, a thread that calls Ray after the end of
# the connection would connect to whatever cluster runs here, or start one.
_SETTINGS = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
# How long to wait for a socket, for Ray's connection to its head, for an answer after that, and at the end [s].
_SOCKET_TIMEOUT, _CONNECT_TIMEOUT, _ANSWER_TIMEOUT, _END_TIMEOUT = 5.0, 30.0, 10.0, 3.0
# How long the cluster may take to notice that an earlier run of the job has ended [s].
_CLAIM_TIMEOUT = 10.0
# What a client of gRPC says first, and the type of the first frame that a server without TLS answers with.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4
_TLS_FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_SAME_TLS = f"Set RAY_USE_TLS=1, and the files of {', '.join(_TLS_FILES)}, for psicli as for `ray start`."
_NO_TLS = "Set RAY_USE_TLS=1 for `ray start` on every node, too, or for none and not for psicli."
_SAME_TOKEN = (
    "Set RAY_AUTH_MODE=token, and the token of the cluster (~/.ray/auth_token, or RAY_AUTH_TOKEN_PATH), for psicli as "
    "for `ray start`."
)


@dataclass(frozen=True)
class Cluster:
    """The cluster that a run is connected to.

    warnings: what its user should know; protection: what it has of TLS and token authentication.
    """

    address: str
    warnings: tuple[str, ...]
    protection: tuple[str, ...]

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive, the head first; raises RayLostError.

        Ray takes some 15 s to notice that a node has ended.
        """
        return _nodes(self.address)

    def free_cores(self) -> int:
        """Return how many cores of the cluster nothing uses now; raises RayLostError."""
        import ray

        return int(_answer(self.address, ray.available_resources).get("CPU", 0))


@contextmanager
def connected(job: Job) -> Iterator[Cluster]:
    """Connect to the cluster of the job, which must have `workers.ray`, and check that its nodes can do the bins.

    At the end, nothing of the job is left in the cluster. Raises the errors of psicli.ray.errors and VariableError.
    """
    workers = job.pipeline.ray
    assert workers is not None
    check_installed()
    ray = _load()
    address = _resolved(workers.ray)
    _check_head(address)
    _connect(ray, address)
    # Ray's handler of SIGTERM would print a stack trace before it calls psicli's.
    signals.reinstall()
    try:
        nodes = _nodes(address)
        own = ray.get_runtime_context().get_node_id()
        if not any(node.id == own and node.is_head for node in nodes):
            raise NotTheHeadError(address=address, port=split_address(address)[1])
        claim = _claim(ray, job, own)
        try:
            yield Cluster(address, *check_cluster(job, address, nodes))
        finally:
            with suppress(Exception):
                _in_time(lambda: ray.kill(claim), _END_TIMEOUT)
    finally:
        with suppress(Exception), _kept_from_terminal():
            _in_time(ray.shutdown, _END_TIMEOUT)


# The library -----------------------------------------------------------------------------------------------------


def _load() -> Any:
    """Load Ray, and return it; it then neither writes to the terminal nor sees this process's exceptions."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    hook = sys.excepthook
    import ray

    sys.excepthook = hook
    logging.getLogger("ray").setLevel(logging.CRITICAL + 1)
    # Where a node ends, Ray would print the last lines of its log to standard output, which may be a table.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    return ray


def in_own_thread(work: Callable[[], T]) -> Future[T]:
    """Begin a call into Ray in a thread of its own, which may wait for ever, and return its future.

    Ray knows no time limit for most calls, and would take over the handler of SIGTERM in the main thread.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, name="psicli-ray", daemon=True).start()
    return future


def _in_time(work: Callable[[], T], seconds: float, stop: Callable[[], object] = lambda: None) -> T:
    """Return what a call into Ray returns, and raise what it raises, or TimeoutError after `seconds` [s].

    A signal ends the wait. So does an exception of `stop`, which is called now and then.
    """
    future = in_own_thread(work)
    deadline = time.monotonic() + seconds
    while True:
        if threading.current_thread() is threading.main_thread():
            signals.check()
        try:
            return future.result(min(signals.SLICE, max(deadline - time.monotonic(), 0)))
        except TimeoutError:
            if future.done() or time.monotonic() >= deadline:
                raise
        stop()


@contextmanager
def _kept_from_terminal() -> Iterator[Callable[[], bytes]]:
    """Keep from standard error what Ray's compiled part writes to it; yield a function that returns it.

    psicli's own lines still arrive there, from every thread. After an exception it stays so: a call that was given up
    goes on and would write for as long as this process lives.
    """
    sys.stderr.flush()
    outer, at, there = sys.stderr, os.dup(2), os.memfd_create("ray")
    ours = os.fdopen(at, "w", buffering=1, encoding=outer.encoding, errors=outer.errors)
    os.dup2(there, 2)
    sys.stderr = ours
    try:
        yield lambda: os.pread(there, 1 << 16, 0)
    except BaseException:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        raise
    else:
        sys.stderr = outer
        ours.flush()
        os.dup2(ours.fileno(), 2)
        ours.close()
    finally:
        os.close(there)


# The head --------------------------------------------------------------------------------------------------------


def _resolved(address: str) -> str:
    """Return HOST:PORT of the head; raises VariableError, NoClusterHereError and ManyClustersError."""
    if address != "auto":
        return address
    if given := os.environ.get("RAY_ADDRESS", ""):
        try:
            address = ray_address(given)
        except ValueError as exc:
            fault, _, right = str(exc).partition("; ")
            advice = f"{right[:1].upper()}{right[1:]}."
            raise VariableError(variable="RAY_ADDRESS", fault=f"cannot be used: {fault}", advice=advice) from None
        if address != "auto":
            return address
    # Not of Ray's public interface, which offers only a choice without a word about it.
    from ray._private.services import find_gcs_addresses

    found = sorted(find_gcs_addresses())
    if not found:
        raise NoClusterHereError
    if len(found) > 1:
        raise ManyClustersError(addresses=", ".join(found))
    return str(found[0])


def _check_head(address: str) -> None:
    """Check that the head is this machine, and that it answers like a head to one with this process's settings."""
    host, port = split_address(address)
    facts = {"address": address, "port": port}
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if not any(_is_own(family, at[0]) for family, _, _, _, at in places):
            raise NotTheHeadError(**facts)
        with socket.create_connection((host, port), _SOCKET_TIMEOUT) as connection:
            connection.sendall(_PREFACE)
            answer = connection.recv(1 << 12)
    except OSError as exc:
        why = f"no answer in {_SOCKET_TIMEOUT:.0f} s" if isinstance(exc, TimeoutError) else reason(exc)
        raise RayUnreachableError(**facts, reason=why) from exc
    plain = len(answer) > 3 and answer[3] == _SETTINGS_FRAME
    uses_tls = _uses_tls()
    if plain and uses_tls:
        raise RaySettingsError(address=address, fault="does not use TLS, and psicli has RAY_USE_TLS=1", advice=_NO_TLS)
    if not answer and not uses_tls:
        raise RaySettingsError(address=address, fault="takes no connection without TLS", advice=_SAME_TLS)
    if answer and not plain and not uses_tls:
        raise RayUnreachableError(**facts, reason="another program answers there")
    for name in _TLS_FILES if uses_tls else ():
        if not os.access(os.environ.get(name, ""), os.R_OK):
            raise VariableError(variable=name, fault="names no file that psicli can read", advice=_SAME_TLS)


def _uses_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true")


def _is_own(family: int, host: Any) -> bool:
    """Return whether an address belongs to this machine: only such a one can be bound."""
    with socket.socket(family, socket.SOCK_STREAM) as trial, suppress(OSError):
        trial.bind((host, 0))
        return True
    return False


def _connect(ray: Any, address: str) -> None:
    """Make this process a driver; raises RaySettingsError, RaySilentError and RayUnreachableError."""
    # Ray would let the modules of the current folder, which is one of data, take precedence in its workers.
    settings = ray.job_config.JobConfig()
    settings._client_job = True

    def init() -> None:
        ours = {"namespace": NAMESPACE, "job_config": settings}
        ray.init(address, **ours, log_to_driver=False, configure_logging=False)

    with _kept_from_terminal() as said:

        def listen() -> None:
            # Ray itself would try again for minutes.
            if b"InvalidAuthToken" in said():
                raise RaySettingsError(address=address, fault="does not accept psicli's token", advice=_SAME_TOKEN)
            if _uses_tls() and said().count(b"Failed to connect") > 1:
                fault = "and psicli do not accept each other's certificates"
                raise RaySettingsError(address=address, fault=fault, advice=_SAME_TLS)

        try:
            _in_time(init, _CONNECT_TIMEOUT, listen)
        except PsicliError:
            raise
        except TimeoutError:
            raise RaySilentError(address=address, seconds=_CONNECT_TIMEOUT) from None
        except Exception as exc:
            raise _refusal(ray, address, exc) from exc


def _refusal(ray: Any, address: str, exc: Exception) -> RaySettingsError | RayUnreachableError:
    """Return the error for an exception with which Ray refuses to connect."""
    if isinstance(exc, ray.exceptions.AuthenticationError):
        return RaySettingsError(address=address, fault="needs a token, and psicli found none", advice=_SAME_TOKEN)
    if "Version mismatch" in str(exc):
        # "The cluster was started with: Ray: A Python: B. This process was started with: Ray: C Python: D"
        words = str(exc).split()
        versions = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("Ray:", "Python:")]
        fault = "has other versions of Ray and Python than psicli"
        if len(versions) == 4:
            fault = "has Ray {} with Python {}, and psicli has Ray {} with Python {}".format(*versions)
        return RaySettingsError(address=address, fault=fault, advice="Install the same versions on every node.")
    port = split_address(address)[1]
    return RayUnreachableError(address=address, port=port, reason=f"Ray ended with {type(exc).__name__}")


# The cluster -----------------------------------------------------------------------------------------------------


def _nodes(address: str) -> list[Node]:
    import ray

    found = _answer(address, ray.nodes)
    return sorted(map(Node.of, filter(lambda node: node["Alive"], found)), key=lambda node: (not node.is_head, node.id))


def _answer(address: str, question: Callable[[], T]) -> T:
    """Return what the head answers to a call; raises RayLostError."""
    try:
        return _in_time(question, _ANSWER_TIMEOUT)
    except InterruptedBySignal:
        raise
    except Exception as exc:
        raise RayLostError(address=address) from exc


class Claim:
    """An actor that shows that a run of the job is under way, and where."""

    def __init__(self, host: str, pid: int) -> None:
        self._holder = host, pid

    def holder(self) -> tuple[str, int]:
        return self._holder


def _has_ended(host: str, pid: int) -> bool:
    """Return whether a process was one of this machine, and has ended."""
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            # It is another user's.
            return False
    return False


def _claim(ray: Any, job: Job, head: str) -> Any:
    """Take the job's name on this cluster, which lasts as long as this process; raises JobOnClusterError."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name = f"{job.name}/{job.party} at {job.listener.address}"
    claims = ray.remote(Claim).options(
        name=name, num_cpus=0, max_restarts=0, scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False)
    )
    deadline = time.monotonic() + _CLAIM_TIMEOUT
    while True:
        try:
            return claims.remote(socket.gethostname(), os.getpid())
        except ValueError:
            # Another actor has the name. If its run has just ended, so will the actor, which may still answer.
            holder = ""
            with suppress(Exception):
                host, pid = _in_time(lambda: ray.get(ray.get_actor(name).holder.remote()), _ANSWER_TIMEOUT)
                holder = "" if _has_ended(host, pid) else f" (pid {pid} on {host})"
            if holder or time.monotonic() > deadline:
                raise JobOnClusterError(job=job.name, party=job.party, holder=holder) from None
            signals.pause(signals.SLICE)
