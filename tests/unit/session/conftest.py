"""Held for every test of this room."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from support.memory.machines import PATIENCE


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Every thread a session or a test started ends by itself."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("psicli-")]
    for thread in left:
        thread.join(PATIENCE)
    assert not [thread for thread in left if thread.is_alive()]
