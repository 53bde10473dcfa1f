"""Two machines, simulated by network namespaces of this one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.processes.runner import DIALER, LISTENER, PARTIES
from support.waiting import DEADLINE

ADDRESSES = {LISTENER: "10.77.0.1", DIALER: "10.77.0.2"}


# Give each machine its own folder of locks.
ON_A_MACHINE = '{ [ ! -d /run/lock ] || mount -t tmpfs none /run/lock; } && exec sh -c "$1"'


class Machine:
    """A network namespace with its own address, a hosts file that names both machines, and a folder."""

    def __init__(self, party: str, folder: Path, stack: ExitStack) -> None:
        self.name = f"psicli-{os.getpid()}-{party}"
        self.folder = folder / party
        self.folder.mkdir()
        self._stack = stack
        hosts = Path("/etc/netns", self.name, "hosts")
        hosts.parent.mkdir(parents=True)
        stack.callback(shutil.rmtree, hosts.parent)
        hosts.write_text(
            "127.0.0.1 localhost\n" + "".join(f"{ADDRESSES[each]} {each}.example.com\n" for each in PARTIES)
        )
        ip("netns", "add", self.name)
        stack.callback(ip, "netns", "delete", self.name)
        ip("-n", self.name, "link", "set", "lo", "up")

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command in the machine's folder."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "sh", "-c", ON_A_MACHINE, "sh", command],
            cwd=self.folder,
            env={"PATH": path, "HOME": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(end, process)
        return process

    def received(self) -> int:
        """Return how much the machine has received over the wire [bytes]."""
        (wire,) = json.loads(ip("-n", self.name, "-s", "-j", "link", "show", "wire"))
        return int(wire["stats64"]["rx"]["bytes"])


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=DEADLINE).stdout


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@contextmanager
def two_machines(folder: Path) -> Iterator[dict[str, Machine]]:
    with ExitStack() as stack:
        machines = {party: Machine(party, folder, stack) for party in PARTIES}
        near, far = machines.values()
        ip("-n", near.name, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", far.name)
        for party, machine in machines.items():
            ip("-n", machine.name, "address", "add", f"{ADDRESSES[party]}/24", "dev", "wire")
            ip("-n", machine.name, "link", "set", "wire", "up")
        yield machines
    with suppress(OSError):
        Path("/etc/netns").rmdir()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    probe = f"psicli-{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode != 0:
        pytest.skip("this machine has no network namespaces")
    ip("netns", "delete", probe)
    with two_machines(tmp_path) as found:
        yield found
