"""The checks of `psicli check`: everything that a run does before it sends data. Start reading at check_job.

A check finds every problem that would stop a run, and reports the same error. It continues after an error. The other
party receives a Hello, as in a run, and nothing about the data: no item and no count leaves this machine. Two checks at
the same time also measure the link between them.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509

from psicli import __version__, curve, outputs, tables
from psicli.check import bench, estimate
from psicli.check.checklist import Check, Checklist
from psicli.check.cluster import check_cluster
from psicli.check.estimate import Setting, Size
from psicli.check.plans import add_estimate
from psicli.check.sample import Distinct, read_sample, warm_up
from psicli.config import Job, Task
from psicli.core.errors import (
    BrokenLedgerError,
    DiskTooSmallError,
    PsicliError,
    TaskFilesError,
    counted,
    in_units,
    shown,
)
from psicli.core.peer_errors import DisagreementError, PeerBusyError, PeerGoneError, PeerLostError
from psicli.core.places import Url
from psicli.items.spelling import Spellings, unfit_findings
from psicli.job.groups.expand import Expanded
from psicli.job.groups.unpaired import unpaired
from psicli.job.inputs import STDIO, find_source, selection
from psicli.job.meeting import bin_items, load_credentials, may_last, meeting_point, terms
from psicli.job.policy import check_kernels
from psicli.protocol.messages import RR22, Abort, Hello, Purpose, measure_link
from psicli.protocol.streams import FRAME_ITEMS
from psicli.session.agreement import Hellos, agree, differing_versions
from psicli.session.probe import LinkSpeed, probe
from psicli.storage.files import check_writable, exposure, missing_folder
from psicli.storage.ledger import Ledger
from psicli.storage.locks import PortLock
from psicli.storage.state import run_folder, state_folder
from psicli.tables import Input
from psicli.transport.certs import ending, written
from psicli.transport.link import BUSY, LAST_WORDS_TIMEOUT, Link
from psicli.transport.tls import TlsCredentials

logger = logging.getLogger(__name__)

# A larger difference between the two clocks is a warning [s].
_CLOCK_DIFFERENCE = 60.0


def check_job(
    files: Expanded,
    lock: AbstractContextManager[PortLock],
    show: Callable[[Check], None],
    *,
    wait: float,
    full: bool,
    measure: bool = True,
) -> Checklist:
    """Check this party's side of a job, then the other party if it connects within `wait` [s]; with 0, only this side.

    files: the job, with a task for each input. lock: the lock that a run would hold. show: called with each row as soon
    as it is known. full: check all rows of the inputs. measure: measure the link, if the peer wants to. Raises
    TaskFilesError.
    """
    start, job = time.process_time(), files.job
    for task in job.tasks:
        if task.input.is_stdin or task.output_path == STDIO:
            raise TaskFilesError(
                task=task.name,
                fault="standard input and output cannot be checked",
                advice="Name files as its input and output, or check only the other tasks (--only).",
            )
    found = Checklist(job.peer, show)
    found.add("config", f"{job.path} has no errors; {job.party} with {job.peer}, tasks: {len(job.tasks)}")
    with ExitStack() as port:
        copies = port.enter_context(ExitStack())
        free = _take_lock(found, job, lock, port)
        rates = _kernel(found, job)
        if job.pipeline.ray is not None:
            rates = check_cluster(found, job, rates)
        own = _own_certificate(found, job)
        for name, fault in files.faults.items():
            found.fail("input", fault, name)
        sound = [task for task in job.tasks if task.name not in files.faults]
        each = ((task, _task(found, task, copies, full=full, first=task is sound[0])) for task in sound)
        sizes = [(task, size) for task, size in each if size is not None]
        state = _state(found, job)
        _space(found, job, sizes, state)
        peer, speed = None, None
        if wait and free and (own is not None or job.tls is None):
            peer, speed = _meet_peer(found, job, own, wait, rates, measure=measure)
        lasts = may_last(job) + _estimate(found, job, sizes, rates, speed, start)
        if own is not None:
            _lifetime(found, "certificate", own.own, f"the certificate in {own.certificate_file}", lasts)
        if peer is not None and peer.peer_certificate is not None:
            _lifetime(found, "peer certificate", peer.peer_certificate, f"{job.peer}'s certificate", lasts)
    return found


# This machine --------------------------------------------------------------------------------------------------


def _kernel(found: Checklist, job: Job) -> dict[str, float] | None:
    """Return the speed of the kernel, by operation [points per second]."""
    with found.trying("kernel"):
        curve.set_threads(job.pipeline.threads)
        name, rates = check_kernels(job), bench.rates()
        protocols = {task.protocol for task in job.tasks}
        message = f"{name} backend: {'; '.join(_speeds(rates, protocols))}"
        times = "10 to 50" if RR22 in protocols else "5 to 40"
        hint = f"The native backend is {times} times as fast; docs/performance.md says how to build it."
        found.add("kernel", message, good=curve.reference.NAME not in name, hint=hint)
        return rates
    return None


def _speeds(rates: Mapping[str, float], protocols: Container[str]) -> Iterator[str]:
    """Yield how fast this party is by each protocol that its tasks use."""
    if "ecdh" in protocols:
        own, peer = (f"{rates[name]:,.0f}" for name in estimate.POINTS)
        yield f"{own} own items per second, {peer} items of the peer per second"
    if RR22 in protocols:
        receiver, sender = (f"{rates[name]:,.0f}" for name, _ in (estimate.RECEIVE, estimate.SEND))
        yield f"by rr22 {receiver} items per second as the receiver, {sender} as the sender"


def _take_lock(found: Checklist, job: Job, lock: AbstractContextManager[PortLock], stack: ExitStack) -> bool:
    """Return whether this party can meet the peer. A listener holds the lock until the stack is closed."""
    with found.trying("lock"):
        if job.listens:
            stack.enter_context(lock).update("", "checking", 0)
            found.add("lock", f"port {job.listener.listen_port} is free, and no run holds its lock")
            return True
        with lock:
            found.add("lock", f"no other run of {job.party} dials {job.listener.address}")
    # A dialer can connect to the listener even while another of its own runs holds the lock.
    return not job.listens


def _own_certificate(found: Checklist, job: Job) -> TlsCredentials | None:
    """Return this party's credentials if the peer would accept them."""
    if job.tls_insecure:
        message = f"tls: insecure: the connection is not encrypted, and {job.peer} is not authenticated"
        found.add("certificate", message, good=False, hint="Make certificates with `psicli certs`.")
    elif job.tls is None:
        found.add("certificate", "none is needed, because both parties are processes of this user")
    with found.trying("certificate"):
        credentials = load_credentials(job)
        if job.tls is not None and credentials is not None:
            if (warning := exposure(job.tls.private_key_file)) is not None:
                found.add("private key", warning, good=False)
            credentials.check_own()
            found.add("pinning", _pinned(job))
        return credentials
    return None


