"""The file with the metrics of a run or a batch: each run replaces it as a whole.

A run that fails replaces it too, so the moment of the last good run comes from the state folder: from the ledger, or
from the record of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psicli.core.errors import PsicliError, printable
from psicli.storage.files import check_replaceable, save
from psicli.storage.ledger import DONE, Ledger
from psicli.storage.state import state_folder

logger = logging.getLogger(__name__)

# node_exporter reads only files with this suffix.
SUFFIX = ".prom"
# How every file begins that this module writes.
_BEGINNING = b"# HELP psicli_"
# What tells whose metrics a file holds.
_WHO = ("job", "party", "peer")


def check_metrics_file(path: Path) -> None:
    """Check that metrics can be written to this path; raises CannotCreateError.

    Only metrics of psicli are ever replaced: never an input, an output or a job file.
    """
    check_replaceable(path, _BEGINNING, "there is a file that does not hold metrics of psicli")


def save_run(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """Write the metrics of a run, made from the facts of its report; return a warning if that failed.

    For a run that did not get so far as to know its job, the metrics name that of the run before.
    """
    from psicli.report.metrics.run import ended, run_to_text

    try:
        if facts["job"] is None:
            facts = {**facts, **_named_in(path)}
        facts = {**facts, "started": facts["started"] or datetime.now(UTC).isoformat()}
        last = ended(facts) if facts["exit_code"] == 0 else _last_success(facts)
        _save(path, run_to_text(facts, last))
    except PsicliError as exc:
        return _unsaved(exc)
    return []


def save_batch(path: Path, facts: Mapping[str, Any], good: str | None) -> list[str]:
    """Write the metrics of a batch, made from the facts of its report; return a warning if that failed.

    good: the last time that all its jobs were done, in UTC as ISO 8601.
    """
    from psicli.report.metrics.batch import batch_to_text
    from psicli.report.metrics.families import seconds_of

    try:
        _save(path, batch_to_text(facts, seconds_of(good)))
    except PsicliError as exc:
        return _unsaved(exc)
    return []


def _save(path: Path, text: str) -> None:
    """Replace the file, which keeps its mode and its group; raises CannotCreateError, StorageError."""
    check_metrics_file(path)
    if not path.exists():
        logger.info("%s is new, and this user alone can read it; psicli keeps the mode you give it", printable(path))
    save(path, text.removesuffix("\n"))


def _unsaved(error: PsicliError) -> list[str]:
    text = f"the metrics of this run are not written: {error.message}"
    logger.warning("%s", text)
    return [text]


def _last_success(facts: Mapping[str, Any]) -> float | None:
    """Return when a run of this job last ended well, as the ledger says [s, Unix time]; None if it does not say."""
    who = tuple(facts[name] for name in _WHO)
    try:
        runs = Ledger(state_folder()).history().runs
    except PsicliError as exc:
        logger.warning("the metrics do not say when a run last ended well: %s", exc.message)
        return None
    good = [run.closed for run in runs if run.outcome == DONE and (run.job, run.party, run.peer) == who]
    return max((datetime.fromisoformat(moment).timestamp() for moment in good if moment is not None), default=None)


def _named_in(path: Path) -> dict[str, str]:
    """Return the job and the parties that a file of metrics names, if it is one of a run."""
    from prometheus_client import Metric
    from prometheus_client.parser import text_string_to_metric_families

    families: list[Metric] = []
    # Somebody may have edited it.
    with suppress(OSError, ValueError, LookupError, TypeError):
        families += text_string_to_metric_families(path.read_text(encoding="utf-8"))
    samples = [sample for family in families if family.name == "psicli_run_exit_code" for sample in family.samples]
    return {name: samples[0].labels[name] for name in _WHO if samples and name in samples[0].labels}
