"""Workers of RR22 with known secrets: what a step draws follows from a name, so that two runs are the same."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from psicli.exchange.vector_worker import VectorWorker
from psicli.protocol.messages import Stream

_system = os.urandom
# What the step draws that this thread takes.
_of_thread = threading.local()


def know_vectors(made: VectorWorker, secret: bytes) -> None:
    """Let each step of a worker draw what follows from a secret; only within `known_draws`."""
    made.order_secret = secret
    for name in ("compute", "compute_ahead"):
        setattr(made, name, _known(getattr(made, name), secret + name.encode()))


def _known(step: Callable[..., Any], secret: bytes) -> Callable[..., Any]:
    def taken(stream: Stream, *rest: Any) -> Any:
        _of_thread.seed, _of_thread.count = secret + bytes([stream]), 0
        try:
            return step(stream, *rest)
        finally:
            _of_thread.seed = b""

    return taken


def _drawn(size: int) -> bytes:
    seed: bytes = getattr(_of_thread, "seed", b"")
    if not seed:
        return _system(size)
    _of_thread.count += 1
    return hashlib.shake_128(seed + _of_thread.count.to_bytes(4, "big")).digest(size)


@contextmanager
def known_draws() -> Iterator[None]:
    """Replace the system's random source for workers with known secrets."""
    with mock.patch("os.urandom", _drawn):
        yield
