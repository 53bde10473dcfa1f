"""The schedule of a batch, as units for the systemd of this user.

systemd makes up for a run that was missed, keeps the log in its journal, and runs a command when a batch fails. A unit
knows specifiers (%) and variables ($), so the text of the user is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from psicli.core.errors import ArgumentError, UnitDiffersError, creating
from psicli.core.records import dataclass
from psicli.storage.files import create_files

# When a schedule looks for a run that was missed.
_LOOK = "*-*-* 00/6:30"
# For a batch that ends after SIGTERM, besides the time of its hooks [s].
_STOP_TIME = 60
# They hold for the hooks, too, so a batch with hooks goes without.
_HARDENING = ("NoNewPrivileges=yes", "LockPersonality=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes")
# For a shell, which systemd is not.
TODAY = "$(date +%F)"


@dataclass(frozen=True)
class Schedule:
    """When and how to run a batch; all paths are absolute.

    when: a calendar event of systemd. program: how to start psicli. date: the variable that holds the date of the
    night. variables: the environment. alarm: the command that tells somebody. max_age: how old the last good end of the
    batch may become, as text. hooks_time: how long its hooks may take after the jobs [s]; None if it has no hooks.
    """

    name: str
    file: Path
    when: str
    program: Sequence[str]
    date: str | None = None
    report_dir: Path | None = None
    variables: Mapping[str, str] | None = None
    alarm: Sequence[str] = ()
    max_age: str | None = None
    hooks_time: int | None = None

    @property
    def command(self) -> list[str]:
        reports = [] if self.report_dir is None else ["--report-dir", str(self.report_dir)]
        return [*self.program, "batch", str(self.file), *reports]

    @property
    def look(self) -> list[str] | None:
        """The command that fails if a night was missed."""
        return None if self.max_age is None else [*self.program, "status", "--max-age", self.max_age, str(self.file)]


def units(schedule: Schedule) -> dict[str, str]:
    """Return the units of a schedule by their file names; raises ArgumentError for a path that no unit can hold."""
    check_text(schedule)
    name = f"psicli-{schedule.name}"
    made = {f"{name}.service": _service(schedule)}
    made[f"{name}.timer"] = _timer(
        f"When {name} runs",
        f"OnCalendar={_escaped(schedule.when)}",
        "# Both parties start at the same second.",
        "AccuracySec=1s",
        "# A run that was missed because the machine was off is made up for.",
        "Persistent=true",
    )
    if schedule.alarm:
        made[f"{name}-alarm@.service"] = _alarm(schedule)
    if schedule.alarm and schedule.look is not None:
        lines = [f"Description=Fails if {name} missed a run", _on_failure(schedule, "missed")]
        runs = ["Type=oneshot", *_environment(schedule), f"ExecStart={_words(schedule.look)}"]
        made[f"{name}-missed.service"] = _unit({"Unit": lines, "Service": runs})
        made[f"{name}-missed.timer"] = _timer(f"When to look whether {name} missed a run", f"OnCalendar={_LOOK}")
    return made


def timers(made: Iterable[str]) -> list[str]:
    """Return the names of the units that start the others."""
    return [unit for unit in made if unit.endswith(".timer")]


def install(made: Mapping[str, str], folder: Path) -> list[Path]:
    """Write the units that are not there yet, all or none; return their paths.

    Raises UnitDiffersError if one of them is there with another text, and CannotCreateError.
    """
    files = {folder / unit: text.encode() for unit, text in made.items()}
    missing = {}
    with creating(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, octets in files.items():
        with creating(path):
            if not path.exists():
                missing[path] = (octets, 0o644)
            elif path.read_bytes() != octets:
                raise UnitDiffersError(path=path)
    create_files(missing)
    return [*missing]


def _service(schedule: Schedule) -> str:
    command = schedule.command
    if schedule.date is not None:
        command = ["/bin/sh", "-c", f'exec "$0" "$@" --set "{schedule.date}={TODAY}"', *command]
    unit = [f"Description=psicli: all jobs of {schedule.name}"]
    if schedule.alarm:
        unit.append(_on_failure(schedule, "failed"))
    service = [
        "Type=oneshot",
        f"WorkingDirectory={_path(schedule.file.parent)}",
        *_environment(schedule),
        f"ExecStart={_words(command)}",
        "# The batch itself ends its jobs and hooks: a second SIGTERM would end them without clean-up.",
        "KillMode=mixed",
        "# If a job runs out of memory, the batch starts it again.",
        "OOMPolicy=continue",
    ]
    if schedule.hooks_time is None:
        service += _HARDENING
    else:
        service.append(f"TimeoutStopSec={_STOP_TIME + schedule.hooks_time}")
    service.append("# No PrivateTmp: psicli's locks may be in /tmp, and other runs must find them.")
    return _unit({"Unit": unit, "Service": service})


def _timer(description: str, *lines: str) -> str:
    sections = {"Unit": [f"Description={description}"], "Timer": lines, "Install": ["WantedBy=timers.target"]}
    return _unit(sections)


def _alarm(schedule: Schedule) -> str:
    unit = [f"Description=Alarm of psicli-{schedule.name}: %i"]
    variables = f"Environment=PSICLI_BATCH={schedule.name} PSICLI_BATCH_ALARM=%i"
    return _unit({"Unit": unit, "Service": ["Type=oneshot", variables, f"ExecStart={_words(schedule.alarm)}"]})


def _on_failure(schedule: Schedule, what: str) -> str:
    return f"OnFailure=psicli-{schedule.name}-alarm@{what}.service"


def _environment(schedule: Schedule) -> list[str]:
    return [f"Environment={_quoted(_escaped(f'{name}={value}'))}" for name, value in (schedule.variables or {}).items()]


def _unit(sections: Mapping[str, Sequence[str]]) -> str:
    return "\n".join("\n".join([f"[{name}]", *lines, ""]) for name, lines in sections.items())


def _words(command: Sequence[str]) -> str:
    """Return a command as systemd reads it: a program without such characters, and arguments in which $ is special."""
    if re.search(r"""["'\\$]""", command[0]):
        command = ["/usr/bin/env", *command]
    program, *arguments = map(_escaped, command)
    return " ".join(map(_quoted, [program, *(word.replace("$", "$$") for word in arguments)]))


def _quoted(word: str) -> str:
    if re.fullmatch(r"[\w@%$+=:,./-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _path(path: Path) -> str:
    """Return the path of WorkingDirectory, which systemd takes as it is; raises ArgumentError."""
    text = str(path)
    if text != text.strip() or text.endswith("\\"):
        raise _unfit("FILE", "the name of its folder ends in a character that a unit cannot hold")
    return _escaped(text)


def check_text(schedule: Schedule) -> None:
    """Raise ArgumentError for text that is not one line of printable characters."""
    texts = {
        "FILE": [str(schedule.file), *schedule.program, *(schedule.variables or {}).values()],
        "--on-calendar": [schedule.when],
        "--report-dir": [str(schedule.report_dir)],
        "--alarm": schedule.alarm,
    }
    for option, words in texts.items():
        if not all(word.isprintable() for word in words):
            raise _unfit(option, "it has a character that cannot be printed, and no schedule can hold it")


def _unfit(option: str, fault: str) -> ArgumentError:
    return ArgumentError(option=option, fault=fault, advice="Use another name.")
