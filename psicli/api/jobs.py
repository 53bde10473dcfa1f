"""Jobs: a job file, or a dict with its content, as one of its parties sees it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, TypeAlias

from psicli import config
from psicli.api.errors import told
from psicli.config.given import Given, GivenDocument, lacking
from psicli.core.records import dataclass

# What load_job takes: the path of a job file, or its content.
JobSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"


@dataclass(frozen=True, eq=False)
class Job:
    """A job without mistakes, as one party sees it; `load_job` returns it, and `run` runs it."""

    name: str
    party: str
    peer: str
    tasks: tuple[str, ...]
    # How to load it again, in the process of a run.
    path: Path = field(repr=False)
    content: Mapping[str, Any] | None = field(repr=False)
    only: tuple[str, ...] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    port_offset: int = field(repr=False)
    # The job as it was checked, and the files that its tasks lack or leave to standard input and output.
    checked: config.Job = field(repr=False)
    lacks: Mapping[str, Collection[str]] = field(repr=False)


def load_job(
    job: JobSource,
    *,
    party: str | None = None,
    only: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    port_offset: int = 0,
) -> Job:
    """Load a job file, or a dict with the same content, and check it.

    A task may lack this party's `input_path` if `run` gets its rows, and its `output_path` if the rows stay in the
    report. In a dict, relative paths start at the current folder.

    party: the party that runs here; overrides `self_party`. only: the tasks to run, by name; by default all.
    variables: values for ${NAME}, which override the environment. port_offset: is added to the port of the job.
    Raises RunError: a JobFileError with all mistakes at once, or an InputMissingError if there is no such file.
    """
    if isinstance(only, str):
        only = (only,)
    with told(lines=not isinstance(job, Mapping)):
        content = None
        if isinstance(job, Mapping):
            path = Path.cwd() / "job"
            content = GivenDocument(path, job).root
        else:
            path = Path(os.path.expanduser(job))
        document = Given(content).document(path)
        own = party if party is not None else document.text("self_party") or ""
        missing = lacking(document, own)
        checked = config.load_job(
            path,
            party=party,
            port_offset=port_offset,
            variables={**os.environ, **(variables or {})},
            only=only,
            given=Given(content, lenient=True),
        )
    return Job(
        name=checked.name,
        party=checked.party,
        peer=checked.peer,
        tasks=tuple(task.name for task in checked.tasks),
        path=path.absolute(),
        content=content,
        only=tuple(only),
        variables=dict(variables or {}),
        port_offset=port_offset,
        checked=checked,
        lacks=missing,
    )
