"""One run of a job, from binding the port to the report. Start reading at run_job."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import time
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from psicli import __version__, curve
from psicli.config import Job
from psicli.core import failpoints, trace
from psicli.core.errors import InterruptedBySignal, PsicliError, shown, unexpected
from psicli.exchange.finished import sweep
from psicli.exchange.task_exchange import Storage
from psicli.exchange.worker import LocalWorkers, Workers
from psicli.items.sketches import Sketches
from psicli.job.drift import Past
from psicli.job.groups.expand import Expanded, expand_files
from psicli.job.groups.unpaired import leave_out
from psicli.job.inputs import Inputs, check_files, check_trace_file
from psicli.job.meeting import bin_items, count_items, load_credentials, may_last, meeting_point, terms
from psicli.job.policy import Duration, check_kernels
from psicli.job.resume import Mode
from psicli.job.task_run import Shared, TaskRun
from psicli.ray import check_installed
from psicli.report.console import Console, duration
from psicli.report.history.bands import Measure
from psicli.report.report import NodeReport, Report, TaskReport, facts_of, what_the_peer_learns
from psicli.report.trace_file import save_trace
from psicli.session.agreement import Deadline, differing_versions
from psicli.session.session import UNNAMED_FAILURE, Session, open_session
from psicli.storage import reports
from psicli.storage.files import exposure
from psicli.storage.ledger import Ledger
from psicli.storage.locks import PortLock
from psicli.storage.memory import MemoryPlan, peak_memory
from psicli.storage.spool import Spool
from psicli.storage.state import state_folder
from psicli.transport.dialer import Dialer
from psicli.transport.door.owners import shown_user
from psicli.transport.listener import Listener

if TYPE_CHECKING:
    from psicli.ray.connection import Cluster
    from psicli.ray.workers import RayWorkers

logger = logging.getLogger(__name__)

# glibc's mallopt parameter for the maximum number of heaps.
_M_ARENA_MAX = -8
# How long a party that fails before the session starts waits to notify the peer [s].
REFUSAL_TIMEOUT = 5.0


def run_job(
    job: Job,
    console: Console,
    lock: PortLock,
    trace_file: Path | None = None,
    resume: Mode = Mode.AUTO,
    *,
    accept_drift: frozenset[Measure] = frozenset(),
) -> Report:
    """Run every task of the job with the peer, and return the report; failures are in the report, never raised.

    lock: the lock on the job's port or address; its record shows the progress of the run. It is released with the
    connection, before the last results are matched and written.
    trace_file: where to write a trace of the run, if anywhere. resume: whether to resume interrupted tasks.
    accept_drift: the measures for which policy.max_drift only warns, and in which later runs may be like this one.
    """
    timing = Duration(job.policy)
    report = Report(job.name, job.party, job.peer, __version__, curve.backend(), [])
    ledger = Ledger(state_folder(), partial(_warn, report), strict=job.policy.strict)
    runs: list[TaskRun] = []
    unrecorded = _begin(job, ledger)
    report.run = ledger.run or None
    try:
        with ExitStack() as stack:
            found = _tasks(job, report, console)
            job = found.job
            _prepare_process(job, report)
            meeting = stack.enter_context(closing(_meeting_point(job, report)))
            console.waits()
            inputs, workers, cluster = _checked(
                found, meeting, stack, report, unrecorded, trace_file, console, timing.deadline
            )
            if trace_file is not None:
                trace.start()
            spool = stack.enter_context(Spool(state_folder()))
            stack.callback(_note_disk, report, spool, job)
            sweep(state_folder())
            storage = Storage(spool, MemoryPlan(job.pipeline.memory))
            sketches = Sketches(state_folder(), job.party, job.peer)
            if job.policy.min_difference == 0:
                sketches.forget(job.name)
            past = Past(job, ledger, accept_drift)
            shared = Shared(
                job, inputs, storage, ledger, sketches, report, console, lock, resume, past, timing, cluster
            )
            for task, entry in zip(job.tasks, report.tasks, strict=True):
                runs.append(TaskRun(shared, task, entry))
                stack.callback(runs[-1].close)
            if (first := next((run for run in runs if not run.is_left_out), None)) is not None:
                first.read_ahead()
            session = stack.enter_context(_session(job, meeting, storage, workers, report, timing.deadline, lock))
            console.meets()
            names = _agree(session, report, console)
            for run in runs:
                if run.name not in names:
                    run.close()
            workers.open()
            session.run([run for run in runs if run.name in names])
    except PsicliError as exc:
        report.end(exc)
    except Exception as exc:
        report.end(unexpected(exc, logger))
    if trace_file is not None:
        try:
            save_trace(trace_file, job.party, {"job": job.name, "party": job.party, "psicli": __version__})
        except PsicliError as exc:
            report.fail(exc)
    report.close(time.monotonic() - timing.started, peak_memory())
    for run in runs:
        run.end()
    _end(ledger, report)
    # Before both parties have opened a task, nothing depends on a match.
    has_met = any(task.peer_items is not None for task in report.tasks)
    if has_met:
        _warn(report, timing.excess)
    _keep(job, report)
    if has_met:
        timing.sit_out()
    return report


def _tasks(job: Job, report: Report, console: Console) -> Expanded:
    """Make a task of each file of the tasks with per_file, and enter all tasks into the report."""
    found = expand_files(job)
    report.tasks += [
        TaskReport(task.name, task.receiver, task.broadcast_result, result=task.result, protocol=task.protocol)
        for task in found.job.tasks
    ]
    console.tasks = len(report.tasks)
    logger.debug("%s", what_the_peer_learns(report))
    return found


def _begin(job: Job, ledger: Ledger) -> Exception | None:
    """Record that the run begins; return why that failed, for the time when the peer can be told."""
    at = job.listener
    address = f"{at.listen_host}:{at.listen_port}" if job.listens else at.address
    try:
        ledger.begin(job.name, job.party, job.peer, __version__, address)
    except Exception as exc:
        return exc
    return None


def _end(ledger: Ledger, report: Report) -> None:
    """Record how the run has ended, and put the ledger's head into the report."""
    known = {name: getattr(report, name) for name in ("session_id", "peer_version", "peer_certificate_sha256")}
    try:
        ledger.end(report.error, report.seconds, **known)
    except PsicliError as exc:
        _warn(report, exc.message)
    if ledger.head is not None:
        report.ledger_line, report.ledger_head = ledger.head
        report.ledger_begins = ledger.is_new


