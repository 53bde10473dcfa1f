from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from psicli.config import Job, fields, job_schema, load_job
from psicli.config.document import MAX_FILE_BYTES
from psicli.config.fields import default_memory
from psicli.config.models import (
    FRAME_ITEMS_STEP,
    LEAST_BIN_ITEMS,
    LEAST_FRAME_ITEMS,
    MAX_FRAME_ITEMS,
    JobFile,
    LinkSettings,
)
from psicli.config.shape import MODELS
from psicli.core.errors import ConfigError, JobFileMissingError, UnknownFormatError
from psicli.core.formats import FileFormat, Format, file_format
from psicli.core.memory import LIBRARIES, MemoryPlan
from psicli.job.meeting import bin_items
from psicli.protocol import bins, streams, wire

# The job file of the documentation, but on this machine.
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

# The smallest job file; `{...}` is where the tests put what they are about.
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
Mistakes = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(text: str | bytes, **options: Any) -> Job:
        path = tmp_path / "job.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_job(path, **{"variables": {}, **options})

    return run


@pytest.fixture
def mistakes(tmp_path: Path, load: Load) -> Mistakes:
    """Load a job file that must be refused; give its mistakes, each as `LINE: FIELD: what; right`."""

    def run(text: str | bytes, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **options)
        assert caught.value.code == 78
        prefix = f"{tmp_path / 'job.yaml'}:"
        lines = caught.value.message.splitlines()
        assert all(line.startswith(prefix) and "; " in line for line in lines)
        return [line.removeprefix(prefix) for line in lines]

    return run


def starts(lines: Sequence[str], *expected: str) -> None:
    """Assert that these are the mistakes, in this order, each by how it begins."""
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


# What a good file becomes -----------------------------------------------------------------------------------------


def test_the_documented_job_file(tmp_path: Path, load: Load) -> None:
    job = load(SAMPLE)
    assert (job.name, job.party, job.peer, job.listens) == ("nightly-overlap", "alice", "bob", True)
    assert job.path == tmp_path / "job.yaml"
    assert job.listener.address == "alice.example.com:18560"
    assert (job.listener.listen_host, job.listener.listen_port) == ("0.0.0.0", 18560)
    assert job.link.model_dump() == {
        "connect_retry_times": 600,
        "connect_retry_interval_ms": 1000,
        "recv_timeout_ms": 300000,
        "reconnect_window_ms": 600000,
    }
    assert job.pipeline.model_dump() == {
        "threads": None,
        "depth": 4,
        "frame_items": None,
        "bin_items": None,
        "memory": default_memory(),
    }
    assert job.tls is not None
    assert job.tls.private_key_file == tmp_path / "alice.key"
    assert job.tls_insecure is False
    (task,) = job.tasks
    assert task.model_dump() == {
        "name": "customers",
        "keys": ("id",),
        "input_path": tmp_path / "in/customers.csv",
        "output_path": tmp_path / "out/customers.csv",
        "receiver": "alice",
        "broadcast_result": False,
    }


def test_the_other_party_of_the_same_file(tmp_path: Path, load: Load) -> None:
    job = load(SAMPLE, party="bob")
    assert (job.party, job.peer, job.listens) == ("bob", "alice", False)
    assert (job.tasks[0].keys, job.tasks[0].input_path) == (("customer_id",), tmp_path / "in/crm.parquet")
    assert job.tasks[0].output_path is None


def test_values_are_frozen(load: Load) -> None:
    job = load(SAMPLE)
    with pytest.raises(ValidationError):
        job.name = "other"


def test_defaults(load: Load) -> None:
    job = load(SMALL + TASK)
    assert job.link == LinkSettings()
    assert (job.tls, job.tls_insecure, job.tasks[0].broadcast_result) == (None, False, False)


def test_scalars_stay_text(load: Load) -> None:
    text = (SMALL + TASK).replace("[id]", "[no, 007, 1.50, null, 2024-01-01]").replace("job: j", "job: 007")
    job = load(text.replace("{party: bob}", "{party: no}"))
    assert job.tasks[0].keys == ("no", "007", "1.50", "null", "2024-01-01")
    assert (job.name, job.peer) == ("007", "no")


def test_task_settings_come_before_defaults(load: Load) -> None:
    own = TASK.replace("name: t", "name: u\n    receiver: bob\n    broadcast_result: true").replace("out.csv", "o.csv")
    first, second = load(SMALL + TASK + own).tasks
    assert (first.receiver, first.broadcast_result) == ("alice", False)
    assert (second.receiver, second.broadcast_result) == ("bob", True)
    assert second.output_path is not None


def test_output_of_a_party_that_learns_nothing(load: Load) -> None:
    text = (SMALL + TASK).replace("receiver: alice", "receiver: bob")
    assert load(text).tasks[0].output_path is None
    assert load(text.replace("    output_path: {alice: out.csv}\n", "")).tasks[0].output_path is None


