"""The wire between two machines taken down in the middle of a run, and put back: the run goes on."""

from __future__ import annotations

import time

import pytest
import test_two_machines
from runner import DIALER, LISTENER, PARTIES
from test_two_machines import ADDRESSES, Machine, ip

machines = test_two_machines.machines

ROWS = 12_000
# How long a run of so many rows takes without a cut, on a slow machine that has other things to do [s].
UNDISTURBED = 120.0
# What a cut may cost beside its own length [s].
EXTRA = 45.0

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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [30, 45, 75, 120])
def test_a_cut_is_outlived(machines: dict[str, Machine], seconds: int) -> None:
    runs = {}
    for party, start in zip(PARTIES, (0, ROWS // 2), strict=True):
        folder = machines[party].folder
        (folder / "in.csv").write_text("id\n" + "".join(f"k{i:06}\n" for i in range(start, start + ROWS)))
        (folder / "job.yaml").write_text(JOB.format(party=party, address=ADDRESSES[LISTENER]))
    began = time.monotonic()
    for party in PARTIES:
        command = "PSICLI_BACKEND=reference psicli run --config job.yaml"
        runs[party] = machines[party].start(command)
    # Points are on the wire.
    while machines[DIALER].received() < 100_000:
        assert time.monotonic() - began < UNDISTURBED, "the exchange does not begin"
        time.sleep(0.05)
    ip("-n", machines[DIALER].name, "link", "set", "wire", "down")
    time.sleep(seconds)
    ip("-n", machines[DIALER].name, "link", "set", "wire", "up")
    for run in runs.values():
        _, stderr = run.communicate(timeout=UNDISTURBED + EXTRA)
        assert run.returncode == 0, stderr
        assert ("is back after" in stderr) == (seconds > 60), stderr
    common = [f"k{i:06}" for i in range(ROWS // 2, ROWS)]
    for party in PARTIES:
        assert (machines[party].folder / "out.csv").read_text().split() == ["id", *common]
