"""Job files without errors, and how YAML is read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml
from support.job_files import SAMPLE, SMALL, TASK, Errors, Load, starts, with_nodes, with_paths

from psicli.config import fields, load_job
from psicli.config.document import MAX_FILE_BYTES
from psicli.config.fields import default_memory
from psicli.config.models import (
    LinkSettings,
)
from psicli.core.errors import ArgumentError, InputMissingError
from psicli.core.formats import Dialect, FileFormat, Format
from psicli.items.forms.names import Form
from psicli.job.meeting import bin_items
from psicli.storage.memory import LIBRARIES, MemoryPlan

# A file without errors --------------------------------------------------------------------------------------------


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
        "workers": "threads",
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
        "forms": (Form("text"),),
        "input": {
            "paths": (tmp_path / "in/customers.csv",),
            "query": None,
            "where": "",
            "is_filled": False,
            "dialect": Dialect(),
        },
        "output_path": tmp_path / "out/customers.csv",
        "output_format": FileFormat(Format.CSV),
        "receiver": "alice",
        "broadcast_result": False,
        "result": "rows",
        "protocol": "ecdh",
        "output": {"rows": "matched", "flag": None, "columns": None, "order": "key"},
        "group": "",
        "files": (),
    }


def test_the_other_party_of_the_same_file(tmp_path: Path, load: Load) -> None:
    job = load(SAMPLE, party="bob")
    assert (job.party, job.peer, job.listens) == ("bob", "alice", False)
    assert (job.tasks[0].keys, job.tasks[0].input.paths[0]) == (("customer_id",), tmp_path / "in/crm.parquet")
    assert job.tasks[0].output_path is None


def test_values_are_frozen(load: Load) -> None:
    job = load(SAMPLE)
    with pytest.raises(AttributeError):
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


def test_a_party_that_does_not_learn_the_result_has_no_output(load: Load) -> None:
    text = (SMALL + TASK).replace("receiver: alice", "receiver: bob")
    assert load(text).tasks[0].output_path is None
    assert load(text.replace("    output_path: {alice: out.csv}\n", "")).tasks[0].output_path is None


def test_relative_paths_start_at_the_yaml(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    load(SMALL + TASK)
    monkeypatch.chdir(tmp_path.parent)
    relative = load_job(Path(tmp_path.name) / "job.yaml", variables={})
    assert relative.tasks[0].input.paths[0] == Path(tmp_path.name) / "in.csv"
    absolute = load(with_paths("{alice: /data/in.csv}", "{alice: ../out.csv}"))
    assert absolute.tasks[0].input.paths[0] == Path("/data/in.csv")
    assert absolute.tasks[0].output_path == tmp_path / "../out.csv"


def test_standard_input_and_output(load: Load) -> None:
    (task,) = load(with_paths("{alice: '-'}", "{alice: '-'}")).tasks
    assert (task.input.paths[0], task.output_path) == ("-", "-")


def test_numbers_within_bounds(load: Load) -> None:
    link = (
        "  link_desc: {connect_retry_times: 1, connect_retry_interval_ms: 50, recv_timeout_ms: 1000, "
        "reconnect_window_ms: 0}\n"
    )
    job = load(with_nodes('{party: alice, address: "127.0.0.1:1"}', more=link))
    assert tuple(job.link.model_dump().values()) == (1, 50, 1000, 0)


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.yaml", "job.yaml/job.yaml"])
def test_no_job_file(tmp_path: Path, load: Load, name: str) -> None:
    load(SAMPLE)
    with pytest.raises(InputMissingError) as caught:
        load_job(tmp_path / name, variables={})
    assert caught.value.code == 66
    assert name in caught.value.message


def test_folder_as_job_file(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="cannot read this job file: is a directory"):
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
        (b'job: a\nx: "b\ny: c\n', "2: YAML: while scanning a quoted scalar, found unexpected end of stream"),
        (b"- a\n- b\n", "1: job file: is a list"),
        (b"just text\n", "1: job file: holds no fields; give a YAML file with fields such as `job: "),
        (b"\n\n? [a]\n: b\n", "3: job file: has a field name that is not text"),
        (b"#" * (MAX_FILE_BYTES + 1), "1: job file: is too large"),
    ],
)
def test_unreadable_yaml(errors: Errors, data: bytes, expected: str) -> None:
    assert errors(data)[0].startswith(expected)


def test_byte_order_mark_and_windows_lines(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + SAMPLE.replace("\n", "\r\n").encode()) == load(SAMPLE)


def test_aliases(load: Load) -> None:
    text = SMALL + TASK.replace("{alice: [id]}", "&k {alice: [id, x]}") + TASK.replace("{alice: [id]}", "*k")
    text = text.replace("name: t", "name: u", 1).replace("out.csv", "out2.csv", 1)
    assert [task.keys for task in load(text).tasks] == [("id", "x"), ("id", "x")]


def test_alias_of_itself(errors: Errors) -> None:
    starts(errors("job: j\ntasks: &t\n  - *t\n"), "2: tasks[0]: is an alias of a value that contains it")


@pytest.mark.parametrize("width", [1, pytest.param(10, marks=pytest.mark.more)])
def test_exploding_aliases(errors: Errors, width: int) -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 60)]
    began = time.monotonic()
    assert "makes the file too large or too deep" in errors("\n".join(lines))[0]
    assert time.monotonic() - began < 60


def test_merged_fields(load: Load, errors: Errors) -> None:
    """A mapping's own fields come first, then the first of the merged ones; lines are those where a field stands."""
    base = TASK.replace("- name", "- &base\n    name")
    merged = "  - <<: [*base, {receiver: bob, name: x}]\n    name: u\n    output_path: {alice: o.csv}\n"
    first, second = load(SMALL + base + merged).tasks
    assert (
        second.model_copy(
            update={name: getattr(first, name) for name in ("name", "output_path", "output_format", "receiver")}
        )
        == first
    )
    assert (second.name, second.receiver) == ("u", "bob")
    nested = SMALL.replace("psi: {", "psi: &p {") + TASK.replace("name: t", "<<: {<<: *p, name: v}")
    assert load(nested).tasks[0].name == "v"
    starts(
        errors(
            SMALL + base.replace("[id]", "[id, id]") + merged.replace("bob", "carol").replace("[*base,", "[*base, x,")
        ),
        "11: tasks[0].keys.alice: names 'id' more than once",
        "11: tasks[1].keys.alice: names 'id' more than once",
        "14: tasks[1].'<<': merges a value that has no fields; write <<: *NAME of a mapping",
        "14: tasks[1].receiver: 'carol' is not a party",
    )
    starts(errors(SMALL + TASK + "'<<': {job: k}\n"), "13: '<<': unknown field")


