"""Checks that apply to every test in this folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.memory.machines import PATIENCE


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Assert that no thread outlives the test that started it."""
    before = set(threading.enumerate())
    yield
    started = set(threading.enumerate()) - before
    # The kernel's threads belong to the process, and stay.
    left = [each for each in started if each.name.startswith("psicli-") and not each.name.startswith("psicli-curve")]
    for thread in left:
        thread.join(PATIENCE)
    assert not [thread for thread in left if thread.is_alive()]
