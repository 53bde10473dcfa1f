"""Kept reports, as pages need them: whole, also if an older version of psicli has written them."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psicli.report.report import NodeReport, TaskReport, facts_of
from psicli.storage import reports
from psicli.storage.reports import Kept

logger = logging.getLogger(__name__)


def facts_of_run(state: Path, run: str) -> dict[str, Any] | None:
    """Return the facts of a past run; None if no readable report of it is kept. Raises CannotCreateError."""
    return _whole(reports.load(state, run))


def facts_of_kept(state: Path, report: Kept) -> dict[str, Any] | None:
    """Return the facts of a kept report; None if it cannot be read."""
    return _whole(reports.read(state, report))


def page_of_run(facts: dict[str, Any]) -> str | None:
    """Return the page of a past run; None if somebody has changed its report, so that it makes none."""
    from psicli.report.pages.run import run_page

    try:
        return run_page(facts)
    except Exception:
        # A report is made by psicli alone, but it is only a file.
        logger.debug("the kept report of run %s makes no page", facts["run"], exc_info=True)
        return None


def _whole(facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """Add the facts that the version of psicli which wrote the report did not know yet."""
    if facts is None:
        return None
    whole = {**facts_of(None, None), **facts}
    try:
        whole["tasks"] = [{**asdict(TaskReport("", "", False)), **task} for task in whole["tasks"]]
        whole["nodes"] = [{**asdict(NodeReport("")), **node} for node in whole["nodes"]]
    except TypeError:
        return None
    return whole
