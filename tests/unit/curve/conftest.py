from __future__ import annotations

import pyarrow as pa
import pytest
from support.kernel.samples import item, items


@pytest.fixture(scope="module")
def thousand() -> pa.LargeBinaryArray:
    return items(*(item(f"item-{i}") for i in range(1000)))
