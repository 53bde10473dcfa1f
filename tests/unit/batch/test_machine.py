"""What a machine or a container gives to a batch; the container is a tree of files as Linux shows it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from psicli.batch import machine
from psicli.batch.machine import Cores, Machine, free_memory

GB = 1 << 30


class Times(NamedTuple):
    """The times of a machine, as psutil has them, but for the kinds that do not matter here."""

    user: float
    idle: float


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups in which this process has none yet."""
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    # Of the machine, as it is now, but with more memory than these groups have: other programs take and free some.
    memory = psutil.virtual_memory()
    memory = memory._replace(total=max(memory.total, 4 * GB), available=max(memory.available, 2 * GB))
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: memory)
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "own").write_text("")
    return tmp_path / "cgroup"


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def own(groups: Path, *lines: str) -> None:
    (groups.parent / "own").write_text("".join(f"{line}\n" for line in lines))


def test_a_machine_without_groups(groups: Path) -> None:
    assert Machine.here().memory == psutil.virtual_memory().total
    assert Machine.here().cores >= 1
    assert free_memory() == psutil.virtual_memory().available


def test_the_smallest_limit_of_all_groups_around_counts(groups: Path) -> None:
    own(groups, "0::/user.slice/job.scope")
    stat = "anon 5\ninactive_file 0"
    put(
        groups / "user.slice",
        memory__max=str(GB),
        memory__current=str(GB // 2),
        memory__stat=stat,
        cpu__max="max 100000",
    )
    inside = {"memory__max": "max", "memory__current": "7", "memory__stat": stat, "cpu__max": "50000 100000"}
    put(groups / "user.slice" / "job.scope", **inside)
    assert Machine.here() == Machine(0.5, GB)
    assert free_memory() == GB // 2


def test_what_can_be_reclaimed_at_once_is_free(groups: Path) -> None:
    own(groups, "0::/")
    stat = f"anon 1\ninactive_file {GB // 4}"
    put(groups, memory__max=str(GB), memory__current=str(GB // 2), memory__stat=stat)
    assert free_memory() == GB * 3 // 4


def test_version_1(groups: Path) -> None:
    own(groups, "4:memory:/docker/abc", "2:cpu,cpuacct:/docker/abc", "0::/")
    stat = f"cache 9\ntotal_inactive_file {GB // 8}"
    limits = {"memory__limit_in_bytes": str(GB), "memory__usage_in_bytes": str(GB // 2), "memory__stat": stat}
    # Inside a container, only the root of each tree is there.
    put(groups / "memory", **limits)
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    expected = min(1.5, Machine.here().cores)
    assert Machine.here() == Machine(expected, GB)
    assert free_memory() == GB * 5 // 8


def test_the_cores_of_a_container_are_busy_by_its_own_time(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be idle while the container has used up what it may."""
    own(groups, "0::/")
    put(groups, cpu__max="100000 100000", cpu__stat="usage_usec 0")
    now = 100.0
    monkeypatch.setattr(machine.time, "monotonic", lambda: now)
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: Times(0.0, now))
    cores = Cores(1.0)
    now = 101.0
    put(groups, cpu__stat="usage_usec 900000")
    assert cores.look() == pytest.approx(0.9)
    # A moment later, nothing reliable can be said.
    now = 101.1
    put(groups, cpu__stat="usage_usec 900000")
    assert cores.look() == pytest.approx(0.9)
