"""Errors in batch files: all of them are reported at once, with those of the job files, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.batch_files import job, load, write_jobs
from support.job_files import starts

from psicli.config import load_job
from psicli.core.errors import BatchFileError, InputMissingError, JobFileError


def errors(folder: Path, text: str, files: list[Path] | None = None, **options: Any) -> list[str]:
    """Load a batch that must be refused; return its errors without the folder."""
    with pytest.raises(JobFileError) as caught:
        load(folder, text, files or (), **options)
    assert caught.value.code == 78
    assert isinstance(caught.value, BatchFileError) == (files is None)
    return caught.value.message.replace(f"{folder}/", "").splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jobs(tmp_path, {name: job(f"nightly-{name}") for name in ("bob", "carol")})
    return tmp_path


def test_all_errors_are_reported_at_once(folder: Path) -> None:
    write_jobs(folder, {"bad": {**job("nightly-dave"), "keep_goign": True}})
    text = """\
bach: x
jobs:
  - bob.yaml
  - config: carol.yaml
    name: Carol
  - absent.yaml
  - config: carol.yaml
    only: [u]
  - config: carol.yaml
    party: zoe
    sett: {A: b}
  - config: carol.yaml
    party: zoe
  - bad.yaml
  - nightly.yaml
  - .
  - {config: bob.yaml, name: a}
  - {config: bob.yaml, name: a}
max_jobs: 0
memory: 8 gigs
deadline: soon
retries: many
rendezvous: 0s
retry_wait: -1
keep_going: maybe
set: {a-b: c}
hooks:
  before: [mount]
  after: [[]]
  ping: ftp://hc.example.com/4f0f2b1e
  timeout: 0
