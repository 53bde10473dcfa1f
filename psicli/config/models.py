"""The models of the job file as users write it. They hold no logic.

They mirror the YAML. Each field has a description and an example: the JSON Schema, the hints in error messages
and docs/job-file.md are made from these. A file without errors becomes a Job (built). All models are frozen.
"""

from __future__ import annotations

from typing import Annotated, Literal

from psicli.config import fields
from psicli.config.model import Model, field, optional
from psicli.config.model.kinds import Bounds
from psicli.config.sections.output import OutputSettings
from psicli.config.sections.policy import PolicySettings
from psicli.core.formats import SUFFIXES
from psicli.protocol.bins import LEAST_BIN_ITEMS
from psicli.protocol.streams import FRAME_ITEMS_STEP, LEAST_FRAME_ITEMS, MAX_FRAME_ITEMS

# Larger bins need tens of gigabytes of memory.
MAX_BIN_ITEMS = 1 << 26


# The job file --------------------------------------------------------------------------------------------------


class TlsFiles(Model):
    """The files with which this party proves its identity and checks the other party's."""

    ca_file: fields.GivenPath = field(
        "PEM file with the certificate authorities this party trusts. One of them must have issued the other party's "
        "certificate.",
        "ca.pem",
    )
    certificate_file: fields.GivenPath = field("PEM file with this party's certificate.", "alice.pem")
    private_key_file: fields.GivenPath = field(
        "PEM file with the private key of `certificate_file`. Only its owner should be able to read it.",
        "alice.key",
    )


class LinkSettings(Model):
    """Retries and timeouts of the connection."""

    connect_retry_times: fields.Int = field(
        "How many attempts the dialer makes to reach the listener. The listener waits equally long: this number times "
        "`connect_retry_interval_ms`, which is 10 minutes by default. After that the run ends with exit code 69.",
        3600,
        default=600,
        ge=1,
        le=1_000_000,
    )
    connect_retry_interval_ms: fields.Int = field(
        "Pause between two attempts, in milliseconds.", 500, default=1000, ge=10, le=3_600_000
    )
    recv_timeout_ms: fields.Int = field(
        "How long to wait for a peer that sends nothing, in milliseconds. After that the run ends with exit code 69. "
        "The wait is 24 times as long while the peer reports that it is still working.",
        60_000,
        default=300_000,
        ge=1000,
        le=86_400_000,
    )
    reconnect_window_ms: fields.Int = field(
        "How long to try to reconnect after the connection was lost, in milliseconds. With 0, a lost connection ends "
        "the run immediately.",
        3_600_000,
        default=600_000,
        ge=0,
        le=86_400_000,
    )


class NodeEntry(Model):
    """One party and the address where the other party reaches it."""

    party: fields.Name = field("Name of the party, the same in both job files.", "alice")
    address: fields.DialAddress | None = optional(
        "HOST:PORT that the other party dials. The first node, which listens, needs one; the second does not. May hold "
        "variables.",
        "alice.example.com:9560",
    )
    listen_address: fields.ListenAddress | None = optional(
        "IP:PORT that the first node listens on. By default it takes the port of `address`, and listens on the "
        "loopback address if `address` is one, else on every address of the machine. May hold variables.",
        "0.0.0.0:9560",
    )
    tls_name: fields.DnsName | None = optional(
        "DNS name in the party's certificate. By default the party's name.", "psi.alice.example.com"
    )
    certificate_sha256: fields.Fingerprints = field(
        "SHA-256 of the party's certificate, as `psicli certs show` prints it: no other certificate of this party is "
        "accepted. Spaces and colons are ignored. A list allows several certificates, while one replaces another. By "
        "default every certificate with the party's name is accepted that an authority in `ca_file` has issued.",
        "3f2a91bc 7d0012e4 55c09a1f 8e6b3d27 0b94ce61 d8f7a233 56e10c9f 4ab8d275",
        default=(),
    )


_Tls = TlsFiles | Literal["insecure"]
_ALICE = {"party": "alice", "address": "alice.example.com:9560", "listen_address": "0.0.0.0:9560"}
_TLS = {"ca_file": "ca.pem", "certificate_file": "alice.pem", "private_key_file": "alice.key"}


