"""Writes the job files and the certificates of a first job: all of them or none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from psicli.core.errors import FileThereError
from psicli.setup.plan import Plan
from psicli.setup.render import job_file
from psicli.storage.files import create_files, make_folder
from psicli.transport.certs import CA_DAYS, PARTY_DAYS, create_authority, issue

# Everybody may read a job file; it holds no secret.
_MODE = 0o644


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise FileThereError if one of these files, or a link with its name, is there."""
    for path in paths:
        if os.path.lexists(path):
            raise FileThereError(path=path)


def write_files(plan: Plan) -> list[Path]:
    """Write the files of a plan and return their paths, and remove them again if one cannot be written.

    Raises FileThereError if one of them is there already, CannotCreateError, StorageError, and UnfitError for a
    path that no job file can hold.
    """
    texts = {plan.job_file(party): (job_file(plan, party).encode(), _MODE) for party in (plan.party, plan.peer)}
    certs = plan.folder / "certs"
    ends = ("pem", "key")
    secrets = [certs / f"{name}.{end}" for name in ("ca", plan.party, plan.peer) for end in ends]
    refuse_existing([*texts, *(secrets if plan.makes_certificates else [])])
    with ExitStack() as undo:
        _make(plan.folder, undo)
        if plan.makes_certificates:
            _make(certs, undo)
            _note(create_authority(certs, None, CA_DAYS), undo)
            for party in (plan.party, plan.peer):
                _note(issue(certs, certs, party, (), PARTY_DAYS), undo)
        create_files(texts)
        undo.pop_all()
    return [*texts, *(secrets if plan.makes_certificates else [])]


def _make(folder: Path, undo: ExitStack) -> None:
    """Make a folder for this user alone, unless it is there; its parent must be."""
    made = make_folder(folder / "file")
    if made is not None:
        undo.callback(_remove, folder)


def _remove(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _note(paths: Sequence[Path], undo: ExitStack) -> None:
    for path in paths:
        undo.callback(path.unlink, missing_ok=True)
