"""Two parties that call psicli from threads of one process, each with its own state folder where it matters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.processes.runner import DIALER, LISTENER, free_ports, other
from support.waiting import DEADLINE

import psicli


class Sides:
    """The arguments that both parties share, and a thread for one of them."""

    def __init__(self, port: int, state: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self.state = state
        # Ends the run of the party that is left when the other call fails.
        self.gone = threading.Event()

    def intersect(self, party: str, frame: Any, on: Any = "mail", **more: Any) -> Any:
        terms = {"party": party, "peer": other(party), "address": self.address, "cancel": self.gone}
        return psicli.intersect(frame, on, **{**terms, **more})

    def both(self, alice: Callable[[], Any], bob: Callable[[], Any]) -> tuple[Any, Any]:
        """Call what the two parties do at the same time, and return both results."""
        with ThreadPoolExecutor(1) as threads:
            there = threads.submit(bob)
            try:
                here = alice()
            except BaseException:
                self.gone.set()
                raise
            return here, there.result(DEADLINE)

    def job(self, party: str, *tasks: dict[str, Any], **sections: Any) -> dict[str, Any]:
        """Return the content of a job file in which both parties learn the result."""
        nodes = [{"party": LISTENER, "address": self.address}, {"party": DIALER}]
        psi = {"receiver": LISTENER, "broadcast_result": True}
        return {
            "job": "frames",
            "self_party": party,
            "cluster": {"nodes": nodes},
            "psi": psi,
            "tasks": tasks,
            **sections,
        }

    def left(self) -> list[Path]:
        """Return the folders of runs that are still there."""
        return [*self.state.glob("run-*")]


@contextmanager
def two_sides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sides]:
    """Yield two parties with a port of their own and one state folder."""
    state = folder / "state"
    monkeypatch.setenv("PSICLI_STATE_DIR", str(state))
    with free_ports(1) as ports:
        yield Sides(ports[0], state)