def _keep(job: Job, report: Report) -> None:
    """Keep the report for `psicli report`; a simulation, and a run that is not in the ledger, leave none."""
    if report.run is None or job.simulated:
        return
    try:
        reports.keep(state_folder(), facts_of(report, report.error))
    except PsicliError as exc:
        _warn(report, f"the report of this run is not kept for `psicli report`: {exc.message}")


def _prepare_process(job: Job, report: Report) -> None:
    # No core dumps: with a scalar from a dump and the points that were sent, anybody could guess every item.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _share_one_heap()
    curve.set_threads(job.pipeline.threads)
    report.backend = check_kernels(job)
    if job.pipeline.ray is not None:
        check_installed()


def _share_one_heap() -> None:
    """Make Arrow and all threads use a single heap of the C library; call this before any other heap exists.

    A heap does not return freed memory to the system, and neither does Arrow's own allocator. Together they used up to
    130 MB more and saved no time.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _note_disk(report: Report, spool: Spool, job: Job) -> None:
    # The rows that were sorted are part of it.
    report.spool_bytes = None if job.policy.whole_percent else spool.peak


def _meeting_point(job: Job, report: Report) -> Listener | Dialer:
    """Read the TLS files, then bind the port or prepare to dial."""
    if job.tls_insecure:
        _warn(report, f"tls: insecure: the connection is not encrypted, and {job.peer} is not authenticated")
    credentials = load_credentials(job)
    # A simulation has made its files itself, for a short time.
    if job.tls is not None and credentials is not None and not job.simulated:
        # Imported late, as everything about certificates.
        from psicli.transport.certs import ending

        report.certificate_expires = credentials.own.not_valid_after_utc.isoformat()
        _warn(report, exposure(job.tls.private_key_file))
        _warn(report, ending(credentials.own, f"the certificate in {credentials.certificate_file}", may_last(job)))
    meeting = meeting_point(job, credentials)
    patience = duration(job.connect_timeout)
    if job.listens:
        logger.info("listening on %s for %s, for up to %s", meeting.endpoint.place, job.peer, patience)
    else:
        logger.info("connecting to %s at %s, for up to %s", job.peer, meeting.endpoint.where, patience)
    if meeting.endpoint.is_own_users:
        logger.info("without TLS, %s must be a process of this user, %s", job.peer, shown_user(os.geteuid()))
    return meeting


def _warn(report: Report, warning: str | None) -> None:
    if warning is not None:
        logger.warning("%s", warning)
        report.warnings.append(warning)


def _checked(
    found: Expanded,
    meeting: Listener | Dialer,
    stack: ExitStack,
    report: Report,
    unrecorded: Exception | None,
    trace_file: Path | None,
    console: Console,
    deadline: Deadline,
) -> tuple[Inputs, Workers, Cluster | None]:
    """Make every check that needs no complete reading of a file, and connect to the job's cluster, if there is one.

    unrecorded: why the ledger does not record this run, if so. If this party cannot start, tells its user why and then
    notifies the peer.
    """
    job = found.job
    try:
        if meeting.endpoint.credentials is not None:
            meeting.endpoint.credentials.check_own()
        inputs = check_files(job, found.faults, stack, deadline.check)
        if unrecorded is not None:
            raise unrecorded
        if trace_file is not None:
            check_trace_file(trace_file, job)
        failpoints.hit("input.checked")
        workers, cluster = _workers(job, stack, report)
    except InterruptedBySignal:
        raise
    except Exception as exc:
        if isinstance(exc, PsicliError):
            console.tell(exc.message, exc.advice)
        logger.info("cannot start; notifying %s, for up to %s", job.peer, duration(REFUSAL_TIMEOUT))
        # A user who does not want to wait for the peer ends only this.
        with suppress(InterruptedBySignal):
            meeting.refuse(_class_for_peer(exc), REFUSAL_TIMEOUT)
        raise
    return inputs, workers, cluster


def _class_for_peer(exc: Exception) -> int:
    """Return the failure class that the peer gets for a failure before the session."""
    code = exc.code if isinstance(exc, PsicliError) else PsicliError.code
    # It would take these of our cluster for a lost party, or for two job files that disagree.
    return UNNAMED_FAILURE if code in (69, 78) else code


def _workers(job: Job, stack: ExitStack, report: Report) -> tuple[Workers, Cluster | None]:
    """Connect to the job's Ray cluster and return its workers, or those of this process; `stack` ends them."""
    if job.pipeline.ray is None:
        return LocalWorkers(), None
    # Imported late, because Ray is an extra and slow to import.
    from psicli.ray.connection import connected
    from psicli.ray.probe import needs_of_worker

    cluster = stack.enter_context(connected(job))
    for warning in cluster.warnings:
        _warn(report, warning)
    from psicli.ray.workers import RayWorkers

    limits = *needs_of_worker(job), job.pipeline.ray.max_workers
    workers = RayWorkers(cluster, *limits, depth=job.pipeline.depth, patience=job.connect_timeout)
    stack.callback(_end_workers, workers, report)
    return workers, cluster


