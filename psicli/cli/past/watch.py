"""psicli status --watch: the same again and again, on a terminal in place."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from psicli.cli.screen import write
from psicli.cli.web.now import Now, now
from psicli.core import signals
from psicli.core.errors import InterruptedBySignal, TerminatedBySignal
from psicli.report.layout import PLAIN, Screen, in_words, knows_escapes

# The other screen of a terminal, without a cursor, on which a line that is too long is cut; and back.
_BEGIN, _END = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(interval: float, to_text: Callable[[Now, Screen], str], *, as_json: bool) -> None:
    """Show what runs every `interval` [s] until SIGINT, which is no failure here, or until the reader ends."""
    try:
        if as_json:
            _write_lines(interval)
        elif sys.stdout.isatty() and knows_escapes():
            _redraw(interval, to_text)
        else:
            _write_changes(interval, to_text)
    except TerminatedBySignal:
        raise
    except InterruptedBySignal:
        pass


def _write_lines(interval: float) -> None:
    for moment in _moments(interval):
        write(json.dumps({"time": moment, **now().to_json()}))


def _write_changes(interval: float, to_text: Callable[[Now, Screen], str]) -> None:
    last, gap = "", ""
    for moment in _moments(interval):
        if (text := to_text(now(), PLAIN)) != last:
            write(f"{gap}{in_words(moment)}\n{text}")
            last, gap = text, "\n"


def _redraw(interval: float, to_text: Callable[[Now, Screen], str]) -> None:
    with _other_screen():
        for moment in _moments(interval):
            lines = [f"every {interval:g} s, until Ctrl-C: psicli status   {in_words(moment)}", ""]
            lines += to_text(now(), Screen.of(sys.stdout)).split("\n")
            room = shutil.get_terminal_size().lines
            if len(lines) > room:
                lines[room - 1 :] = [f"… and {len(lines) - room + 1:,} more lines"]
            # One write, which overwrites what is there: nothing flickers.
            sys.stdout.write(_HOME + f"{_END_OF_LINE}\n".join(lines) + _END_OF_LINE + _BELOW)
            sys.stdout.flush()


@contextmanager
def _other_screen() -> Iterator[None]:
    """Leave the terminal as it was, however this ends."""
    try:
        sys.stdout.write(_BEGIN)
        yield
    finally:
        with suppress(OSError):
            sys.stdout.write(_END)
            sys.stdout.flush()


def _moments(interval: float) -> Iterator[str]:
    """Yield the time now and after each interval [s], as ISO 8601 in UTC, until the reader of standard output ends."""
    # A copy, because `write` replaces standard output once its reader has ended.
    output = os.dup(sys.stdout.fileno())
    try:
        reader = select.poll()
        reader.register(output, 0)
        while True:
            started = time.monotonic()
            yield datetime.now(UTC).isoformat(timespec="milliseconds")
            while (left := started + interval - time.monotonic()) > 0:
                # In parts: a signal just before a wait begins does not interrupt it.
                with signals.allowed():
                    if reader.poll(1000 * min(left, signals.SLICE)):
                        return
            signals.check()
            if reader.poll(0):
                return
    finally:
        os.close(output)