class ClusterEntry(Model):
    """The two parties and the link between them."""

    nodes: tuple[NodeEntry, ...] = field(
        "The two parties. The first one listens, the second one dials.",
        [_ALICE, {"party": "bob"}],
        schema={"minItems": 2, "maxItems": 2},
    )
    link_desc: LinkSettings = field(
        "How long this party tries to connect, and how long it waits for a silent peer. The other party may use other "
        "values.",
        {"recv_timeout_ms": 60_000},
        default_factory=LinkSettings,
    )
    tls: _Tls | None = optional(
        "Files for mutual TLS, or the word `insecure`, which sends everything in plain text. Without this field only "
        "loopback addresses are allowed, and only processes of one user.",
        _TLS,
        "insecure",
    )


class PsiEntry(Model):
    """Who learns the result, and by which protocol, unless a task overrides it."""

    receiver: fields.Name | None = optional(
        "Party that learns the result. Required unless every task names its own receiver.", "alice"
    )
    broadcast_result: fields.Bool = field("Whether the other party learns the result too.", True, default=False)
    result: Literal["rows", "count"] = field(
        "What the receiver learns: `rows`, which of its rows match, or `count`, only how many of its items match. With "
        "`count`, there is no output, and the other party must set `policy.min_peer_items` and "
        "`policy.max_runs_per_day`. It cannot be combined with `broadcast_result` or with `protocol: rr22`.",
        "count",
        default="rows",
    )
    protocol: Literal["ecdh", "rr22"] = field(
        "How the parties compare their items, the same in both job files. `ecdh` rests on an older assumption, and "
        "suits every job. `rr22` is for large lists: at a million keys, it needs a tenth of the processor time and a "
        "third of the traffic. From about 35,000 keys on, it sends half as much as `ecdh` or less, and below about "
        "8,000 it sends more. It rests on [younger assumptions](security.md#the-protocol-rr22), and protects a sender "
        "less from a receiver that cheats; see [when to choose it](performance.md#ecdh-or-rr22). It cannot be combined "
        "with `result: count`.",
        "rr22",
        default="ecdh",
    )


# The bounds precede the check of the text; otherwise the JSON Schema would lack them.
_Threads = Annotated[int, Bounds(ge=1, le=1024), fields.PLAIN_DIGITS]
_FrameItems = Annotated[
    int, Bounds(ge=LEAST_FRAME_ITEMS, le=MAX_FRAME_ITEMS, multiple_of=FRAME_ITEMS_STEP), fields.PLAIN_DIGITS
]
_BinItems = Annotated[int, Bounds(ge=LEAST_BIN_ITEMS, le=MAX_BIN_ITEMS), fields.PLAIN_DIGITS, fields.POWER_OF_TWO]


class RayWorkers(Model):
    """Workers on the nodes of this party's own Ray cluster."""

    ray: fields.RayAddress = field(
        "Where the Ray cluster is: HOST:PORT of its head, or `auto`, which means the address in the variable "
        "`RAY_ADDRESS`, else the cluster of the Ray node that runs on this machine. psicli runs on the head, and never "
        "starts a cluster. May hold variables.",
        "auto",
    )
    worker_cpus: _Threads | None = optional(
        "Cores of each worker. A node has as many workers as its cores and its memory allow. By default it has one, "
        "with all its cores.",
        4,
    )
    worker_memory: fields.Memory | None = optional(
        "Memory of each worker, at least 384MB, written like `pipeline.memory`. By default as much as that.", "4GB"
    )
    max_workers: _Threads | None = optional(
        "Most workers on all nodes together. By default as many as the nodes have room for.", 8
    )
    insecure: fields.Bool = field(
        "Whether to use a Ray cluster of several machines without TLS or without token authentication. Whoever reaches "
        "a port of such a cluster can run programs as this user, and read all items. Without this field, such a run "
        "ends with exit code 78.",
        True,
        default=False,
    )


_Workers = RayWorkers | Literal["threads"]