def test_relative_paths_start_at_the_yaml(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    load(SMALL + TASK)
    monkeypatch.chdir(tmp_path.parent)
    relative = load_job(Path(tmp_path.name) / "job.yaml", variables={})
    assert relative.tasks[0].input_path == Path(tmp_path.name) / "in.csv"
    absolute = load(with_paths("{alice: /data/in.csv}", "{alice: ../out.csv}"))
    assert absolute.tasks[0].input_path == Path("/data/in.csv")
    assert absolute.tasks[0].output_path == tmp_path / "../out.csv"


def test_standard_input_and_output(load: Load) -> None:
    (task,) = load(with_paths("{alice: '-'}", "{alice: '-'}")).tasks
    assert (task.input_path, task.output_path) == ("-", "-")


def test_numbers_within_bounds(load: Load) -> None:
    link = (
        "  link_desc: {connect_retry_times: 1, connect_retry_interval_ms: 50, recv_timeout_ms: 1000, "
        "reconnect_window_ms: 0}\n"
    )
    job = load(with_nodes('{party: alice, address: "127.0.0.1:1"}', more=link))
    assert tuple(job.link.model_dump().values()) == (1, 50, 1000, 0)


# Reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.yaml", "job.yaml/job.yaml"])
def test_no_job_file(tmp_path: Path, load: Load, name: str) -> None:
    load(SAMPLE)
    with pytest.raises(JobFileMissingError) as caught:
        load_job(tmp_path / name, variables={})
    assert caught.value.code == 66
    assert name in caught.value.message


def test_folder_as_job_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_job(tmp_path, variables={})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "1: job file: is empty"),
        (b"# nothing\n", "1: job file: is empty"),
        (b"job: a\nself_party: \xff\n", "2: job file: is not UTF-8"),
        ("job: j\n".encode("utf-16"), "1: job file: is not UTF-8"),
        (b"job: [a\ntasks: }\n", "2: YAML: "),
        (b"job: a\n\tself_party: b\n", "2: YAML: "),
        (b"job: a\nx: \x01\n", "2: YAML: character U+0001 is not allowed"),
        (b"job: a\n--- \njob: b\n", "2: YAML: "),
        (b"job: *nowhere\n", "1: YAML: found undefined alias"),
        (b'job: "\\U00110000"\n', "1: YAML: "),
        (b"job: " + b"[" * 5000 + b"\n", "1: YAML: nested more than 32 levels"),
        (b"- a\n- b\n", "1: job file: is a list"),
        (b"just text\n", "1: job file: is the text 'just text'"),
        (b"\n\n? [a]\n: b\n", "3: job file: has a field name that is not text"),
        (b"#" * (MAX_FILE_BYTES + 1), "1: job file: is too large"),
    ],
)
def test_unreadable_yaml(mistakes: Mistakes, data: bytes, expected: str) -> None:
    assert mistakes(data)[0].startswith(expected)


def test_byte_order_mark_and_windows_lines(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + SAMPLE.replace("\n", "\r\n").encode()) == load(SAMPLE)


def test_aliases(load: Load) -> None:
    text = SMALL + TASK.replace("{alice: [id]}", "&k {alice: [id, x]}") + TASK.replace("{alice: [id]}", "*k")
    text = text.replace("name: t", "name: u", 1).replace("out.csv", "out2.csv", 1)
    assert [task.keys for task in load(text).tasks] == [("id", "x"), ("id", "x")]


def test_alias_of_itself(mistakes: Mistakes) -> None:
    starts(mistakes("job: j\ntasks: &t\n  - *t\n"), "2: tasks[0]: is an alias of something that contains it")


@pytest.mark.parametrize("width", [1, 10])
def test_exploding_aliases(mistakes: Mistakes, width: int) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 60)]
    began = time.monotonic()
    assert "makes the file too large or too deep" in mistakes("\n".join(lines))[0]
    assert time.monotonic() - began < 30


def test_repeated_yaml_key(mistakes: Mistakes) -> None:
    text = SMALL + TASK + "    keys: {alice: [id], alice: [other]}\njob: j\n"
    starts(
        mistakes(text),
        "13: tasks[0].keys: stands here again (first in line 10); keep one",
        "14: job: stands here again (first in line 1)",
    )


def test_repeated_key_in_a_flow_mapping(mistakes: Mistakes) -> None:
    text = SMALL + TASK.replace("{alice: [id]}", "{alice: [id], alice: [other]}")
    starts(mistakes(text), "10: tasks[0].keys.alice: stands here again (first in line 10)")


def test_tags_are_refused(mistakes: Mistakes) -> None:
    starts(mistakes((SMALL + TASK).replace("job: j", "job: !!int 7")), "1: job: has the YAML tag")
    starts(mistakes("!!python/object:os.system {}\n"), "1: job file: has the YAML tag")


def test_control_characters_are_refused(mistakes: Mistakes) -> None:
    text = (SMALL + TASK).replace("[id]", '["a\\0b"]').replace("in.csv", '"\\ud800.csv"')
    found = mistakes(text + '"\\e[2J": x\n')
    starts(
        found,
        "10: tasks[0].keys.alice[0]: 'a\\x00b' holds a line break or control character",
        "11: tasks[0].input_path.alice: '\\ud800.csv' holds",
        "13: ",
    )
    assert all(line.isprintable() for line in found)


def test_threads_are_set_by_the_job_file(load: Load, mistakes: Mistakes) -> None:
    text = with_nodes('{party: alice, address: "127.0.0.1:1"}', more="pipeline: {threads: 3}\n")
    assert load(text).pipeline.threads == 3
    wrong = [mistakes(text.replace("3", value)) for value in ("0", "1025", "all")]
    assert wrong == [
        ["7: pipeline.threads: 0 is out of bounds; give at least 1"],
        ["7: pipeline.threads: 1025 is out of bounds; give at most 1024"],
        ["7: pipeline.threads: 'all' is not a whole number; give plain digits, without unit or sign"],
    ]


