from __future__ import annotations

import pytest
from support.kernel import backends, ole

from psicli.ole import BACKENDS, Backend


@pytest.fixture(params=ole.NAMES, ids=backends.label)
def kernel(request: pytest.FixtureRequest) -> Backend:
    """Return each backend and CPU path in turn."""
    return BACKENDS[request.param]


@pytest.fixture
def fastest() -> Backend:
    """Return the fastest backend of this machine."""
    return next(iter(BACKENDS.values()))