class PipelineSettings(Model):
    """Threads, workers, memory and the sizes of bins and frames."""

    threads: _Threads | None = optional(
        "Number of threads that compute. By default one for every core this process may use.", 4
    )
    workers: _Workers = field(
        "Where the bins are computed: `threads` of this process, or workers on this party's own Ray cluster, which "
        "needs `psicli[ray]`. The option `--workers` overrides it.",
        {"ray": "auto"},
        default="threads",
    )
    depth: fields.Int = field(
        "How many frames of a bin may be in progress at the same time, from reading to sending.",
        8,
        default=4,
        ge=1,
        le=64,
    )
    frame_items: _FrameItems | None = optional(
        f"Points in a frame, a multiple of {FRAME_ITEMS_STEP}. The session uses the smaller value of the two parties. "
        "By default 16384 with the native backend (4096 on its portable path) and 2048 with the reference backend.",
        16384,
    )
    bin_items: _BinItems | None = optional(
        "Items in a bin, a power of two. The session uses the smaller value of the two parties. A task is exchanged "
        "bin by bin, and an interrupted run resumes after the last finished bin. By default as many as `memory` has "
        "room for, and at most 1048576.",
        262144,
    )
    memory: fields.Memory = field(
        "Memory the process may use, at least 384MB: an amount such as 512MB, 2GB or 400MiB, or a number of bytes. "
        "Anything that does not fit is written to disk. By default a quarter of the machine's (or container's) memory.",
        "512MB",
        default_factory=fields.default_memory,
    )

    @property
    def ray(self) -> RayWorkers | None:
        """Return the workers on a Ray cluster; None if the threads of this process compute the bins."""
        return self.workers if isinstance(self.workers, RayWorkers) else None


class CsvSettings(Model):
    """How this party's CSV and TSV files are written."""

    delimiter: fields.Delimiter | None = optional(
        "The character between two values: one ASCII character, or the word `tab`; no letter, digit or quote. By "
        "default a comma in CSV and a tab in TSV.",
        ";",
    )
    encoding: fields.Encoding = field(
        "Encoding of the inputs, as Python calls it, such as `cp1252`, `latin-1`, `utf-16`, `gb18030` or `shift_jis`. "
        "A byte that does not fit it ends the run with exit code 65. Outputs are always UTF-8.",
        "cp1252",
        default="utf-8",
    )
    header: fields.Bool = field(
        "Whether the first row holds the names of the columns. If not, the columns are called `1`, `2` and so on.",
        False,
        default=True,
    )
    null_values: fields.NullValues = field(
        "Texts that stand for null, with or without quotes. As a key, null matches nothing. In an output, it is an "
        "empty value.",
        ["NULL", "\\N"],
        default=(),
    )
    quotes: fields.Bool = field(
        "Whether a value that starts with a double quote ends with one, as in RFC 4180. With `false`, a quote is a "
        "character like any other, and no value can hold the delimiter or a line break.",
        False,
        default=True,
    )


class KeyColumn(Model):
    """A key column whose values are read in a form of their own."""

    column: str = field("Name of the column.", "mail")
    normalize: fields.Normalize | None = optional(
        "How this party writes the values: a [key form](key-forms.md), or `hashed`; by default the form in `key_form`. "
        "`phone/DE` takes numbers without a country code for German ones, and `date/DMY` 01.03.2024 for 1 March.",
        *("email", "email/plain"),
    )


_KeyEntry = str | KeyColumn
_Columns = Annotated[tuple[_KeyEntry, ...], fields.DISTINCT_COLUMNS, fields.LIST_OF_COLUMNS]


