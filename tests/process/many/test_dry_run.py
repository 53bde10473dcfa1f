"""psicli batch --dry-run, and what psicli batch refuses before it starts anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.processes.expectations import failed, marked_pair
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Result


def dry_run(pair: Pair, text: str, *arguments: str) -> Result:
    """Write a batch file that may name the job files of both parties; plan it, and check that nothing has changed."""
    before = {party: pair.files(party) for party in PARTIES}
    for party in PARTIES:
        pair.job_file(party)
    path = pair.folder / "batch.yaml"
    path.write_text(text)
    result = pair.start_command("batch", path, "--dry-run", *arguments).result()
    assert {party: pair.files(party) for party in PARTIES} == before
    pair.nothing_left()
    return result


@pytest.mark.more
def test_the_plan_as_text(pair: Pair) -> None:
    marked_pair(pair)
    again = pair.job_file(LISTENER).read_text().replace("people", "persons").replace("in.csv", "absent.csv")
    (pair.folder / "again.yaml").write_text(again)
    text = f"""\
jobs:
  - {LISTENER}/job.yaml
  - {{config: again.yaml, name: again, party: {LISTENER}}}
  - {{config: {DIALER}/job.yaml, name: there, after: [again]}}
max_jobs: 2
"""
    result = dry_run(pair, text, "--memory", "1GB", "--deadline", "90m")
    assert (result.code, result.stderr) == (0, "")
    head, _, titles, own, second, there, _, *notes = result.stdout.decode().splitlines()
    assert head == "batch: 3 jobs; at most 2 at a time, 1.0 GB of memory in all, 1.5 h in all"
    assert titles.split() == ["job", "peer", "tasks", "place", "after", "memory", "about"]
    name = pair.jobs[LISTENER]["job"]
    assert own.split()[:5] == [name, DIALER, "1", "port", str(pair.port)]
    assert own.split()[-3::2] == ["MB", "s"]
    assert 0 < int(own.split()[-2]) < 60
    assert second.split() == ["again", DIALER, "1", "port", str(pair.port), "?", "?"]
    assert there.split()[:6] == ["there", LISTENER, "1", "to", f"127.0.0.1:{pair.port}", "again"]
    missing, merge = notes
    assert missing == f"warning: again has no estimate: {pair.folder / 'absent.csv'}: no such file"
    assert merge.startswith(f"{name} and again, all with {DIALER}, could be tasks of one job. They would")
    assert "which saves about" in merge


def test_the_plan_as_json(pair: Pair) -> None:
    marked_pair(pair)
    result = dry_run(pair, f"jobs: [{LISTENER}/job.yaml]", "--json", "--retry-wait", "0.5", "--fail-fast")
    facts = json.loads(result.stdout)
    (job,) = facts["jobs"]
    assert job["estimate"].pop("seconds") > 0
    assert job["estimate"].pop("memory") > 100_000_000
    assert job == {
        "name": pair.jobs[LISTENER]["job"],
        "config": str(Path(pair.folder / LISTENER / "job.yaml")),
        "party": LISTENER,
        "peer": DIALER,
        "tasks": ["people"],
        "place": f"port {pair.port}",
        "after": [],
        "memory": job["memory"],
        "estimate": {"disk": 0, "traffic": 84 * 4},
    }
    assert 384_000_000 <= job["memory"] <= facts["limits"]["memory"]
    assert (facts["limits"]["jobs"], facts["limits"]["retry_wait"]) == (1, 0.5)
    assert facts["limits"]["fail_fast"] is True
    assert facts["remarks"] == []


def test_mistakes_end_a_batch_before_it_starts(pair: Pair) -> None:
    marked_pair(pair)
    result = dry_run(pair, f"jobs:\n  - {LISTENER}/job.yaml\n  - absent.yaml\nmax_job: 3\n")
    failed(result, 78, r"batch\.yaml:3: jobs\[1\]: 'absent\.yaml': no such job file")
    failed(result, 78, r"batch\.yaml:4: max_job: unknown field; did you mean max_jobs\?")


def test_an_output_that_two_jobs_write(pair: Pair) -> None:
    marked_pair(pair)
    result = dry_run(pair, f"jobs: [{LISTENER}/job.yaml, {LISTENER}/job.yaml]", "--json")
    failed(result, 78, r"batch\.yaml:1: [a-z-]+-2: task people writes .*people\.csv, which task people of ")
    assert json.loads(result.stdout)["error"]["class"] == "PlanError"


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", [("--dry-run",), ()])
def test_a_job_that_needs_more_memory_than_all_may_use(pair: Pair, how: tuple[str, ...]) -> None:
    """Not even a hook is started."""
    marked_pair(pair).jobs[LISTENER]["pipeline"] = {"memory": "2GB"}
    pair.job_file(LISTENER)
    path, hooked = pair.folder / "batch.yaml", pair.folder / "hooked"
    path.write_text(f"jobs: [{LISTENER}/job.yaml]\nhooks: {{before: [[touch, {hooked}]]}}\n")
    path.chmod(0o600)
    result = pair.start_command("batch", path, "--memory=1GB", *how).result()
    failed(result, 78, r"job [a-z-]+ may use 2\.0 GB of memory .*, but all jobs together only 1\.0 GB")
    assert not hooked.exists()
