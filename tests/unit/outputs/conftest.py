from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.tables import Source


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    yield
    while Source.opened:
        Source.opened.pop().input.close()
