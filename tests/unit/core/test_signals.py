"""A signal ends what a library does, even if the library swallows the exception."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from psicli.core import signals
from psicli.core.errors import TerminatedBySignal


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
    signals.install()
    yield
    sys.unraisablehook = hook
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


def test_a_module_is_imported_whole_before_a_signal_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stopped_in_the_middle.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nis_whole = True\n"
    )
    started = time.monotonic()
    with pytest.raises(TerminatedBySignal):
        _block_after(lambda: importlib.import_module("stopped_in_the_middle"))
    assert sys.modules.pop("stopped_in_the_middle").is_whole
    assert time.monotonic() - started < 10
    signals.check()


class _Followed:
    pass


class _Terminating:
    def __del__(self) -> None:
        _terminate()


class _Checking:
    def __del__(self) -> None:
        signals.check()


def _by_a_callback() -> None:
    each = _Followed()
    weakref.finalize(each, _terminate)

    def end() -> None:
        nonlocal each
        del each
        gc.collect()

    _block_after(end)


def _by_a_finalizer() -> None:
    _block_after(lambda: _finalize(_Terminating))


def _by_a_finalizer_that_checks() -> None:
    _terminate()
    _finalize(_Checking)
    _block_after(lambda: None)


@pytest.mark.parametrize("stop", [_by_a_callback, _by_a_finalizer, _by_a_finalizer_that_checks])
def test_a_signal_that_a_finalizer_cannot_raise_is_raised_soon(
    stop: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(TerminatedBySignal):
        stop()
    assert time.monotonic() - started < 10
    assert capfd.readouterr().err == ""
    # No alarm comes later, when nobody would handle it.
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signals.check()


def test_an_alarm_of_someone_else_ends_the_process() -> None:
    """As in `perl -e 'alarm 60; exec @ARGV' psicli run job.yaml`: an alarm outlives exec."""
    program = "import signal; from psicli.core import signals; signals.install(); signal.raise_signal(signal.SIGALRM)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGALRM


def test_what_else_a_finalizer_cannot_raise_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    Broken()
    gc.collect()
    assert "ValueError: broken" in capfd.readouterr().err


def _block_after(act: Callable[[], object]) -> None:
    """Act where a signal may raise its exception, and then wait, as a system call does that blocks."""
    with signals.allowed():
        act()
        time.sleep(60)


def _finalize(kind: Callable[[], object]) -> None:
    kind()
    gc.collect()


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _fail_instead() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except TerminatedBySignal as exc:
        raise ValueError from exc
