"""A folder that stands for /run/lock, and a free port."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes.runner import free_ports

from psicli.storage import locks


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace /run/lock by a folder for this test; unlike pytest's own folders, every user can reach it."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as state:
        folder = Path(name)
        folder.chmod(0o1777)
        monkeypatch.setattr(locks, "SHARED_FOLDERS", (folder,))
        monkeypatch.setenv("PSICLI_STATE_DIR", state)
        yield folder


@pytest.fixture
def port() -> Iterator[int]:
    with free_ports(1) as ports:
        yield ports[0]
