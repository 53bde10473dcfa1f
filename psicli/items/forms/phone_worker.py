"""Gives phone numbers their form in a process of its own: batches come on standard input, and go on standard output.

A batch is the number of texts, their lengths and their bytes one after the other. A missing text has no bytes and the
length NULL. All numbers have four bytes, in the order of this machine. The process ends with its input, and so with
the process that started it.
"""

from __future__ import annotations

import os
import signal
import sys
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import IO

from psicli.items.forms.rules.phones import phone

NULL = 0xFFFFFFFF


def write_texts(stream: IO[bytes], texts: Sequence[str | None]) -> None:
    """Write a batch; raises OSError."""
    values = [None if text is None else text.encode() for text in texts]
    lengths = [NULL if value is None else len(value) for value in values]
    stream.write(array("I", [len(values), *lengths]).tobytes() + b"".join(filter(None, values)))
    stream.flush()


def read_texts(stream: IO[bytes]) -> list[str | None] | None:
    """Read a batch; return None at the end of the stream, also where it is cut off."""
    head = _numbers(stream, 1)
    lengths = _numbers(stream, head[0]) if head else None
    if lengths is None:
        return None
    ends = list(accumulate((0 if length == NULL else length for length in lengths), initial=0))
    data = stream.read(ends[-1])
    if len(data) < ends[-1]:
        return None
    return [
        None if length == NULL else data[start:end].decode()
        for length, (start, end) in zip(lengths, pairwise(ends), strict=True)
    ]


def _numbers(stream: IO[bytes], count: int) -> array[int] | None:
    numbers = array("I")
    data = stream.read(count * numbers.itemsize)
    if len(data) < count * numbers.itemsize:
        return None
    numbers.frombytes(data)
    return numbers


def main(region: str) -> None:
    """Convert batches until the input ends."""
    # The end of its input ends this process. A signal to the whole group must not end it before psicli knows.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    convert = partial(phone, region)
    while (texts := read_texts(sys.stdin.buffer)) is not None:
        write_texts(sys.stdout.buffer, [text if text is None else convert(text) for text in texts])


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BrokenPipeError:
        # The other process has gone before it read its batch; nothing is to be written any more.
        os._exit(0)