def pipeline(setting: str, value: str) -> str:
    return with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"pipeline: {{{setting}: {value}}}\n")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("depth", 1),
        ("depth", 64),
        ("frame_items", 1024),
        ("frame_items", 1032),
        ("frame_items", 32768),
        ("bin_items", 1 << 14),
        ("bin_items", 1 << 26),
    ],
)
def test_pipeline_settings(load: Load, setting: str, value: int) -> None:
    assert load(pipeline(setting, str(value))).pipeline.model_dump()[setting] == value


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("depth", "0", "0 is out of bounds; give at least 1"),
        ("depth", "65", "65 is out of bounds; give at most 64"),
        ("depth", "deep", "'deep' is not a whole number; give plain digits, without unit or sign"),
        ("frame_items", "0", "0 is out of bounds; give at least 1024"),
        ("frame_items", "1016", "1016 is out of bounds; give at least 1024"),
        ("frame_items", "1028", "1028 is no multiple of 8; give one"),
        ("frame_items", "32776", "32776 is out of bounds; give at most 32768"),
        ("frame_items", "16k", "'16k' is not a whole number; give plain digits, without unit or sign"),
        ("bin_items", "0", "0 is out of bounds; give at least 16384"),
        ("bin_items", "8192", "8192 is out of bounds; give at least 16384"),
        ("bin_items", "134217728", "134217728 is out of bounds; give at most 67108864"),
        ("bin_items", "16385", "16385 is no power of two; give 16384 or 32768"),
        ("bin_items", "1000000", "1000000 is no power of two; give 524288 or 1048576"),
        ("bin_items", "1M", "'1M' is not a whole number; give plain digits, without unit or sign"),
        ("memory", "383MB", "'383MB' is too little; give at least 384MB"),
        ("memory", "366MiB", "'366MiB' is too little; give at least 384MB"),
        ("memory", "383999999", "'383999999' is too little; give at least 384MB"),
        ("memory", "2", "'2' is too little; give at least 384MB"),
        ("memory", "512M", "'512M' is no amount of memory; give for example 512MB, 2GB or 400MiB"),
        ("memory", "1.5GB", "'1.5GB' is no amount of memory; give for example 512MB, 2GB or 400MiB"),
        ("memory", "-1GB", "'-1GB' is no amount of memory; give for example 512MB, 2GB or 400MiB"),
        ("memory", "[1GB]", "is a list; write for example `memory: 512MB`"),
    ],
)
def test_pipeline_settings_out_of_bounds(mistakes: Mistakes, setting: str, value: str, expected: str) -> None:
    assert mistakes(pipeline(setting, value)) == [f"7: pipeline.{setting}: {expected}"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("384MB", 384_000_000),
        ("384000000", 384_000_000),
        ("400MiB", 400 << 20),
        ("2 gb", 2_000_000_000),
        ("3GiB", 3 << 30),
        ("400000KB", 400_000_000),
        ("5TB", 5_000_000_000_000),
    ],
)
def test_memory_is_an_amount_with_or_without_a_unit(load: Load, text: str, size: int) -> None:
    settings = load(pipeline("memory", text)).pipeline
    assert settings.memory == size
    assert MemoryPlan(settings.memory).working == size - LIBRARIES


