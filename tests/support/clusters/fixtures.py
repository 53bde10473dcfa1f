"""Ray clusters for tests: one that all tests of a process share, and one of a test's own, which it may break."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support.clusters.cluster import Cluster, NoCluster, installed, running

StartCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def _shared() -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield _started(stack, 2)


@pytest.fixture
def cluster(_shared: Cluster) -> Iterator[Cluster]:
    """Return a cluster of two nodes with one CPU each; fail a test that leaves something on it."""
    yield _shared
    _shared.nothing_left()


@pytest.fixture
def start_cluster() -> Iterator[StartCluster]:
    """Return a function that starts a cluster for this test alone; its arguments are those of `running`."""
    with ExitStack() as stack:
        yield lambda *count, **how: _started(stack, *count, **how)


def _started(stack: ExitStack, *count: int, **how: Any) -> Cluster:
    try:
        return stack.enter_context(running(*count, **how))
    except NoCluster as error:
        # Ray has no release for some versions of Python, but where it is installed, it must start.
        if os.environ.get("CI") and installed():
            pytest.fail(str(error))
        pytest.skip(str(error))
