"""What this machine, or the container around this process, can give to a batch: processors and memory.

A container's limits are those of its control group and of every group around it. Version 2 of control groups has one
tree with all limits; version 1 has one for each kind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from psicli.core.records import dataclass

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# The files of a group's memory in versions 2 and 1: the limit, the use, and the name of what can be reclaimed at once.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
# A shorter time says little about how busy the cores are [s].
_LEAST_SAMPLE = 0.2


@dataclass(frozen=True)
class Machine:
    """The processors [cores] and the memory [bytes] that this process and its children may use at most."""

    cores: float
    memory: int

    @classmethod
    def here(cls) -> Machine:
        """Measure this machine and the container around this process."""
        cores = float(len(os.sched_getaffinity(0)))
        for group in _groups("cpu"):
            with suppress(OSError, ValueError):
                quota, period = (group / "cpu.max").read_text().split()
                cores = min(cores, int(quota) / int(period))
            with suppress(OSError, ValueError):
                allowed = int((group / "cpu.cfs_quota_us").read_text())
                if allowed > 0:
                    cores = min(cores, allowed / int((group / "cpu.cfs_period_us").read_text()))
        return cls(cores, min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits())]))


def free_memory() -> int:
    """Return how much memory programs can still take without swapping [bytes]."""
    return min([psutil.virtual_memory().available, *(limit - used for limit, used in _memory_limits())])


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Yield the limit and the use of each group around this process that has a limit [bytes]."""
    for group in _groups("memory"):
        for limit, use, reclaimable in _MEMORY_FILES:
            # Without a limit, the file holds the word max, or does not exist.
            with suppress(OSError, ValueError):
                most = int((group / limit).read_text())
                facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield most, int((group / use).read_text()) - int(facts.get(reclaimable, 0))


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of all groups around it, for a controller."""
    with suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, own = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = _CGROUPS / controllers if controllers else _CGROUPS
            group = root / own.lstrip("/")
            # Inside a container, the path may be that of the machine, where only the root of the tree exists.
            yield from (each for each in (group, *group.parents) if each.is_relative_to(root) and each.is_dir())


class Cores:
    """How busy the cores are, by all programs of the machine and of the container, since the last look at them."""

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._seen = time.monotonic(), *_busy_times()
        self.busy = 0.0

    def look(self) -> float:
        """Return how many of the batch's cores are busy, by the time since the last look that was long enough."""
        now, (busy, total, own) = time.monotonic(), _busy_times()
        then, busy_then, total_then, own_then = self._seen
        seconds = now - then
        if seconds >= _LEAST_SAMPLE:
            of_machine = (busy - busy_then) / max(total - total_then, 1e-9)
            of_container = (own - own_then) / seconds / self._cores
            self.busy = self._cores * min(max(of_machine, of_container), 1.0)
            self._seen = now, busy, total, own
        return self.busy


def _busy_times() -> tuple[float, float, float]:
    """Return the time of all cores in which they were busy, all their time, and the container's time on them [s]."""
    times = psutil.cpu_times()
    # Linux counts the time of guests in that of user programs, too.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    own = 0.0
    for group in _groups("cpu"):
        with suppress(OSError, ValueError, KeyError):
            if (group / "cpu.max").read_text().startswith("max"):
                continue
            facts = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
            own = max(own, int(facts["usage_usec"]) / 1e6)
    return total - times.idle - getattr(times, "iowait", 0.0), total, own
