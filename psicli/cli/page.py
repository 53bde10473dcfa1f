"""The page that a command leaves with --report, however it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from psicli.core.errors import ArgumentError, PsicliError, unexpected
from psicli.report.pages.file import check_page_file, save_page
from psicli.storage.files import identity

logger = logging.getLogger(__name__)

Facts = Mapping[str, Any]


def checked_page(page: Path | None, trace: Path | None = None) -> Path | None:
    """Return the file for a page if one can be written there; raises ArgumentError, CannotCreateError, StorageError.

    A command calls it before it starts anything, so that no exchange ends without its page.
    """
    if page is None:
        return None
    if trace is not None and identity(page) == identity(trace):
        raise ArgumentError(option="--report", fault="--trace names the same file", advice="Name two files.")
    check_page_file(page)
    return page


def leave_run(page: Path | None, facts: Facts) -> PsicliError | None:
    """Write the page of a run; return why that failed."""

    def made() -> str:
        # Imported late, here and below, because Jinja is slow to import.
        from psicli.report.pages.run import run_page

        return run_page(facts)

    return _leave(page, made)


def leave_simulation(page: Path | None, reports: Mapping[str, Facts | None]) -> PsicliError | None:
    """Write the page of a simulation, made from the report of each party; return why that failed."""

    def made() -> str:
        from psicli.report.pages.run import simulation_page

        return simulation_page(reports)

    return _leave(page, made)


def leave_batch(page: Path | None, facts: Facts, earlier: Sequence[Facts] = ()) -> PsicliError | None:
    """Write the page of a batch, or of the rest of one; return why that failed."""

    def made() -> str:
        from psicli.report.pages.batch import batch_page

        return batch_page(facts, earlier)

    return _leave(page, made)


def _leave(page: Path | None, made: Callable[[], str]) -> PsicliError | None:
    if page is None:
        return None
    try:
        save_page(page, made())
    except PsicliError as exc:
        return exc
    except Exception as exc:
        return unexpected(exc, logger)
    return None
