"""Jobs for the tests that inject faults."""

from __future__ import annotations

import pytest
from support.jobs.faults import job
from support.processes import altered
from support.processes.runner import Pair


@pytest.fixture
def faulty(pair: Pair) -> Pair:
    """Return a job of two tasks."""
    return job(pair)


@pytest.fixture
def resuming(pair: Pair) -> Pair:
    """Return the same job with tasks of four bins, which can be resumed."""
    return job(pair, 40_000, bin_items=16_384, frame_items=4096)


@pytest.fixture
def spooling(pair: Pair) -> Pair:
    """Return the same job with more rows than fit in the memory it may use."""
    pair.program = altered.program(altered.with_five_megabytes)
    return job(pair, 16_000, memory="384MB")