@pytest.mark.parametrize(
    ("settings", "items"),
    [
        ("{memory: 384MB}", 1 << 17),
        ("{memory: 512MB}", 1 << 18),
        ("{memory: 1GB}", 1 << 19),
        ("{memory: 2GB}", 1 << 20),
        ("{memory: 64GB}", 1 << 20),
        ("{memory: 384MB, bin_items: 16384}", 1 << 14),
        ("{memory: 64GB, bin_items: 4194304}", 1 << 22),
    ],
)
def test_a_bin_holds_what_memory_has_room_for_or_what_is_asked_for(load: Load, settings: str, items: int) -> None:
    text = with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"pipeline: {settings}\n")
    assert bin_items(load(text)) == items


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("4000000000\n", 1_000_000_000), ("600000000\n", 384_000_000), ("max\n", None), (None, None)],
)
def test_default_memory_is_a_quarter_of_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int | None
) -> None:
    """Of the machine, or of the container where that has less."""
    machine = 16_000_000_000
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": machine // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr(fields, "MEMORY_LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert default_memory() == (expected or machine // 4)


def test_frames_are_bounded_as_on_the_wire() -> None:
    """The job file's bounds, which config states for itself, are the protocol's."""
    assert (FRAME_ITEMS_STEP, MAX_FRAME_ITEMS) == (wire.FRAME_ITEMS_STEP, wire.MAX_FRAME_ITEMS)
    assert (LEAST_FRAME_ITEMS, LEAST_BIN_ITEMS) == (streams.LEAST_FRAME_ITEMS, bins.LEAST_BIN_ITEMS)


# Shape ------------------------------------------------------------------------------------------------------------


def test_every_mistake_at_once_sorted_by_line(mistakes: Mistakes) -> None:
    text = """\
job: Nightly Overlap
self_party: alice
cluster:
  nodes:
    - {party: alice, address: "127.0.0.1"}
    - {party: bob, listen_address: "127.0.0.1:1"}
  link_desc: {connect_retry_times: 0, recv_timeout_ms: soon}
psi:
  reciever: alice
  broadcast_result: no
tasks:
  - name: a
    keys: {alice: [id, ""], carol: [x]}
    input_path: {alice: in.txt, bob: in.csv}
    output_path: {alice: out.csv}
    receiver: dave
  - name: a
    keys: id
    input_path: {bob: in.csv}
    output_path: {alice: ./out.csv}
    receiver: alice
whatever: red
"""
    starts(
        mistakes(text),
        "1: job: 'Nightly Overlap' is not a name; use 1 to 63 of a-z, 0-9 and -",
        "5: cluster.nodes[0].address: '127.0.0.1' has no port from 1 to 65535 after a host; give HOST:PORT",
        "6: cluster.nodes[1].listen_address: has no use here; only the first node listens",
        "7: cluster.link_desc.connect_retry_times: 0 is out of bounds; give at least 1",
        "7: cluster.link_desc.recv_timeout_ms: 'soon' is not a whole number; give plain digits",
        "9: psi.reciever: unknown field; did you mean receiver?",
        "10: psi.broadcast_result: 'no' is neither true nor false; give true or false",
        "13: tasks[0].keys.alice: holds an empty column name",
        "13: tasks[0].keys.carol: 'carol' is no party of this job; the parties are alice and bob",
        "14: tasks[0].input_path.alice: 'in.txt' has no known suffix; the suffixes are .csv, .tsv, .csv.gz, .tsv.gz, "
        ".parquet",
        "16: tasks[0].receiver: 'dave' is no party of this job; give alice or bob",
        "17: tasks[1].name: a is the name of another task (line 12); give every task its own",
        "18: tasks[1].keys: is the text 'id'; write for example `keys: {alice: [id], bob: [customer_id]}`",
        "19: tasks[1].input_path.alice: is missing; this party runs here",
        "20: tasks[1].output_path.alice: is the same file as tasks[0].output_path.alice (line 15)",
        "22: whatever: unknown field; the fields here are job, self_party, cluster, psi, pipeline, policy, tasks",
    )


def test_everything_missing(mistakes: Mistakes) -> None:
    starts(
        mistakes("{}"),
        "1: job: is missing; add for example `job: nightly-overlap`",
        "1: cluster: is missing; add for example `cluster: {nodes: ",
        "1: tasks: is missing; add for example `tasks: [",
        "1: self_party: is missing; add it, or give --party",
    )
    fields = ("name", "keys", "input_path", "output_path.alice")
    starts(mistakes(SMALL + "  - {}\n"), *[f"9: tasks[0].{field}: is missing" for field in fields])
    starts(mistakes(SMALL.replace("tasks:", "tasks: []")), "8: tasks: is empty; give at least one")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("psi: {receiver: alice}", "psi: [a]", "7: psi: is a list; write for example `psi: {"),
        ("psi: {receiver: alice}", "psi: {receiver: }", "7: psi.receiver: '' is not a name"),
        ("psi: {receiver: alice}", "psi: {receiver: [alice]}", "7: psi.receiver: is a list"),
        ("{alice: [id]}", "{alice: id}", "10: tasks[0].keys.alice: is the text 'id'"),
        ("{alice: [id]}", "{alice: [[id]]}", "10: tasks[0].keys.alice[0]: is a list"),
        ("{alice: [id]}", "{alice: []}", "10: tasks[0].keys.alice: names 0 columns"),
        ("{alice: [id]}", "{alice: [a, b, a]}", "10: tasks[0].keys.alice: names 'a' more than once"),
        ("[id]", str([f"c{n}" for n in range(256)]), "10: tasks[0].keys.alice: names 256 columns; name 1 to 255"),
        ("{alice: [id]}", "{alice: [a], bob: [a, b]}", "10: tasks[0].keys: has 1 of alice, 2 of bob"),
        ("{alice: [id]}", "{bob: [id]}", "10: tasks[0].keys.alice: is missing"),
        ("{alice: in.csv}", "{alice: {a: b}}", "11: tasks[0].input_path.alice: is a mapping"),
        ("{alice: in.csv}", "{alice: ''}", "11: tasks[0].input_path.alice: is empty"),
        ("{alice: in.csv}", "{alice: []}", "11: tasks[0].input_path.alice: is empty"),
        ("{alice: out.csv}", "{}", "12: tasks[0].output_path.alice: is missing; this party learns the result"),
        ("    output_path: {alice: out.csv}\n", "", "9: tasks[0].output_path.alice: is missing"),
        ("psi: {receiver: alice}\n", "", "8: tasks[0].receiver: is missing; add it here or under psi"),
        ("name: t", "name: a_b", "9: tasks[0].name: 'a_b' is not a name"),
        ("name: t", f"name: {'a' * 65}", "9: tasks[0].name: "),
        ("name: t", "name: ${T}", "9: tasks[0].name: '${T}' is not a name"),
        ("self_party: alice\n", "", "1: self_party: is missing; add it, or give --party (alice or bob)"),
        ("self_party: alice", "self_party: carol", "2: self_party: 'carol' is no party of this job; give alice or bob"),
        ("receiver: alice", "receiver: carol", "7: psi.receiver: 'carol' is no party of this job"),
        ("{party: bob}", "{party: alice}", "6: cluster.nodes[1].party: 'alice' is another node's party too"),
        ("{party: bob}", "bob", "6: cluster.nodes[1]: is the text 'bob'"),
        ("    - {party: bob}\n", "", "4: cluster.nodes: lists 1 nodes; psicli runs between exactly two parties"),
        (
            "{party: bob}\n",
            "{party: bob}\n    - {party: carol}\n",
            "4: cluster.nodes: lists 3 nodes; psicli runs between exactly two parties, other numbers are not supported",
        ),
    ],
)
def test_one_mistake_is_one_line(mistakes: Mistakes, old: str, new: str, expected: str) -> None:
    text = SMALL + TASK
    assert old in text
    starts(mistakes(text.replace(old, new, 1)), expected)


def test_values_are_shown_clipped(mistakes: Mistakes) -> None:
    (line,) = mistakes((SMALL + TASK).replace("job: j", "job: " + "X" * 5000))
    assert len(line) < 400


def test_a_flood_of_mistakes_is_cut(tmp_path: Path, load: Load) -> None:
    with pytest.raises(ConfigError, match="and 904 more mistakes"):
        load("\n".join(f"x{n}: y" for n in range(1000)))


@pytest.mark.parametrize("number", ["0", "-1", "1e3", "1_000", "007", "9" * 30, "1000.0", "", "\u0663"])
def test_numbers_out_of_bounds(mistakes: Mistakes, number: str) -> None:
    # A window of 0 is one: none.
    names = LinkSettings.model_fields.keys() - ({"reconnect_window_ms"} if number == "0" else set())
    for name in sorted(names):
        text = with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"  link_desc: {{{name}: {number}}}\n")
        starts(mistakes(text), f"7: cluster.link_desc.{name}: ")


