from __future__ import annotations

import pytest
from support.kernel.native import Work


@pytest.fixture(scope="module")
def work() -> Work:
    return Work(seed=1, count=2000)
