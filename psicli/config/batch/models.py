"""The models of the batch file as users write it, and of the batch as the rest of psicli uses it. They hold no logic.

As in psicli/config/models.py, the descriptions and examples of the fields also make the JSON Schema, the hints in error
messages and a page of the documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from psicli.config import fields
from psicli.config.built import Job
from psicli.config.model import Model, Value, field, optional
from psicli.config.model.kinds import Bounds

# Enough for any machine, and few enough that a slip of the pen is noticed.
MAX_JOBS_AT_ONCE = 1024
MAX_RETRIES = 1000

# The batch file ------------------------------------------------------------------------------------------------


class JobEntry(Model):
    """One job of a batch: a job file, and how it differs from what the file says."""

    config: fields.GivenPath = field(
        "Path of the job file. A relative path starts at the batch file's folder. May hold variables.",
        "jobs/carol.yaml",
    )
    name: fields.Name | None = optional(
        "What the batch calls this job, in `after`, in reports and on the command line. By default the job's own name; "
        "a second job of that name is called NAME-2, a third NAME-3 and so on.",
        "carol",
    )
    set: fields.Variables = field(
        "Values for the variables in this job's file. They replace those of `set` at the top level, and the option "
        "`--set` replaces both.",
        {"DATE": "2026-11-29"},
        default={},
    )
    only: tuple[fields.Name, ...] = field(
        "Run only these tasks of the job. By default all of them.", ["customers"], default=()
    )
    party: fields.Name | None = optional(
        "Party as which this job runs. By default `party` at the top level, else the job file's `self_party`. The "
        "option `--party` overrides it.",
        "alice",
    )
    port_offset: fields.Int = field(
        "Number to add to the ports in the job file, so that several copies of a job can run at the same time. Both "
        "sides need the same number.",
        1,
        default=0,
        ge=0,
        le=65_534,
    )
    after: tuple[fields.NameElsewhere, ...] = field(
        "Jobs of this batch, by name. This job starts only when all of them are done; if one fails, it does not run. "
        "A job that reads the output of an earlier job in the list waits for it in any case.",
        ["nightly-bob"],
        default=(),
    )


_Commands = tuple[fields.Command, ...]
_MOUNT = ["/usr/local/bin/mount-export", "--read-only"]


class HooksEntry(Model):
    """What psicli starts or calls when a batch begins and ends."""

    before: _Commands = field(
        "Commands to run, one after another, before the first job starts. Each is a program and its arguments; there "
        "is no shell. If one of them fails, no job runs.",
        [_MOUNT],
        default=(),
    )
    after: _Commands = field(
        "Commands to run after the last job has ended, however the jobs ended.",
        [["/usr/local/bin/unmount-export"]],
        default=(),
    )
    on_error: _Commands = field(
        "Commands to run if the exit code of the batch is not 0.",
        [["/usr/local/bin/page-on-call", "psicli"]],
        default=(),
    )
    ping: fields.Url | None = optional(
        "Web address of a monitoring service. psicli calls ADDRESS/start when the batch begins, and ADDRESS/CODE with "
        "the exit code when it ends.",
        "https://hc.example.com/4f0f2b1e",
        shown=False,
    )
    timeout: fields.Duration = field(
        "How long each command may take, such as `30s`, `5m` or `1h`; a number alone is a number of seconds.",
        "30s",
        default=300,
    )


_Jobs = fields.GivenPath | JobEntry
_Places = Annotated[int, Bounds(ge=1, le=MAX_JOBS_AT_ONCE), fields.PLAIN_DIGITS]


class BatchFile(Model, title="psicli batch file"):
    """A psicli batch: one YAML file that names the jobs to run on this machine, and how."""

    batch: fields.Name | None = optional("Name of the batch. By default the file's name without its suffix.", "nightly")
    jobs: tuple[_Jobs, ...] = field(
        "The jobs, in the order in which they start if nothing else decides. An entry is the path of a job file, or a "
        "section whose `config` is that path.",
        ["jobs/bob.yaml", {"config": "jobs/carol.yaml", "after": ["nightly-bob"]}],
        schema={"minItems": 1},
    )
    set: fields.Variables = field(
        "Values for the variables in the job files. They replace the environment's; the option `--set` replaces both.",
        {"REGION": "north"},
        default={},
    )
    party: fields.Name | None = optional(
        "Party as which all jobs run. By default each job file's `self_party`. The option `--party` overrides it.",
        "alice",
    )
    max_jobs: _Places | None = optional(
        "How many jobs may run at the same time; with 1, they run one after another. By default as many as the memory "
        "has room for, and at most four for each core. The option `--jobs` overrides it.",
        4,
    )
    memory: fields.Memory | None = optional(
        "Memory that all jobs together may use, written like `pipeline.memory` of a job file. By default 80 % of the "
        "machine's (or container's) memory. The option `--memory` overrides it.",
        "8GB",
    )
    deadline: fields.Duration | None = optional(
        "How long the batch may take, such as `30m`, `4h` or `1d`; a number alone is a number of seconds. After that, "
        "psicli stops what still runs and starts nothing more. By default there is no limit. The option `--deadline` "
        "overrides it.",
        "4h",
    )
    retries: fields.Int = field(
        "How often to start a job again that failed for a reason that may pass: the peer was lost, something was in "
        "use, or a process was killed. The option `--retries` overrides it.",
        5,
        default=2,
        ge=0,
        le=MAX_RETRIES,
    )
    retry_wait: fields.Wait = field(
        "How long to wait before the first such start. Each further one waits twice as long, but at most 10 minutes. "
        "The option `--retry-wait` overrides it.",
        "30s",
        default=30,
    )
    rendezvous: fields.Duration = field(
        "How long a job waits for its peer while other jobs need its place. Then one of these starts, and the job "
        "waits for its next turn. The option `--rendezvous` overrides it.",
        "30s",
        default=10,
    )
    lock_timeout: fields.Wait = field(
        "How long a job waits for its port if a run outside this batch uses it. The option `--lock-timeout` overrides "
        "it.",
        "10m",
        default=0,
    )
    keep_going: fields.Bool = field(
        "Whether the other jobs go on when a job has failed. With `false`, no further job starts. The options "
        "`--keep-going` and `--fail-fast` override it.",
        False,
        default=True,
    )
    hooks: HooksEntry = field(
        "What psicli starts or calls when the batch begins and ends.",
        {"before": [_MOUNT], "ping": "https://hc.example.com/4f0f2b1e"},
        default_factory=HooksEntry,
    )


# The batch -----------------------------------------------------------------------------------------------------


class Entry(Value):
    """One checked job of a batch."""

    name: str
    # The path of the job file; a relative one starts at the current folder.
    config: Path
    # Where the user named the job: the batch file with a line, or the job file itself.
    where: str
    # All settings for this job's variables, the later ones replaced: those of the file, the entry and --set.
    set: dict[str, str]
    only: tuple[str, ...]
    # None if the job file decides.
    party: str | None
    port_offset: int
    after: tuple[str, ...]
    job: Job


class Batch(Value):
    """A checked batch; times are in seconds, memory is in bytes."""

    name: str
    # None if the job files were named on the command line.
    path: Path | None
    jobs: tuple[Entry, ...]
    max_jobs: int | None
    memory: int | None
    deadline: int | None
    retries: int
    retry_wait: int
    rendezvous: int
    lock_timeout: int
    keep_going: bool
    hooks: HooksEntry