@pytest.mark.parametrize("word", ["no", "yes", "on", "1", "", "null"])
def test_only_true_and_false_are_truth(mistakes: Mistakes, word: str) -> None:
    text = (SMALL + TASK).replace("{receiver: alice}", f"{{receiver: alice, broadcast_result: {word}}}")
    starts(mistakes(text), "7: psi.broadcast_result: ")


# Parties, --party, --only -----------------------------------------------------------------------------------------


def test_party_argument_comes_before_self_party(load: Load, mistakes: Mistakes) -> None:
    assert load((SMALL + TASK).replace("self_party: alice", "self_party: carol"), party="alice").party == "alice"
    starts(mistakes(SMALL + TASK, party="carol"), "4: --party: 'carol' is no party of this job; give alice or bob")


def test_only_picks_tasks_in_the_order_of_the_file(load: Load, mistakes: Mistakes) -> None:
    text = SMALL + "".join(TASK.replace("name: t", f"name: {n}").replace("out.csv", f"{n}.csv") for n in "abc")
    assert [task.name for task in load(text, only=["c", "a", "c"]).tasks] == ["a", "c"]
    assert [task.name for task in load(text).tasks] == ["a", "b", "c"]
    starts(
        mistakes(text, only=["x", "a", "y"]),
        "8: --only: 'x' is no task of this job; the tasks are a, b, c",
        "8: --only: 'y' is no task",
    )


# Addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["host", "host:", ":1", "host:0", "host:65536", "host:1x", "host:01", "::1:18560", "[::1]", "[host]:1", "[::g]:1",
     "[127.0.0.1]:1", "1.2.3:1", "256.1.1.1:1", "a b:1",
     "http://a:1", "-a:1", "a/b:1", "ä:1", "a" * 254 + ":1",
     "0.0.0.0:1", "[::]:1", "[fe80::1%eth0]:1"],
)  # fmt: skip
def test_bad_address(mistakes: Mistakes, address: str) -> None:
    text = with_nodes(f'{{party: alice, address: "{address}"}}', more="  tls: insecure\n")
    starts(mistakes(text), "5: cluster.nodes[0].address: ")


@pytest.mark.parametrize("address", ["localhost:1", "host:1", "0.0.0.0", "[::1%lo]:1", "127.0.0.1:99999"])
def test_listen_address_is_an_ip_literal(mistakes: Mistakes, address: str) -> None:
    text = with_nodes(f'{{party: alice, address: "127.0.0.1:1", listen_address: "{address}"}}')
    starts(mistakes(text), "5: cluster.nodes[0].listen_address: ")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1:7", "127.0.0.1"),
        ("localhost:7", "127.0.0.1"),
        ("LocalHost:7", "127.0.0.1"),
        ("127.0.0.2:7", "127.0.0.2"),
        ("[::1]:7", "::1"),
        ("alice.example.com:7", "0.0.0.0"),
        ("192.0.2.1:7", "0.0.0.0"),
        ("[2001:db8::1]:7", "::"),
    ],
)
def test_listen_address_by_default(load: Load, address: str, host: str) -> None:
    job = load(with_nodes(f'{{party: alice, address: "{address}"}}', more="  tls: insecure\n"))
    assert (job.listener.listen_host, job.listener.listen_port) == (host, 7)
    assert job.listener.address == address
    assert job.tls_insecure is True


def test_first_node_needs_an_address(mistakes: Mistakes) -> None:
    starts(mistakes(with_nodes("{party: alice}")), "5: cluster.nodes[0].address: is missing; the other party dials it")


def test_port_offset(load: Load, mistakes: Mistakes) -> None:
    text = with_nodes(
        '{party: alice, address: "127.0.0.1:65000", listen_address: "[::1]:10"}',
        '{party: bob, address: "localhost:20"}',
    )
    job = load(text, port_offset=535)
    assert (job.listener.port, job.listener.listen_port) == (65535, 545)
    starts(
        mistakes(text, port_offset=536), "5: cluster.nodes[0].address: the port is 65536 with --port-offset 536; ports"
    )
    assert len(mistakes(text, port_offset=-20)) == 2


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ('address: "alice.example.com:1"', "", "nodes[0].address"),
        ('address: "127.0.0.1:1"', ', address: "192.0.2.1:1"', "nodes[1].address"),
        ('address: "127.0.0.1:1", listen_address: "0.0.0.0:1"', "", "nodes[0].listen_address"),
    ],
)
def test_plain_text_stays_on_this_machine(load: Load, mistakes: Mistakes, first: str, second: str, field: str) -> None:
    def text(more: str) -> str:
        return with_nodes(f"{{party: alice, {first}}}", f"{{party: bob{second}}}", more)

    (line,) = mistakes(text(""))
    assert f"cluster.{field}: " in line
    assert "no tls; add cluster.tls" in line
    assert load(text("  tls: insecure\n")).tls_insecure
    files = "  tls: {ca_file: ca.pem, certificate_file: a.pem, private_key_file: /etc/a.key}\n"
    tls = load(text(files)).tls
    assert tls is not None
    assert tls.private_key_file == Path("/etc/a.key")


def test_tls_name(load: Load) -> None:
    nodes = '{party: alice, address: "127.0.0.1:1", tls_name: psi.alice.example}'
    job = load(with_nodes(nodes))
    assert (job.tls_name, job.peer_tls_name) == ("psi.alice.example", "bob")


@pytest.mark.parametrize("name", ["*.example.com", "a..b", "a b", "alice:1", ".", f"{'a' * 64}.b", "a." * 127 + "a"])
def test_what_is_no_tls_name(mistakes: Mistakes, name: str) -> None:
    (line,) = mistakes(with_nodes(f'{{party: alice, address: "127.0.0.1:1", tls_name: "{name}"}}'))
    assert re.match(r"\d+: cluster\.nodes\[0\]\.tls_name: .* is not a DNS name; give one such as", line)


