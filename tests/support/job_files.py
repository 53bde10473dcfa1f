"""Job files as text, and helpers to load and change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from psicli.config import Job

# The job file that the documentation shows.
SAMPLE = """\
job: nightly-overlap
self_party: alice
cluster:
  nodes:
    - {party: alice, address: "alice.example.com:18560", listen_address: "0.0.0.0:18560"}
    - {party: bob,   address: "bob.example.com:18560"}
  link_desc: {connect_retry_times: 600, connect_retry_interval_ms: 1000, recv_timeout_ms: 300000}
  tls: {ca_file: ca.pem, certificate_file: alice.pem, private_key_file: alice.key}
psi:
  receiver: alice
  broadcast_result: false
tasks:
  - name: customers
    keys:        {alice: [id],               bob: [customer_id]}
    input_path:  {alice: in/customers.csv,   bob: in/crm.parquet}
    output_path: {alice: out/customers.csv}
"""

# The smallest job file; a test adds tasks and replaces the values it is about.
SMALL = """\
job: j
self_party: alice
cluster:
  nodes:
    - {party: alice, address: "127.0.0.1:18560"}
    - {party: bob}
psi: {receiver: alice}
tasks:
"""
TASK = """\
  - name: t
    keys: {alice: [id]}
    input_path: {alice: in.csv}
    output_path: {alice: out.csv}
"""

Load = Callable[..., Job]
Errors = Callable[..., list[str]]


def starts(lines: Sequence[str], *expected: str) -> None:
    """Assert that these are the errors, in this order; each is compared with the start of its line."""
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=False)] == list(expected)
    assert len(lines) == len(expected), lines


def with_nodes(first: str, second: str = "{party: bob}", more: str = "") -> str:
    head = f"job: j\nself_party: alice\ncluster:\n  nodes:\n    - {first}\n    - {second}\n{more}"
    return f"{head}psi: {{receiver: alice}}\ntasks:\n{TASK}"


def with_paths(inputs: str, outputs: str, **replaced: str) -> str:
    text = SMALL + f"  - name: t\n    keys: {{alice: [id]}}\n    input_path: {inputs}\n    output_path: {outputs}\n"
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text
