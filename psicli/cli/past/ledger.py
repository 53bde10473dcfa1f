"""psicli ledger: the record of past runs and tasks."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from psicli.cli.options import flag, json_option
from psicli.cli.past.options import SINCE, history_of_ledger
from psicli.cli.screen import write
from psicli.core.errors import ArgumentError, ChangedLedgerError, shown
from psicli.report.layout import Screen, in_words

if TYPE_CHECKING:
    from datetime import datetime

    from psicli.storage.ledger import Ledger


@click.command()
@json_option
@click.option("--peer", metavar="PARTY", help="Show only runs and tasks with this party.")
@click.option("--since", type=SINCE, help="Leave out what is older, as in 30d, 12h or 2026-11-30.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Show only the last N records.")
@flag("--verify", "Examine the whole ledger, and name every line that was changed, removed, inserted or moved.")
@click.option("--head", metavar="HASH", help="With --verify, also look for this head, which you noted elsewhere.")
def ledger(
    as_json: bool, peer: str | None, since: datetime | None, last: int | None, verify: bool, head: str | None
) -> None:
    """Show past runs and tasks: when, with whom, and how they ended.

    The newest one comes last. For each task, the table also shows the input and the numbers of items. A run that opened
    no task has a line of its own. A task is in the ledger before the other party learns how many items this party has.

    Each line of the ledger holds the digest of the line before it, and the head is the digest of the last line. With
    --verify, psicli exits with 0 if all lines are as it wrote them, else with 65. Whoever may write to the state folder
    can compute all digests again: compare the head with one that you noted elsewhere. Each report holds it.

    The ledger is the file ledger.jsonl in the state folder, which is $PSICLI_STATE_DIR, or else
    $XDG_STATE_HOME/psicli, or else ~/.local/state/psicli. Its head is in ledger.head next to it.
    """
    from psicli.report.history.records import to_text
    from psicli.storage.ledger import Ledger
    from psicli.storage.state import state_folder

    head = None if head is None else head.strip().lower()
    if head is not None and (not verify or not re.fullmatch("[0-9a-f]{64}", head)):
        fault = "it needs --verify" if not verify else f"{shown(head)} is no head"
        advice = "Give the 64 digits that a report shows as the head of the ledger."
        raise ArgumentError(option="--head", fault=fault, advice=advice)
    if verify and (since is not None or last is not None):
        raise click.UsageError("--verify examines the whole ledger; leave out --since and --last.")
    if verify:
        _verify(Ledger(state_folder()), head, as_json=as_json)
        return
    history = history_of_ledger().only(peer).within(since, last)
    none = "The ledger has no tasks." if peer is None else f"The ledger has no tasks with {shown(peer)}."
    if since is not None:
        none = f"The ledger has no such tasks since {in_words(since.isoformat())}."
    text = to_text(history.records, Screen.of(sys.stdout)) if history.records else none
    write(json.dumps(history.to_json(), indent=2) if as_json else text)


def _verify(ledger: Ledger, anchor: str | None, *, as_json: bool) -> None:
    """Show what is wrong with the ledger; raises ChangedLedgerError if anything is."""
    from psicli.report.history.records import verdict_to_text

    verdict = ledger.verify(anchor)
    text = json.dumps(asdict(verdict), indent=2) if as_json else verdict_to_text(verdict, Screen.of(sys.stdout))
    write(text)
    if verdict.faults:
        raise ChangedLedgerError(path=ledger.path)
