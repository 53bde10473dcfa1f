"""Several parties on one machine, each with its folder, its state folder, its job files and its batches.

Two parties share each job, which compares a few rows. What either of them must get is known for every night, so that
a test can tell the result of tonight from that of last night, and both from a wrong one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from support.processes.runner import Result, Run
from support.waiting import wait_until

from psicli.storage import locks
from psicli.storage.locks import hold_dial, hold_port

ROWS = 8
# Children end within this time after their batch, however it ended [s].
SOON = 20.0
# A second attempt that a test waits for comes soon.
AGAIN = "--retry-wait=0.1"
LINK = {
    "connect_retry_times": 1200,
    "connect_retry_interval_ms": 50,
    "recv_timeout_ms": 30_000,
    # Give up soon, since a party that a test kills does not reconnect.
    "reconnect_window_ms": 1000,
}


@dataclass(frozen=True)
class Deal:
    """A job that two parties have with each other."""

    name: str
    listener: str
    dialer: str
    # Where the dialer connects to, and where the listener listens, which differ if a test has a proxy between them.
    port: int
    listens: int
    rows: int = ROWS

    @property
    def parties(self) -> tuple[str, str]:
        return self.listener, self.dialer

    def table(self, party: str, night: int) -> bytes:
        """Return what a party puts into the job on a night."""
        first = 0 if party == self.listener else self.rows // 4
        return self._csv(party, night, range(first, first + self.rows))

    def result(self, party: str, night: int) -> bytes:
        """Return what a party must get from the job on a night: its own rows, of which three quarters are common."""
        return self._csv(party, night, range(self.rows // 4, self.rows))

    def _csv(self, party: str, night: int, rows: Iterable[int]) -> bytes:
        lines = ["id,of", *(f"{self.name}-{night}-{row},{party}" for row in rows)]
        return ("\n".join(lines) + "\n").encode()


class Parties:
    """The parties, their jobs, and the processes started for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deals: list[Deal] = []
        self.night = 0
        # Killed runs of other tests may have left locks of the same ports.
        self._locks_before: set[Path] = set()
        self._runs: list[Run] = []

    # Jobs and batches

    def add(
        self,
        name: str,
        listener: str,
        dialer: str,
        port: int,
        *,
        listens: int | None = None,
        rows: int = ROWS,
        own: Mapping[str, Mapping[str, Any]] | None = None,
        **sections: Any,
    ) -> Deal:
        """Write a job file for each of two parties. own: sections for one party's file; sections: for both."""
        deal = Deal(name, listener, dialer, port, listens or port, rows)
        self.deals.append(deal)
        self._locks_before |= {*_locks(deal)}
        for party in deal.parties:
            for folder in ("jobs", "in", "out", "tmp"):
                (self.folder / party / folder).mkdir(parents=True, exist_ok=True)
            node = {"party": listener, "address": f"127.0.0.1:{port}"}
            if listens is not None and party == listener:
                node["listen_address"] = f"127.0.0.1:{listens}"
            task = {
                "name": "rows",
                "keys": {party: ["id"]},
                "input_path": {party: f"../in/{name}.csv"},
                "output_path": {party: f"../out/{name}.csv"},
            }
            job = {
                "job": name,
                "self_party": party,
                "cluster": {"nodes": [node, {"party": dialer}], "link_desc": LINK},
                "psi": {"receiver": listener, "broadcast_result": True},
                "tasks": [task],
                **sections,
                **(own or {}).get(party, {}),
            }
            self.job_file(deal, party).write_text(yaml.safe_dump(job, sort_keys=False))
        self._write_inputs(deal)
        return deal

    def next_night(self) -> None:
        """Give every job new inputs, whose results differ from those of all nights before."""
        self.night += 1
        for deal in self.deals:
            self._write_inputs(deal)

    def _write_inputs(self, deal: Deal) -> None:
        for party in deal.parties:
            self.input(deal, party).write_bytes(deal.table(party, self.night))

    def job_file(self, deal: Deal, party: str) -> Path:
        return self.folder / party / "jobs" / f"{deal.name}.yaml"

    def input(self, deal: Deal, party: str) -> Path:
        return self.folder / party / "in" / f"{deal.name}.csv"

    def output(self, deal: Deal, party: str) -> Path:
        return self.folder / party / "out" / f"{deal.name}.csv"

    def of(self, party: str) -> list[Deal]:
        return [deal for deal in self.deals if party in deal.parties]

    def batch(self, party: str, jobs: Sequence[str | Mapping[str, Any]] | None = None, **settings: Any) -> Path:
        """Write a party's batch file. jobs: names or entries, by default all its jobs; settings: the other fields."""
        named: Sequence[Any] = [deal.name for deal in self.of(party)] if jobs is None else jobs
        entries = [f"jobs/{each}.yaml" if isinstance(each, str) else dict(each) for each in named]
        path = self.folder / party / f"{settings.pop('file', 'batch')}.yaml"
        path.write_text(yaml.safe_dump({"jobs": entries, **settings}, sort_keys=False))
        return path

    # Processes

    def start(self, party: str, *arguments: str | Path, env: Mapping[str, str | None] | None = None, **how: Any) -> Run:
        """Start a command of a party, such as `batch FILE`."""
        own = self.folder / party
        folders = {"TMPDIR": str(own / "tmp"), "PSICLI_STATE_DIR": str(own / "state")}
        run = Run(arguments, env={**folders, **(env or {})}, **how)
        self._runs.append(run)
        return run

    def start_batch(self, party: str, *arguments: str | Path, **how: Any) -> Run:
        """Start the batch of a party with a report as JSON."""
        return self.start(party, "batch", self.folder / party / "batch.yaml", "--json", AGAIN, *arguments, **how)

    def start_job(self, deal: Deal, party: str, *arguments: str, **how: Any) -> Run:
        """Start a party's side of one job without a batch."""
        return self.start(party, "run", self.job_file(deal, party), *arguments, **how)

    def kill(self) -> None:
        for run in self._runs:
            run.kill()
        for pid in self.processes():
            # It may end by itself, since its batch has been killed.
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()

    # Checks

    def check(self, *deals: Deal) -> None:
        """Check that both parties have tonight's result of these jobs, by default of all."""
        for deal in deals or self.deals:
            for party in deal.parties:
                assert self.nights_of(deal, party) == {self.night}, (deal.name, party)

    def nights_of(self, deal: Deal, party: str) -> set[int]:
        """Return the night of a party's result, which is tonight or an earlier one; no night if there is no file."""
        path = self.output(deal, party)
        if not path.exists():
            return set()
        found = path.read_bytes()
        night = int(found.splitlines()[1].split(b"-")[-2])
        assert found == deal.result(party, night), f"{party} has a wrong result of {deal.name}"
        return {night}

    def processes(self) -> list[int]:
        """Return all processes that have a path of these parties in their command line or environment."""
        needle, found = os.fsencode(self.folder) + b"/", []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if any(needle in (path / name).read_bytes() for name in ("cmdline", "environ")):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def nothing_left(self, killed: str = "") -> None:
        """Check that no process, port, lock, temporary file or folder of a run is left.

        killed: `batch` if a batch ended without clean-up and left its own record; `job` if SIGKILL ended a job that has
        no successor yet, and so leaves its files to the next run.
        """
        wait_until(lambda: not self.processes(), "all processes have ended", SOON)
        left = self.files_left() if killed != "job" else []
        if killed == "batch":
            left = [path for path in left if sorted(each.name for each in path.glob("*")) != ["batch.json", "lock"]]
        assert left == [], left
        for deal in self.deals:
            address = f"127.0.0.1:{deal.port}"
            with hold_port("test", "test", "0.0.0.0", deal.listens, 0), hold_dial("test", deal.dialer, address, 0):
                pass

    def files_left(self) -> list[Path]:
        """Return the files that a run removes at its end."""
        found: list[Path] = []
        for own in filter(Path.is_dir, self.folder.iterdir()):
            found += [*own.rglob("*.psicli-*"), *(own / "tmp").iterdir(), *(own / "state").glob("run-*")]
            found += [path for part in ("jobs", "in", "out") for path in (own / part).glob(".*")]
        locks_left = {path for deal in self.deals for path in _locks(deal)}
        return [*found, *(locks_left - self._locks_before)]


def _locks(deal: Deal) -> Iterator[Path]:
    """Yield the files of the locks that both sides of a job hold."""
    address = hashlib.sha256(f"127.0.0.1:{deal.port}".encode()).hexdigest()[:16]
    for shared in locks.SHARED_FOLDERS:
        for name in (f"port-{deal.listens}", f"dial-{deal.dialer}-{address}"):
            yield from (shared / f"psicli-{os.geteuid()}").glob(f"{name}.*")


def jobs_of(result: Result) -> dict[str, dict[str, Any]]:
    """Return what a batch reports of each job, by its name."""
    return {job["name"]: job for job in json.loads(result.stdout)["jobs"]}


def all_done(*results: Result) -> None:
    """Check that batches have completed all their jobs, and say so."""
    for result in results:
        assert result.code == 0, result.text
        assert "Traceback" not in result.stderr
        assert {job["state"] for job in jobs_of(result).values()} == {"done"}, result.text
