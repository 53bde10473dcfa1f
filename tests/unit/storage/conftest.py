"""A folder that stands for /run/lock, a free port, and what a test has open."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
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


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], list[str]]:
    """Return what lists the open files and folders in the folder of the test, and the folders above it.

    Other descriptors of this process say nothing about the test: a library may close a socket of an earlier test now.
    """

    def found() -> list[str]:
        places = []
        for number in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                places.append(Path(os.readlink(f"/proc/self/fd/{number}")))
        return sorted(str(each) for each in places if each.is_relative_to(tmp_path) or tmp_path.is_relative_to(each))

    return found
