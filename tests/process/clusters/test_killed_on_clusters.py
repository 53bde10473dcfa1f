"""Runs on a Ray cluster of which a part is killed with SIGKILL at a random moment.

The run either gives the right result, or ends with 69 and keeps its finished bins. It never hangs, and leaves nothing.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
from support.clusters.cluster import Cluster
from support.clusters.fixtures import StartCluster
from support.clusters.jobs import PORTABLE, only_psicli_speaks, use
from support.jobs.faults import all_right, check_survivor, job, new_outputs, next_run_is_good, renew_outputs
from support.processes.expectations import failed, succeeded
from support.processes.runner import DIALER, PARTIES, Pair, Result, failing_at, other
from support.waiting import wait_until

# Both parties end within this time after the kill [s]: Ray notices a lost node after about 5 s, and then the bins of
# two tasks may be computed again on the other one.
ENDS_WITHIN = 45.0
# An undisturbed run takes about so long from the beginning of the session [s].
TAKES = 5.0

Kill = Callable[[Cluster, random.Random], None]


def an_actor(cluster: Cluster, draw: random.Random) -> None:
    workers = cluster.workers()
    if workers:
        with suppress(psutil.NoSuchProcess):
            draw.choice(workers).kill()


def a_node(cluster: Cluster, draw: random.Random) -> None:
    cluster.nodes[-1].kill()


def a_raylet(cluster: Cluster, draw: random.Random) -> None:
    cluster.nodes[-1].raylet().kill()


def the_raylet_of_the_head(cluster: Cluster, draw: random.Random) -> None:
    cluster.head.raylet().kill()


def the_gcs(cluster: Cluster, draw: random.Random) -> None:
    cluster.head.gcs().kill()


def heal(cluster: Cluster, kill: Kill, start_cluster: StartCluster) -> Cluster:
    """Return a cluster of two nodes again."""
    if kill in (the_raylet_of_the_head, the_gcs):
        cluster.stop()
        return start_cluster(2, environment=PORTABLE)
    if kill is not an_actor:
        cluster.add()
    return cluster


def killed_once(pair: Pair, cluster: Cluster, party: str, kill: Kill, draw: random.Random) -> bool:
    """Kill a part of one party's cluster during a run; return whether the run succeeded nevertheless."""
    renew_outputs(pair)
    runs = {each: pair.start(each, "--json") for each in PARTIES}
    runs[party].wait_for("in session with")
    runs[party].lasts(draw.uniform(0.0, TAKES))
    kill(cluster, draw)
    killed = time.monotonic()
    results = {each: run.result() for each, run in runs.items()}
    only_psicli_speaks(*results.values())
    for result in results.values():
        assert result.ended - killed < ENDS_WITHIN, result.text
    check(pair, party, results)
    if kill is the_gcs:
        wait_until(lambda: not cluster.workers(), "no worker is left")
    else:
        cluster.nothing_left()
    return all(result.code == 0 for result in results.values())


def check(pair: Pair, party: str, results: dict[str, Result]) -> None:
    mine, peer = results[party], other(party)
    if mine.code == 0:
        assert results[peer].code == 0, results[peer].text
        all_right(pair, results)
        return
    failed(mine, 69, "Ray|worker that was computing it stopped")
    new_outputs(pair, party)
    check_survivor(pair, peer, results[peer], {69})


def kill_at_random(pair: Pair, start_cluster: StartCluster, kill: Kill, rounds: int) -> None:
    draw = random.Random(f"{kill.__name__} {rounds}")
    cluster = start_cluster(2, environment=PORTABLE)
    job(pair, 40_000, bin_items=16_384, frame_items=4096)
    pair.environment |= PORTABLE
    for _ in range(rounds):
        party = draw.choice(PARTIES)
        use(pair, cluster, party)
        succeeded = killed_once(pair, cluster, party, kill, draw)
        cluster = heal(cluster, kill, start_cluster)
        use(pair, cluster, party)
        if not succeeded:
            renew_outputs(pair)
            next_run_is_good(pair)


@pytest.mark.more
def test_all_actors_at_once(pair: Pair, cluster: Cluster) -> None:
    """The head may still believe that one lives, and give it a bin which the other one has lost."""
    job(pair, 60_000, bin_items=16_384, frame_items=4096)
    use(pair, cluster, DIALER)
    runs = {each: pair.start(each, env=failing_at("own.masked:stop:3" if each == DIALER else "")) for each in PARTIES}
    runs[DIALER].wait_until_stopped()
    for actor in cluster.workers():
        actor.kill()
    runs[DIALER].send(signal.SIGCONT)
    results = {each: run.result() for each, run in runs.items()}
    succeeded(results.values())
    all_right(pair, results)


@pytest.mark.more
def test_the_raylet_of_the_head_before_the_first_bin(pair: Pair, start_cluster: StartCluster) -> None:
    """Ray lets an actor wait for ever if the driver's own node has ended."""
    cluster = start_cluster(2)
    job(pair, 60_000, bin_items=16_384, frame_items=4096)
    use(pair, cluster, DIALER)
    runs = {each: pair.start(each, env=failing_at("input.read:stop" if each == DIALER else "")) for each in PARTIES}
    runs[DIALER].wait_until_stopped()
    the_raylet_of_the_head(cluster, random.Random())
    wait_until(lambda: not cluster.workers(), "no worker is left")
    ended = time.monotonic()
    runs[DIALER].send(signal.SIGCONT)
    result = runs[DIALER].result()
    # A worker that has started on the other node by then may finish the run.
    if result.code:
        failed(result, 69, "the Ray node of this machine has ended")
    else:
        succeeded([result])
    only_psicli_speaks(result)
    assert result.ended - ended < ENDS_WITHIN
    runs[other(DIALER)].result()


KILLS = [an_actor, a_node, a_raylet, the_raylet_of_the_head, the_gcs]
# The others take minutes.
SOME_KILLS = [an_actor, a_node, the_raylet_of_the_head]


@pytest.mark.more
@pytest.mark.parametrize("kill", SOME_KILLS, ids=lambda kill: kill.__name__)
def test_three_kills_at_random(pair: Pair, start_cluster: StartCluster, kill: Kill) -> None:
    kill_at_random(pair, start_cluster, kill, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.__name__)
def test_thirty_kills_at_random(pair: Pair, start_cluster: StartCluster, kill: Kill) -> None:
    kill_at_random(pair, start_cluster, kill, 30)
