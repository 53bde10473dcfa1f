"""Every error that concerns the party's own Ray cluster.

The classes follow the rules of psicli.core.errors. An address is HOST:PORT of the head; a node is named by its host.
"""

from __future__ import annotations

from psicli.core.errors import BusyError, ConfigError, PsicliError


class RayMissingError(ConfigError):
    """Facts: fault."""

    sentence = "pipeline.workers is a Ray cluster, and {fault}"
    hint = "Install it on every node: `pip install 'psicli[ray]'`. Or compute here: `--workers threads`."


class ManyClustersError(ConfigError):
    sentence = "several Ray clusters run on this machine: {addresses}"
    hint = "Name one of them: pipeline.workers.ray in the job file, --workers, or the variable RAY_ADDRESS."


class NotTheHeadError(ConfigError):
    sentence = "this machine is not the head of the Ray cluster at {address}"
    hint = (
        "Start psicli on the head alone; its other nodes only run `ray start --address={address}`. If this is the "
        "head, name it with an address of its own, such as 127.0.0.1:{port}."
    )


class RaySettingsError(ConfigError):
    """The cluster and psicli have different settings. Facts: address, fault, advice."""

    sentence = "the Ray cluster at {address} {fault}"
    hint = "{advice}"


class NodeUnfitError(ConfigError):
    """A node cannot do bins of this job. Facts: node, fault, advice."""

    sentence = "node {node} of the Ray cluster {fault}"
    hint = "{advice}"


class RayInsecureError(ConfigError):
    """Facts: address, nodes, lack."""

    sentence = (
        "the Ray cluster at {address} has {nodes} on several machines, and no {lack}: whoever reaches one of its ports "
        "can run programs as this user, and read all items"
    )
    hint = (
        "Set RAY_USE_TLS=1 with its RAY_TLS_… files, and RAY_AUTH_MODE=token with one token, on every node and for "
        "psicli, and start the cluster again. On a network that nobody else reaches, pipeline.workers.insecure allows "
        "it."
    )


class NoRoomError(ConfigError):
    """Facts: address, cpus, memory, largest."""

    sentence = (
        "no node of the Ray cluster at {address} has room for a worker, which needs {cpus} and {memory} of memory; "
        "{largest}"
    )
    hint = (
        "Set pipeline.workers.worker_cpus and .worker_memory (by default pipeline.memory) lower, or start larger nodes."
    )


class RayLostError(PsicliError):
    """The cluster could not be reached, or the connection to it was lost."""

    code = 69
    sentence = "the Ray cluster at {address} does not answer any more"
    hint = "Find out why its head stopped (`ray status` on this machine), start it again, then run again."


class NoClusterHereError(RayLostError):
    sentence = "pipeline.workers.ray is auto, and no node of a Ray cluster runs on this machine"
    hint = "Start it with `ray start --head`, or name the address of its head."


class RayUnreachableError(RayLostError):
    """Facts: address, reason."""

    sentence = "the head of the Ray cluster at {address} cannot be reached: {reason}"
    hint = (
        "Start it on this machine with `ray start --head --port={port}`, start psicli where it runs, or correct the "
        "address (pipeline.workers.ray, --workers, RAY_ADDRESS)."
    )


class RaySilentError(RayLostError):
    sentence = "the head of the Ray cluster at {address} did not let psicli in within {seconds:.0f} s"
    hint = (
        "The Ray node of this machine may have ended: look at `ray status`. Then end what is left with `ray stop`, and "
        "start Ray again."
    )


class NodeLostError(RayLostError):
    """Facts: node, fault."""

    sentence = "node {node} of the Ray cluster {fault}"
    hint = "Look for the cause in Ray's logs on that node, or stop Ray there; then run again."


class JobOnClusterError(BusyError):
    """Facts: job, party, holder."""

    sentence = "job {job} of {party} already runs on this Ray cluster{holder}"
    hint = "Wait for it to end. Start psicli on the head of the cluster alone, once for each job."


class NoWorkerError(PsicliError):
    """No worker can compute. Facts: fault."""

    code = 69
    sentence = "no worker on the Ray cluster can compute the bins: {fault}"
    hint = "Look at `ray status` on the head, then run again. The run goes on after the bins that are finished."


class WorkerFailedError(PsicliError):
    """A bug in psicli, on a node. Facts: node, kind."""

    sentence = "a worker on node {node} of the Ray cluster failed ({kind})"
    hint = "Run with `--workers threads`, and report this error."


class ItemsLostError(PsicliError):
    """Ray has lost items or rows that nodes have read, and could not read them again."""

    sentence = "the Ray cluster has lost what its nodes read of the input"
    code = 69
    hint = "Look at `ray status` on the head, then run again. The run goes on after its finished bins."


class ClusterBusyError(BusyError):
    """Facts: address, seconds."""

    sentence = (
        "no worker has started on the Ray cluster at {address} within {seconds:.0f} s: other programs have its cores "
        "or its memory"
    )
    hint = "`ray status` on the head shows what they have. Run the jobs of one cluster one after another, or run again."