def _pinned(job: Job) -> str:
    """Return which certificates of the other party this party accepts."""
    if pins := job.pins[job.peer_tls_name]:
        return f"only {counted(len(pins), 'certificate')} of {job.peer} {'is' if len(pins) == 1 else 'are'} accepted"
    return f"certificate_sha256 lists none for {job.peer}: any that ca_file allows is accepted"


def _state(found: Checklist, job: Job) -> Path | None:
    """Return the state folder if a run could use it."""
    with found.trying("state"):
        state = state_folder()
        ledger = Ledger(state)
        ledger.prepare()
        with run_folder(state):
            pass
        broken = "; ".join(fault.text for fault in ledger.verify().fresh[:1])
        if broken and job.policy.strict:
            raise BrokenLedgerError(path=ledger.path, found=broken)
        message = f"{state} can be used" + (f", but its ledger is not as psicli left it ({broken})" if broken else "")
        found.add("state", message, good=not broken, hint="Run `psicli ledger --verify`, and find out who changed it.")
        return state
    return None


# The other party -----------------------------------------------------------------------------------------------


def _meet_peer(
    found: Checklist,
    job: Job,
    own: TlsCredentials | None,
    wait: float,
    rates: Mapping[str, float] | None,
    *,
    measure: bool,
) -> tuple[Link | None, LinkSpeed | None]:
    """Meet the peer in a run or a check, compare the two Hellos, and measure the link if both parties want to.

    rates: how fast this party is, by operation [points per second]. Return the link, which is closed.
    """
    with found.trying("peer"):
        meeting = meeting_point(job, own, Purpose.CHECK)
        place = "" if job.listens else f" at {meeting.endpoint.where}"
        logger.info("waiting up to %.0f s for %s%s", wait, job.peer, place)
        ours = replace(terms(job, Purpose.CHECK), measures=measure)
        with closing(meeting):
            link = meeting.meet(lambda: ours.hello(FRAME_ITEMS, bin_items(job)), wait)
            hellos, seen = Hellos.of(link, listens=job.listens), time.time()
            measures = measure_link(hellos.ours, hellos.theirs)
            if not (job.listens or measures):
                _check_not_busy(link)
            runs = hellos.theirs.purpose is Purpose.RUN
            does = "is waiting in `psicli run`" if runs else "runs `psicli check` too"
            met = "connected" if job.listens else f"answers at {meeting.endpoint.where}"
            found.add("peer", f"{job.peer} {met} and {does}")
            agreed = _compare(found, job, hellos.ours, hellos.theirs, seen)
            if measures:
                return link, _measure(found, job, link, hellos.sid, rates, agreed=agreed)
            if measure:
                why = "a run must not be disturbed" if runs else f"{job.peer} is older, or has --no-probe"
                found.add("link", f"the link was not measured: {why}")
        return link, None
    return None, None