def test_a_tls_name_for_two(mistakes: Mistakes) -> None:
    (line,) = mistakes(with_nodes('{party: alice, address: "127.0.0.1:1", tls_name: BOB}'))
    assert "cluster.nodes[0].tls_name: 'BOB' would stand for another node's party too; give every party" in line


@pytest.mark.parametrize("tls", ["", "no", "null", "Insecure", "[a]", "{ca_file: a, certificate_file: b}"])
def test_half_a_tls_is_no_tls(mistakes: Mistakes, tls: str) -> None:
    (line,) = mistakes(with_nodes('{party: alice, address: "a.example:1"}', more=f"  tls: {tls}\n"))
    assert line.startswith("7: cluster.tls")


# Variables --------------------------------------------------------------------------------------------------------


def test_variables_in_paths_and_addresses(tmp_path: Path, load: Load) -> None:
    text = with_nodes(
        '{party: alice, address: "${HOST}:${PORT}", listen_address: "${HOST}:18560"}',
        more="  tls: {ca_file: '${DIR}/ca.pem', certificate_file: $$a.pem, private_key_file: a.key}\n",
    ).replace("in.csv", "'in/${DATE}/$${DATE}${DATE}.csv'")
    variables = {"HOST": "127.0.0.1", "PORT": "7", "DIR": "/etc", "DATE": "2024-01-01"}
    job = load(text, variables=variables)
    assert job.tasks[0].input_path == tmp_path / "in/2024-01-01/${DATE}2024-01-01.csv"
    assert (job.listener.address, job.listener.listen_host) == ("127.0.0.1:7", "127.0.0.1")
    assert job.tls is not None
    assert (job.tls.ca_file, job.tls.certificate_file) == (Path("/etc/ca.pem"), tmp_path / "$a.pem")


def test_variables_are_filled_once_and_after_yaml(load: Load) -> None:
    value = "${B}: [}#'\""
    job = load((SMALL + TASK).replace("in.csv", "'${A}/in.csv'"), variables={"A": value, "B": "x"})
    assert str(job.tasks[0].input_path).endswith(f"/{value}/in.csv")


def test_undefined_variable(mistakes: Mistakes) -> None:
    text = (SMALL + TASK).replace("in.csv", "'in/${DAY}/${HOUR}.csv'").replace("127.0.0.1:18560", "${HOST}:18560")
    starts(
        mistakes(text, variables={"HOUR": "1"}),
        "5: cluster.nodes[0].address: ${HOST} is not defined; set it in the environment or with --set HOST=VALUE",
        "11: tasks[0].input_path.alice: ${DAY} is not defined; set it in the environment or with --set DAY=VALUE",
    )


@pytest.mark.parametrize("path", ["$DATE.csv", "${}.csv", "${a-b}.csv", "a$.csv", "${A.csv", "${1}.csv"])
def test_dollar_that_starts_no_variable(mistakes: Mistakes, path: str) -> None:
    text = (SMALL + TASK).replace("in.csv", f"'{path}'")
    starts(mistakes(text, variables={"DATE": "x"}), "11: tasks[0].input_path.alice: holds a $ that starts no variable")


def test_variables_nowhere_else(load: Load) -> None:
    text = (SMALL + TASK).replace("[id]", "['${ID}']").replace("{alice: in.csv}", "{alice: in.csv, bob: '${BOB}.x'}")
    assert load(text).tasks[0].keys == ("${ID}",)


@pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "\udcff", "\0"])
def test_hostile_variable(mistakes: Mistakes, value: str) -> None:
    (line,) = mistakes((SMALL + TASK).replace("in.csv", "'${A}.csv'"), variables={"A": value})
    assert line.startswith("11: tasks[0].input_path.alice: ")
    assert line.isprintable()


# Lists ------------------------------------------------------------------------------------------------------------


def test_lists_are_many_tasks(tmp_path: Path, load: Load) -> None:
    text = with_paths("{alice: [a.csv, '${B}.csv'], bob: [x.csv, y.csv]}", "{alice: [1.csv, 2.parquet]}")
    first, second = load(text, variables={"B": "b"}).tasks
    assert (first.name, first.keys, first.input_path) == ("t-1", ("id",), tmp_path / "a.csv")
    assert (second.name, second.keys, second.output_path) == ("t-2", ("id",), tmp_path / "2.parquet")
    assert second.input_path == tmp_path / "b.csv"
    assert [task.name for task in load(text, variables={"B": "b"}, only=["t-2"]).tasks] == ["t-2"]
    as_bob = text.replace("{alice: [id]}", "{bob: [id]}")
    assert [task.output_path for task in load(as_bob, party="bob").tasks] == [None, None]


def test_list_of_one(load: Load) -> None:
    assert [task.name for task in load(with_paths("{alice: [a.csv]}", "{alice: [o.csv]}")).tasks] == ["t-1"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ("{alice: [a.csv, b.csv]}", "{alice: [o.csv]}", "12: tasks[0].output_path.alice: lists 1 paths where"),
        ("{alice: [a.csv], bob: [c.csv, d.csv]}", "{alice: [o.csv]}", "11: tasks[0].input_path.bob: lists 2 paths"),
        ("{alice: [a.csv]}", "{alice: o.csv}", "12: tasks[0].output_path.alice: is one path; give a list of 1"),
        ("{alice: a.csv}", "{alice: [o.csv]}", "11: tasks[0].input_path.alice: is one path"),
        ("{alice: [a.csv, b.csv]}", "{alice: [o.csv, o.csv]}", "12: tasks[0].output_path.alice[1]: is the same file"),
        ("{alice: [a.csv, b.txt]}", "{alice: [o.csv, p.csv]}", "11: tasks[0].input_path.alice[1]: 'b.txt' has no"),
        ("{alice: [a.csv, [b]]}", "{alice: [o.csv, p.csv]}", "11: tasks[0].input_path.alice[1]: is a list"),
    ],
)
def test_bad_lists(mistakes: Mistakes, inputs: str, outputs: str, expected: str) -> None:
    starts(mistakes(with_paths(inputs, outputs)), expected)