"""
    found = errors(folder, text)
    starts(
        found,
        "nightly.yaml:1: bach: unknown field; did you mean batch?",
        "nightly.yaml:5: jobs[1].name: 'Carol' is not a name; use 1 to 63 of",
        "nightly.yaml:6: jobs[2]: 'absent.yaml': no such job file; check the path; a relative one starts at the batch",
        "nightly.yaml:8: jobs[3].only: 'u' is not a task of this job (carol.yaml:10); the tasks are t",
        "nightly.yaml:11: jobs[4].sett: unknown field; did you mean set?",
        "nightly.yaml:13: jobs[5].party: 'zoe' is not a party of this job (carol.yaml:4); the parties are",
        "nightly.yaml:15: jobs[7]: 'nightly.yaml' is a batch file; name its job files instead",
        "nightly.yaml:16: jobs[8]: '.' is a folder; name the job files in it",
        "nightly.yaml:18: jobs[10].name: a is the name of another job (line 17); give every job its own name",
        "nightly.yaml:19: max_jobs: 0 is out of range; give at least 1",
        "nightly.yaml:20: memory: '8 gigs' is not an amount of memory; give for example 512MB",
        "nightly.yaml:21: deadline: 'soon' is not a duration; give for example 30s",
        "nightly.yaml:22: retries: 'many' is not a whole number; give plain digits",
        "nightly.yaml:23: rendezvous: '0s' is not a duration; give for example 30s",
        "nightly.yaml:24: retry_wait: '-1' is not a duration; give for example 30s",
        "nightly.yaml:25: keep_going: 'maybe' is neither true nor false; give true or false",
        "nightly.yaml:26: set: 'a-b' is not the name of a variable; use letters, digits and _",
        "nightly.yaml:28: hooks.before[0]: is the text 'mount'; write it like `before: [[/usr/local/bin/mount-export",
        "nightly.yaml:29: hooks.after[0]: is empty; give a program and its arguments",
        "nightly.yaml:30: hooks.ping: is not the address of a web page; give an address such as https://",
        "nightly.yaml:31: hooks.timeout: '0' is not a duration",
        "bad.yaml:23: keep_goign: unknown field; did you mean keep_going?",
    )
    # The address of a ping is a secret.
    assert "4f0f2b1e" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "nightly.yaml:1: batch file: is empty; run `psicli config schema --batch` to see what a batch file holds"),
        ("jobs: []", "nightly.yaml:1: jobs: is empty; give at least one, for example `jobs: [jobs/bob.yaml, "),
        ("batch: x", "nightly.yaml:1: jobs: is missing; add it, for example `jobs: [jobs/bob.yaml, "),
        ("jobs: bob.yaml", "nightly.yaml:1: jobs: is the text 'bob.yaml'; write it like `jobs: [jobs/bob.yaml, "),
        ("- bob.yaml", "nightly.yaml:1: batch file: is a list; write it like `jobs: [jobs/bob.yaml, jobs/carol.yaml]`"),
        ("jobs: [[bob.yaml]]", "nightly.yaml:1: jobs[0]: is a list; write it like `jobs: [jobs/bob.yaml, "),
        (
            "jobs: [!!str bob.yaml, {}]",
            "nightly.yaml:1: jobs[1].config: is missing; add it, for example `config: jobs/",
        ),
        ("jobs: [bob.yaml\n", "nightly.yaml:2: YAML: "),
        ("jobs: ['${NO}.yaml']", "nightly.yaml:1: jobs[0]: ${NO} is not defined; set it in the environment or with"),
        ("jobs: [{config: 'a$.yaml'}]", "nightly.yaml:1: jobs[0].config: contains a $ without a variable; write"),
        (f"jobs: [{300 * 'a'}]", "nightly.yaml:1: jobs[0]: 'aaaa"),
        ("jobs: ['']", "nightly.yaml:1: jobs[0]: is empty; give the path of a file"),
        (
            "jobs: ['b*.yaml']",
            "nightly.yaml:1: jobs[0]: 'b*.yaml' is a pattern, and a batch file takes none; name",
        ),
        ("jobs: [{config: bob.yaml, path: x}]", "nightly.yaml:1: jobs[0].path: unknown field; did you mean config?"),
        ("job: x\njobs: [bob.yaml]", "nightly.yaml:1: job: unknown field; did you mean batch?"),
        ("jobs: [bob.yaml]\nhooks:", "nightly.yaml:2: hooks: is empty; write it like `hooks: {before: "),
        ("jobs: [bob.yaml]\nhooks: {ping: }", "nightly.yaml:2: hooks.ping: is empty; give an address such as https://"),
        (
            "jobs:\n- config: bob.yaml\n  port_offset: 65000",
            "nightly.yaml:3: jobs[0].port_offset: with 65000, the port of 127.0.0.1:18560 is 83560 (bob.yaml:6); a",
        ),
        ("jobs: [bob.yaml]\nset: [A=b]", "nightly.yaml:2: set: is a list; write it like `set: {REGION: north}`"),
        ("jobs: [bob.yaml]\nset: {A: [b]}", "nightly.yaml:2: set.A: is a list; write it like `set: {REGION: north}`"),
        ("jobs: [bob.yaml]\nparty: Bob", "nightly.yaml:2: party: 'Bob' is not a name; use 1 to 63"),
        ("jobs: [bob.yaml]\nparty: zoe", "nightly.yaml:2: party: 'zoe' is not a party of this job (bob.yaml:4); the"),
    ],
)
def test_one_error(folder: Path, text: str, error: str) -> None:
    starts(errors(folder, text), error)


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (["nightly-bobb"], "jobs[0].after[0]: 'nightly-bobb' is not a job of this batch; did you mean nightly-bob?"),
        (["x"], "jobs[0].after[0]: 'x' is not a job of this batch; the jobs are a, nightly-bob"),
        (["nightly-bob", "a"], "jobs[0].after[1]: waits for itself: a after a; remove one of these"),
        (["A b"], "jobs[0].after[0]: 'A b' is not a job of this batch; the jobs are a, nightly-bob"),
        (["./bob.yaml"], "jobs[0].after[0]: './bob.yaml' is not a job of this batch; give the name of the job: a"),
    ],
)
def test_after(folder: Path, after: list[str], error: str) -> None:
    text = yaml.safe_dump({"jobs": [{"config": "bob.yaml", "name": "a", "after": after}, "bob.yaml"]}, sort_keys=False)
    starts([line.split(": ", 1)[1] for line in errors(folder, text)], error)


def test_every_cycle_is_an_error(folder: Path) -> None:
    edges = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": [], "e": ["f", "d"], "f": ["e"]}
    lines = [f"- {{config: bob.yaml, name: {name}, after: [{', '.join(after)}]}}" for name, after in edges.items()]
    found = errors(folder, "jobs:\n" + "\n".join(lines))
    starts(
        found,
        "nightly.yaml:2: jobs[0].after[0]: waits for itself: a after b after c after a; remove one of these",
        "nightly.yaml:6: jobs[4].after[0]: waits for itself: e after f after e; remove one of these",
    )


def test_a_job_with_errors_has_its_name(folder: Path) -> None:
    """So nothing else seems to be wrong."""
    write_jobs(folder, {"bad": {**job("nightly-dave"), "wrong": 1}})
    text = "jobs: [bad.yaml, {config: bob.yaml, after: [nightly-dave]}]"
    starts(errors(folder, text), "bad.yaml:")


def test_a_job_file_that_is_listed_twice_is_blamed_once(folder: Path) -> None:
    write_jobs(folder, {"bad": {**job("nightly-dave"), "wrong": 1}})
    assert len(errors(folder, "jobs: [bad.yaml, bad.yaml]")) == 1


def test_no_more_than_a_hundred_errors(folder: Path) -> None:
    found = errors(folder, yaml.safe_dump({"jobs": [f"{n}.yaml" for n in range(120)]}))
    assert len(found) == 101
    assert found[-1] == "nightly.yaml: and 20 more errors"


# Files --------------------------------------------------------------------------------------------------------------


def test_job_files_on_the_command_line(folder: Path) -> None:
    (folder / "nightly.yaml").write_text("jobs: [bob.yaml]")
    write_jobs(folder, {"bad": {**job("nightly-dave"), "wrong": 1}})
    (folder / "weekly.yaml").write_text("jobs: [bob.yaml]")
    files = [folder / name for name in ("bob.yaml", "absent.yaml", "nightly.yaml", "weekly.yaml", "bad.yaml")]
    starts(
        errors(folder, "jobs: [bob.yaml]", files),
        "'absent.yaml': no such job file; check the path; a relative one starts at the current folder",
        "bad.yaml:23: wrong: unknown field",
        "nightly.yaml and weekly.yaml: a batch file runs alone; give one batch file, or only job files",
    )


def test_a_party_on_the_command_line_that_a_job_lacks(folder: Path) -> None:
    files = [folder / "bob.yaml", folder / "carol.yaml"]
    what = "'bob' is not a party of this job (carol.yaml:4); the parties are alice and carol"
    starts(errors(folder, "", files, party="bob"), f"--party: {what}")
    text = "jobs: [bob.yaml, carol.yaml, carol.yaml]\nparty: alice"
    starts(errors(folder, text, party="bob"), f"--party: {what}")


def test_the_party_of_the_batch_holds_for_the_jobs_after_one_that_lacks_it(folder: Path) -> None:
    for name in ("bob", "carol"):
        text = (folder / f"{name}.yaml").read_text()
        (folder / f"{name}.yaml").write_text(text.replace("self_party: alice\n", ""))
    found = errors(folder, "party: carol\njobs: [bob.yaml, carol.yaml]")
    starts(found, "nightly.yaml:1: party: 'carol' is not a party of this job (bob.yaml:3)")
    found = errors(folder, "jobs: [bob.yaml]")
    starts(
        found, "bob.yaml:1: self_party: is missing; add it, or give --party (alice or bob), or set party in nightly."
    )
    found = errors(folder, "", [folder / "bob.yaml", folder / "carol.yaml"])
    assert [line.rpartition("; ")[2] for line in found] == [
        f"add it, or give --party (alice or {name})" for name in ("bob", "carol")
    ]


def test_a_variable_that_the_batch_file_can_set(folder: Path) -> None:
    write_jobs(folder, {"bad": job("nightly-dave", task={"input_path": {"alice": "${IN}", "dave": "in.csv"}})})
    right = "set it in the environment or with --set IN=VALUE, or under set in nightly.yaml"
    found = errors(folder, "jobs: [bad.yaml, '${IN}.yaml']")
    assert [line.rpartition("; ")[2] for line in found] == [right, right]


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"absent\.yaml: no such batch file"):
        load(tmp_path, "", [tmp_path / "absent.yaml"])


def test_a_batch_file_is_no_job_file(folder: Path) -> None:
    (folder / "nightly.yaml").write_text("jobs: [bob.yaml]")
    with pytest.raises(JobFileError, match=r"nightly\.yaml:1: job file: is a batch file; run it with `psicli batch "):
        load_job(folder / "nightly.yaml", variables={})
