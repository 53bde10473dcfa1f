"""Real runs of both parties with their traffic recorded, and with what each drew from the system's random source.

The draws include the scalars, so a test can tell which point on the wire belongs to which item, and can search the
files and messages of a run for secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from support.processes.altered import Alterations, program, record_draws
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result, Tap, free_ports

from psicli import curve
from psicli.protocol import wire
from psicli.protocol.messages import (
    Frame,
    HelloOctets,
    Message,
    Stream,
    bin_session_id,
    session_id,
    task_session_id,
)

# What a run can leave besides outputs: the option, and the name of the file.
LEFT = {"trace": "trace.json", "report": "page.html", "metrics": "metrics.prom"}


@dataclass(frozen=True)
class Recording:
    """A recorded run: what both parties sent [messages, in order] and drew [bytes], and their results."""

    octets: bytes
    sent: Mapping[str, list[Message]]
    draws: Mapping[str, list[bytes]]
    results: Mapping[str, Result]

    @cached_property
    def sid(self) -> bytes:
        hellos = {party: self.sent[party][0] for party in PARTIES}
        assert all(isinstance(hello, HelloOctets) for hello in hellos.values())
        return session_id(hellos[LISTENER].octets, hellos[DIALER].octets)  # type: ignore[union-attr]

    def of_task(self, party: str, task: int) -> list[Message]:
        """Return the messages that a party sent about a task, in order."""
        return [message for message in self.sent[party] if getattr(message, "task", None) == task]

    def data(self, stream: Stream, *tasks: int) -> bytes:
        """Return the data of a stream in the order of sending, for these tasks or for all."""
        frames = (m for party in PARTIES for m in self.sent[party] if isinstance(m, Frame) and m.stream == stream)
        return b"".join(frame.data for frame in frames if not tasks or frame.task in tasks)

    def data_of_bin(self, stream: Stream, task: int, number: int, attempt: int = 0) -> bytes:
        """Return the data of a stream of one attempt at one bin."""
        frames = (m for party in PARTIES for m in self.of_task(party, task) if isinstance(m, Frame))
        where = stream, number, attempt
        return b"".join(frame.data for frame in frames if (frame.stream, frame.bin, frame.attempt) == where)

    def bin_sid(self, task_name: str, number: int = 0, attempt: int = 0) -> bytes:
        """Return the id to which the points and tokens of one attempt at one bin are bound."""
        return bin_session_id(task_session_id(self.sid, task_name), number, attempt)

    def scalar(
        self, party: str, task_name: str, points: Iterable[bytes], value: str, *, number: int = 0, attempt: int = 0
    ) -> bytes:
        """Return the draw that masks an item to one of these points of a bin."""
        bin_sid, own = self.bin_sid(task_name, number, attempt), set(points)
        draws = [draw for draw in self.draws[party] if len(draw) == 32]
        found = [draw for draw in draws if curve.hash_and_mask(keys([value]), bin_sid, draw) in own]
        assert len(found) == 1, "no draw, or more than one, is the scalar of these points"
        return found[0]


def item(value: str) -> bytes:
    """Return the item for the value of a single key column."""
    return b"\x01" + len(value.encode()).to_bytes(4, "big") + value.encode()


def keys(values: Iterable[str]) -> Any:
    """Return the packed items for values of a single key column."""
    return curve.packed_items([item(value) for value in values])


@contextmanager
def tapped_pair(folder: Path) -> Iterator[tuple[Pair, int]]:
    """Yield two parties whose traffic passes through a recording port, and that port."""
    with free_ports(2) as (port, tap):
        pair = Pair(folder, port)
        pair.jobs[DIALER]["cluster"]["nodes"][0]["address"] = f"127.0.0.1:{tap}"
        try:
            yield pair, tap
        finally:
            pair.kill()


def record(
    pair: Pair,
    port: int,
    *arguments: str,
    alterations: Alterations | None = None,
    leaves: bool = False,
) -> Recording:
    """Run both parties and record the run.

    alterations: see altered.py. leaves: whether each party leaves all that it can: the files in LEFT.
    """
    tap = Tap(port, pair.port)
    drawn = {party: pair.folder / f"{party}.draws" for party in PARTIES}
    for path in drawn.values():
        path.write_text("")
    try:
        runs = {
            party: pair.start(
                party,
                *arguments,
                *(f"--{option}={pair.path(party, name)}" for option, name in LEFT.items() if leaves),
                program=program(record_draws, *(alterations or {}).get(party, ())),
                env={"TEST_DRAWS": str(drawn[party])},
            )
            for party in PARTIES
        }
        results = {party: run.result() for party, run in runs.items()}
        sent = dict(zip((DIALER, LISTENER), tap.messages(), strict=True))
        return Recording(
            b"".join(tap.octets()),
            {party: [wire.decode(octets) for octets in messages] for party, messages in sent.items()},
            {party: [bytes.fromhex(line) for line in path.read_text().split()] for party, path in drawn.items()},
            results,
        )
    finally:
        tap.close()
