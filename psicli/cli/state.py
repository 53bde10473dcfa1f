"""psicli status and psicli ledger: what is on this machine."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from psicli.cli.options import flag, json_option
from psicli.cli.screen import write
from psicli.core.errors import CannotCreateError
from psicli.storage.locks import Holder, holders


@click.command()
@json_option
@flag("--clean", "Remove what runs that were killed have left.")
def status(as_json: bool, clean: bool) -> None:
    """Show which jobs run on this machine, of all users: on which port, since when, how far.

    And what runs of this user that were killed have left in the state folder: what the next run of the same job
    continues from, and what it removes.
    """
    from psicli.storage.state import left_over, state_folder, task_folders

    running = holders()
    kept: list[dict[str, Any]] = []
    left: list[Path] = []
    # What runs can be told without a state folder.
    with nullcontext() if clean else suppress(CannotCreateError):
        left = left_over(state_folder(), remove=clean)
        if task_folders(state_folder()):
            # The heavy part, for those who need it: a run may end meanwhile.
            from psicli.exchange import finished

            if clean:
                left += finished.sweep(state_folder())
            else:
                kept = finished.checkpoints(state_folder())
    if as_json:
        key, folders = "removed" if clean else "left_over", [*map(str, left)]
        write(json.dumps({"running": [*map(vars, running)], key: folders, "kept": kept}, indent=2))
        return
    lines = [] if running else ["no job runs on this machine"]
    lines += [*map(_running, running), *map(_kept, kept)]
    lines += [f"removed {path}" if clean else f"left over: {path}; `psicli status --clean` removes it" for path in left]
    if clean and not left:
        lines.append("nothing is left over")
    write("\n".join(lines))


def _running(holder: Holder) -> str:
    who = f"{holder.job} ({holder.party}, {holder.where})"
    at = f"{holder.task}: {holder.phase} {holder.percent} %" if holder.task else holder.phase
    return f"{who}, pid {holder.pid}, {holder.user}, since {holder.since}, {at}"


def _kept(each: dict[str, Any]) -> str:
    what = "task {task} of job {job} ({party}), begun {since}".format(**each)
    bins = f"{each['finished_bins']} of {each['bins']} bins"
    return f"kept for the next run: {what}, {bins} finished, in {each['folder']}"


@click.command()
@json_option
@click.option("--peer", metavar="PARTY", help="Show the tasks with this party alone.")
def ledger(as_json: bool, peer: str | None) -> None:
    """Show every task that was opened with a peer: when, over which input, how many items, how it ended.

    The newest come last. The ledger is ledger.jsonl in the state folder: PSICLI_STATE_DIR, else
    $XDG_STATE_HOME/psicli, else ~/.local/state/psicli.
    """
    from psicli.report.history import to_text
    from psicli.storage.ledger import Ledger
    from psicli.storage.state import state_folder

    entries = [entry for entry in Ledger(state_folder()).entries() if peer in (None, entry.opening.peer)]
    text = to_text(entries) if entries else "the ledger holds no task"
    write(json.dumps({"tasks": [entry.to_json() for entry in entries]}, indent=2) if as_json else text)