@pytest.mark.more
def test_merges_without_end(errors: Errors) -> None:
    starts(errors("job: &j {<<: *j}\n"), "1: job: is an alias of a value that contains it")
    lines = ["a0: &a0 {x: y}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60)]
    assert "makes the file too large or too deep" in errors("\n".join(lines))[0]


def test_job_files_that_json_dumps_wrote(load: Load) -> None:
    """JSON writes a character beyond U+FFFF as two escapes."""
    for indent in (None, 2):
        text = json.dumps(
            yaml.safe_load((SMALL + TASK).replace("[id]", "['\U0001f511/\u8eab\u4efd\u8bc1']")), indent=indent
        )
        assert "\\ud83d\\udd11" in text
        assert load(text).tasks[0].keys == ("\U0001f511/\u8eab\u4efd\u8bc1",)


@pytest.mark.parametrize(
    ("column", "name"),
    [('""', ""), ('"line\\nbreak"', "line\nbreak"), ('"\\t\\0"', "\t\0"), ('"\\ufeffid"', "\ufeffid")],
)
def test_key_columns_have_any_name(load: Load, column: str, name: str) -> None:
    assert load((SMALL + TASK).replace("[id]", f"[{column}]")).tasks[0].keys == (name,)


def test_half_a_character_is_no_name(errors: Errors) -> None:
    found = errors((SMALL + TASK).replace("[id]", '["\\ud83d"]'))
    starts(found, "10: tasks[0].keys.alice[0]: '\\ud83d' is not valid Unicode text; write it in UTF-8")


@pytest.mark.parametrize(
    ("old", "new", "right"),
    [
        ("in.csv", "in/${DATE}/x.csv", '11: YAML: .*; put a value with ${…} in quotes: "in/${DATE}/x.csv"'),
        ("{alice: out.csv}", "{bob: b.csv, alice: ${D}}", '12: YAML: .*; put a value with ${…} in quotes: "${D}"'),
        ("{alice: in.csv}", "[a.csv, ${D}-b.csv]", '11: YAML: .*; put a value with ${…} in quotes: "${D}-b.csv"'),
        ("in.csv", "*.csv", "11: YAML: .*; put a value that begins with a special character"),
        ("in.csv", "@in.csv", "11: YAML: .*; put a value that begins with a special character"),
        ("name: t", "name: t: u", "9: YAML: .*; put a value that begins with a special character"),
        ("    keys", "\tkeys", "10: YAML: .*; indent with spaces"),
    ],
)
def test_yaml_that_needs_quotes(errors: Errors, old: str, new: str, right: str) -> None:
    (line,) = errors((SMALL + TASK).replace(old, new))
    start, end = right.split(".*")
    assert line.startswith(start)
    assert end in line


def test_repeated_yaml_key(errors: Errors) -> None:
    text = SMALL + TASK + "    keys: {alice: [id], alice: [other]}\njob: j\n"
    starts(
        errors(text),
        "13: tasks[0].keys: appears twice (first in line 10); keep one",
        "14: job: appears twice (first in line 1)",
    )


def test_repeated_key_in_a_flow_mapping(errors: Errors) -> None:
    text = SMALL + TASK.replace("{alice: [id]}", "{alice: [id], alice: [other]}")
    starts(errors(text), "10: tasks[0].keys.alice: appears twice (first in line 10)")


def test_tags_are_refused(errors: Errors) -> None:
    starts(errors((SMALL + TASK).replace("job: j", "job: !!int 7")), "1: job: has the YAML tag")
    starts(errors("!!python/object:os.system {}\n"), "1: job file: has the YAML tag")


def test_control_characters_are_refused(errors: Errors) -> None:
    text = (SMALL + TASK).replace("in.csv", '"\\ud800.csv"').replace("out.csv", '"a\\0b.csv"')
    found = errors(text + '"\\e[2J": x\n')
    starts(
        found,
        "11: tasks[0].input_path.alice: '\\ud800.csv' is not valid Unicode text; write it in UTF-8",
        "12: tasks[0].output_path.alice: 'a\\x00b.csv' contains a line break or control character",
        "13: ",
    )
    assert all(line.isprintable() for line in found)


def test_threads(load: Load, errors: Errors) -> None:
    text = with_nodes('{party: alice, address: "127.0.0.1:1"}', more="pipeline: {threads: 3}\n")
    assert load(text).pipeline.threads == 3
    wrong = [errors(text.replace("3", value)) for value in ("0", "1025", "all")]
    assert wrong == [
        ["7: pipeline.threads: 0 is out of range; give at least 1"],
        ["7: pipeline.threads: 1025 is out of range; give at most 1024"],
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
        ("depth", "0", "0 is out of range; give at least 1"),
        ("depth", "65", "65 is out of range; give at most 64"),
        ("depth", "9" * 20, f"'{'9' * 20}' is out of range; give at most 12 digits"),
        ("depth", "deep", "'deep' is not a whole number; give plain digits, without unit or sign"),
        ("frame_items", "0", "0 is out of range; give at least 1024"),
        ("frame_items", "1016", "1016 is out of range; give at least 1024"),
        ("frame_items", "1028", "1028 is not a multiple of 8; give a multiple of 8"),
        ("frame_items", "32776", "32776 is out of range; give at most 32768"),
        ("frame_items", "16k", "'16k' is not a whole number; give plain digits, without unit or sign"),
        ("bin_items", "0", "0 is out of range; give at least 16384"),
        ("bin_items", "8192", "8192 is out of range; give at least 16384"),
        ("bin_items", "134217728", "134217728 is out of range; give at most 67108864"),
        ("bin_items", "16385", "16385 is not a power of two; give 16384 or 32768"),
        ("bin_items", "1000000", "1000000 is not a power of two; give 524288 or 1048576"),
        ("bin_items", "1M", "'1M' is not a whole number; give plain digits, without unit or sign"),
        ("memory", "383MB", "'383MB' is too little; give at least 384MB"),
        ("memory", "366MiB", "'366MiB' is too little; give at least 384MB"),
        ("memory", "383999999", "'383999999' is too little; give at least 384MB"),
        ("memory", "2", "'2' is too little; give at least 384MB"),
        ("memory", "512M", "'512M' is not an amount of memory; give for example 512MB, 2GB or 400MiB"),
        ("memory", "1.5GB", "'1.5GB' is not an amount of memory; give for example 512MB, 2GB or 400MiB"),
        (
            "memory",
            "500000\u212aB",
            "'500000\u212aB' is not an amount of memory; give for example 512MB, 2GB or 400MiB",
        ),
        ("memory", "-1GB", "'-1GB' is not an amount of memory; give for example 512MB, 2GB or 400MiB"),
        ("memory", "[1GB]", "is a list; write it like `memory: 512MB`"),
    ],
)
def test_pipeline_settings_out_of_bounds(errors: Errors, setting: str, value: str, expected: str) -> None:
    assert errors(pipeline(setting, value)) == [f"7: pipeline.{setting}: {expected}"]


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
def test_bin_items_follow_from_memory_unless_set(load: Load, settings: str, items: int) -> None:
    text = with_nodes('{party: alice, address: "127.0.0.1:1"}', more=f"pipeline: {settings}\n")
    assert bin_items(load(text)) == items


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("4000000000\n", 1_000_000_000), ("600000000\n", 384_000_000), ("max\n", None), (None, None)],
)
def test_default_memory_is_a_quarter_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int | None
) -> None:
    """The memory of the machine, or of the container if that is smaller."""
    machine = 16_000_000_000
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": machine // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr(fields, "MEMORY_LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert default_memory() == (expected or machine // 4)


def test_a_limit_on_the_address_space_lowers_the_default_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, expected in ((400_000_000, 400_000_000), (0, 384_000_000)):
        monkeypatch.setattr(fields, "room_for_memory", lambda room=room: room)
        monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 4_000_000, "SC_PAGE_SIZE": 4096}.__getitem__)
        monkeypatch.setattr(fields, "MEMORY_LIMITS", ())
        assert default_memory() == expected


