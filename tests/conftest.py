from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support.clusters.fixtures import _shared, cluster, start_cluster  # noqa: F401
from support.kernel import backends
from support.many.parties import Parties
from support.processes.machines import machines  # noqa: F401
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, free_ports
from support.processes.tapped import tapped_pair

from psicli import curve, ole

# Without it, each of the thousands of processes that tests start would compile all of psicli again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The duration of an example says more about the machine than about psicli.
hypothesis.settings.register_profile("psicli", deadline=None)
hypothesis.settings.load_profile("psicli")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but an evenly spread sample of a test's cases for `make test-more`."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample") and not item.get_closest_marker("slow"):
            cases[item.nodeid.partition("[")[0]].append(item)
    for each in cases.values():
        mark = each[0].get_closest_marker("sample")
        assert mark is not None
        sampled = {number * len(each) // mark.args[0] for number in range(mark.args[0])}
        for number, item in enumerate(each):
            if number not in sampled:
                item.add_marker(pytest.mark.more)


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """Restore the log after a test: a command in this process sets it up for its own standard error."""
    logger = logging.getLogger("psicli")
    before = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate, logger.level = before


@pytest.fixture(params=backends.NAMES, ids=backends.label)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> curve.Backend:
    """Select each available backend and CPU path in turn."""
    backends.use(request.param, monkeypatch)
    return curve.BACKENDS[request.param]


@pytest.fixture(params=backends.OLE_NAMES, ids=backends.label)
def ole_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ole.Backend:
    """Select each available backend and CPU path of psicli.ole in turn."""
    chosen = ole.BACKENDS[request.param]
    backends.use_ole(request.param, monkeypatch)
    return chosen


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Return two parties' folders; kill every process started in them at the end."""
    with free_ports(1) as ports:
        pair = Pair(tmp_path, ports[0])
        try:
            yield pair
        finally:
            pair.kill()


@pytest.fixture
def tapped(tmp_path: Path) -> Iterator[tuple[Pair, int]]:
    """Return two parties whose traffic passes through a recording port, and that port."""
    with tapped_pair(tmp_path) as pair_and_port:
        yield pair_and_port


@pytest.fixture
def parties(tmp_path: Path) -> Iterator[Parties]:
    """Return any number of parties without jobs; kill every process started for them at the end."""
    parties = Parties(tmp_path)
    try:
        yield parties
    finally:
        parties.kill()


@pytest.fixture
def four(parties: Parties) -> Iterator[Parties]:
    """Return two parties with four jobs, and a batch of all four for each."""
    with free_ports(4) as ports:
        for number, port in enumerate(ports):
            parties.add(f"job-{number}", LISTENER, DIALER, port)
        for party in PARTIES:
            parties.batch(party)
        yield parties
