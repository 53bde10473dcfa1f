"""Ledgers with nights of the past, written by the Ledger itself in no time: valid chains, in seconds of the past."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

from psicli.core.errors import EXIT_CODES, PsicliError
from psicli.report.history.series import Night, Series
from psicli.storage import ledger as ledger_module
from psicli.storage.ledger import Ledger, Opening

KEYS = ("email",)


def write_ledger(state: Path, *series: Series, input_path: str = "/data/in.csv") -> Ledger:
    """Append the runs of tasks to the ledger of a state folder, oldest first; `series_of` reads them back.

    Nights of the same job, party and peer with the same run id become one run. A night without distinct_items ended
    before its task was opened.
    """
    runs: dict[tuple[str, ...], list[tuple[Series, Night]]] = {}
    for each in series:
        for night in each.nights:
            runs.setdefault((night.time, night.run, each.job, each.party, each.peer), []).append((each, night))
    ledger = Ledger(state)
    with mock.patch.object(ledger_module.os, "fsync"), mock.patch.object(ledger_module.os, "fdatasync"):
        for key in sorted(runs):
            for moment, step in _steps(ledger, key, runs[key], input_path):
                with mock.patch.object(ledger_module, "_now", return_value=moment):
                    step()
    return ledger


def _steps(ledger: Ledger, key: tuple[str, ...], tasks: list[tuple[Series, Night]], path: str) -> Iterator[tuple]:
    """Yield the time of each line of a run, and what writes it."""
    time, run, job, party, peer = key
    seconds = max([night.seconds or 0.0 for _, night in tasks])
    later = (datetime.fromisoformat(time) + timedelta(seconds=seconds)).isoformat(timespec="seconds")
    yield time, lambda: ledger.begin(job, party, peer, "1.0", "127.0.0.1:9000")
    for series, night in tasks:
        if night.distinct_items is not None:
            # The same for both parties.
            sid = hashlib.sha256(f"{run} {job} {series.task}".encode()).hexdigest()[:32]
            opening = Opening(job, series.task, peer, sid, path, KEYS, night.distinct_items, party=party)
            yield time, lambda o=opening: ledger.open(o)
            if night.peer_items is not None:
                yield time, lambda n=night, s=sid: ledger.meet(s, peer, n.peer_items, n.peer_items)
            yield later, lambda n=night, s=sid: _close(ledger, s, n)
    codes = [night.code for _, night in tasks if night.code]
    yield later, lambda: ledger.end(_error(codes[0]) if codes else None, seconds)


def _close(ledger: Ledger, sid: str, night: Night) -> None:
    percent = None if night.rate is None or night.matched is not None else round(100 * night.rate)
    accepted = {"drift_accepted": night.drift_accepted}
    ledger.close(sid, _error(night.code), night.matched, percent, None, night.rows, night.seconds, **accepted)


def _error(code: int | None) -> PsicliError | None:
    if not code:
        return None
    kind = type(EXIT_CODES[code][0].title().replace(" ", "") + "Error", (PsicliError,), {"code": code})
    return kind()
