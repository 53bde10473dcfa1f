"""What a batch file and the names of job files become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from support.batch_files import job, load, write_jobs

from psicli.config.batch import SHAPE, is_batch_file
from psicli.config.batch.models import BatchFile, HooksEntry
from psicli.config.built import Job
from psicli.config.model import Model
from psicli.config.schema import batch_schema

FULL = """\
batch: every-night
jobs:
  - bob.yaml
  - config: ./carol.yaml
    name: c
    set: {DATE: 2026-11-29}
    only: [t]
    party: alice
    port_offset: 3
    after: [nightly-bob]
  - bob.yaml
set: {DATE: today, REGION: north}
max_jobs: 4
memory: 8GB
deadline: 4h
retries: 5
retry_wait: 0s
rendezvous: 20
lock_timeout: 10m
keep_going: false
hooks:
  before: [[mount, --read-only]]
  after: [[a], [b, c]]
  on_error: [[page]]
  ping: https://hc.example.com/4f0f2b1e
  timeout: 1m
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jobs(tmp_path, {name: job(f"nightly-{name}") for name in ("bob", "carol")})
    return tmp_path


def test_every_field(folder: Path) -> None:
    batch = load(folder, FULL)
    assert (batch.name, batch.path) == ("every-night", folder / "nightly.yaml")
    assert (batch.max_jobs, batch.memory, batch.deadline) == (4, 8_000_000_000, 14_400)
    assert (batch.retries, batch.retry_wait, batch.rendezvous, batch.lock_timeout) == (5, 0, 20, 600)
    assert batch.keep_going is False
    assert batch.hooks == HooksEntry(
        before=(("mount", "--read-only"),),
        after=(("a",), ("b", "c")),
        on_error=(("page",),),
        ping="https://hc.example.com/4f0f2b1e",
        timeout=60,
    )
    first, second, third = batch.jobs
    assert [entry.name for entry in batch.jobs] == ["nightly-bob", "c", "nightly-bob-2"]
    assert second.config == folder / "carol.yaml"
    assert second.where == f"{folder / 'nightly.yaml'}:4"
    assert second.set == {"DATE": "2026-11-29", "REGION": "north"}
    assert (second.only, second.party, second.port_offset, second.after) == (("t",), "alice", 3, ("nightly-bob",))
    assert (first.only, first.party, first.port_offset, first.after) == ((), None, 0, ())
    assert isinstance(first.job, Job)
    assert (first.job.peer, second.job.peer, third.job.peer) == ("bob", "carol", "bob")
    assert [entry.job.listener.port for entry in batch.jobs] == [18560, 18563, 18560]


def test_what_is_left_out_has_its_default(folder: Path) -> None:
    batch = load(folder, "jobs: [bob.yaml]")
    assert batch.name == "nightly"
    assert (batch.max_jobs, batch.memory, batch.deadline) == (None, None, None)
    assert (batch.retries, batch.retry_wait, batch.rendezvous, batch.lock_timeout) == (2, 30, 10, 0)
    assert batch.keep_going is True
    assert batch.hooks == HooksEntry()


def test_the_address_of_a_ping_is_not_in_a_representation(folder: Path) -> None:
    assert "4f0f2b1e" not in repr(load(folder, FULL))


GOOD_ADDRESSES = [
    "https://hc.example.com/4f0f2b1e",
    "http://127.0.0.1:8000/ping/?create=1&x='%C3%A9'",
    "https://[2001:db8::1]:443/uuid",
    "https://localhost",
]
BAD_ADDRESSES = [
    *["https://[x/y", "https://[]/y", "https://1.2.3.4.5/y", "https:///y", "https://-h/y"],
    *["https://h:99999999/", "https://h:0/", "https://h:abc", "https://h:/y"],
    *["https://user:pw@host/y", "https://host\\@other/y", "https://h/a#b", "https://h/a b", "https://h/a\n"],
    *["https://h\u00e9.example/y", "https://h/\u00e9", "ftp://h/y"],
]


