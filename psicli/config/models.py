"""The job file as users write it, and the job as the rest of psicli sees it: what there is, and no logic.

The first models mirror the YAML; every field of theirs has a description and an example, which make the JSON Schema
and the advice in error messages. Listener, Task and Job are made from them once nothing is wrong. All are frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Tag

from psicli.config import fields
from psicli.core.formats import SUFFIXES
from psicli.protocol.bins import LEAST_BIN_ITEMS
from psicli.protocol.streams import FRAME_ITEMS_STEP, LEAST_FRAME_ITEMS, MAX_FRAME_ITEMS

# Bins beyond that need tens of gigabytes.
MAX_BIN_ITEMS = 1 << 26


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# The job file --------------------------------------------------------------------------------------------------


def _field(description: str, *examples: Any, default: Any = ..., **more: Any) -> Any:
    """Describe a field; without examples its default is one."""
    return Field(default, description=description, examples=list(examples) or [default], **more)


def _optional(description: str, *examples: Any) -> Any:
    """Describe a field that may be left out."""
    return _field(description, *examples, default=None)


class TlsFiles(_Model):
    """The files that prove who this party is and check who the other is."""

    ca_file: fields.GivenPath = _field(
        "PEM file with the certificate authorities the other party's certificate must come from.", "ca.pem"
    )
    certificate_file: fields.GivenPath = _field("PEM file with this party's certificate.", "alice.pem")
    private_key_file: fields.GivenPath = _field("PEM file with the private key of certificate_file.", "alice.key")


class LinkSettings(_Model):
    """How long to try to reach the other party, and how long to bear its silence."""

    connect_retry_times: fields.Whole = _field(
        "How often to try to reach the other party.", default=600, ge=1, le=1_000_000
    )
    connect_retry_interval_ms: fields.Whole = _field("Pause between two tries [ms].", default=1000, ge=10, le=3_600_000)
    recv_timeout_ms: fields.Whole = _field(
        "The other party is lost after this long without a sign of life [ms].", default=300_000, ge=1000, le=86_400_000
    )
    reconnect_window_ms: fields.Whole = _field(
        "How long to try to get a connection back that broke; 0 ends the run at once [ms].",
        default=600_000,
        ge=0,
        le=86_400_000,
    )


class NodeEntry(_Model):
    """One party and where it is reached."""

    party: fields.Name = _field("Name of the party.", "alice")
    address: fields.DialAddress | None = _optional(
        "HOST:PORT the other party dials. Required of the first node, which listens; may hold variables.",
        "alice.example.com:18560",
    )
    listen_address: fields.ListenAddress | None = _optional(
        "IP:PORT the first node listens on. Without it: the loopback address if `address` is one, "
        "else every address of the machine (0.0.0.0). May hold variables.",
        "0.0.0.0:18560",
    )
    tls_name: fields.DnsName | None = _optional(
        "DNS name that the party's certificate holds, where it is not the party's name.", "psi.alice.example.com"
    )


_Tls = Annotated[
    Annotated[TlsFiles, Tag(fields.TABLE)] | Annotated[Literal["insecure"], Tag(fields.TEXT)], fields.by_kind
]
_ALICE = {"party": "alice", "address": "alice.example.com:18560", "listen_address": "0.0.0.0:18560"}
_TLS = {"ca_file": "ca.pem", "certificate_file": "alice.pem", "private_key_file": "alice.key"}


class ClusterEntry(_Model):
    """The two parties and the link between them."""

    nodes: tuple[NodeEntry, ...] = _field(
        "The two parties; the first one listens, the second dials.",
        [_ALICE, {"party": "bob"}],
        json_schema_extra={"minItems": 2, "maxItems": 2},
    )
    link_desc: LinkSettings = _field("Retries and timeouts.", {"recv_timeout_ms": 60000}, default_factory=LinkSettings)
    tls: _Tls | None = _optional(
        "Files for mutual TLS, or the word insecure. Without it only loopback addresses are allowed.", _TLS, "insecure"
    )


class PsiEntry(_Model):
    """Defaults of every task."""

    receiver: fields.Name | None = _optional("Party that learns the result.", "alice")
    broadcast_result: fields.Truth = _field("Whether the other party learns the result too.", default=False)


# The bounds come before the check of the text, or the JSON Schema would not say them.
_Threads = Annotated[int, Field(ge=1, le=1024), fields.PLAIN_DIGITS]
_Limit = Annotated[int, Field(ge=1), fields.PLAIN_DIGITS] | None
_FrameItems = Annotated[
    int, Field(ge=LEAST_FRAME_ITEMS, le=MAX_FRAME_ITEMS, multiple_of=FRAME_ITEMS_STEP), fields.PLAIN_DIGITS
]
_BinItems = Annotated[int, Field(ge=LEAST_BIN_ITEMS, le=MAX_BIN_ITEMS), fields.PLAIN_DIGITS, fields.POWER_OF_TWO]


class PipelineSettings(_Model):
    """How this party works; the other one need not agree."""

    threads: _Threads | None = _optional("Threads that compute; default all cores this process may use.", 4)
    depth: fields.Whole = _field(
        "Frames of a bin that may be under way between reading and sending.", default=4, ge=1, le=64
    )
    frame_items: _FrameItems | None = _optional(
        f"Points in a frame, a multiple of {FRAME_ITEMS_STEP}; the smaller number of both sides counts. Default 16384 "
        "with the native backend, 2048 with the reference.",
        16384,
    )
    bin_items: _BinItems | None = _optional(
        "Items in a bin, a power of two; the smaller number of both sides counts. A task is exchanged bin by bin, and "
        "a run that was cut short is resumed at a bin. Default what `memory` has room for, at most 1048576.",
        262144,
    )
    memory: fields.Memory = _field(
        "What the process may fill, at least 384MB: 512MB, 2GB, 400MiB or a number of bytes. What does not fit goes to "
        "disk. Default a quarter of the machine's memory.",
        "512MB",
        default_factory=fields.default_memory,
    )


class PolicySettings(_Model):
    """What this party allows; the other one need not agree, and is not told the limits. What is left out has none."""

    min_peer_items: _Limit = _optional("The least distinct items the other party must have in every task.", 1000)
    max_peer_items: _Limit = _optional("The most distinct items the other party may have in every task.", 10_000_000)
    max_runs_per_day: _Limit = _optional(
        "How often an input may be run with the same party and key columns within 24 hours, whatever the task is "
        "called and however it ended.",
        2,
    )
    max_match_rate: fields.Rate | None = _optional(
        "The largest part of this party's distinct items that may match; checked where this party learns the result.",
        0.25,
    )
    min_output_rows: _Limit = _optional(
        "The fewest rows an output may have; checked where this party learns the result.", 10
    )


class TaskEntry(_Model):
    """One intersection: an input of each party, an output of each party that learns the result."""

    name: fields.Name = _field("Name of the task, the same on both sides.", "customers")
    keys: dict[str, fields.Columns] = _field(
        "Key columns of each party, in the order they are compared. Only the own entry is required.",
        {"alice": ["id"], "bob": ["customer_id"]},
    )
    input_path: dict[str, fields.Paths] = _field(
        f"Input of each party ({SUFFIXES}, or - for CSV from standard input), relative to this file's folder; may hold "
        "variables. Equally long lists make as many tasks, NAME-1, NAME-2, …. Only the own entry is required.",
        {"alice": "in/customers.csv", "bob": "in/${DATE}/crm.parquet"},
    )
    output_path: dict[str, fields.Paths] = _field(
        "Output of each party, as input_path; - is CSV to standard output. Required of a party that learns the result, "
        "not written by one that does not.",
        {"alice": "out/customers.csv"},
        default={},
    )
    receiver: fields.Name | None = _optional("Party that learns the result; default psi.receiver.", "alice")
    broadcast_result: fields.Truth | None = _optional(
        "Whether the other party learns the result too; default psi.broadcast_result.", False
    )


_TASK = {
    "name": "customers",
    "keys": {"alice": ["id"], "bob": ["customer_id"]},
    "input_path": {"alice": "in/customers.csv", "bob": "in/crm.parquet"},
    "output_path": {"alice": "out/customers.csv"},
}


class JobFile(_Model):
    """A psicli job: one YAML, one session, one port, any number of tasks."""

    model_config = ConfigDict(title="psicli job file")

    job: fields.Name = _field("Name of the job, the same on both sides.", "nightly-overlap")
    self_party: fields.Name | None = _optional(
        "Party that runs here; --party and PSICLI_PARTY come before it.", "alice"
    )
    cluster: ClusterEntry = _field(
        "Who takes part, and how they reach each other.",
        {"nodes": [{"party": "alice", "address": "127.0.0.1:18560"}, {"party": "bob"}]},
    )
    psi: PsiEntry = _field(
        "What holds for every task that does not say otherwise.",
        {"receiver": "alice", "broadcast_result": False},
        default_factory=PsiEntry,
    )
    pipeline: PipelineSettings = _field("How this party works.", {"threads": 4}, default_factory=PipelineSettings)
    policy: PolicySettings = _field(
        "What this party allows; a run beyond it ends with exit code 79.",
        {"min_peer_items": 1000, "max_runs_per_day": 2},
        default_factory=PolicySettings,
    )
    tasks: tuple[TaskEntry, ...] = _field(
        "The intersections of this job, in the order they run.", [_TASK], json_schema_extra={"minItems": 1}
    )


# The job -------------------------------------------------------------------------------------------------------


class Listener(_Model):
    """Where the first node is reached; ports include --port-offset."""

    # Where the other party dials it, and where it listens for that.
    host: str
    port: int
    listen_host: str
    listen_port: int

    @property
    def address(self) -> str:
        """HOST:PORT, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Task(_Model):
    """One intersection as this party sees it; paths start where the job file's own path starts."""

    name: str
    keys: tuple[str, ...]
    input_path: Path | Literal["-"]
    # None when this party learns nothing, whatever the file says.
    output_path: Path | Literal["-"] | None
    receiver: str
    broadcast_result: bool


class Job(_Model):
    """A whole job file without a mistake, as one of its parties sees it."""

    path: Path
    name: str
    party: str
    peer: str
    # Whether this party is the listener.
    listens: bool
    listener: Listener
    # What the certificates must name.
    tls_name: str
    peer_tls_name: str
    link: LinkSettings
    pipeline: PipelineSettings
    policy: PolicySettings
    tls: TlsFiles | None
    tls_insecure: bool
    tasks: tuple[Task, ...]
