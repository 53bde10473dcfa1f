"""An object store that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from support.processes.runner import Pair
from support.stores.s3 import Store, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with s3_server() as store:
        yield store


@pytest.fixture
def store(server: Store, pair: Pair) -> Store:
    """Return the store without objects, which the processes of the pair can use."""
    for name in server.names():
        server.request("DELETE", f"crm/{quote(name)}")
    pair.environment |= server.environment
    return server
