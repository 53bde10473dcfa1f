"""A signal ends what a library does, even if the library swallows the exception."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from psicli.core import signals
from psicli.core.errors import TerminatedBySignal


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signals.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_is_raised_once() -> None:
    with pytest.raises(TerminatedBySignal), signals.allowed():
        os.kill(os.getpid(), signal.SIGTERM)
    signals.check()


def test_an_exception_that_a_library_swallows_is_raised_at_the_end_of_the_block() -> None:
    with pytest.raises(TerminatedBySignal), signals.allowed(), suppress(TerminatedBySignal):
        os.kill(os.getpid(), signal.SIGTERM)
    signals.check()


def test_the_signal_comes_before_what_a_library_makes_of_it() -> None:
    with pytest.raises(TerminatedBySignal), signals.allowed():
        _fail_instead()
    signals.check()


def test_outside_the_block_a_signal_waits_for_a_check() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(TerminatedBySignal):
        signals.check()
    signals.check()


def _fail_instead() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except TerminatedBySignal as exc:
        raise ValueError from exc