def _check_not_busy(link: Link) -> None:
    """Raise PeerBusyError if the listener already has a session, because it would reject a run."""
    with suppress(PeerGoneError):
        last = link.first(LAST_WORDS_TIMEOUT)
        if isinstance(last, Abort) and last.failure_class == BUSY:
            raise PeerBusyError
    link.finish(LAST_WORDS_TIMEOUT)


def _measure(
    found: Checklist, job: Job, link: Link, sid: bytes, rates: Mapping[str, float] | None, *, agreed: bool
) -> LinkSpeed | None:
    """Measure the link together with the peer, unless the Hellos disagree; end the link."""
    if not agreed:
        # The peer may not see that, and wait for this party's turn.
        link.abort(DisagreementError.code, LAST_WORDS_TIMEOUT)
        return None
    with found.trying("link"):
        try:
            logger.info("measuring the link to %s, for a few seconds at most", job.peer)
            speed = probe(link, listens=job.listens, sid=sid, rates=rates)
            found.add("link", f"{job.peer}: {speed}", figures=speed.figures)
            return speed
        except PeerLostError as exc:
            # A run measures nothing, so this does not stop it.
            exc.facts["peer"] = job.peer
            found.add("link", f"the link was not measured: {exc.message}", good=False, hint=exc.advice)
        except PsicliError as exc:
            link.abort(exc.code, LAST_WORDS_TIMEOUT)
            raise
        finally:
            link.finish(LAST_WORDS_TIMEOUT)
    return None


def _compare(found: Checklist, job: Job, ours: Hello, theirs: Hello, seen: float) -> bool:
    """Compare two Hellos, and return whether they agree. seen: when the peer's arrived, by this machine's clock [s]."""
    agreed = False
    with found.trying("agreement"):
        pairing = agree(ours, theirs, job.peer)
        agreed = True
        found.add("agreement", "the two job files agree")
        for group, _, error in unpaired(pairing, job.party):
            found.fail("pairing", error, group.name)
        for group in pairing.groups:
            if group.common:
                found.add("pairing", f"both parties have {counted(len(group.common), 'file')}", group.name)
        for warning in differing_versions(ours, theirs):
            found.add("version", warning, good=False, hint="Update the older one; key forms depend on it.")
    version = shown(theirs.package_version, 40).strip("'")
    same = version == __version__
    differ = f"{job.peer} has psicli {version}, {job.party} has {__version__}"
    have = f"both parties have psicli {version}" if same else differ
    found.add("version", have, good=same, hint="Update the older version.")
    ahead = theirs.clock_ms / 1000 - seen
    difference = f"is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this one"
    clocks = f"{job.peer}'s clock {'and this one agree' if abs(ahead) < 1 else difference}"
    hint = "Set both clocks (NTP): certificates and the times in logs depend on them."
    found.add("clock", clocks, good=abs(ahead) < _CLOCK_DIFFERENCE, hint=hint)
    return agreed


def _lifetime(found: Checklist, name: str, certificate: x509.Certificate, whose: str, lasts: float) -> None:
    """Warn about a certificate that expires within 30 days, or while the job may still run. lasts: for how long [s]."""
    warning = ending(certificate, whose, lasts)
    message = warning or f"{whose} is valid until {written(certificate.not_valid_after_utc)}"
    found.add(name, message, good=warning is None, hint="`psicli certs show FILE` shows a certificate.")


# The tasks -----------------------------------------------------------------------------------------------------


