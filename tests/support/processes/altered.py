"""Run psicli in a process with a part of it altered, for faults that no failpoint and no job file can cause.

A test names the functions below that alter psicli (see `program`); the process calls them and then runs psicli.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

Alteration = Callable[[], None]
# The alterations of each party.
Alterations = Mapping[str, Sequence[Alteration]]

NOBODY = 65534


def program(*alterations: Alteration) -> tuple[str, ...]:
    """Return the arguments with which Python runs psicli with these alterations."""
    # -P keeps this folder out of the module search path.
    return "-P", __file__, *(each.__name__ for each in alterations), "--"


# Records for the test -----------------------------------------------------------------------------------------------


def record_draws() -> None:
    """Record what psicli draws from the system's random source, so that a test knows the secrets."""
    draw = os.urandom

    def recorded(size: int) -> bytes:
        drawn = draw(size)
        # The file is unbuffered, so each line is written as a whole even if several threads draw.
        with open(os.environ["TEST_DRAWS"], "ab", 0) as file:
            file.write(drawn.hex().encode() + b"\n")
        return drawn

    os.urandom = recorded


def watch_curve() -> None:
    """Record all points and tokens, and separately every order secret, which the sender of a broadcast may keep."""
    from psicli import curve
    from psicli.exchange.worker import Worker

    kinds = "words", "orders"
    # The files stay open until the process ends.
    words, orders = (open(f"{os.environ['TEST_DRAWS']}.{kind}", "ab", buffering=0) for kind in kinds)  # noqa: SIM115

    def watch(name: str, part: Callable[[Any], bytes]) -> None:
        real = getattr(curve, name)

        def watched(*arguments: Any) -> Any:
            result = real(*arguments)
            words.write(part(result))
            return result

        setattr(curve, name, watched)

    watch("hash_and_mask", bytes)
    watch("mask", lambda result: result[0])
    watch("tokens", bytes)
    begin = Worker.__init__

    def noted(self: Worker, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        orders.write(self.order_secret)

    Worker.__init__ = noted  # type: ignore[method-assign]


def watch_vectors() -> None:
    """Record the secrets of RR22 that no draw shows, in records of 16 bytes: those that a step uses or leaves."""
    from contextlib import contextmanager

    from psicli.ole import vectors

    # The file stays open until the process ends.
    words = open(f"{os.environ['TEST_DRAWS']}.vectors", "ab", buffering=0)  # noqa: SIM115
    real_step, real_vector = vectors._Half._step, vectors.ReceiverVectors.vector

    def note(*secrets: Any) -> None:
        for secret in secrets:
            octets = secret.tobytes()[: 16 * 20]
            words.write(octets[: len(octets) // 16 * 16])

    @contextmanager
    def step(self: vectors._Half, name: str, *uses: str) -> Any:
        with real_step(self, name, *uses) as used:
            note(*used)
            yield used
        note(*self._secrets.values())

    def vector(self: vectors.ReceiverVectors, sums: bytes) -> bytes:
        store = self._secrets["store"].copy()
        made = real_vector(self, sums)
        # The vector A, which hides the store.
        note(vectors.from_bytes(made[vectors.BLOCK_BYTES :]) ^ store)
        return made

    vectors._Half._step = step  # type: ignore[method-assign, assignment]
    vectors.ReceiverVectors.vector = vector  # type: ignore[method-assign]


def dump_memory() -> None:
    """Write the memory of the process, without its empty pages, to a file: when a worker has compared its bin, and at
    the end of the task."""
    import numpy as np

    from psicli.exchange.worker import Worker
    from psicli.job.task_run import TaskRun

    def dump() -> None:
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as octets:
            places = [line.split()[0].split("-") for line in maps if " rw" in line]
            with open(os.environ["TEST_DRAWS"] + ".memory", "ab", 0) as file:
                for start, stop in ([int(each, 16) for each in place] for place in places):
                    for at in range(start, stop, 1 << 24):
                        try:
                            octets.seek(at)
                            pages = np.frombuffer(octets.read(min(1 << 24, stop - at)), np.uint8).reshape(-1, 4096)
                            file.write(pages[pages.any(axis=1)].tobytes())
                        except (OSError, OverflowError, ValueError):
                            # The kernel's own pages, and those that are gone meanwhile.
                            break

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **more: Any) -> Any:
            result = real(*arguments, **more)
            dump()
            return result

        setattr(owner, name, watched)

    for owner, name in ((Worker, "match"), (Worker, "count"), (TaskRun, "end")):
        watch(owner, name)


def log_spool_files() -> None:
    """Print the name of every file that psicli creates in its spool."""
    from psicli.storage.spool import Spool

    make = Spool.file

    def file(self: Spool, name: str, reserve: int) -> Any:
        print("on disk:", name, file=sys.stderr)
        return make(self, name, reserve)

    Spool.file = file  # type: ignore[method-assign, assignment]


# Little memory ---------------------------------------------------------------------------------------------------


def with_one_megabyte() -> None:
    """Leave 1 MB of 384 MB for data, so that small inputs already exceed it."""
    _leave(1_000_000)


def with_five_megabytes() -> None:
    _leave(5_000_000)


def _leave(octets: int) -> None:
    """Reserve so much memory for the libraries that a job with the least memory has this much left for data."""
    from psicli.storage import memory

    memory.LIBRARIES = memory.LEAST_MEMORY - octets


def with_little_memory() -> None:
    """Leave so little memory for data, whatever the job file allows, that items and rows go to disk."""
    from psicli.storage.memory import MemoryPlan

    MemoryPlan.working = property(lambda self: 1 << 20)  # type: ignore[method-assign, assignment]


# Failures --------------------------------------------------------------------------------------------------------


def match_with_full_disk() -> None:
    from psicli.core.errors import StorageError

    def fail() -> None:
        raise StorageError(path="spool", reason="no space left on device")

    _before_matching(fail)


def match_without_memory() -> None:
    def fail() -> None:
        raise MemoryError

    _before_matching(fail)


def match_and_be_stopped() -> None:
    _before_matching(lambda: os.kill(os.getpid(), signal.SIGTERM))


def _before_matching(do: Callable[[], None]) -> None:
    """Call a function whenever a receiver is about to compare."""
    from psicli.exchange.vector_worker import VectorReceiver
    from psicli.exchange.worker import Worker

    def failing(match: Callable[..., Any]) -> Any:
        def fail_and_match(self: Any, *, bitmap: bool = False) -> Any:
            do()
            return match(self, bitmap=bitmap)

        return fail_and_match

    for kind in (Worker, VectorReceiver):
        kind.match = failing(kind.match)  # type: ignore[attr-defined]


def fail_to_write() -> None:
    """Fail like a library whose message quotes a row; TEST_VALUE holds the value in two halves."""
    from psicli import outputs

    write = outputs.write_matched

    def write_matched(*arguments: Any, **named: Any) -> int:
        if named["spool"] is None:
            # The trial before the session.
            return write(*arguments, **named)
        raise ValueError(f"cannot convert {''.join(os.environ['TEST_VALUE'].split())}")

    outputs.write_matched = write_matched


# Patience ----------------------------------------------------------------------------------------------------------

# Longer than any test [s].
_FOR_EVER = 3600.0


def stop_patiently() -> None:
    """Wait for ever until the peer has heard that a signal ends this run."""
    from psicli.session import session

    session.STOPPED_TIMEOUT = session.LAST_WORDS_TIMEOUT = _FOR_EVER


def refuse_patiently() -> None:
    """Wait for ever for the peer, to tell it that this run cannot start."""
    from psicli.job import run

    run.REFUSAL_TIMEOUT = _FOR_EVER


# Other versions ----------------------------------------------------------------------------------------------------


def with_other_forms() -> None:
    """Be a psicli whose key forms have other rules."""
    from psicli.items.forms import convert

    convert.FORMS_VERSION += 1


def with_another_unicode() -> None:
    """Be a Python that knows another Unicode."""
    import unicodedata

    unicodedata.unidata_version = "99.0.0"  # type: ignore[misc]


# Other kernels -----------------------------------------------------------------------------------------------------


def without_vector_kernel() -> None:
    """Be an installation in which only the kernel of RR22 was not built."""
    sys.modules["psicli.ole._native"] = None  # type: ignore[assignment]


def with_empty_code() -> None:
    """Be a machine whose kernel of RR22 computes vectors of zeros, which hide nothing."""
    import numpy as np

    from psicli import ole

    for kernel in ole.BACKENDS.values():
        kernel.compress = lambda noise, length: np.zeros((length, noise.shape[1]), "<u8")  # type: ignore[method-assign]


# Changes to the sequence of events ---------------------------------------------------------------------------------


def wait_to_write() -> None:
    """Match and write a one-sided result only after the test writes to the task's pipe in TEST_GATES."""
    from psicli.job.task_run import TaskRun

    finish_alone = TaskRun.finish_alone

    def wait_and_finish(self: TaskRun, matches: Any) -> None:
        with open(os.path.join(os.environ["TEST_GATES"], self.name)) as gate:
            gate.read()
        finish_alone(self, matches)

    TaskRun.finish_alone = wait_and_finish  # type: ignore[method-assign]


def restart_two_bins() -> None:
    """Start each of a task's first two bins again once both parties' points have arrived."""
    from psicli.exchange.task_exchange import TaskExchange

    step = TaskExchange.step

    def step_and_restart(self: TaskExchange, *, room: int) -> Any:
        messages = step(self, room=room)
        bins = self.party.bins
        for number in (0, 1):
            ready = number in bins and bins[number].all_points_sent and bins[number].all_points_arrived
            if self.party.setup.task and ready and not bins[number].place.attempt:
                messages = (messages or []) + self.party.restart(number)
                self._follow()
        return messages

    TaskExchange.step = step_and_restart  # type: ignore[method-assign]


def forget_received() -> None:
    """Ask again for bins already confirmed: offer only the bins in TEST_FINISHED as finished."""
    from psicli.job.resume import Resume

    find = Resume.find

    def forget(self: Resume) -> Any:
        kept = find(self)
        return None if kept is None else replace(kept, finished=int(os.environ["TEST_FINISHED"]))

    Resume.find = forget  # type: ignore[method-assign]


def as_nobody() -> None:
    """Become another user after loading all modules, since that user may not be able to read Python's folders."""
    import encodings.idna  # noqa: F401

    import psicli.batch.record
    import psicli.batch.simulate
    import psicli.cli.main
    import psicli.cli.run
    import psicli.job.run
    import psicli.job.task_run
    import psicli.outputs.delimited
    import psicli.report.report
    import psicli.report.summary
    import psicli.tables.delimited
    import psicli.transport.certs
    import psicli.transport.tls  # noqa: F401

    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def without_ray() -> None:
    """Have no library ray installed."""
    from importlib import metadata

    version = metadata.version

    def known(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    metadata.version = known
    # An import of ray raises ModuleNotFoundError.
    sys.modules["ray"] = None  # type: ignore[assignment]


if __name__ == "__main__":
    end = sys.argv.index("--")
    for name in sys.argv[1:end]:
        globals()[name]()
    del sys.argv[1 : end + 1]
    from psicli.cli.main import main

    main()
