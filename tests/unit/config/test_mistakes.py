"""Errors in job files, and hostile job files: all errors are reported, each with its line."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.job_files import SAMPLE, SMALL, TASK, Errors, Load, starts, with_nodes, with_paths

from psicli.config import load_job
from psicli.config.model import Model
from psicli.config.models import (
    JobFile,
    LinkSettings,
)
from psicli.config.schema import job_schema
from psicli.config.shape import JOB_FILE
from psicli.core.errors import ConfigError

# Shape --------------------------------------------------------------------------------------------------------------


def test_all_errors_are_reported_in_order_of_line(errors: Errors) -> None:
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
    keys: {alice: [id, id], carol: [x]}
    input_path: {alice: in.text, bob: in.csv}
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
        errors(text),
        "1: job: 'Nightly Overlap' is not a name; use 1 to 63 of a-z, 0-9 and -",
        "5: cluster.nodes[0].address: '127.0.0.1' is not a host followed by a port from 1 to 65535; give HOST:PORT",
        "6: cluster.nodes[1].listen_address: has no effect here; only the first node listens",
        "7: cluster.link_desc.connect_retry_times: 0 is out of range; give at least 1",
        "7: cluster.link_desc.recv_timeout_ms: 'soon' is not a whole number; give plain digits",
        "9: psi.reciever: unknown field; did you mean receiver?",
        "10: psi.broadcast_result: 'no' is neither true nor false; give true or false",
        "13: tasks[0].keys.alice: names 'id' more than once; name every key column once",
        "13: tasks[0].keys.carol: 'carol' is not a party of this job; the parties are alice and bob",
        "14: tasks[0].input_path.alice: 'in.text' has no known suffix; use one of .csv, .tsv, .jsonl, .ndjson "
        "(also with .gz or .zst), .parquet, .parq, .pq, .arrow, .feather, .arrows",
        "16: tasks[0].receiver: 'dave' is not a party of this job; give alice or bob",
        "17: tasks[1].name: a is the name of another task (line 12); give every task its own",
        "18: tasks[1].keys: is the text 'id'; write it like `keys: {alice: [id], bob: [customer_id]}`",
        "19: tasks[1].input_path.alice: is missing; this party runs here",
        "20: tasks[1].output_path.alice: is the same file as tasks[0].output_path.alice (line 15)",
        "22: whatever: unknown field; the fields here are job, self_party, cluster, psi, pipeline, csv, policy, "
        "keep_going, tasks",
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "psi: {",
            "receiver: alice\npsi: {",
            "7: receiver: unknown field; it belongs under `psi`, or in an entry of `tasks`; the fields here are job, ",
        ),
        ("psi: {", "address: a\npsi: {", "7: address: unknown field; it belongs in an entry of `cluster.nodes`; the"),
        ("psi: {", "psi: {job: a, ", "7: psi.job: unknown field; it belongs at the top level; the fields here are rec"),
        (
            "psi: {",
            "pipeline: {header: no}\npsi: {",
            "7: pipeline.header: unknown field; did you mean threads, or does it belong under `csv`, or under "
            "`tasks.csv`?",
        ),
        (
            "{alice: [id]}",
            "{alice: [{columns: id}]}",
            "10: tasks[0].keys.alice[0].columns: unknown field; did you mean column, or does it belong under "
            "`tasks.output`?",
        ),
        ("psi: {", "recever: alice\npsi: {", "7: recever: unknown field; the fields here are job, self_party, "),
    ],
)
def test_a_field_that_belongs_elsewhere(errors: Errors, old: str, new: str, expected: str) -> None:
    starts([each for each in errors((SMALL + TASK).replace(old, new)) if "unknown field" in each], expected)


def test_everything_missing(errors: Errors) -> None:
    starts(
        errors("{}"),
        "1: job: is missing; add it, for example `job: nightly-overlap`",
        "1: cluster: is missing; add it, for example `cluster: {nodes: ",
        "1: tasks: is missing; add it, for example `tasks: [",
        "1: self_party: is missing; add it, or give --party",
    )
    fields = ("name", "keys", "input_path", "output_path.alice")
    starts(errors(SMALL + "  - {}\n"), *[f"9: tasks[0].{field}: is missing" for field in fields])
    starts(errors(SMALL.replace("tasks:", "tasks: []")), "8: tasks: is empty; give at least one")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("psi: {receiver: alice}", "psi: [a]", "7: psi: is a list; write it like `psi: {"),
        ("psi: {receiver: alice}", "psi: {receiver: }", "7: psi.receiver: is empty; use 1 to 63 of"),
        ("psi: {receiver: alice}", "psi: {receiver: [alice]}", "7: psi.receiver: is a list"),
        (
            "psi: {receiver",
            "  tls: {insecure: true}\npsi: {receiver",
            "7: cluster.tls: is a mapping that holds insecure; write `tls: insecure`",
        ),
        *(
            (
                "psi: {receiver",
                f"  tls: {text}\npsi: {{receiver",
                f"7: cluster.tls: is the text {text!r}; name three files under it, remove it if both",
            )
            for text in ("", "true", "false", "none", "Insecure")
        ),
        ("{alice: [id]}", "{alice: id}", "10: tasks[0].keys.alice: is the text 'id'"),
        ("{alice: [id]}", "{alice: [[id]]}", "10: tasks[0].keys.alice[0]: is a list"),
        ("{alice: [id]}", "{alice: []}", "10: tasks[0].keys.alice: the number of columns is 0"),
        ("{alice: [id]}", "{alice: [a, b, a]}", "10: tasks[0].keys.alice: names 'a' more than once"),
        ("[id]", str([f"c{n}" for n in range(256)]), "10: tasks[0].keys.alice: the number of columns is 256; name 1"),
        (
            "{alice: [id]}",
            "{alice: [a], bob: [a, b]}",
            "10: tasks[0].keys: the number of key columns is 1 for alice and 2 for bob; "
            "give both parties the same number",
        ),
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
        ("self_party: alice", "self_party: carol", "2: self_party: 'carol' is not a party of this job; give alice"),
        ("receiver: alice", "receiver: carol", "7: psi.receiver: 'carol' is not a party of this job"),
        ("{party: bob}", "{party: alice}", "6: cluster.nodes[1].party: 'alice' is the party of another node too"),
        ("{party: bob}", "bob", "6: cluster.nodes[1]: is the text 'bob'"),
        ("    - {party: bob}\n", "", "4: cluster.nodes: the number of nodes is 1; psicli runs between exactly"),
        (
            "{party: bob}\n",
            "{party: bob}\n    - {party: carol}\n",
            "4: cluster.nodes: the number of nodes is 3; psicli runs between exactly two parties; list two nodes",
        ),
    ],
)
def test_one_mistake_is_one_line(errors: Errors, old: str, new: str, expected: str) -> None:
    text = SMALL + TASK
    assert old in text
    starts(errors(text.replace(old, new, 1)), expected)


def test_values_are_shown_clipped(errors: Errors) -> None:
    (line,) = errors((SMALL + TASK).replace("job: j", "job: " + "X" * 5000))
    assert len(line) < 400


def test_many_errors_are_truncated(tmp_path: Path, load: Load) -> None:
    with pytest.raises(ConfigError, match="and 904 more errors"):
        load("\n".join(f"x{n}: y" for n in range(1000)))


@pytest.mark.parametrize("number", ["0", "-1", "1e3", "1_000", "007", "9" * 30, "1000.0", "", "\u0663"])
def test_numbers_out_of_range(errors: Errors, number: str) -> None:
    # reconnect_window_ms may be 0, which disables reconnecting.
    names = LinkSettings.model_fields.keys() - ({"reconnect_window_ms"} if number == "0" else set())
    for name in sorted(names):
        text = with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"  link_desc: {{{name}: {number}}}\n")
        starts(errors(text), f"7: cluster.link_desc.{name}: ")


@pytest.mark.parametrize("word", ["no", "yes", "on", "1", "", "null"])
def test_booleans_are_true_or_false(errors: Errors, word: str) -> None:
    text = (SMALL + TASK).replace("{receiver: alice}", f"{{receiver: alice, broadcast_result: {word}}}")
    starts(errors(text), "7: psi.broadcast_result: ")


# Schema -------------------------------------------------------------------------------------------------------------


def test_schema_describes_every_field() -> None:
    schema = job_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert '"null"' not in json.dumps(schema)
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        for name, field in part["properties"].items():
            assert field["description"], name
            assert field["examples"], name
            # These names of the bounds have no meaning in a JSON Schema.
            assert not {"ge", "le", "multiple_of"} & set(field), name


@pytest.mark.parametrize("model", sorted(set(JOB_FILE.models.values()), key=lambda model: model.__name__))
def test_examples_are_valid(model: type[Model]) -> None:
    fields = model.model_fields.items()
    for name, field in fields:
        for example in field.examples or []:
            others = {other: (value.examples or [None])[0] for other, value in fields if value.is_required()}
            model.model_validate({**others, name: example})


def test_schema_and_model_agree_on_the_documented_file(load: Load) -> None:
    plain = yaml.safe_load(SAMPLE)
    assert set(job_schema()["required"]) == {"job", "cluster", "tasks"}
    assert JobFile.model_validate(plain) == JobFile.model_validate(yaml.load(SAMPLE, Loader=yaml.BaseLoader))


# Speed, imports, hostile input --------------------------------------------------------------------------------------


@pytest.mark.more
def test_a_batch_of_a_thousand_loads_fast(load: Load) -> None:
    names = [f"f{n}.csv" for n in range(1000)]
    outputs = ", ".join(f"out/{name}" for name in names)
    began = time.monotonic()
    job = load(with_paths(f"{{alice: [{', '.join(names)}]}}", f"{{alice: [{outputs}]}}"))
    assert len(job.tasks) == 1000
    assert time.monotonic() - began < 60


def test_config_imports_nothing_heavy() -> None:
    heavy = {"grpc", "pyarrow", "numpy", "pandas", "click", "phonenumbers"}
    code = f"import sys, psicli.config; print(*{heavy} & set(sys.modules))"
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


@pytest.mark.more
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EDITS.map(mutate))
def test_mutated_job_files_are_loaded_or_refused(data: bytes) -> None:
    loads_or_refuses(data)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=20).map(b"".join)))
def test_any_bytes_are_loaded_or_refused(data: bytes) -> None:
    loads_or_refuses(data)


# Trees that are valid YAML, with any kind of value anywhere.
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


@pytest.mark.more
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
