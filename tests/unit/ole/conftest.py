from __future__ import annotations

import pytest

from psicli.ole import BACKENDS, Backend


@pytest.fixture
def fastest() -> Backend:
    """Return the fastest backend of this machine."""
    return next(iter(BACKENDS.values()))
