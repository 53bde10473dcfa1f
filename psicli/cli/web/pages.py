"""What each address of the page on this machine shows. Nothing in an address becomes a path of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from psicli.cli.web.now import now
from psicli.core.errors import PsicliError
from psicli.report.history.jobs import jobs_of
from psicli.report.history.kept import facts_of_run, page_of_run
from psicli.report.pages.past.history import history_page
from psicli.report.pages.past.overview import now_part, overview_page
from psicli.storage import reports
from psicli.storage.ledger import History, Ledger
from psicli.storage.state import state_folder

HTML, JSON, TEXT = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"
# How far back the history goes; reports are kept as long.
_SINCE = timedelta(days=400)


class Answer(NamedTuple):
    """What a request gets: the status, the type and the text."""

    status: int
    kind: str
    text: str


def answer(path: str) -> Answer:
    """Return what is at an address."""
    for pattern, make in _PAGES:
        if found := re.fullmatch(pattern, path, re.ASCII):
            try:
                text = make(*found.groups())
            except PsicliError as exc:
                return Answer(500, TEXT, f"{exc.message}\n{exc.advice}")
            if text is not None:
                return Answer(200, JSON if path.startswith("/api/") else HTML, text)
    return Answer(404, TEXT, "There is no such page.")


def _overview() -> str:
    history, is_intact = _history()
    return overview_page(now().to_json(), history.runs, _kept(), is_intact=is_intact)


def _now() -> str:
    return now_part(now().to_json())


def _status() -> str:
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **now().to_json()})


def _past(job: str | None = None) -> str | None:
    moment = datetime.now(UTC)
    jobs = jobs_of(_history()[0], moment, moment - _SINCE, job)
    if not jobs:
        return None
    kept = _kept()
    return history_page(
        jobs,
        moment,
        lambda run: facts_of_run(state_folder(), run),
        lambda run: f"/runs/{run}" if run in kept else None,
    )


def _run(run: str) -> str | None:
    facts = facts_of_run(state_folder(), run)
    return None if facts is None else page_of_run(facts)


def _kept() -> set[str]:
    return {each.run for each in reports.kept(state_folder())}


def _history() -> tuple[History, bool]:
    """Return what the ledger records, and whether it is as psicli left it."""
    ledger = Ledger(state_folder())
    return ledger.history(), not ledger.verify().faults


_PAGES: tuple[tuple[str, Callable[..., str | None]], ...] = (
    ("/", _overview),
    ("/now", _now),
    ("/api/status", _status),
    ("/history", _past),
    ("/history/([a-z0-9-]{1,64})", _past),
    ("/runs/([0-9a-f]{16})", _run),
)
