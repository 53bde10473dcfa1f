"""What psicli says about real Ray clusters before a run: in `psicli check`, and in a run that cannot begin."""

from __future__ import annotations

import secrets
import socket
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from support.clusters.cluster import Cluster
from support.clusters.fixtures import StartCluster
from support.clusters.jobs import only_psicli_speaks, use
from support.processes.certificates import Authority
from support.processes.expectations import failed, the_object
from support.processes.runner import DIALER, LISTENER, Pair, Side

pytestmark = pytest.mark.more

# A node with this address is on another machine, as far as Ray and psicli know.
ELSEWHERE = "--node-ip-address=127.0.0.2"
# A check of this side alone.
ALONE = ("--wait", "0", "--json")
# Connects like a run of the job in the job file, until it is killed.
RUN = """
import sys, threading
from pathlib import Path
from psicli.config import load_job
from psicli.ray.connection import connected
with connected(load_job(Path(sys.argv[1]), variables={})):
    print("connected", file=sys.stderr)
    threading.Event().wait()
"""
# Calls Ray after the end of such a run, as a late thread may.
LATE = """
import sys
from contextlib import suppress
from pathlib import Path
from psicli.config import load_job
from psicli.ray.connection import connected
with connected(load_job(Path(sys.argv[1]), variables={})):
    import ray
with suppress(Exception):
    ray.remote(int).remote()
print(ray.is_initialized())
"""


def prepared(pair: Pair, cluster: Cluster, **workers: object) -> Pair:
    pair.path(LISTENER, "in.csv").write_text("id\n1\n2\n")
    pair.path(DIALER, "in.csv").write_text("id\n2\n3\n")
    pair.add("t", Side(["id"], "in.csv", "out/t.csv"), Side(["id"], "in.csv"))
    use(pair, cluster, LISTENER, **workers)
    return pair


def check(pair: Pair, **environment: str | None) -> dict[str, list[tuple[str, str]]]:
    """Check the listener's side; return status and message of each row about the cluster, by the name of the row."""
    result = pair.start_command("check", "--config", pair.job_file(LISTENER), *ALONE, env=environment).result()
    only_psicli_speaks(result)
    rows: dict[str, list[tuple[str, str]]] = {"cluster": [], "workers": []}
    for row in the_object(result.stdout)["checks"]:
        if row["name"] in rows:
            rows[row["name"]].append((row["status"], row["message"]))
            assert row["hint"] or row["status"] == "ok"
    assert result.code in (0, 69, 75, 78)
    assert (result.code != 0) == any(status == "fail" for status, _ in rows["cluster"])
    return rows


def test_a_cluster_that_can_be_used(pair: Pair, cluster: Cluster) -> None:
    rows = check(prepared(pair, cluster, worker_cpus=1, worker_memory="400MB"))
    ((status, message),) = rows["cluster"]
    assert status == "ok"
    assert message.startswith(f"{cluster.address} answers; 2 nodes with 2 cores, all with psicli ")
    assert message.endswith(", with token authentication")
    assert rows["workers"] == [("ok", "room for 2 workers, each with 1 core and 400.0 MB of memory")]


