"""Every error a user can see: its message, its exit code and its hint.

This module imports no other module of psicli, so every module can use it. An error class holds its message and its
hint as templates; the code that raises it passes the facts as named fields. Facts are paths, line numbers, column and
party names, and counts: never an item, a key value, a point or a scalar.
"""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from pathlib import PurePath
from typing import ClassVar

# The only list of exit codes; the table in docs/operations.md is generated from it.
EXIT_CODES: dict[int, tuple[str, str]] = {
    0: ("done", "The run is complete; an empty intersection is a complete run."),
    2: ("usage", "The command line is wrong."),
    65: ("bad input", "An input file holds data that psicli cannot read or compare."),
    66: ("input missing", "An input file or one of its key columns does not exist."),
    69: (
        "peer lost",
        "The other party could not be reached, or the connection to it was lost. Try again. Of a Ray cluster: it was "
        "lost, or no worker is left. Of a batch: a hook before it failed, or it has not ended well for long.",
    ),
    70: ("internal", "A bug in psicli, or a failed self-check of its arithmetic."),
    73: ("cannot create", "An output file, a lock file or a state file cannot be created."),
    74: ("I/O error", "Reading or writing failed, for example because the disk is full, or memory ran out."),
    75: (
        "busy",
        "The port is in use, too many files are open, the job runs already, or the other party already has a session. "
        "Try again.",
    ),
    76: ("protocol", "The other party sent something the protocol does not allow."),
    77: ("identity", "TLS failed, a certificate names another party, or without TLS another user answers."),
    78: ("configuration", "The job file is wrong, or the two parties' job files disagree."),
    79: ("policy", "This party's policy does not allow the run."),
    80: ("peer failed", "The other party stopped because of a failure on its own side."),
    130: ("interrupted", "Stopped by SIGINT (Ctrl-C)."),
    143: ("terminated", "Stopped by SIGTERM."),
}


def shown(text: str, limit: int = 200) -> str:
    """Return outside text in quotes, short and on one line: letters of all scripts stay, unprintable characters do not.

    A letter with its accent as a second character looks like the letter with the accent in one, so such an accent is
    shown as an escape.
    """
    quoted = repr(_clipped(text, limit))
    if unicodedata.is_normalized("NFC", quoted):
        return quoted
    return "".join(ascii(each)[1:-1] if unicodedata.combining(each) else each for each in quoted)


