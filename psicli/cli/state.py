"""psicli status and psicli ledger: current and past runs on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from psicli.cli.options import flag, json_option
from psicli.cli.screen import write
from psicli.core.errors import CannotCreateError, printable, shown
from psicli.report.layout import Screen, in_words, table_or_paragraphs
from psicli.storage.locks import Holder, holders


@click.command()
@json_option
@flag("--clean", "Remove files that interrupted runs left behind and that no later run will use.")
def status(as_json: bool, clean: bool) -> None:
    """Show which jobs are running on this machine, and their progress.

    The list includes the jobs of all users. Below it, psicli shows what interrupted runs of this user left in the
    state folder: tasks that the next run of the job can resume, and files that it will remove.
    """
    from psicli.storage.state import left_over, state_folder, task_folders

    running = holders()
    kept: list[dict[str, Any]] = []
    left: list[Path] = []
    # The list of running jobs needs no state folder.
    with nullcontext() if clean else suppress(CannotCreateError):
        left = left_over(state_folder(), remove=clean)
        if task_folders(state_folder()):
            # Imported late because it is slow.
            from psicli.exchange import finished

            if clean:
                left += finished.sweep(state_folder())
            else:
                kept = finished.checkpoints(state_folder())
    if as_json:
        key, folders = "removed" if clean else "left_over", [*map(str, left)]
        write(json.dumps({"running": [*map(vars, running)], key: folders, "kept": kept}, indent=2))
        return
    screen = Screen.of(sys.stdout)
    sections = [_running(running, screen) if running else ["No job is running on this machine."]]
    if kept:
        sections.append(_kept(kept, screen))
    if left or clean:
        notes = [f"removed {printable(path)}" if clean else _left_over(path) for path in left]
        sections.append([*map(screen.wrap, notes or ["There is nothing to remove."])])
    write("\n\n".join("\n".join(lines) for lines in sections))


def _running(running: Sequence[Holder], screen: Screen) -> list[str]:
    rows: list[tuple[str, ...]] = [("job", "party", "progress", "pid", "user", "address", "since")]
    below = [""]
    for holder in running:
        progress = f"{holder.task}: {holder.phase} {holder.percent} %" if holder.task else holder.phase
        since = in_words(holder.since)
        rows.append((holder.job, holder.party, progress, str(holder.pid), holder.user, holder.where, since))
        below.append(f"{holder.where}, user {holder.user}, since {since}")
    narrow = [row[:4] for row in rows]
    return [line for lines in table_or_paragraphs(rows, narrow, below, screen) for line in lines]


def _kept(kept: Sequence[dict[str, Any]], screen: Screen) -> list[str]:
    rows: list[tuple[str, ...]] = [("job", "party", "task", "finished", "started", "folder")]
    for each in kept:
        names = (each["job"], each["party"], each["task"])
        rows.append((*names, "{finished_bins} of {bins} bins".format(**each), in_words(each["since"]), each["folder"]))
    narrow, below = [row[:4] for row in rows], ["", *(f"{row[5]}, started {row[4]}" for row in rows[1:])]
    lines = [line for lines in table_or_paragraphs(rows, narrow, below, screen) for line in lines]
    return ["The next run of the job can resume these tasks:", *lines]


def _left_over(path: Path) -> str:
    return f"left behind by an interrupted run: {printable(path)}; `psicli status --clean` removes it"


@click.command()
@json_option
@click.option("--peer", metavar="PARTY", help="Show only tasks with this party.")
def ledger(as_json: bool, peer: str | None) -> None:
    """Show past tasks: when, with whom, and how they ended.

    The newest task comes last. For each task, the table also shows the input and the numbers of items. A task is in
    the ledger once both parties have stated how many items they have.

    The ledger is the file ledger.jsonl in the state folder, which is $PSICLI_STATE_DIR, or else
    $XDG_STATE_HOME/psicli, or else ~/.local/state/psicli.
    """
    from psicli.report.history import to_text
    from psicli.storage.ledger import Ledger
    from psicli.storage.state import state_folder

    entries = [entry for entry in Ledger(state_folder()).entries() if peer in (None, entry.opening.peer)]
    none = "The ledger has no tasks." if peer is None else f"The ledger has no tasks with {shown(peer)}."
    text = to_text(entries, Screen.of(sys.stdout)) if entries else none
    write(json.dumps({"tasks": [entry.to_json() for entry in entries]}, indent=2) if as_json else text)
