"""The models of a job as the rest of psicli uses it, without what only the job file needs. They hold no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from psicli.config.model import Value
from psicli.config.models import LinkSettings, PipelineSettings, TlsFiles
from psicli.config.sections.output import OutputSettings
from psicli.config.sections.policy import PolicySettings
from psicli.core.formats import PLAIN, Dialect, FileFormat
from psicli.core.places import Url
from psicli.items.forms.names import Form


class Listener(Value):
    """The addresses of the first node; ports include --port-offset."""

    # The address the other party dials, and the local address to listen on.
    host: str
    port: int
    listen_host: str
    listen_port: int
    port_offset: int

    @property
    def address(self) -> str:
        """Return HOST:PORT, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class InputFiles(Value):
    """What a task reads: one input, of one file or of many."""

    # Files, folders and patterns; relative paths start at the current folder.
    paths: tuple[Path | Url | Literal["-"], ...]
    # What to select, if the path names a database; where the query is in the job file, and whether it has variables.
    query: str | None = None
    where: str = ""
    is_filled: bool = False
    # How CSV and TSV files among them are written.
    dialect: Dialect = PLAIN

    @property
    def is_copied(self) -> bool:
        """Whether a run makes a copy of the rows, because they cannot be read again."""
        return self.is_stdin or self.query is not None

    @property
    def is_stdin(self) -> bool:
        return self.paths == ("-",)

    def __str__(self) -> str:
        """Return what messages call the input."""
        if self.query is not None:
            return f"duckdb:{''.join(map(str, self.paths))}"
        first, more = self.paths[0], len(self.paths) - 1
        return "standard input" if first == "-" else f"{first} and {more:,} more" if more else str(first)


class Task(Value):
    """One intersection from this party's view; relative paths start at the current folder."""

    name: str
    keys: tuple[str, ...]
    forms: tuple[Form, ...]
    input: InputFiles
    # None if this party does not learn the result, even if the file names an output.
    output_path: Path | Url | Literal["-"] | None
    output_format: FileFormat | None
    receiver: str
    broadcast_result: bool
    # Whether the receiver learns which of its rows match, or only how many items.
    result: Literal["rows", "count"] = "rows"
    # How both parties compare their items.
    protocol: Literal["ecdh", "rr22"] = "ecdh"
    output: OutputSettings = OutputSettings()
    # The name in the job file, if the task is a file of one with per_file; its own name before the files are known.
    group: str = ""
    # Those of its files that --only names, by their tasks; empty for all.
    files: tuple[str, ...] = ()


class Job(Value):
    """A checked job file from the view of one party."""

    path: Path
    name: str
    party: str
    peer: str
    # Whether this party is the listener.
    listens: bool
    listener: Listener
    # The DNS names that the certificates must hold.
    tls_name: str
    peer_tls_name: str
    # The fingerprints of the certificates that may be used, by those names; none means any certificate.
    pins: dict[str, tuple[str, ...]]
    link: LinkSettings
    pipeline: PipelineSettings
    policy: PolicySettings
    keep_going: bool
    tls: TlsFiles | None
    tls_insecure: bool
    tasks: tuple[Task, ...]
    # Whether this is a run of `psicli simulate`.
    simulated: bool = False
    # The longest wait for the peer, if a batch needs it to be shorter than the job's own [s].
    rendezvous: float | None = None

    @property
    def connect_timeout(self) -> float:
        """Return how long this party tries to connect to the peer [s]."""
        patience = self.link.connect_retry_times * self.link.connect_retry_interval_ms / 1000
        return min(patience, self.policy.max_duration or patience, self.rendezvous or patience)