def test_list_names_clash_with_a_task(mistakes: Mistakes) -> None:
    text = with_paths("{alice: [a.csv]}", "{alice: [o.csv]}") + TASK.replace("name: t", "name: t-1")
    starts(mistakes(text), "13: tasks[1].name: t-1 is the name of another task (line 9)")


def test_list_makes_a_name_too_long(mistakes: Mistakes) -> None:
    text = with_paths("{alice: [a.csv]}", "{alice: [o.csv]}").replace("name: t", "name: " + "t" * 63)
    (line,) = mistakes(text)
    assert "is too long; names have at most 63 characters" in line


# Paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", (Format.CSV, False)),
        ("a.tsv", (Format.TSV, False)),
        ("a.csv.gz", (Format.CSV, True)),
        ("a.tsv.gz", ("tsv", True)),
        ("x/a.b.parquet", ("parquet", False)),
        ("-", ("csv", False)),
    ],
)
def test_file_format(name: str, expected: tuple[str, bool]) -> None:
    assert file_format(name) == expected
    assert file_format(Path(name)) == FileFormat(Format(expected[0]), expected[1])


@pytest.mark.parametrize("name", ["a", "a.CSV", "a.txt", "a.gz", "a.parquet.gz", "csv", "a.csv/", "", "./-"])
def test_unknown_suffix(mistakes: Mistakes, name: str) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        file_format(name)
    assert caught.value.code == 78
    assert ".parquet" in caught.value.advice
    assert len(mistakes(with_paths(f"{{alice: '{name}', bob: '{name}'}}", "{alice: o.csv}"))) == 2


@pytest.mark.parametrize("output", ["in.csv", "./in.csv", "sub/../in.csv", "link.csv", "folder/in.csv"])
def test_output_must_not_be_an_input(tmp_path: Path, mistakes: Mistakes, output: str) -> None:
    (tmp_path / "link.csv").symlink_to("in.csv")
    (tmp_path / "folder").symlink_to(".")
    (tmp_path / "sub").mkdir()
    (line,) = mistakes(with_paths("{alice: in.csv}", f"{{alice: {output}}}"))
    assert line.startswith("12: tasks[0].output_path.alice: is the same file as tasks[0].input_path.alice (line 11)")


def test_output_must_not_be_the_input_of_a_later_task(mistakes: Mistakes) -> None:
    later = (
        TASK.replace("name: t", "name: u")
        .replace("in.csv", "out.csv")
        .replace("{alice: out.csv}\n", "{alice: p.csv}\n")
    )
    later = later.replace("input_path: {alice: p.csv}", "input_path: {alice: out.csv}")
    starts(mistakes(SMALL + TASK + later), "12: tasks[0].output_path.alice: is the same file as tasks[1].input_path")


def test_one_input_may_serve_many_tasks(load: Load) -> None:
    assert len(load(SMALL + TASK + TASK.replace("name: t", "name: u").replace("out.csv", "p.csv")).tasks) == 2


def test_standard_streams_serve_one_task(mistakes: Mistakes) -> None:
    one = TASK.replace("in.csv", "'-'").replace("out.csv", "'-'")
    starts(
        mistakes(SMALL + one + one.replace("name: t", "name: u")),
        "15: tasks[1].input_path.alice: - is an input already (line 11)",
        "16: tasks[1].output_path.alice: is the same file as tasks[0].output_path.alice (line 12)",
    )


