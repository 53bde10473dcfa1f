"""The times of a schedule, which systemd itself reads and checks where it is installed."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import datetime, timedelta
from itertools import pairwise

from psicli.core.errors import ArgumentError, printable

# The longest pause between two runs is sought among those of a week, which has 168 hours.
_WEEK, _TIMES = timedelta(days=8), 200
# How long systemd may take to compute them [s].
_LIMIT = 30.0
# What a run may take longer than the one before, before it counts as missed.
_SLACK = timedelta(hours=2)
# The pause between two runs where this machine has no systemd to ask.
_DAY = timedelta(days=1)


def usual_age(when: str) -> str | None:
    """Return how old the last good run of a schedule may become, such as 26h; None for a single run.

    Raises ArgumentError if these are no times.
    """
    times = _times(when)
    pauses = [_DAY]
    if times is not None:
        pauses = [later - time for time, later in pairwise(times) if time - times[0] < _WEEK]
    return f"{-((max(pauses) + _SLACK) // timedelta(hours=-1))}h" if pauses else None


def form_of_cron(when: str) -> str | None:
    """Return what to write instead of a time in the form of cron, or None if it has another form."""
    if re.fullmatch(r"(?:\S+\s+){4}\S+", when.strip()):
        return 'This is how cron writes times. For each day at 2:00, write "*-*-* 02:00", with or without --cron.'
    return None


def _times(when: str) -> list[datetime] | None:
    """Return the next times of a calendar event, or None if this machine has no systemd; raises ArgumentError."""
    command = ["systemd-analyze", "calendar", f"--iterations={_TIMES}", "--", when]
    try:
        # In UTC, and without the changes to and from summer time, which the slack covers.
        shown = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? UTC", shown.stdout)
    if shown.returncode or not found:
        said = shown.stderr.strip().splitlines() if shown.returncode else []
        fault = printable(said[0]) if said else "this time never comes"
        advice = "`man systemd.time` describes calendar events; `systemd-analyze calendar WHEN` shows what one means."
        raise ArgumentError(option="--on-calendar", fault=fault, advice=form_of_cron(when) or advice)
    return [datetime.fromisoformat(each) for each in found]
