"""The party's own Ray cluster: connect to it, check its nodes, and let workers on them do the bins.

Only this package imports the library ray, and only in a run with `pipeline.workers: {ray: …}`; it is an extra.
"""

from __future__ import annotations

import re

from psicli.ray.errors import RayMissingError

# Older releases have published advisories, or no token authentication.
_LEAST_RAY = (2, 55)


def check_installed() -> None:
    """Raise RayMissingError unless a release of Ray that psicli can use is installed here; do not load it."""
    # Imported late: runs without a cluster import this package too.
    from importlib import metadata

    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        raise RayMissingError(fault="the Python package ray is not installed here") from None
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < _LEAST_RAY:
        least = ".".join(map(str, _LEAST_RAY))
        raise RayMissingError(fault=f"the Python package ray is {version} here; psicli needs {least} or later")