@pytest.mark.parametrize("address", GOOD_ADDRESSES)
def test_an_address_that_can_be_requested(address: str) -> None:
    assert HooksEntry(ping=address).ping == address
    assert urlsplit(address).port in (None, 443, 8000)


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_an_address_that_no_ping_could_reach(address: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a web page; give an address such as"):
        HooksEntry(ping=address)


@pytest.mark.parametrize(("stem", "name"), [("Nightly_2 (b)", "nightly-2-b"), ("日本", "batch"), ("x" * 80, "x" * 63)])
def test_the_name_of_a_file_becomes_the_name_of_its_batch(folder: Path, stem: str, name: str) -> None:
    path = folder / f"{stem}.yaml"
    path.write_text("jobs: [bob.yaml]")
    assert load(folder, "", [path]).name == name


def test_job_files_on_the_command_line(folder: Path) -> None:
    paths = [folder / "carol.yaml", folder / "bob.yaml", folder / "carol.yaml"]
    batch = load(folder, "", paths)
    assert (batch.name, batch.path) == ("batch", None)
    assert [entry.name for entry in batch.jobs] == ["nightly-carol", "nightly-bob", "nightly-carol-2"]
    assert [entry.where for entry in batch.jobs] == [*map(str, paths)]
    assert load(folder, "", paths[:1]).jobs[0].name == "nightly-carol"


@pytest.mark.parametrize("config", ["bob.yaml", "{config: bob.yaml}", "../f/bob.yaml", "${DIR}/bob.yaml"])
def test_paths_start_at_the_folder_of_the_batch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    write_jobs(folder, {"bob": job("nightly-bob")})
    (folder / "batch.yaml").write_text(f'jobs: ["{config}"]' if config[0] != "{" else f"jobs: [{config}]")
    monkeypatch.chdir(tmp_path)
    batch = load(tmp_path, "", [Path("f/batch.yaml")], environment={"DIR": str(folder)})
    assert batch.jobs[0].job.tasks[0].input.paths[0].resolve() == folder / "in.csv"  # type: ignore[union-attr]


def test_names_that_are_taken_get_a_number(folder: Path) -> None:
    entries = ["bob.yaml", {"config": "carol.yaml", "name": "nightly-bob-2"}, "bob.yaml", "bob.yaml"]
    names = [entry.name for entry in load(folder, yaml.safe_dump({"jobs": entries})).jobs]
    assert names == ["nightly-bob", "nightly-bob-2", "nightly-bob-3", "nightly-bob-4"]


def test_a_long_name_has_room_for_its_number(tmp_path: Path) -> None:
    paths = write_jobs(tmp_path, {"a": {**job("nightly-bob"), "job": "n" * 63}})
    assert [entry.name for entry in load(tmp_path, "", paths * 2).jobs] == ["n" * 63, f"{'n' * 61}-2"]


# Precedence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_entry", "of_file", "option", "found"),
    [
        ({}, {}, {}, "environment"),
        ({}, {"A": "file"}, {}, "file"),
        ({"A": "entry"}, {"A": "file"}, {}, "entry"),
        ({"A": "entry"}, {"A": "file"}, {"A": "option"}, "option"),
        ({}, {}, {"A": "option"}, "option"),
    ],
)
def test_the_value_of_a_variable(
    tmp_path: Path, of_entry: dict[str, str], of_file: dict[str, str], option: dict[str, str], found: str
) -> None:
    write_jobs(tmp_path, {"bob": job("nightly-bob", task={"input_path": {"alice": "${A}.csv"}})})
    text = yaml.safe_dump({"jobs": [{"config": "bob.yaml", "set": of_entry}], "set": of_file})
    entry = load(tmp_path, text, settings=option, environment={"A": "environment"}).jobs[0]
    assert entry.job.tasks[0].input.paths[0] == tmp_path / f"{found}.csv"
    # What the environment says, the job's process finds there itself.
    assert entry.set == ({} if found == "environment" else {"A": found})


@pytest.mark.parametrize(
    ("of_entry", "of_file", "option", "found"),
    [
        (None, None, None, "alice"),
        (None, "bob", None, "bob"),
        ("alice", "bob", None, "alice"),
        ("alice", "alice", "bob", "bob"),
    ],
)
def test_the_party(folder: Path, of_entry: str | None, of_file: str | None, option: str | None, found: str) -> None:
    entry: dict[str, Any] = {"config": "bob.yaml", **({"party": of_entry} if of_entry else {})}
    text = yaml.safe_dump({"jobs": [entry], **({"party": of_file} if of_file else {})})
    assert load(folder, text, party=option).jobs[0].job.party == found


# Which kind of file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("jobs: []", True), ("jobs: [a]\nmemory: 1", True), ("job: x", False), ("job: x\njobs: []", True), ("- a", False),
     ("cluster: {}\njobs: []", False), ("", False), ("jbos: []", False)],
)  # fmt: skip
def test_what_a_batch_file_is(tmp_path: Path, text: str, is_one: bool) -> None:
    (tmp_path / "f.yaml").write_text(text)
    assert is_batch_file(tmp_path / "f.yaml") is is_one


# Schema -------------------------------------------------------------------------------------------------------------


def test_the_schema_allows_what_yaml_takes_for_numbers() -> None:
    value = batch_schema()["properties"]["set"]["additionalProperties"]
    assert value["type"] == ["string", "number", "boolean"]
    argument = batch_schema()["$defs"]["HooksEntry"]["properties"]["before"]["items"]["items"]
    assert argument["type"] == value["type"]


def test_schema_describes_every_field() -> None:
    schema = batch_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert '"null"' not in json.dumps(schema)
    assert schema["required"] == ["jobs"]
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        for name, field in part["properties"].items():
            assert field["description"], name
            assert field["examples"], name


@pytest.mark.parametrize("model", sorted(set(SHAPE.models.values()), key=lambda model: model.__name__))
def test_examples_are_valid(model: type[Model]) -> None:
    for name, field in model.model_fields.items():
        for example in field.examples or []:
            others = {} if model is not BatchFile else {"jobs": ["a.yaml"]}
            others |= {"config": "a.yaml"} if "config" in model.model_fields else {}
            model.model_validate({**others, name: example})
