"""The errors that programs get: those of the product, each with its code, its message and its hint filled in.

An error is raised in the process of a run, and comes here as texts. So every error has a class of its own, which is a
RunError and also the product's class of that name: both `except RunError` and `except PeerLostError` catch it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psicli.config.given import without_lines
from psicli.core.errors import InterruptedBySignal, PsicliError, StorageError
from psicli.core.peer_errors import PeerLostError

if TYPE_CHECKING:
    from psicli.api.report import Report


class RunCancelledError(InterruptedBySignal):
    sentence = "the program that started the run has cancelled it"
    hint = "Run again when both parties are ready."


class RunLostError(StorageError):
    sentence = "the process of the run {how} and left no report"
    hint = "The system may have ended it for lack of memory: lower pipeline.memory, or give the machine more."


class RunError(PsicliError):
    """What load_job, run and intersect raise.

    code: the exit code of a run that fails in this way. message: what happened. hint: what to do; may be empty. report:
    the report of the run, if it began.
    """

    sentence = "{text}"
    report: Report | None = None

    @property
    def advice(self) -> str:
        return self.hint

    def __reduce__(self) -> tuple[Any, ...]:
        return made, (type(self).__name__, self.code, self.message, self.hint, self.report)


def made(kind: str, code: int, message: str, hint: str, report: Report | None = None) -> RunError:
    """Return an error of the product's class of this name, or, if there is none, a RunError."""
    known = {found.__name__: found for found in _classes(PsicliError)}
    assert PeerLostError.__name__ in known, "the classes of errors about the other party are imported"
    bases = (RunError, known[kind]) if kind in known else (RunError,)
    texts = {"__module__": "psicli", "code": code, "hint": hint, "sentence": RunError.sentence}
    error: RunError = type(kind, bases, texts)(text=message)
    error.args = (message,)
    error.report = report
    if hint:
        # Python shows it below the message.
        error.add_note(f"hint: {hint}")
    return error


def _classes(base: type[PsicliError]) -> Iterator[type[PsicliError]]:
    for each in base.__subclasses__():
        # Not those that `made` has made.
        if not issubclass(each, RunError):
            yield each
            yield from _classes(each)


@contextmanager
def told(*, lines: bool = True) -> Iterator[None]:
    """Raise an error of the product in the block as a RunError. lines: whether its message may name lines of a file."""
    try:
        yield
    except RunError:
        raise
    except PsicliError as exc:
        message = exc.message if lines else without_lines(exc.message)
        raise made(type(exc).__name__, exc.code, message, exc.advice) from None
