"""A free port for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.processes.runner import free_ports


@pytest.fixture
def port() -> Iterator[int]:
    with free_ports(1) as ports:
        yield ports[0]
