"""Turn job.yaml into a Job, a frozen value, or report every error in it with its line.

load_job reads the file into a plain tree (document), fills in the variables (variables), checks the shape
(shape, models, fields) and compares the fields with each other (checks). A tree without errors becomes a Job (built).

Only the job file itself is read; no input, output or TLS file is opened. Imports go one way: document and fields are
below sections and models, then come shape, checks and paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from psicli.config import checks, groups, paths, queries
from psicli.config.built import InputFiles, Job, Listener, Task
from psicli.config.checks import Slot
from psicli.config.document import Document
from psicli.config.fields import DNS_NAME, MAX_NAME, NAME, ip, is_loopback, split_address
from psicli.config.given import Given
from psicli.config.groups import OWN_NAME
from psicli.config.models import JobFile, NodeEntry, PipelineSettings, RayWorkers, TlsFiles
from psicli.config.rules.counts import check_counts
from psicli.config.sections.checks import check_output
from psicli.config.sections.output import OutputSettings
from psicli.config.sections.policy import PolicySettings
from psicli.config.shape import check_shape
from psicli.config.variables import fill_variables
from psicli.core.formats import Dialect, file_format
from psicli.core.places import Place, place
from psicli.core.records import dataclass

__all__ = [
    "DNS_NAME", "MAX_NAME", "NAME", "OWN_NAME", "Given", "InputFiles", "Job", "OutputSettings", "PipelineSettings",
    "PolicySettings", "RayWorkers", "Simulation", "Task", "load_job", "load_parties", "task_names",
]  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """Where `psicli simulate` runs both parties: a port on loopback, and a folder with a certificate for each party."""

    port: int
    keys: Path

    @classmethod
    def in_folder(cls, keys: Path) -> Simulation:
        """Return the simulation with this folder, which holds its port too: others can see the command of a process."""
        return cls(int((keys / "port").read_text()), keys)

    def tls_files(self, party: str) -> TlsFiles:
        """Return the files with which a party proves its identity in this simulation."""
        names = {"ca_file": "CA/ca.pem", "certificate_file": f"{party}.pem", "private_key_file": f"{party}.key"}
        return TlsFiles(**{field: self.keys / name for field, name in names.items()})


def load_job(
    path: Path,
    *,
    party: str | None = None,
    port_offset: int = 0,
    variables: Mapping[str, str],
    only: Sequence[str] = (),
    simulation: Simulation | None = None,
    memory: int | None = None,
    workers: str | None = None,
    rendezvous: float | None = None,
    batch: str | None = None,
    given: Given | None = None,
) -> Job:
    """Load a job file as one of its parties; `party` overrides self_party, `only` selects tasks by name.

    memory: overrides pipeline.memory [bytes]. workers: overrides pipeline.workers or its address: `threads`, `auto`
    or HOST:PORT of a Ray cluster. rendezvous: the longest wait for the peer, if shorter than the job's [s].
    batch: the batch file that lists the job, for messages. given: what a program gives in place of files.
    In a simulation, the job's own network settings, certificates and policy are ignored.
    Raises InputMissingError if there is no such file, JobFileError with all errors, and ArgumentError.
    """
    given = given or Given()
    document = given.document(path)
    document.batch = batch
    if simulation is not None:
        _simulate(document, simulation.port)
    own = party if party is not None else document.text("self_party") or ""
    given.replace_files(document, own)
    fill_variables(document, own, variables)
    check_shape(document)
    parties = checks.check_nodes(document)
    checks.check_pins(document)
    checks.check_addresses(document)
    if party is None:
        checks.check_self_party(document, parties)
    checks.check_receivers(document, parties)
    for task in document.entries("tasks"):
        checks.check_task(document, task, own, parties)
        groups.check_group(document, task)
        check_output(document, task)
    slots = checks.expand_lists(document)
    queries.check_queries(document, [own])
    checks.check_names(document, slots)
    named = {slot.name: groups.files_of(document, slot.name, slots, only) for slot in slots}
    chosen = [slot for slot in slots if not only or slot.name in only or named[slot.name]]
    checks.check_policy(document, chosen, own, parties)
    if own in parties:
        check_counts(document, chosen, own, simulated=simulation is not None)
    paths.check_paths(document, slots, own)
    # Without TLS, both parties are on this machine. If they share the job file, its paths hold for both.
    paths.check_clashes(document, slots, [own], [] if document.get("cluster", "tls") else set(parties) - {own})
    document.raise_errors()
    files = {file for files in named.values() for file in files}
    checks.check_arguments(document, party, parties, [name for name in only if name not in files], slots)
    checks.check_port_offset(document, port_offset)
    job = _build(document, own, port_offset, chosen)
    tasks = [
        groups.as_group(document, task, slot, own, () if task.name in only else named[task.name])
        if checks.is_group(document, slot.task)
        else task
        for task, slot in zip(job.tasks, chosen, strict=True)
    ]
    changes: dict[str, Any] = {"rendezvous": rendezvous, "pipeline": _changed(job.pipeline, memory, workers)}
    changes["tasks"] = tuple(tasks)
    if simulation is not None:
        # Two parties with the same cluster would wait for each other's cores.
        changes["pipeline"] = job.pipeline.model_copy(update={"workers": "threads"})
        changes |= {"simulated": True, "tls": simulation.tls_files(own)}
    return job.model_copy(update=changes)


def load_parties(path: Path, variables: Mapping[str, str], only: Sequence[str] = ()) -> list[Job]:
    """Load a job file once for each party of a simulation, listener first; its port and folder are chosen later.

    Raises InputMissingError if there is no such file, and JobFileError if it has an error for either party.
    """
    document = Document(path)
    _simulate(document, 1)
    check_shape(document)
    parties = checks.check_nodes(document)
    document.raise_errors()
    shared: dict[str, Any] = {"variables": variables, "only": only, "simulation": Simulation(1, Path())}
    jobs = [load_job(path, party=party, **shared) for party in parties]
    # Both parties' files are on this machine, so neither may write over the other's.
    for party in parties:
        fill_variables(document, party, variables)
    paths.check_clashes(document, checks.expand_lists(document), parties)
    document.raise_errors()
    return jobs


def task_names(path: Path) -> list[str]:
    """Return the names of the tasks in a job file, which may have errors; raises InputMissingError, JobFileError."""
    return [slot.name for slot in checks.expand_lists(Document(path)) if slot.name]


def _simulate(document: Document, port: int) -> None:
    """Remove the settings that concern one party only, and move both parties to loopback."""
    document.table().pop("policy", None)
    document.table("cluster").pop("tls", None)
    for position, loc in enumerate(document.entries("cluster", "nodes")):
        node = document.table(*loc)
        node.pop("listen_address", None)
        node.pop("address", None)
        node.pop("certificate_sha256", None)
        if position == 0:
            node["address"] = f"127.0.0.1:{port}"


def _build(document: Document, party: str, offset: int, slots: Sequence[Slot]) -> Job:
    entry = JobFile.model_validate(document.root)
    first, second = entry.cluster.nodes
    own, peer = (first, second) if party == first.party else (second, first)
    path, tls = document.path, entry.cluster.tls
    return Job(
        path=path,
        name=entry.job,
        party=party,
        peer=peer.party,
        listens=own is first,
        listener=_listener(first, offset),
        tls_name=own.tls_name or own.party,
        peer_tls_name=peer.tls_name or peer.party,
        pins={node.tls_name or node.party: _listed(node.certificate_sha256) for node in (own, peer)},
        link=entry.cluster.link_desc,
        pipeline=entry.pipeline,
        policy=entry.policy,
        keep_going=entry.keep_going,
        tls=TlsFiles(**{name: path.parent / file for name, file in tls}) if isinstance(tls, TlsFiles) else None,
        tls_insecure=tls == "insecure",
        tasks=tuple(_task(document, slot, party, entry, _dialect(entry, slot)) for slot in slots),
    )


def _changed(pipeline: PipelineSettings, memory: int | None, workers: str | None) -> PipelineSettings:
    """Return the settings with the memory [bytes] and the workers that the command line gives, if any."""
    changes: dict[str, Any] = {} if memory is None else {"memory": memory}
    if workers == "threads":
        changes["workers"] = workers
    elif workers is not None:
        own = pipeline.ray or RayWorkers(ray=workers)
        changes["workers"] = own.model_copy(update={"ray": workers})
    return pipeline.model_copy(update=changes)


def _listed(pinned: str | tuple[str, ...]) -> tuple[str, ...]:
    return (pinned,) if isinstance(pinned, str) else pinned


def _listener(entry: NodeEntry, offset: int) -> Listener:
    assert entry.address is not None
    host, port = split_address(entry.address)
    if entry.listen_address is not None:
        listen_host, listen_port = split_address(entry.listen_address)
    else:
        address, listen_port = ip(host), port
        if is_loopback(host):
            listen_host = host if address else "127.0.0.1"
        else:
            # Listen on the address family that the other party dials, if the address shows it.
            listen_host = "::" if address and address.version == 6 else "0.0.0.0"
    ports = {"port": port + offset, "listen_port": listen_port + offset, "port_offset": offset}
    return Listener(host=host, listen_host=listen_host, **ports)


def _dialect(entry: JobFile, slot: Slot) -> Dialect:
    """Return how the CSV files of a task are written; its own settings override those of the job field by field."""
    own = entry.tasks[int(slot.task[-1])].csv
    settings = entry.csv if own is None else entry.csv.model_copy(update=own.model_dump(exclude_unset=True))
    return Dialect(**settings.model_dump())


def _task(document: Document, slot: Slot, party: str, entry: JobFile, dialect: Dialect) -> Task:
    receiver, broadcast = checks.terms(document, slot.task)
    own = entry.tasks[int(slot.task[-1])]
    result = checks.result_of(document, slot.task)
    learns = (broadcast or receiver == party) and result == "rows"

    def located(kind: str) -> list[Place | Literal["-"]]:
        texts = [document.text(*loc) or "" for loc in slot.places(document, kind, party)]
        return ["-" if text == "-" else place(text, document.path.parent) for text in texts]

    keys, forms = zip(*checks.key_columns(document, slot.task, party), strict=True)
    output_path = located("output_path")[0] if learns else None
    return Task(
        name=slot.name,
        keys=keys,
        forms=forms,
        input=_input(document, slot, party) or InputFiles(paths=tuple(located("input_path")), dialect=dialect),
        output_path=output_path,
        # A task whose files are tasks has a pattern or a folder.
        output_format=None
        if output_path is None or checks.is_group(document, slot.task)
        else file_format(output_path, dialect),
        receiver=receiver or "",
        broadcast_result=broadcast,
        result=result,
        protocol=checks.protocol_of(document, slot.task),
        output=own.output,
    )


def _input(document: Document, slot: Slot, party: str) -> InputFiles | None:
    """Return the query of a task whose input is a database, else None."""
    text = document.text(*slot.place("input_path", party)) or ""
    if (found := queries.query_of(document, slot.task, party, text)) is None:
        return None
    file, query, loc = found
    paths = (document.path.parent / file,) if file else ()
    where = f"{document.path}:{document.line(loc)}"
    return InputFiles(paths=paths, query=query, where=where, is_filled=document.is_filled(loc))