def _task(found: Checklist, task: Task, copies: ExitStack, *, full: bool, first: bool) -> Size | None:
    """Check the files of a task; return the size of its input if it can be read. copies: removes copies of inputs."""
    source, size = None, None
    with found.trying("input", task.name):
        files = find_source(task.input, copies)
        sample = tables.check_source(files, task.keys, output=task.output_format, selection=selection(task))
        if sample is not None and task.output_format is not None:
            outputs.check_output(sample, task.output_format, task.output)
        found.add("input", f"{files.name} has the key columns", task.name)
        source = files
    if isinstance(task.output_path, Url):
        with found.trying("output", task.name):
            # Imported late, because a check of local files does not need these libraries.
            from psicli.storage.places.writing import check_storable, size_of

            check_storable(task.output_path)
            there = size_of(task.output_path)
            old = "" if there is None else f", and replaces an object of {in_units(there)}"
            found.add("output", f"{task.output_path} can be written{old}", task.name)
    elif isinstance(task.output_path, Path):
        with found.trying("output", task.name):
            made = missing_folder(task.output_path)
            # A run makes the folder; a check only finds out whether it could.
            check_writable(made or task.output_path)
            within = f", and its folder {made.name} will be made" if made else ""
            found.add("output", f"{task.output_path} can be written{within}", task.name)
    if source is not None:
        # Only a full check reads all columns, as a run does.
        output = task.output_format if full else None
        more: dict[str, Any] = {"forms": task.forms, "threads": curve.threads(), "output": output}
        more |= {"selection": selection(task)} if full else {}
        with found.trying("keys", task.name):
            if first:
                with tables.open_source(source, task.keys, **more) as opened:
                    warm_up(opened)
            with tables.open_source(source, task.keys, **more) as opened:
                size = _read(found, task, opened, full=full)
    return size


def _read(found: Checklist, task: Task, source: Input, *, full: bool) -> Size:
    """Read the keys of the first rows, or of all rows, to find errors in them."""
    spellings, distinct = Spellings(task.keys, task.forms), Distinct()
    sample = read_sample(source, lambda texts: spellings.add(texts, source.schema), distinct, full=full)
    if sample.is_whole and task.output_format is not None:
        outputs.check_unquoted(source, task.output_format, task.output)
    seen, matchless = sample.seen, sample.matchless
    which = (
        f"all {counted(seen, 'row')}" if sample.is_whole else f"the first {seen:,} of about {sample.size.rows:,} rows"
    )
    types = ", ".join(spellings.columns(source.schema))
    lacking = f"{matchless:,} of them without a key" if matchless else "and all of them have a key"
    different = counted(distinct.count, "distinct key")
    message = f"{types}: {which} can be read, {lacking}; {'' if distinct.is_exact else 'about '}{different}"
    found.add("keys", message, task.name)
    unfit = unfit_findings(source.columns, seen, source.unit, whole=sample.is_whole)
    for finding in (*unfit, *spellings.findings(matchless, distinct.count, whole=sample.is_whole)):
        if finding.is_note:
            found.add("spelling", str(finding), task.name)
        else:
            found.add("spelling", finding.fault, task.name, good=False, hint=finding.advice)
    return sample.size


# What the job needs --------------------------------------------------------------------------------------------


def _space(found: Checklist, job: Job, sizes: Sequence[tuple[Task, Size]], state: Path | None) -> None:
    for folder, needed in _needs(job, sizes, state):
        with found.trying("space"):
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise DiskTooSmallError(folder=folder, need=in_units(needed), free=in_units(free))
            need = f"at most about {in_units(needed)}" if needed else "nothing"
            found.add("space", f"{folder}: the job needs {need} there, and {in_units(free)} is free")


def _needs(job: Job, sizes: Sequence[tuple[Task, Size]], state: Path | None) -> Iterator[tuple[Path, int]]:
    """Yield a folder on each disk, and the space that the job needs on that disk [bytes]."""
    folders: dict[int, Path] = {}
    outputs: defaultdict[int, list[tuple[Task, Size]]] = defaultdict(list)
    for task, size in sizes:
        folder = state if isinstance(task.output_path, Url) else None
        if isinstance(task.output_path, Path):
            folder = Path(os.path.realpath(task.output_path)).parent
        if folder is not None and not os.path.isdir(folder):
            folder = folder.parent
        if folder is not None and os.path.isdir(folder):
            device = folder.stat().st_dev
            folders.setdefault(device, folder)
            outputs[device].append((task, size))
    spooled = {}
    if state is not None:
        device = state.stat().st_dev
        folders[device], spooled[device] = state, estimate.spool_bytes(job, sizes)
    for device, folder in folders.items():
        yield folder, spooled.get(device, 0) + estimate.output_bytes(outputs[device])


def _estimate(
    found: Checklist,
    job: Job,
    sizes: Sequence[tuple[Task, Size]],
    rates: dict[str, float] | None,
    link: LinkSpeed | None,
    start: float,
) -> float:
    """Add the estimate and the plan; return the time of a run [s].

    link: what was measured together with the peer; None if the peer was not there or nothing was measured. start: the
    processor time of this check until it began [s].
    """
    if rates is None or len(sizes) < len(job.tasks):
        return 0.0
    on_cluster = job.pipeline.ray is not None
    setting = Setting(rates, curve.threads(), bench.cores(), start, link, on_cluster=on_cluster)
    return add_estimate(found, job, sizes, setting)