# Parties, --party, --only -------------------------------------------------------------------------------------------


def test_party_argument_overrides_self_party(load: Load, errors: Errors) -> None:
    assert load((SMALL + TASK).replace("self_party: alice", "self_party: carol"), party="alice").party == "alice"
    with pytest.raises(ArgumentError) as caught:
        load(SMALL + TASK, party="carol")
    assert (caught.value.code, caught.value.message) == (2, "--party: 'carol' is not a party of this job (line 4)")
    assert caught.value.advice == "The parties are alice and bob."
    # The file comes first.
    starts(errors(SMALL + TASK + "x: y\n", party="carol"), "13: x: unknown field")


def test_only_selects_tasks_in_the_order_of_the_file(load: Load, errors: Errors) -> None:
    text = SMALL + "".join(TASK.replace("name: t", f"name: {n}").replace("out.csv", f"{n}.csv") for n in "abc")
    assert [task.name for task in load(text, only=["c", "a", "c"]).tasks] == ["a", "c"]
    assert [task.name for task in load(text).tasks] == ["a", "b", "c"]
    with pytest.raises(ArgumentError) as caught:
        load(text, only=["a", "x", "y"])
    assert (caught.value.code, caught.value.message) == (2, "--only: 'x' is not a task of this job (line 8)")
    assert caught.value.advice == "The tasks are a, b, c."
    with pytest.raises(ArgumentError) as caught:
        load(text.replace("name: a", "name: customers"), only=["custommers"])
    assert caught.value.advice == "Did you mean customers?"
