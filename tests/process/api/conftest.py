from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.api.sides import Sides, two_sides


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sides]:
    """Return two parties that call psicli from threads of this process."""
    with two_sides(tmp_path, monkeypatch) as sides:
        yield sides