def test_the_token_of_a_cluster(pair: Pair, cluster: Cluster) -> None:
    prepared(pair, cluster)
    for changed, fault in (
        ({"RAY_AUTH_TOKEN": secrets.token_hex(32)}, "does not accept psicli's token"),
        ({"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None}, "does not accept psicli's token"),
        ({"RAY_AUTH_TOKEN": None, "HOME": str(pair.folder)}, "needs a token, and psicli found none"),
    ):
        assert check(pair, **changed)["cluster"] == [("fail", f"the Ray cluster at {cluster.address} {fault}")]


def test_a_run_that_cannot_begin_tells_the_other_party(pair: Pair, cluster: Cluster) -> None:
    prepared(pair, cluster, worker_cpus=3)
    listener, dialer = pair.run()
    failed(listener, 78, f"no node of the Ray cluster at {cluster.address} has room for a worker, which needs 3 cores")
    only_psicli_speaks(listener)
    failed(dialer, 69, f"{LISTENER} stopped before the session was complete: it did not say why")
    pair.nothing_left()


def test_a_run_with_a_wrong_token(pair: Pair, cluster: Cluster) -> None:
    """Ray goes on trying while the run tells the other party, which never comes, and must not write about it."""
    prepared(pair, cluster)
    run = pair.start(LISTENER, env={"RAY_AUTH_TOKEN": secrets.token_hex(32)}).result()
    failed(run, 78, f"the Ray cluster at {cluster.address} does not accept psicli's token")
    only_psicli_speaks(run)


def test_the_same_job_runs_on_the_cluster(pair: Pair, cluster: Cluster) -> None:
    prepared(pair, cluster)
    run = pair.start_command(pair.job_file(LISTENER), program=("-c", RUN))
    run.wait_for("connected")
    holder = f"pid {run.pid} on {socket.gethostname()}"
    message = f"job overlap of {LISTENER} already runs on this Ray cluster ({holder})"
    assert check(pair)["cluster"] == [("fail", message)]
    # Nobody can hold the name longer than the process lives.
    run.kill()
    assert check(pair)["cluster"][0][0] == "ok"


def test_nothing_connects_again_after_the_end(pair: Pair, cluster: Cluster) -> None:
    """Ray would connect by itself, or even start a cluster on this machine."""
    prepared(pair, cluster)
    result = pair.start_command(
        pair.job_file(LISTENER), program=("-c", LATE), env={"RAY_ADDRESS": cluster.address}
    ).result()
    assert (result.code, result.stdout) == (0, b"False\n"), result.text


def test_several_machines_without_tls(pair: Pair, start_cluster: StartCluster) -> None:
    cluster = start_cluster(1)
    cluster.add(arguments=(ELSEWHERE,))
    ((status, message),) = check(prepared(pair, cluster))["cluster"]
    assert message.startswith(f"the Ray cluster at {cluster.address} has 2 nodes on several machines, and no TLS: who")
    use(pair, cluster, LISTENER, insecure=True)
    (ok, _), (warn, again) = check(pair)["cluster"]
    assert (status, ok, warn, again) == ("fail", "ok", "warn", message)


def test_several_machines_with_tls(pair: Pair, start_cluster: StartCluster) -> None:
    authority = Authority()
    tls = tls_files(pair.folder, "ray", authority)
    cluster = start_cluster(1, environment=tls)
    cluster.environment.update(tls)
    cluster.add(arguments=(ELSEWHERE,))
    prepared(pair, cluster)
    ((status, message),) = check(pair)["cluster"]
    assert (status, message.endswith(", with TLS and token authentication")) == ("ok", True)
    fault = f"the Ray cluster at {cluster.address} takes no connection without TLS"
    assert check(pair, RAY_USE_TLS=None)["cluster"] == [("fail", fault)]
    fault = f"the Ray cluster at {cluster.address} and psicli do not accept each other's certificates"
    others = tls_files(pair.folder, "others", Authority())
    assert check(pair, **others)["cluster"] == [("fail", fault)]


def tls_files(folder: Path, name: str, authority: Authority) -> dict[str, str]:
    """Write a certificate for all addresses of this machine; return Ray's variables for it."""
    found = {each.address for card in psutil.net_if_addrs().values() for each in card if each.family is socket.AF_INET}
    authority.issue(folder, name, [x509.IPAddress(ip_address(each)) for each in {*found, "127.0.0.1", "127.0.0.2"}])
    roots = folder / f"{name}.ca"
    roots.write_bytes(authority.pem)
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(pem),
        "RAY_TLS_SERVER_KEY": str(key),
        "RAY_TLS_CA_CERT": str(roots),
    }