def test_nothing_but_the_yaml_is_touched(tmp_path: Path, load: Load) -> None:
    load(SAMPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


# Policy -----------------------------------------------------------------------------------------------------------


def with_policy(policy: str, **replaced: str) -> str:
    text = SMALL.replace("tasks:\n", f"policy: {{{policy}}}\ntasks:\n") + TASK
    for old, new in replaced.items():
        text = text.replace(f"{old}: alice", f"{old}: {new}")
    return text


def test_a_job_without_a_policy_allows_everything(load: Load) -> None:
    assert set(load(SMALL + TASK).policy.model_dump().values()) == {None}


def test_every_limit(load: Load) -> None:
    limits = {
        "min_peer_items": 1,
        "max_peer_items": 1,
        "max_runs_per_day": 3,
        "max_match_rate": 0.25,
        "min_output_rows": 9,
    }
    assert load(with_policy(str(limits).strip("{}").replace("'", ""))).policy.model_dump() == limits


@pytest.mark.parametrize(("text", "rate"), [("1", 1.0), ("1.00", 1.0), ("0.5", 0.5), ("0.000000000001", 1e-12)])
def test_rates(load: Load, text: str, rate: float) -> None:
    assert load(with_policy(f"max_match_rate: {text}")).policy.max_match_rate == rate


@pytest.mark.parametrize(
    "text", ["0", "0.0", "1.5", "1.01", "2", "-0.5", "25%", ".5", "5e-1", "nan", "inf", "''", "half"]
)
def test_what_is_no_rate(mistakes: Mistakes, text: str) -> None:
    starts(
        mistakes(with_policy(f"max_match_rate: {text}")),
        f"8: policy.max_match_rate: '{text.strip(chr(39))}' is not a rate; give a decimal fraction above 0",
    )


@pytest.mark.parametrize("name", ["min_peer_items", "max_peer_items", "max_runs_per_day", "min_output_rows"])
def test_what_is_no_limit(mistakes: Mistakes, name: str) -> None:
    starts(mistakes(with_policy(f"{name}: 0")), f"8: policy.{name}: 0 is out of bounds; give at least 1")
    starts(mistakes(with_policy(f"{name}: 1.5")), f"8: policy.{name}: '1.5' is not a whole number")
    starts(mistakes(with_policy(f"{name}s: 1")), f"8: policy.{name}s: unknown field; did you mean {name}?")


def test_sizes_that_exclude_each_other(mistakes: Mistakes) -> None:
    starts(
        mistakes(with_policy("min_peer_items: 11, max_peer_items: 10")),
        "8: policy.min_peer_items: 11 is more than max_peer_items, which is 10; give the smaller number here",
    )


@pytest.mark.parametrize("limit", ["max_match_rate: 0.5", "min_output_rows: 5"])
def test_limits_on_a_result_this_party_never_sees(load: Load, mistakes: Mistakes, limit: str) -> None:
    name = limit.split(":")[0]
    right = "remove it, or give such tasks a job of their own"
    what = "cannot be checked: task t has no result for alice, which is its sender"
    text = with_policy(limit, receiver="bob")
    starts(mistakes(text), f"8: policy.{name}: {what}; {right}")
    load(text.replace("{receiver: bob}", "{receiver: bob, broadcast_result: true}"))
    load(text.replace("name: t", "name: t\n    receiver: alice"))
    # Only the tasks that run count.
    mixed = text + TASK.replace("name: t", "name: u\n    receiver: alice").replace("out.csv", "u.csv")
    load(mixed, only=["u"])
    starts(mistakes(mixed), f"8: policy.{name}: {what}")
    # Nobody else's mistake is made ours.
    starts(mistakes(text, party="carol"), "4: --party: 'carol' is no party of this job")


def test_a_simulation_has_no_policy(load: Load, tmp_path: Path) -> None:
    text = with_policy("max_match_rate: nonsense", receiver="bob")
    assert load(text, simulated_port=18560).policy.max_match_rate is None


# Schema -----------------------------------------------------------------------------------------------------------


def test_schema_describes_every_field() -> None:
    schema = job_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert '"null"' not in json.dumps(schema)
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        for name, field in part["properties"].items():
            assert field["description"], name
            assert field["examples"], name
            # The models' own words for a bound mean nothing in a schema.
            assert not {"ge", "le", "multiple_of"} & set(field), name


@pytest.mark.parametrize("model", sorted(set(MODELS.values()), key=lambda model: model.__name__))
def test_examples_are_valid(model: type[BaseModel]) -> None:
    fields = model.model_fields.items()
    for name, field in fields:
        for example in field.examples or []:
            others = {other: (value.examples or [None])[0] for other, value in fields if value.is_required()}
            model.model_validate({**others, name: example})


def test_schema_and_model_agree_on_the_documented_file(load: Load) -> None:
    plain = yaml.safe_load(SAMPLE)
    assert set(job_schema()["required"]) == {"job", "cluster", "tasks"}
    assert JobFile.model_validate(plain) == JobFile.model_validate(yaml.load(SAMPLE, Loader=yaml.BaseLoader))


# Speed, imports, hostile input ------------------------------------------------------------------------------------


def test_a_batch_of_a_thousand_loads_fast(load: Load) -> None:
    names = [f"f{n}.csv" for n in range(1000)]
    outputs = ", ".join(f"out/{name}" for name in names)
    began = time.monotonic()
    job = load(with_paths(f"{{alice: [{', '.join(names)}]}}", f"{{alice: [{outputs}]}}"))
    assert len(job.tasks) == 1000
    assert time.monotonic() - began < 10


def test_config_imports_nothing_heavy() -> None:
    code = "import sys, psicli.config; print(*{'grpc', 'pyarrow', 'numpy', 'pandas', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


PIECES = st.sampled_from(
    [b"alice", b"bob", b"-", b"- ", b": ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"!!int ", b"!x ", b"'", b'"', b"\n",
     b"\n  ", b"\t", b"|\n", b"? ", b"<<: ", b"%YAML 1.2\n", b"---\n", b"...\n", b"\0", b"\xff", b"\\U00110000",
     b"\\ud800", b"$", b"${A}", b"$$", b"${B}", b",", b"# ", b"127.0.0.1:1", b"[::1]:1", b"tls: insecure", b"1" * 30,
     b"~", b"\xc2\x85"]
)  # fmt: skip


def mutate(edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    data = SAMPLE.encode()
    for start, length, piece in edits:
        start %= len(data) + 1
        data = data[:start] + piece + data[start + length :]
    return data


EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 40), PIECES), min_size=1, max_size=6)


def loads_or_refuses(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(data)
        try:
            lines = [f"{path}: {len(load_job(path, variables={'A': 'x'}).tasks)}"]
        except ConfigError as error:
            lines = error.message.splitlines()
    assert lines
    assert all(line.isprintable() and line.startswith(f"{path}:") for line in lines)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EDITS.map(mutate))
def test_mutated_job_files_are_loaded_or_refused(data: bytes) -> None:
    loads_or_refuses(data)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(b"".join)))
def test_any_bytes_are_loaded_or_refused(data: bytes) -> None:
    loads_or_refuses(data)


# Trees that are valid YAML but hold any kind of thing anywhere.
LEAVES = st.sampled_from(["", "alice", "bob", "x.csv", "-", "true", "127.0.0.1:1", "${A}", "$", "insecure", "7"])
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["alice", "bob", "party", "address", "name", "keys", "|one"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_shape_is_loaded_or_refused(data: st.DataObject) -> None:
    tree = yaml.safe_load(SAMPLE)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(tree)
    for node, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
        if data.draw(st.booleans()) and isinstance(node, dict):
            node.pop(key, None)
        else:
            node[key] = data.draw(TREES)
    loads_or_refuses(yaml.safe_dump(tree).encode())
