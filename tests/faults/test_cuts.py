"""Runs that survive a network outage between two machines."""

from __future__ import annotations

import time

import pytest
from support.processes.machines import ADDRESSES, Machine, ip
from support.processes.runner import DIALER, LISTENER, PARTIES
from support.waiting import wait_until

ROWS = 12_000
# More than a run of this many rows takes without an outage on a slow, busy machine [s].
UNDISTURBED = 180.0
# The time an outage may cost in addition to its own length [s].
EXTRA = 45.0
# If pings have given the connection up, the dialer reconnects within this time after the outage [s]; otherwise the
# connection waits for a TCP retransmission.
BACK_WITHIN = 8.0

JOB = """\
job: overlap
self_party: {party}
cluster:
  nodes:
    - {{party: alice, address: "{address}:18560", listen_address: "{address}:18560"}}
    - {{party: bob}}
  tls: insecure
psi: {{receiver: alice, broadcast_result: true}}
tasks:
  - name: people
    keys: {{{party}: [id]}}
    input_path: {{{party}: in.csv}}
    output_path: {{{party}: out.csv}}
"""


def provide(machines: dict[str, Machine]) -> list[str]:
    """Write inputs and job files; return the common keys."""
    for party, start in zip(PARTIES, (0, ROWS // 2), strict=True):
        folder = machines[party].folder
        (folder / "in.csv").write_text("id\n" + "".join(f"k{i:06}\n" for i in range(start, start + ROWS)))
        (folder / "job.yaml").write_text(JOB.format(party=party, address=ADDRESSES[LISTENER]))
    return [f"k{i:06}" for i in range(ROWS // 2, ROWS)]


def run(machines: dict[str, Machine], outage: float) -> float:
    """Run both parties with an outage of `outage` seconds (0: none); return the duration of the run [s]."""
    before = machines[DIALER].received()
    began = time.monotonic()
    runs = {party: machines[party].start("PSICLI_BACKEND=reference psicli run --config job.yaml") for party in PARTIES}
    if outage:
        # By now the parties exchange points.
        await_octets(machines, before + 100_000, UNDISTURBED)
        ip("-n", machines[DIALER].name, "link", "set", "wire", "down")
        time.sleep(outage)
        ip("-n", machines[DIALER].name, "link", "set", "wire", "up")
        await_octets(machines, machines[DIALER].received() + 20_000, EXTRA if outage < 60 else BACK_WITHIN)
    for process in runs.values():
        _, stderr = process.communicate(timeout=UNDISTURBED + EXTRA)
        assert process.returncode == 0, stderr
        assert ("is back after" in stderr) == (outage > 60), stderr
    return time.monotonic() - began


def await_octets(machines: dict[str, Machine], number: int, within: float) -> None:
    wait_until(lambda: machines[DIALER].received() >= number, "the exchange continues", within)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [30, 45, 75, 120])
def test_a_run_survives_an_outage(machines: dict[str, Machine], seconds: int) -> None:
    common = provide(machines)
    undisturbed = run(machines, 0)
    assert run(machines, seconds) < undisturbed + seconds + EXTRA
    for party in PARTIES:
        assert (machines[party].folder / "out.csv").read_text().split() == ["id", *common]