def shown_name(text: str, limit: int = 200) -> str:
    """Return a name that the peer chose like `shown`, but in ASCII: a letter of another script could imitate one."""
    return ascii(_clipped(text, limit))


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def printable(text: object) -> str:
    """Return a path or a line of text with its unprintable characters as escapes, so that it stays one line."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def counted(number: int, noun: str) -> str:
    """Return a count with its noun, such as `1 row` or `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_units(size: int) -> str:
    """Return a size [bytes] as text for people."""
    for unit, octets in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= octets:
            return f"{size / octets:.1f} {unit}"
    return counted(size, "byte")


def reason(exc: OSError) -> str:
    """Return the operating system's reason for a failure, in lower case, for use inside a sentence."""
    return (exc.strerror or "unknown").lower()


class PsicliError(Exception):
    """Base class of all errors. `sentence` and `hint` are templates; the facts of an occurrence fill them in."""

    code: ClassVar[int] = 70
    sentence: ClassVar[str] = "{detail}"
    hint: ClassVar[str] = ""
    # Whether the other party, not this one, has to act.
    peer_at_fault: ClassVar[bool] = False

    def __init__(self, **facts: object) -> None:
        # Code deep in the protocol does not know the peer's name; the session fills it in.
        self.facts: dict[str, object] = {"peer": "the other party", **facts}
        super().__init__()

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        return self._filled(self.sentence)

    @property
    def advice(self) -> str:
        return self._filled(self.hint)

    def _filled(self, template: str) -> str:
        facts = {name: printable(fact) if isinstance(fact, PurePath) else fact for name, fact in self.facts.items()}
        return "\n".join(map(printable, template.format(**facts).split("\n")))


class BadInputError(PsicliError):
    """An input file exists but holds data that psicli cannot read or compare. Facts: place, fault, advice."""

    code = 65
    sentence = "{place}: {fault}"
    hint = "{advice}"


class MalformedInputError(BadInputError):
    """A file that does not follow its format."""


class UnclosedQuoteError(MalformedInputError):
    """A quote that is still open at the end of the data read so far."""


class ColumnError(BadInputError):
    """A column that psicli cannot compare or write."""


class InputChangedError(BadInputError):
    sentence = "{path}: the file was changed or replaced while psicli was reading it"
    hint = "Start psicli after the export has finished; let the export write to another name, then rename the file."


class ChangedLedgerError(PsicliError):
    sentence = "{path}: the ledger is not as psicli left it"
    code = 65
    hint = "Find out who can write to this folder. Compare heads noted elsewhere, and the other party's ledger."


class TooManyRowsError(BadInputError):
    sentence = "the input has more than {limit:,} rows"
    hint = "Split the input into several tasks."


class InputMissingError(PsicliError):
    """A file or column of the job does not exist or cannot be read. Facts: place, fault, advice."""

    code = 66
    sentence = "{place}: {fault}"
    hint = "{advice}"


class WorkerLostError(PsicliError):
    sentence = "bin {bin} was lost because the worker that was computing it stopped"
    code = 69
    hint = "Find out why that worker stopped, then run again."


class HookError(PsicliError):
    """A command that the batch file names has failed. Facts: program, kind, fault, said."""

    sentence = "{program} (hooks.{kind}) {fault}{said}"
    code = 69
    hint = "No job has run. Remove the cause, then run the batch again."


class OverdueError(PsicliError):
    """A batch has not ended well for too long. Facts: batch, limit, last."""

    sentence = "{batch}: no run of this batch ended with all jobs done in the last {limit}; {last}"
    code = 69
    hint = "Look for the cause in the log of the batch, and run `psicli retry`."


class InternalError(PsicliError):
    """A bug in psicli; shown with a traceback."""

    code = 70
    hint = "This is a bug in psicli; please report it with the lines above."


def unexpected(exc: BaseException, logger: Logger, extra: Mapping[str, object] | None = None) -> PsicliError:
    """Return the error for an unexpected exception; its message names only the exception's class.

    A bug is logged with its traceback; a system that gives no more memory is no bug. extra: attributes of the log line.
    """
    if _is_exhaustion(exc):
        return OutOfMemoryError()
    if isinstance(exc, OSError) and (starved := no_descriptor(exc.filename or "a file or connection", exc)) is not None:
        return starved
    logger.error("unexpected failure", exc_info=exc, extra=extra)
    return InternalError(detail=f"an unexpected {type(exc).__name__}")


def _is_exhaustion(exc: BaseException) -> bool:
    """Return whether an exception says that the system gave no memory, no thread, or no room for a library."""
    if isinstance(exc, OSError):
        return exc.errno == errno.ENOMEM
    known = {RuntimeError: "can't start new thread", ImportError: "failed to map segment"}
    return isinstance(exc, MemoryError) or known.get(type(exc), "\0") in str(exc)


class LocalProtocolError(InternalError):
    """A bug that made this party break the protocol's order of steps."""


class SelfCheckError(InternalError):
    sentence = "the {backend} backend failed its self-check: {detail}"
    hint = "Do not use any result it computed. Check this machine's memory, and report the failure."


class CannotCreateError(PsicliError):
    sentence = "{path}: cannot write here: {reason}"
    code = 73
    hint = "Check that its folder exists and that this user may write there, or choose another path."


@contextmanager
def creating(path: object) -> Iterator[None]:
    """Turn an OSError in the block into a CannotCreateError for this path."""
    try:
        yield
    except OSError as exc:
        raise no_descriptor(path, exc) or CannotCreateError(path=path, reason=reason(exc)) from exc


class ForeignFileError(CannotCreateError):
    """Another user has put a link or file where an output belongs. Facts: path, what."""

    sentence = "{path}: cannot write here: {what}, in a folder that others can write to"
    hint = "Remove that link or file, or choose a folder that only you can write to."


class FileThereError(CannotCreateError):
    sentence = "{path}: the file already exists, and this command never overwrites a file"
    hint = "Move it away, or choose another folder. No file was written."


class UnitDiffersError(CannotCreateError):
    sentence = "{path}: the file is there, and it is not what psicli would write"
    hint = "Keep what you need of it, and remove it; then type the command again. No file was written."


class StateFolderError(CannotCreateError):
    """The state folder is not this user's alone. Facts: path, reason, advice."""

    sentence = "{path}: cannot be the state folder: {reason}"
    hint = "{advice}"


class StorageError(PsicliError):
    sentence = "{path}: {reason}"
    code = 74
    hint = "Check the disk (space, quota, health), then run again."


@contextmanager
def storing(path: object, doing: str) -> Iterator[None]:
    """Turn an OSError in the block into a StorageError for this path; `doing` names the operation."""
    try:
        yield
    except OSError as exc:
        raise no_descriptor(path, exc) or StorageError(path=path, reason=f"{doing} failed: {reason(exc)}") from exc


class OutOfMemoryError(PsicliError):
    sentence = "the system gave this process no more memory or threads"
    code = 74
    hint = "Check the limits of this process and its container (`ulimit -a`), or lower pipeline.memory or .threads."


class AddressSpaceError(OutOfMemoryError):
    sentence = "the address space of this process is limited to {limit}, and psicli needs at least {need}"
    hint = "Raise the limit (`ulimit -v unlimited`); pipeline.memory limits the memory that psicli really uses."


class ReaderGoneError(StorageError):
    sentence = "standard output: the program that reads it has ended"
    hint = "Let that program read all rows, or name a file as output."


class SpoolSpaceError(StorageError):
    sentence = "{folder}: the run needs {need} besides the {held} it uses there, but only {free} is free: {reason}"
    hint = "Free space there, set PSICLI_STATE_DIR to another folder, or give psicli more memory (pipeline.memory)."


class DiskTooSmallError(StorageError):
    sentence = "{folder}: not enough disk space: the job may need about {need} there, and only {free} is free"
    hint = (
        "Free space there, or put the outputs (output_path) or the state folder (PSICLI_STATE_DIR) on another disk. "
        "The estimate assumes that every row matches and that the other party has as many rows."
    )


class BusyError(PsicliError):
    """Another run or program uses something that this run needs; a later run may succeed."""

    code = 75


class PortBusyError(BusyError):
    sentence = "{where}: the port is in use by another program"
    hint = "Wait for it to end, or give this job another port (address in the job file, or --port-offset)."


class NoPortError(BusyError):
    sentence = "127.0.0.1: the system gives the simulation no port: {reason}"
    hint = "Run again when fewer connections are open: `ss -s` counts them."


class LockHeldError(BusyError):
    sentence = "{what} is in use by {holder}"
    hint = "Wait for that job to end (with --lock-timeout, psicli waits for it), or give this job another port."


class BatchRunningError(BusyError):
    sentence = "batch {batch} still runs (pid {pid}, since {since}), and a second run must not begin"
    hint = "Wait for it to end (`psicli status` shows its jobs), or stop it with `kill {pid}`; then run this again."


class DescriptorsError(BusyError):
    sentence = "{path}: cannot be opened: {reason}"
    hint = "Raise this process's limit of open files (`ulimit -n`), or start fewer programs at a time, then run again."


def no_descriptor(path: object, exc: OSError) -> DescriptorsError | None:
    """Return the error for a file that could not be opened because too many files are open, else None."""
    return DescriptorsError(path=path, reason=reason(exc)) if exc.errno in {errno.EMFILE, errno.ENFILE} else None


class BinOverflowError(PsicliError):
    sentence = "bin {bin} has more items than it has room for, which by chance happens to fewer than one bin in 2^60"
    code = 75
    hint = "Run again: the next run spreads the items differently over the bins."


class ConfigError(PsicliError):
    """The job file or an environment variable is wrong, or the two job files disagree."""

    code = 78


class JobFileError(ConfigError):
    """All errors in a job file, one per line: `job.yaml:LINE: FIELD: what is wrong; what would be right`."""

    sentence = "{mistakes}"
    hint = "`psicli config schema` describes every field of a job file."


class BatchFileError(JobFileError):
    """All errors in a batch file and in the job files that it names, one per line like those of a job file."""

    hint = "`psicli config schema --batch` describes the fields of a batch file, `psicli config schema` of a job file."


class PlanError(ConfigError):
    """Jobs of a batch that cannot run in one batch, one fault per line: `batch.yaml:LINE: JOB: what is wrong`."""

    sentence = "{mistakes}"
    hint = "`psicli batch --dry-run` checks a batch and starts nothing."


class ArgumentError(PsicliError):
    """An option of the command line does not fit the job file or batch file. Facts: option, fault, advice."""

    code = 2
    sentence = "{option}: {fault}"
    hint = "{advice}"


class UntrustedHooksError(ConfigError):
    """Another user could have written the commands in a batch file. Facts: path, fault, advice."""

    sentence = "{path}: psicli runs no hooks from this file, because {fault}"
    hint = "{advice}"


class UnknownFormatError(ConfigError):
    sentence = "{path}: unknown file suffix"
    hint = "Use one of these suffixes: {suffixes}."


class VariableError(ConfigError):
    """An environment variable has a value that psicli cannot use. Facts: variable, fault, advice."""

    sentence = "{variable} {fault}"
    hint = "{advice}"


class BindError(ConfigError):
    sentence = "{where}: cannot listen on this address: {reason}"
    hint = (
        "Set listen_address (or the address of the first node) to an address of this machine, with a port of 1024 or "
        "more: the system may keep lower ports for root."
    )


class TaskFilesError(ConfigError):
    """A command cannot use a task's inputs or outputs. Facts: task, fault, advice."""

    sentence = "task {task}: {fault}"
    hint = "{advice}"


class BudgetError(ConfigError):
    sentence = "job {job} may use {budget} of memory (pipeline.memory), but all jobs together only {memory}"
    hint = "Lower pipeline.memory in its job file, or give the batch more memory (--memory)."


class TooManyItemsError(ConfigError):
    """The two parties have too many items to compare. Facts: fault, advice."""

    sentence = "{fault}"
    hint = "{advice}"


class PolicyError(PsicliError):
    """This party's policy does not allow the run."""

    code = 79
    hint = "If you expected this, change the limit under policy in the job file; otherwise discuss it with {peer}."


class AnsweredTwiceError(PolicyError):
    sentence = "task {task}: {peer} asked a third time about items for which it already got two answers"
    hint = "Run again: the task starts over and counts as another run."


class PeerSizeError(PolicyError):
    sentence = "task {task}: {peer} has {items}{padding}, {than} than policy.{name}, which is {limit:,}"


class OwnSizeError(PolicyError):
    sentence = "task {task}: the input has {items}, fewer than policy.min_items, which is {limit:,}"


class TooManyRunsError(PolicyError):
    sentence = "task {task}: this input had {runs} with {peer} in the last 24 hours; policy.max_runs_per_day is {limit}"
    hint = "List these runs with `psicli ledger`. Then wait, or change the limit in the job file."


class TooSmallDifferenceError(PolicyError):
    sentence = "task {task}: {difference}, fewer than policy.min_difference, which is {limit:,}"
    hint = "Run with the same list again, wait until more items have changed, or change the limit in the job file."


class MatchRateError(PolicyError):
    sentence = "task {task}: {matched} of {own} matched, above policy.max_match_rate, which is {limit}"


class DriftError(PolicyError):
    sentence = "task {task}: {found}; policy.max_drift is {limit}"
    hint = "Find out what has changed. If it is right, run once with `--accept-drift {measures}` to accept it."


class OutputRowsError(PolicyError):
    sentence = "task {task}: {found} than policy.min_output_rows, which is {limit:,}"


class DurationError(PolicyError):
    sentence = "the exchange was not complete {limit} after the start of the run, the limit of policy.max_duration"
    hint = "Run again to resume, allow more time, or find out from the report what took so long."


class BrokenLedgerError(PolicyError):
    sentence = "the ledger {path} is not as psicli left it ({found}), and policy.strict allows no run with it"
    hint = "Find out who changed it (`psicli ledger --verify`); a run without policy.strict records what was found."


class StrictError(ConfigError):
    sentence = "policy.strict needs the native backend, but this run would use {backend}"
    hint = (
        "Unset PSICLI_BACKEND; if psicli was installed without a C compiler, install gcc and python3-dev and reinstall "
        "it with `pip install --force-reinstall --no-cache-dir`."
    )


class InterruptedBySignal(PsicliError):
    """SIGINT, raised as an exception in the main thread so that the run releases everything before it ends."""

    sentence = "stopped by SIGINT"
    code = 130


class TerminatedBySignal(InterruptedBySignal):
    sentence = "stopped by SIGTERM"
    code = 143