def _agree(session: Session, report: Report, console: Console) -> frozenset[str]:
    """Return the names of the tasks that run; the others are in the report."""
    pairing = session.agree()
    leave_out(pairing, report, console)
    for warning in differing_versions(session.hellos.ours, session.hellos.theirs):
        _warn(report, warning)
    return frozenset(pairing.tasks)


def _end_workers(workers: RayWorkers, report: Report) -> None:
    report.nodes = [NodeReport(*each) for each in workers.close()]


def _session(
    job: Job,
    meeting: Listener | Dialer,
    storage: Storage,
    workers: Workers,
    report: Report,
    deadline: Deadline,
    lock: PortLock,
) -> Session:
    session = open_session(
        meeting,
        terms(job, deadline=deadline),
        timeout=job.connect_timeout,
        depth=job.pipeline.depth,
        frame_items=job.pipeline.frame_items,
        bin_items=bin_items(job),
        count_items=count_items(job),
        storage=storage,
        workers=workers,
        # Other users see the lock: how long it is held must not depend on the matches.
        hung_up=lock.release,
    )
    if session.peer_certificate is not None and not job.simulated:
        from psicli.transport.certs import ending, fingerprint

        report.peer_certificate_expires = session.peer_certificate.not_valid_after_utc.isoformat()
        _warn(report, ending(session.peer_certificate, f"{job.peer}'s certificate", may_last(job)))
        report.peer_certificate_sha256 = fingerprint(session.peer_certificate)
    report.session_id = session.sid.hex()
    report.peer_version = shown(session.peer_version, 40).strip("'")
    logger.info("in session with %s", job.peer)
    return session
