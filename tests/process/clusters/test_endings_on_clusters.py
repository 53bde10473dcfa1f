"""A run on a Ray cluster that a signal ends, and runs without Ray."""

from __future__ import annotations

import signal

import pytest
from support.clusters.cluster import Cluster
from support.clusters.jobs import only_psicli_speaks, outputs, sample, use
from support.processes import altered
from support.processes.expectations import failed, long_pair
from support.processes.runner import DIALER, LISTENER, SLOWLY, Pair, Run
from support.waiting import wait_until


def before_the_cluster(run: Run, cluster: Cluster) -> None:
    run.wait_for_lines(1)


def with_the_first_actor(run: Run, cluster: Cluster) -> None:
    wait_until(cluster.workers, "an actor")


def in_the_session(run: Run, cluster: Cluster) -> None:
    run.wait_for("exchanging")


MOMENTS = [before_the_cluster, with_the_first_actor, in_the_session]


@pytest.mark.more
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_a_signal_ends_the_run_and_all_its_actors(
    pair: Pair, cluster: Cluster, moment: object, number: signal.Signals, code: int
) -> None:
    long_pair(pair)
    pair.environment = {}
    use(pair, cluster, LISTENER)
    # The other party is slow, so that the session lasts until the signal.
    runs = {LISTENER: pair.start(LISTENER), DIALER: pair.start(DIALER, env=SLOWLY)}
    assert callable(moment)
    moment(runs[LISTENER], cluster)
    runs[LISTENER].send(number)
    result = runs[LISTENER].result()
    assert result.code == code, result.text
    only_psicli_speaks(result)
    runs[DIALER].send(signal.SIGTERM)
    runs[DIALER].result()
    cluster.nothing_left()
    pair.nothing_left()


@pytest.mark.more
def test_without_ray_a_run_says_what_to_install(pair: Pair) -> None:
    sample(pair)
    expected = outputs(pair)
    pair.program = altered.program(altered.without_ray)
    assert outputs(pair) == expected
    pair.jobs[LISTENER]["pipeline"] = {"workers": {"ray": "auto"}}
    result = pair.start(LISTENER).result()
    failed(result, 78, "the Python package ray is not installed here")
    assert "pip install 'psicli[ray]'" in result.stderr


@pytest.mark.more
def test_a_party_whose_cluster_is_not_there_blames_nobody_else(pair: Pair) -> None:
    sample(pair)
    # An address of documentation, which no machine has.
    pair.jobs[LISTENER]["pipeline"] = {"workers": {"ray": "203.0.113.1:6379"}}
    runs = [pair.start(party) for party in (LISTENER, DIALER)]
    failed(runs[0].result(), 78, "this machine is not the head of the Ray cluster at 203.0.113.1:6379")
    failed(runs[1].result(), 69, "stopped before the session was complete: it did not say why")