class TaskEntry(Model):
    """One intersection: its inputs, its key columns, its outputs and who learns the result."""

    name: fields.Name = field("Name of the task, the same in both job files.", "customers")
    keys: dict[str, _Columns] = field(
        "Key columns of each party, in the order in which they are compared, the same number for both: each a name, or "
        "a section with the fields below. Only this party's entry is required.",
        *({"alice": ["id"], "bob": ["customer_id"]}, {"alice": [{"column": "mail", "normalize": "email"}]}),
    )
    key_form: fields.KeyForms | None = optional(
        "The [key form](key-forms.md) of each key column, or a text if there is one; the same in both job files. Forms "
        "bring keys into one spelling, so that `Ben@X.de ` matches `ben@x.de`. By default a column has the form in its "
        "`normalize`, and else `text`, which changes nothing.",
        *(["email"], "phone/DE"),
    )
    input_path: dict[str, fields.Paths] = field(
        f"Input of each party: a file whose name ends in {SUFFIXES}, or `-` for CSV from standard input. A relative "
        "path starts at the job file's folder. May hold variables. A folder, a pattern such as `in/*.csv` or a list of "
        "these is [one input](places.md#many-files-as-one-input), and `duckdb:FILE` the rows of a "
        "[query](places.md#queries). If the outputs are a list too, or there are none and `per_file` is left out, a "
        "list makes a task of each path, called NAME-1, NAME-2 and so on; then all lists of a task must be equally "
        "long. Only this party's entry is required.",
        {"alice": "in/customers.csv", "bob": "in/${DATE}/crm.parquet"},
    )
    output_path: dict[str, fields.Paths] = field(
        "Output of each party, written like `input_path`; `-` writes CSV to standard output. A party that learns the "
        "result needs one. A party that does not learn it writes nothing.",
        {"alice": "out/customers.csv"},
        default={},
    )
    receiver: fields.Name | None = optional("Party that learns the result. By default `psi.receiver`.", "alice")
    broadcast_result: fields.Bool | None = optional(
        "Whether the other party learns the result too. By default `psi.broadcast_result`.", True
    )
    result: Literal["rows", "count"] | None = optional("What the receiver learns. By default `psi.result`.", "count")
    protocol: Literal["ecdh", "rr22"] | None = optional(
        "How the parties compare their items in this task. By default `psi.protocol`.", "rr22"
    )
    per_file: fields.Bool = field(
        "Whether each file is a task of its own, paired by its name with the other party's; the same in both job "
        "files. `input_path` is then a pattern, a folder or a list, and `output_path` a pattern such as `out/*.csv` or "
        "a folder such as `out/`. A file that only one party has is left out, and both sides name it: see "
        "[files paired by name](operations.md#files-paired-by-name).",
        True,
        default=False,
    )
    query: dict[str, str] | None = optional(
        "SQL of each party whose [input is a database](places.md#queries), such as `duckdb:crm.duckdb`. May hold "
        "variables, whose text takes their place as it is: put it in quotes where SQL needs them. Write `$$` for a "
        "dollar sign. Only this party's entry is used.",
        {"alice": "SELECT id, mail FROM customers"},
    )
    output: OutputSettings = field(
        "Which rows and columns this party writes, and in which order.",
        {"rows": "all", "flag": "in_both"},
        default_factory=OutputSettings,
    )
    csv: CsvSettings | None = optional(
        "How this party's CSV and TSV files of this task are written. A field that is left out has its value from the "
        "section `csv`.",
        {"delimiter": ";"},
    )


_TASK = {
    "name": "customers",
    "keys": {"alice": ["id"], "bob": ["customer_id"]},
    "input_path": {"alice": "in/customers.csv", "bob": "in/crm.parquet"},
    "output_path": {"alice": "out/customers.csv"},
}


class JobFile(Model, title="psicli job file"):
    """A psicli job: one YAML file, one session, one port, any number of tasks."""

    job: fields.Name = field("Name of the job, the same in both job files.", "nightly-overlap")
    self_party: fields.Name | None = optional(
        "Party that this job file belongs to. The option `--party` and the variable `PSICLI_PARTY` override it.",
        "alice",
    )
    cluster: ClusterEntry = field(
        "Who takes part, and how the two parties reach each other.",
        {"nodes": [{"party": "alice", "address": "127.0.0.1:9560"}, {"party": "bob"}]},
    )
    psi: PsiEntry = field(
        "The defaults of every task. A task may override them.",
        {"receiver": "alice", "broadcast_result": False},
        default_factory=PsiEntry,
    )
    pipeline: PipelineSettings = field(
        "How this party uses its machine. The other party may use other values, and the result never depends on them.",
        {"threads": 4, "memory": "2GB"},
        default_factory=PipelineSettings,
    )
    csv: CsvSettings = field(
        "How this party's CSV and TSV files are written, inputs as well as outputs. They are never sent to the other "
        "party, which may use other values.",
        {"delimiter": ";", "encoding": "cp1252"},
        default_factory=CsvSettings,
    )
    policy: PolicySettings = field(
        "The limits that this party sets; a limit that is left out does not apply, so by default there is none. They "
        "are never sent to the other party. A run that exceeds one of them ends with exit code 79.",
        {"min_peer_items": 1000, "max_runs_per_day": 2},
        default_factory=PolicySettings,
    )
    keep_going: fields.Bool = field(
        "Whether the run skips a task for which either party has a bad input or output, and goes on with the others. "
        "By default such a task ends the run. Both sides need `true`: if one has `false`, the run ends. A run that "
        "skips a task still ends with an exit code other than 0. The option `--keep-going` sets this to `true`.",
        True,
        default=False,
    )
    tasks: tuple[TaskEntry, ...] = field(
        "The intersections of this job, in the order in which they run. Each compares one input of each party, "
        "and writes an output for each party that learns the result.",
        [_TASK],
        schema={"minItems": 1},
    )
