"""Our side of a run with a hostile peer: a session in a thread of the test, or a real `psicli run`.

A cheat's script works with either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from support.hostile.peer import JOB, TASK_NAME, Cheat, HostilePeer, Setting
from support.hostile.rr22.vector_peer import VectorPeer
from support.hostile.wire import DEADLINE, dial, listen
from support.memory.sessions import Plan
from support.processes.expectations import OLD, csv_data
from support.processes.runner import DIALER, LISTENER, Pair, Run, Side

from psicli.core.errors import PsicliError
from psicli.exchange.task_exchange import Storage
from psicli.protocol.messages import RR22
from psicli.session.agreement import Terms
from psicli.session.session import open_session
from psicli.transport.dialer import Dialer
from psicli.transport.endpoint import Endpoint
from psicli.transport.listener import Listener


@dataclass
class Outcome:
    """How our side ended: its exit code, its message to the user, and whether it wrote any part of a result."""

    code: int
    message: str
    has_result: bool


class Victim(Protocol):
    """Our side of the run."""

    def start(self) -> None: ...

    def outcome(self) -> Outcome: ...


class SessionVictim:
    """A session in a thread, over real gRPC."""

    def __init__(
        self,
        port: int,
        setting: Setting,
        *,
        storage: Storage | None = None,
        recv_timeout: float = DEADLINE,
        plan: Callable[..., Plan] = Plan,
    ) -> None:
        """setting: the task from the peer's point of view; plan: makes our side's task."""
        values = ["\x01" + len(value).to_bytes(4, "big").decode() + value for value in setting.our_values]
        how = {"broadcast": setting.broadcast, "counts": setting.counts}
        self.plan = plan(TASK_NAME, values, receives=not setting.receives, **how)
        self.plan.protocol = setting.protocol
        self.failure: BaseException | None = None
        self._port = port
        self._setting = setting
        self._storage = storage
        self._recv_timeout = recv_timeout
        self._thread = threading.Thread(target=self._run, name="psicli-test-victim", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def outcome(self) -> Outcome:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "our side hangs"
        output = self.plan.output
        has_result = self.plan.alone is not None or (output is not None and output.published)
        if self.failure is None:
            return Outcome(0, "", has_result)
        assert isinstance(self.failure, PsicliError), repr(self.failure)
        return Outcome(self.failure.code, self.failure.message, has_result)

    @property
    def found(self) -> set[str] | None:
        """The values in the result, None if there is no result."""
        found = self.plan.found
        return None if found is None else {value[5:] for value in found}

    def _run(self) -> None:
        meeting: Listener | Dialer
        if self._setting.listens:
            meeting = Dialer(Endpoint("127.0.0.1", self._port, LISTENER), 0.05)
        else:
            meeting = Listener(Endpoint("127.0.0.1", self._port, DIALER))
        patience = int(1000 * self._recv_timeout)
        terms = Terms(self._setting.victim, self._setting.party, JOB, (self._setting.terms,), patience)
        try:
            with open_session(meeting, terms, timeout=DEADLINE, storage=self._storage) as session:
                session.agree()
                session.run([self.plan])
        except BaseException as exc:
            self.failure = exc
        finally:
            meeting.close()


class ProcessVictim:
    """A `psicli run` process in its own folder."""

    def __init__(self, pair: Pair, setting: Setting) -> None:
        self.pair = pair
        self.party = setting.victim
        pair.jobs[self.party]["psi"].update(receiver=setting.terms.receiver, protocol=setting.protocol or "ecdh")
        sides = Side(["id"], "in.csv", "out/out.csv")
        pair.add(TASK_NAME, sides, sides, broadcast_result=setting.broadcast)
        pair.path(self.party, "in.csv").write_bytes(csv_data(["id"], [[value] for value in setting.our_values]))
        pair.path(self.party, "out/out.csv").write_bytes(OLD)
        self._before = pair.files(self.party)
        self.run: Run | None = None

    def start(self) -> None:
        self.run = self.pair.start(self.party, "--verbose")

    def outcome(self) -> Outcome:
        assert self.run is not None
        result = self.run.result()
        assert "Traceback" not in result.text, result.text
        has_result = self.pair.files(self.party) != self._before
        return Outcome(result.code, result.stderr, has_result)


def meet(
    victim: Victim, port: int, setting: Setting, cheat: Cheat, compression: Any = None
) -> tuple[HostilePeer, int | None, Outcome, float]:
    """Run our side against a cheat; return the peer, the code in our Abort, our outcome and the duration [s]."""
    with ExitStack() as stack:
        wire = listen(port, stack, compression) if setting.listens else None
        victim.start()
        wire = wire or dial(port, stack, compression)
        peer = (VectorPeer if setting.protocol == RR22 else HostilePeer)(wire, setting, cheat)
        began = time.monotonic()
        told = peer.run()
        outcome = victim.outcome()
        return peer, told, outcome, time.monotonic() - began
