"""The hooks of a batch: what they are told, which of them run, and whose batch file may have any."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.job_files import SMALL, TASK

from psicli.batch.plan import Plan, make_plan
from psicli.batch.unattended.hooks import Facts, check_hooks, check_trust, ping, run_after, run_before, surround
from psicli.config.batch import HooksEntry, load_batch
from psicli.core import signals
from psicli.core.errors import BudgetError, HookError, PlanError, TerminatedBySignal, UntrustedHooksError
from psicli.report.batch import BatchReport, JobState, State

SHOW = ["sh", "-c", "env | grep ^PSICLI_BATCH | sort >> told; echo $1 >> told", "-"]
RUNS = HooksEntry(before=[["true"]])


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return Facts("nightly", tmp_path, tmp_path / "reports")


def told(facts: Facts) -> list[str]:
    file = facts.folder / "told"
    return file.read_text().splitlines() if file.exists() else []


def test_what_hooks_are_told(facts: Facts) -> None:
    hooks = HooksEntry(before=[[*SHOW, "before"]], after=[[*SHOW, "after"]], on_error=[[*SHOW, "on_error"]])
    run_before(hooks, facts)
    assert told(facts) == ["PSICLI_BATCH=nightly", "before"]
    assert run_after(hooks, facts, 65, ["bob", "carol"]) == []
    end = [
        "PSICLI_BATCH=nightly",
        "PSICLI_BATCH_EXIT_CODE=65",
        "PSICLI_BATCH_FAILED=bob carol",
        f"PSICLI_BATCH_REPORT_DIR={facts.folder}/reports",
    ]
    assert told(facts)[2:] == [*end, "on_error", *end, "after"]


def test_after_a_good_batch_only_after_runs(facts: Facts) -> None:
    assert run_after(HooksEntry(after=[[*SHOW, "after"]], on_error=[[*SHOW, "on_error"]]), facts, 0, []) == []
    assert told(facts)[-1] == "after"
    assert "on_error" not in told(facts)


def test_the_first_failing_before_is_the_last_to_run(facts: Facts) -> None:
    with pytest.raises(HookError) as caught:
        run_before(HooksEntry(before=[["true"], ["sh", "-c", "echo no such export; exit 7"], [*SHOW, "late"]]), facts)
    assert caught.value.message == "sh (hooks.before) ended with exit code 7; it said 'no such export'"
    assert caught.value.code == 69
    assert told(facts) == []


def test_a_failing_after_is_a_warning_and_the_next_one_runs(facts: Facts) -> None:
    hooks = HooksEntry(on_error=[["/nowhere/mail"]], after=[["false"], [*SHOW, "after"]])
    assert run_after(hooks, facts, 69, ["bob"]) == [
        "/nowhere/mail (hooks.on_error) cannot be started: no such file or directory",
        "false (hooks.after) ended with exit code 1",
    ]
    assert told(facts)[-1] == "after"


def test_a_hook_that_takes_too_long(facts: Facts) -> None:
    with pytest.raises(HookError, match=r"^sleep \(hooks.before\) did not end within 1 s$"):
        run_before(HooksEntry(before=[["sleep", "600"]], timeout=1), facts)


def test_the_log_has_what_a_hook_prints_and_not_its_arguments(facts: Facts, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "psicli"):
        run_before(HooksEntry(before=[["sh", "-c", "echo mounted", "token-4711"]]), facts)
    assert caplog.messages == ["hooks.before: sh starts", "sh: mounted"]


def test_no_address_no_ping() -> None:
    assert ping(HooksEntry(), "start") is None


# A whole batch -----------------------------------------------------------------------------------------------------


def plan_of(facts: Facts, hooks: HooksEntry) -> Plan:
    """Return a plan of one job, which is called j, with these hooks."""
    file = facts.folder / "nightly.yaml"
    file.write_text(json.dumps({"jobs": ["job.yaml"], "hooks": hooks.model_dump(exclude_unset=True)}))
    (facts.folder / "job.yaml").write_text(SMALL + TASK)
    return make_plan(load_batch([file], settings={}, environment={}))


def ended(code: int) -> BatchReport:
    jobs = [JobState("bob", "bob", "bob.yaml", 1, state=State.FAILED if code else State.DONE)]
    return BatchReport("nightly", jobs, "2026-11-29T02:00:00+00:00", exit_code=code)


ALL = {name: [[*SHOW, name]] for name in ("before", "on_error", "after")}


def kinds(facts: Facts) -> list[str]:
    return [line for line in told(facts) if "=" not in line]


@pytest.mark.sample(1)
@pytest.mark.parametrize("code", [0, 65, 143])
def test_hooks_around_a_batch(facts: Facts, code: int) -> None:
    report = surround(plan_of(facts, HooksEntry(**ALL)), facts.report_dir, lambda: ended(code))
    assert (report.exit_code, report.warnings) == (code, [])
    assert kinds(facts) == ["before", *(["on_error"] if code else []), "after"]
    assert ("PSICLI_BATCH_FAILED=bob" in told(facts)) == bool(code)


def test_after_a_failed_before_no_job_runs_and_the_others_do(facts: Facts, caplog: pytest.LogCaptureFixture) -> None:
    hooks = HooksEntry(**{**ALL, "before": [["false"]], "after": [["false"], *ALL["after"]]})
    report = surround(plan_of(facts, hooks), None, lambda: pytest.fail("the batch has begun"))
    assert report.error is not None
    assert (report.exit_code, report.error["message"]) == (69, "false (hooks.before) ended with exit code 1")
    assert [(job.name, job.state, job.why) for job in report.jobs] == [("j", State.NOT_RUN, "the batch did not begin")]
    assert report.warnings == caplog.messages == ["false (hooks.after) ended with exit code 1"]
    assert kinds(facts) == ["on_error", "after"]


def test_a_batch_that_cannot_begin(facts: Facts, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> BatchReport:
        raise BudgetError(job="bob", budget="2 GB", memory="1 GB")

    with pytest.raises(BudgetError):
        surround(plan_of(facts, HooksEntry(**{**ALL, "after": [*ALL["after"], ["false"]]})), None, refuse)
    assert kinds(facts) == ["before", "on_error", "after"]
    # There is no report that could show it.
    assert caplog.messages == ["false (hooks.after) ended with exit code 1"]
    assert "PSICLI_BATCH_EXIT_CODE=78" in told(facts)


def test_a_signal_ends_the_hooks_at_the_end_and_keeps_the_report(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise TerminatedBySignal

    def run() -> BatchReport:
        monkeypatch.setattr(signals, "check", interrupt)
        return ended(0)

    report = surround(plan_of(facts, HooksEntry(after=[["sleep", "600"]])), None, run)
    assert (report.exit_code, [job.state for job in report.jobs]) == (143, [State.DONE])
    assert report.warnings == ["stopped by SIGTERM before the hooks at the end had run"]


def test_programs_that_are_missing_show_before_the_night(facts: Facts, caplog: pytest.LogCaptureFixture) -> None:
    (facts.folder / "mount").touch(0o755)
    (facts.folder / "notes").touch(0o644)
    before = [["true"], ["./mount", "a"], ["/bin/sh"]]
    good = HooksEntry(before=before, after=[["./unmount"]], on_error=[["no-mail", "t"]])
    check_hooks(plan_of(facts, good).batch)
    assert caplog.messages == [
        "hooks.after: there is no program './unmount' that this user can start",
        "hooks.on_error: there is no program 'no-mail' that this user can start",
    ]
    bad = HooksEntry(before=[["/nowhere/mount", "token-4711"], ["./notes"]], after=good.after, on_error=good.on_error)
    with pytest.raises(PlanError) as caught:
        check_hooks(plan_of(facts, bad).batch)
    assert caught.value.code == 78
    assert caught.value.message.splitlines() == [
        f"{facts.folder}/nightly.yaml: hooks.before: there is no program '{program}' that this user can start; "
        "check its name and its mode"
        for program in ("/nowhere/mount", "./notes")
    ]


# Whose batch file may have hooks ------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "jobs" / "batch.yaml"
    file.parent.mkdir(0o755)
    file.write_text('hooks: {before: [["true"]]}')
    file.chmod(0o644)
    return file


def test_a_file_of_this_user_alone(file: Path) -> None:
    check_trust(RUNS, file)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_write_to(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(UntrustedHooksError) as caught:
        check_trust(RUNS, file)
    assert caught.value.message == f"{file}: psicli runs no hooks from this file, because others can write to it"
    assert caught.value.advice == f"Type `chmod go-w {file}`."
    assert caught.value.code == 78
    # Without hooks, it holds no commands.
    check_trust(HooksEntry(ping="https://hc.example.com/uuid"), file)


def test_a_folder_in_which_others_can_replace_it(file: Path) -> None:
    file.parent.chmod(0o777)
    with pytest.raises(UntrustedHooksError, match=f"because others can write to {file.parent}$"):
        check_trust(RUNS, file)
    # As in /tmp, where only the owner of a file can.
    file.parent.chmod(0o1777)
    check_trust(RUNS, file)


def test_a_link_that_others_can_replace(file: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "batch.yaml").symlink_to(file)
    check_trust(RUNS, shared / "batch.yaml")
    # It may be one of several links on the way.
    (tmp_path / "link.yaml").symlink_to("shared/batch.yaml")
    check_trust(RUNS, tmp_path / "link.yaml")
    shared.chmod(0o777)
    for path in (shared / "batch.yaml", tmp_path / "link.yaml"):
        with pytest.raises(UntrustedHooksError, match=f"others can write to {shared}$"):
            check_trust(RUNS, path)
    # In a sticky folder, a link of this user stays as it is.
    shared.chmod(0o1777)
    check_trust(RUNS, shared / "batch.yaml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_a_link_of_another_user_in_a_sticky_folder(file: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "jobs").symlink_to("../jobs")
    check_trust(RUNS, shared / "jobs" / "batch.yaml")
    os.chown(shared / "jobs", 65534, -1, follow_symlinks=False)
    for way in (shared / "jobs" / "batch.yaml", shared / "jobs" / ".." / "jobs" / "batch.yaml"):
        with pytest.raises(UntrustedHooksError, match=f"because {shared}/jobs belongs to another user$"):
            check_trust(RUNS, way)


def test_a_way_without_end(tmp_path: Path) -> None:
    (tmp_path / "batch.yaml").symlink_to("batch.yaml")
    with pytest.raises(UntrustedHooksError, match="the way to it cannot be checked: too many levels"):
        check_trust(RUNS, tmp_path / "batch.yaml")


def test_hooks_that_were_read_before_the_file_was_exchanged(file: Path) -> None:
    for text in ("hooks: {before: [['true']], after: [[./m.sh]]}", "jobs: [a.yaml]", "[", None):
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(UntrustedHooksError):
            check_trust(RUNS, file)


def test_hooks_run_where_the_links_led_when_they_were_checked(facts: Facts, tmp_path: Path) -> None:
    facts = replace(facts, folder=tmp_path / "real")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    plan = plan_of(replace(facts, folder=tmp_path / "link"), HooksEntry(after=[[*SHOW, "after"]]))

    def run() -> BatchReport:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("/nowhere")
        return ended(0)

    assert surround(plan, None, run).warnings == []
    assert kinds(facts) == ["after"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_user(file: Path) -> None:
    os.chown(file.parent, 65534, -1)
    with pytest.raises(UntrustedHooksError, match=f"because {file.parent} belongs to another user$"):
        check_trust(RUNS, file)
    os.chown(file.parent, 0, -1)
    os.chown(file, 65534, -1)
    with pytest.raises(UntrustedHooksError, match=r"because it belongs to another user$"):
        check_trust(RUNS, file)
