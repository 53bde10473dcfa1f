"""The schedule of a batch, as lines for a crontab. For cron, % ends a line."""

from __future__ import annotations

import re
import shlex

from psicli.batch.unattended.schedule import TODAY, Schedule, check_text
from psicli.batch.unattended.times import form_of_cron
from psicli.core.errors import ArgumentError

# When a schedule looks for a run that was missed.
_LOOK = "30 */6 * * *"
_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_SHORT = {
    "minutely": "* * * * *", "hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *", "yearly": "0 0 1 1 *",
}  # fmt: skip
_FIELD = r"\*|\d+(?:\.\.\d+)?(?:/\d+)?(?:,\d+(?:\.\.\d+)?(?:/\d+)?)*|\*/\d+"
_CALENDAR = re.compile(
    rf"(?:(?P<weekdays>[A-Za-z,.-]+) +)?(?:\*-(?P<month>{_FIELD})-(?P<day>{_FIELD}) +)?"
    rf"(?P<hour>{_FIELD}):(?P<minute>{_FIELD})(?::00?)?"
)
_LAST = {"minute": 59, "hour": 23, "day": 31, "month": 12}


def crontab(schedule: Schedule) -> str:
    """Return the lines of a crontab; raises ArgumentError for a time that cron cannot express."""
    check_text(schedule)
    when, variables = _cron_time(schedule.when), schedule.variables or {}
    assigned = "".join(f"{name}={shlex.quote(value)} " for name, value in variables.items())
    date = "" if schedule.date is None else f' --set "{schedule.date}={TODAY}"'

    def alarm(what: str) -> str:
        told = f"PSICLI_BATCH={schedule.name} PSICLI_BATCH_ALARM={what}"
        return f" || {told} {shlex.join(schedule.alarm)}" if schedule.alarm else ""

    lines = [
        f"# psicli-{schedule.name}: add these lines with `crontab -e`. cron sends a mail only if a run needs",
        "# attention; name its reader. Hooks need a PATH, too.",
        "#MAILTO=data-team@example.com",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        _cron_line(when, f"{assigned}{shlex.join(schedule.command)} --quiet{date}{alarm('failed')}"),
    ]
    if schedule.look is not None:
        lines.append(_cron_line(_LOOK, f"{assigned}{shlex.join(schedule.look)} --quiet{alarm('missed')}"))
    return "\n".join(lines)


def _cron_line(when: str, command: str) -> str:
    return f"{when}  " + command.replace("%", "\\%")


def _cron_time(when: str) -> str:
    """Return the five fields of a time; raises ArgumentError."""
    if (short := _SHORT.get(when.lower())) is not None:
        return short
    found = _CALENDAR.fullmatch(when.strip())
    days = None if found is None else _cron_weekdays(found["weekdays"])
    if found is None or days is None or (days != "*" and (found["day"] or "*") != "*"):
        raise ArgumentError(
            option="--on-calendar",
            fault="cron has no such times",
            advice=form_of_cron(when) or 'Give a time such as "*-*-* 02:00" or "Mon..Fri 02:00", or use systemd.',
        )
    fields = [_cron_field(found[name] or "*", last) for name, last in _LAST.items()]
    return " ".join([*fields, days])


def _cron_field(field: str, last: int) -> str:
    """Return a field of a time; systemd's 3/6 goes on to the end."""
    parts = (re.sub(r"^(\d+)/", rf"\1-{last}/", part.replace("..", "-")) for part in field.split(","))
    return ",".join(re.sub(r"\b0+(?=\d)", "", part) for part in parts)


def _cron_weekdays(text: str | None) -> str | None:
    """Return the weekdays as numbers; None if they are none."""
    if text is None:
        return "*"
    numbers = []
    # systemd reads Mon-Fri like Mon..Fri.
    for part in text.replace("-", "..").split(","):
        ends = [_WEEKDAYS.index(end.title()[:3]) if end.title()[:3] in _WEEKDAYS else -1 for end in part.split("..")]
        if not 1 <= len(ends) <= 2 or -1 in ends:
            return None
        # In a range, Sunday is the last day.
        first, last = ends[0], ends[-1] or 7
        if len(ends) > 1 and first > last:
            return None
        numbers.append(f"{first}-{last}" if len(ends) > 1 else str(first))
    return ",".join(numbers)
