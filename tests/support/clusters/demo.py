"""Run the sample job on a Ray cluster of two nodes that this script starts here, and compare the outputs.

The job runs with the threads of its own processes first, out of sight. Then both parties run it on the same cluster,
which is for show: in practice each party has its own. At the end nothing is left of the cluster.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from support.clusters.cluster import NoCluster, running

SAMPLE = Path(__file__).parents[3] / "sample_data"
# Each party gets one of the two CPUs of each node.
WORKERS = """
pipeline:
  workers: {{ray: "{address}", worker_cpus: 1, max_workers: 2}}
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="psicli-demo-") as name:
        expected = run(Path(name, "threads"), "", {})
        try:
            with running(2, cpus=2) as cluster:
                print(f"a Ray cluster of {len(cluster.nodes)} nodes runs at {cluster.address}\n", flush=True)
                started = time.monotonic()
                found = run(Path(name, "cluster"), WORKERS.format(address=cluster.address), cluster.environment)
                seconds = time.monotonic() - started
                cluster.nothing_left()
                processes = cluster.processes()
        except NoCluster as error:
            sys.exit(f"There is no cluster: {error}.")
    if different := [path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)]:
        sys.exit(f"The cluster's outputs differ from those of threads: {', '.join(sorted(different))}")
    if left := [each for each in processes if each.is_running()]:
        sys.exit(f"The cluster has ended, but not {left}")
    print(f"\nthe cluster's {len(found)} outputs equal those of threads, after {seconds:.1f} s; the cluster has ended")


def run(folder: Path, sections: str, variables: Mapping[str, str]) -> Mapping[str, bytes]:
    """Run both parties on a copy of the sample data, with more sections in the job file; return the outputs."""
    copy = folder / SAMPLE.name
    shutil.copytree(SAMPLE, copy)
    with open(copy / "job.yaml", "a") as job:
        job.write(sections)
    environment = {
        "PSICLI": f"{Path(sys.executable).parent}/psicli",
        "PYTHON": sys.executable,
        **os.environ,
        **variables,
    }
    done = subprocess.run(
        ["sh", copy / "demo.sh"], env=environment, capture_output=not sections, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"The job failed. {done.stderr or ''}")
    out = folder / "demo-out"
    return {
        str(path.relative_to(out)): path.read_bytes()
        for party in ("airline", "registry")
        for path in (out / party).glob("*.[cp]*")
    }


if __name__ == "__main__":
    main()
