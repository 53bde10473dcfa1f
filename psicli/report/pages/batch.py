"""The page of a batch: its jobs as a table, what failed, and each job's own report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from psicli.core.errors import counted, printable
from psicli.core.records import dataclass
from psicli.report.batch import State
from psicli.report.batch.gain import Verdict as Gain
from psicli.report.pages.charts import Span, axis, lane
from psicli.report.pages.render import NOTHING, count, moment, render, seconds, size
from psicli.report.pages.run import BARS, Party, Problem, Verdict, view_of, with_warnings
from psicli.report.pages.run.tasks import code_in_words, warnings
from psicli.report.pages.tables import Cell, Column, Table

Facts = Mapping[str, Any]

# The shortest name of a party that a hint for several replaces.
_LEAST_NAME = 4
_BEFORE = "The jobs that an earlier run has done are in the report of that run, with their rows and times."
_LOOKS = {State.DONE: "good", State.FAILED: "bad", State.NOT_RUN: "warn"}


@dataclass(frozen=True)
class Group:
    """Jobs that did not end well for the same reason: what happened to each, and what to do."""

    causes: Sequence[tuple[str, str]]
    hint: str


@dataclass(frozen=True)
class Job:
    """A job that has a report, and how it ended. mark: its place in the page."""

    mark: str
    name: str
    state: str
    look: str
    cause: str
    view: Party


@dataclass(frozen=True)
class Lane:
    """A job in the timeline."""

    name: str
    state: str
    picture: Markup


def batch_page(facts: Facts, earlier: Sequence[Facts] = ()) -> str:
    """Return the page of a batch, made from its facts (`psicli.report.batch.summary.facts_of`).

    earlier: name, peer, tasks, state and why of the jobs that only an earlier run had, if this one continues it.
    """
    jobs = facts["jobs"]
    marks = {job["name"]: f"job-{number}" for number, job in enumerate(jobs, 1) if job["report"] is not None}
    bars = BARS // max(len(marks), 1)
    return render(
        "batch.html.j2",
        name=facts["batch"],
        verdict=_verdict(facts, earlier),
        table=_table(jobs, earlier, marks),
        before=_BEFORE if any(job["state"] == State.DONE for job in earlier) else "",
        groups=_groups(jobs),
        remarks=[*facts["warnings"], *facts["remarks"]],
        lanes=[*_lanes(jobs, facts["seconds"])],
        axis=axis(facts["seconds"]),
        use=[*_use(facts)],
        machine=[*_machine(facts)],
        jobs=[_job(job, marks[job["name"]], bars) for job in jobs if job["name"] in marks],
    )


def _verdict(facts: Facts, earlier: Sequence[Facts]) -> Verdict:
    jobs, code = facts["jobs"], facts["exit_code"]
    error = facts["error"]
    problems = [Problem(error["message"].splitlines(), error["hint"])] if error else []
    if not jobs and error:
        sentence = "No job was started."
        return Verdict("bad", f"Failed before the start: {code_in_words(code)}", sentence, [], problems)
    done = sum(job["state"] == State.DONE for job in (*jobs, *earlier))
    whole = len(jobs) + len(earlier)
    sentence = f"The batch began {moment(facts['started'])} and took {seconds(facts['seconds'])}."
    if code:
        sentence = f"{sentence} Its exit code is that of the first failure: {code_in_words(code)}."
    if earlier:
        before = sum(job["state"] == State.DONE for job in earlier)
        sentence = f"{sentence} It continued an earlier run, which had done {counted(before, 'job')}."
    numbers = [
        (str(state), count(found))
        for state in (State.FAILED, State.NOT_RUN)
        if (found := sum(job["state"] == state for job in jobs))
    ]
    rows = [job["matched_rows"] for job in jobs if job["matched_rows"] is not None]
    label = "matched rows in this run" if earlier else "matched rows"
    numbers = [*([(label, count(sum(rows)))] if rows else []), ("done", f"{done:,} of {whole:,}"), *numbers]
    words = f"{done:,} of {counted(whole, 'job')} done"
    if code or done < whole:
        return Verdict("bad", words, sentence, numbers, problems)
    warned = len(facts["warnings"]) + sum(map(_warnings, jobs))
    return Verdict("warn" if warned else "good", f"{words}{with_warnings(warned)}", sentence, numbers, problems)


def _warnings(job: Facts) -> int:
    """Return how many warnings a job that is done has, as far as its report is here."""
    report = job.get("report") if job["state"] == State.DONE else None
    return 0 if report is None else len(warnings(report))


def _table(jobs: Sequence[Facts], earlier: Sequence[Facts], marks: Mapping[str, str]) -> Table | None:
    if not jobs and not earlier:
        return None
    titles = ("Matched rows", "Tasks", "Starts", "Time", "Waited for peer")
    columns = [Column("Job"), Column("State"), Column("Peer"), *(Column(title, True) for title in titles)]
    return Table("Jobs", columns, [*(_row(job, marks) for job in jobs), *map(_row_of_earlier, earlier)])


def _row(job: Facts, marks: Mapping[str, str]) -> list[Cell | str]:
    times = [job[name] if job["starts"] else None for name in ("seconds", "waited")]
    warned = _warnings(job)
    return [
        Cell(job["name"], href=marks.get(job["name"], "")),
        _state(job, job["cause"] or (counted(warned, "warning") if warned else "")),
        job["peer"],
        *(Cell(count(job[name]), job[name]) for name in ("matched_rows", "tasks", "starts")),
        *(Cell(seconds(each), each) for each in times),
    ]


def _row_of_earlier(job: Facts) -> list[Cell | str]:
    cause = "in an earlier run" if job["state"] == State.DONE else f"in an earlier run; {job['why']}"
    tasks = Cell(count(job["tasks"]), job["tasks"])
    return [job["name"], _state(job, cause), job["peer"], NOTHING, tasks, *[NOTHING] * 3]


def _state(job: Facts, cause: str) -> Cell:
    code = job["exit_code"] if job["state"] == State.FAILED else None
    below = ": ".join(filter(None, (code_in_words(code) if code else "", cause)))
    return Cell(job["state"], state=_look(job), below=below)


def _look(job: Facts) -> str:
    return "warn" if _warnings(job) else _LOOKS.get(job["state"], "quiet")


def _groups(jobs: Sequence[Facts]) -> list[Group]:
    """Return the jobs that are not done, those with the same hint together."""
    groups: dict[str, list[Facts]] = {}
    for job in jobs:
        if job["state"] in (State.FAILED, State.NOT_RUN):
            groups.setdefault(_hint(job, "the other party"), []).append(job)
    return [
        Group([(job["name"], job["cause"] or job["state"]) for job in some], hint if len(some) > 1 else _hint(some[0]))
        for hint, some in groups.items()
    ]


def _hint(job: Facts, peer: str = "") -> str:
    """Return the hint of a failed job, with a word for its peer that fits several; empty without one.

    If the batch has stopped a job, its report is about the signal, or about an earlier attempt.
    """
    error = (job["report"] or {}).get("error")
    if job["state"] != State.FAILED or not error or job["cause"] != printable(error["message"]):
        return ""
    hint: str = error["hint"]
    # A short name may be a word of the sentence.
    if not peer or len(job["peer"]) < _LEAST_NAME:
        return hint
    return re.sub(rf"(?<![\w-]){re.escape(job['peer'])}(?![\w-])", lambda _: peer, hint)


def _lanes(jobs: Sequence[Facts], whole: float) -> Iterator[Lane]:
    for job in jobs:
        if job["first_started"] is not None and job["ended"] is not None:
            begin, end = job["first_started"], job["ended"]
            text = f"{job['name']}, {job['state']}: from {seconds(begin)} to {seconds(end)} after the start"
            yield Lane(job["name"], job["state"], lane([*_spans(job)], whole, text))


def _spans(job: Facts) -> Iterator[Span]:
    begin, end = job["first_started"], job["ended"]
    look = "bad" if job["state"] == State.FAILED else "c2"
    # It is not known when the processes of a job waited that was started several times.
    met = begin + (job["waited"] if job["starts"] == 1 else 0.0)
    if met > begin:
        yield Span("c3", f"waiting for {job['peer']}: {seconds(met - begin)}", begin, min(met, end))
    if end > met:
        yield Span(look, f"{job['state']}: {seconds(end - met)}", met, end)


def _use(facts: Facts) -> Iterator[str]:
    """Yield sentences about what it gained to run jobs at the same time."""
    gain = facts["gain"]
    alone = f"One after another, the jobs would have taken about {seconds(gain['one_after_another'])}"
    match gain["verdict"]:
        case Gain.SAVED:
            yield f"{alone}: running them at the same time saved {seconds(gain['saved'])}."
        case Gain.NO_DIFFERENCE:
            took = seconds(facts["seconds"])
            yield f"{alone}, and they took {took}. This is an estimate, too rough to tell such times apart."
        case Gain.COST:
            yield f"{alone}: running them at the same time cost {seconds(-gain['saved'])}. Run them with --jobs 1."


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
    if facts["most_jobs"]:
        yield "Jobs at the same time, at most", count(facts["most_jobs"])
        yield "Cores used, on average", f"{facts['gain']['cores_used']:.1f} of {facts['cores']:g}"
        yield "Memory, at most", f"{size(facts['peak_memory'])} of {size(facts['memory'])}"
        yield "Time of processors", seconds(facts["computed"])


def _job(job: Facts, mark: str, bars: int) -> Job:
    return Job(mark, job["name"], job["state"], _look(job), job["cause"] or "", view_of(job["report"], mark, bars))
