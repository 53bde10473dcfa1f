"""What the commands about past runs share: since when, and the ledger."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta

import click

from psicli.core.errors import printable
from psicli.report.console import Console
from psicli.storage.ledger import History, Ledger
from psicli.storage.state import state_folder

logger = logging.getLogger(__name__)

_AGE = re.compile(r"([0-9]{1,5})([hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class _Since(click.ParamType[datetime]):
    """A moment in the past: a date, a time as ISO 8601, or how long ago it is."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if age := _AGE.fullmatch(str(value)):
                return datetime.now(UTC) - int(age[1]) * _UNITS[age[2]]
            moment = datetime.fromisoformat(str(value))
        except (ValueError, OverflowError):
            self.fail(f"{value} is no moment; give for example 90d, 2w, 36h or 2026-11-30.", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


SINCE = _Since()


def history_of_ledger() -> History:
    """Return what the ledger records, with a warning if it is not as psicli left it.

    Raises CannotCreateError, StorageError.
    """
    found = Ledger(state_folder())
    if found.verify().faults:
        Console(0)
        logger.warning(
            "the ledger %s is not as psicli left it, so what follows may be wrong; run `psicli ledger --verify`",
            printable(found.path),
        )
    return found.history()
