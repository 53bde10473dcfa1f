"""What a job needs to connect to its peer: TLS credentials, a listener or dialer, and the terms to agree on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psicli.config import Job, Task
from psicli.protocol.bins import LEAST_BIN_ITEMS, MOST_BIN_ITEMS
from psicli.protocol.messages import COUNT, RR22, Purpose, TaskTerms
from psicli.session.agreement import Deadline, Terms
from psicli.storage.memory import MemoryPlan
from psicli.transport.dialer import Dialer
from psicli.transport.endpoint import Endpoint
from psicli.transport.listener import Listener

if TYPE_CHECKING:
    from psicli.transport.tls import TlsCredentials

# Nodes share a task bin by bin, so a task needs several bins. Smaller ones need more padding: here 2.5 % [items].
MOST_BIN_ITEMS_ON_CLUSTER = 1 << 17


def load_credentials(job: Job) -> TlsCredentials | None:
    """Read the TLS files of a job; raises TlsFileError, WeakCertificateError."""
    if job.tls is None:
        return None
    # Imported late, as everything about certificates: the library for them takes a while.
    from psicli.transport.tls import TlsCredentials

    files = job.tls.ca_file, job.tls.certificate_file, job.tls.private_key_file
    return TlsCredentials(*files, own_name=job.tls_name, peer_name=job.peer_tls_name, pins=job.pins)


def may_last(job: Job) -> float:
    """Return a rough limit for the duration of a job [s]: the wait for the peer plus the receive timeout."""
    return job.connect_timeout + job.link.recv_timeout_ms / 1000


def meeting_point(job: Job, credentials: TlsCredentials | None, purpose: Purpose = Purpose.RUN) -> Listener | Dialer:
    """Bind the port or prepare to dial, before any input is read; raises PortBusyError, BindError."""
    # A check does not reconnect.
    window = job.link.reconnect_window_ms / 1000 if purpose is Purpose.RUN else 0.0
    at, rest = job.listener, (job.peer, credentials, purpose, window)
    if job.listens:
        return Listener(Endpoint(at.listen_host, at.listen_port, *rest))
    return Dialer(Endpoint(at.host, at.port, *rest), job.link.connect_retry_interval_ms / 1000)


def terms(job: Job, purpose: Purpose = Purpose.RUN, deadline: Deadline | None = None) -> Terms:
    """Return this party's terms of the job, which the peer compares with its own; by default without a deadline."""
    return Terms(
        job.party,
        job.peer,
        job.name,
        tuple(task_terms(task) for task in job.tasks),
        job.link.recv_timeout_ms,
        purpose,
        job.link.reconnect_window_ms / 1000,
        deadline or Deadline(),
    )


def task_terms(task: Task) -> TaskTerms:
    """Return this party's terms of a task; without key forms, nothing is said about forms."""
    result = COUNT if task.result == COUNT else ""
    terms = TaskTerms(
        task.name,
        task.receiver,
        task.broadcast_result,
        len(task.keys),
        group=task.group,
        result=result,
        protocol=protocol(task),
    )
    if all(form.is_text for form in task.forms):
        return terms
    # Imported late, because most keys are compared as text.
    from psicli.items.forms.convert import FORMS_VERSION
    from psicli.items.forms.probe import phone_version, probe, unicode_version

    return replace(
        terms,
        key_form=tuple(form.agreed for form in task.forms),
        forms_version=FORMS_VERSION,
        forms_probe=probe(task.forms),
        unicode_version=unicode_version(),
        phone_version=phone_version(task.forms),
    )


def protocol(task: Task) -> str:
    """Return how the bins of a task are exchanged, in the terms of the protocol: empty for ECDH."""
    return RR22 if task.protocol == RR22 else ""


def bin_items(job: Job) -> int:
    """Return the most items that a bin of this party can hold, a power of two [items]."""
    most = MOST_BIN_ITEMS if job.pipeline.ray is None else MOST_BIN_ITEMS_ON_CLUSTER
    return job.pipeline.bin_items or _plan_of_worker(job).bin_items(LEAST_BIN_ITEMS, most)


def count_items(job: Job) -> int:
    """Return the most items that a task which only counts may have: such a task has one bin, however large [items].

    `pipeline.bin_items` says into how large bins a task is divided, so it is no limit here.
    """
    return max(_plan_of_worker(job).room, LEAST_BIN_ITEMS)


def _plan_of_worker(job: Job) -> MemoryPlan:
    """Return the memory plan of a process that computes bins."""
    workers = job.pipeline.ray
    return MemoryPlan((workers and workers.worker_memory) or job.pipeline.memory)
