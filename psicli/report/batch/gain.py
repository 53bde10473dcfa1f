"""What it gained to run the jobs of a batch at the same time: an estimate from what the system says about them.

A job that runs alone waits for its peer and computes, but never waits for a core that another job of the batch uses.
So its time alone is the time that it waited for its peer while that was with no other job of the batch, and the time
after that in proportion to the processor time that it got and lost to other jobs. What it lost is at most the time in
which its threads were ready but had no core, and at most what the other jobs computed meanwhile: other programs, and
its own threads, take cores from a job that runs alone, too. A peer on this machine computes as much as its job. The
estimate for one job after another is the sum of these times, and the time in which no job was in progress, such as the
start of the batch itself. It leaves out what no figure tells: that one job may slow down the memory of another, and the
pauses before a job is started again. If a job did not get to its end, there is no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from psicli.core.errors import in_units
from psicli.core.records import dataclass
from psicli.report.batch import BatchReport, JobState, State
from psicli.report.console import duration

# A difference below this share of the time, or below so many seconds, is none: the estimate is not better than that.
DOUBT, LEAST = 0.3, 2.0
# If threads had to wait for a core so many times as long as other jobs computed, other programs had the cores.
FOREIGN = 2.0


class Verdict(StrEnum):
    """Whether it paid to run jobs at the same time."""

    SAVED = "saved"
    NO_DIFFERENCE = "no difference"
    COST = "cost"
    # No two jobs were in progress at the same time.
    IN_TURN = "in turn"
    # A job is not done, or the estimate is worth nothing; then `_doubts` says why.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Gain:
    """The estimate for a batch. in_turn, saved: the time one after another, and what of it was saved [s]."""

    verdict: Verdict
    in_turn: float
    saved: float
    # How many cores computed, on average over the batch.
    cores_used: float


def gain_of(report: BatchReport) -> Gain:
    """Compare the time of a batch with an estimate of the time that its jobs would have taken one after another."""
    in_turn = sum(_seconds_alone(job, report.jobs) for job in report.jobs) + _idle(report)
    saved = in_turn - report.seconds
    cores_used = report.computed / report.seconds if report.seconds else 0.0
    return Gain(_verdict(report, in_turn, saved), in_turn, saved, cores_used)


def _idle(report: BatchReport) -> float:
    """Return how long no job was in progress [s]: before the first start, at the end, and between two jobs."""
    idle, end = 0.0, 0.0
    for start, ended in sorted(_span(job) for job in report.jobs if job.starts):
        idle, end = idle + max(start - end, 0.0), max(end, ended)
    return idle + max(report.seconds - end, 0.0)


def _seconds_alone(job: JobState, jobs: Sequence[JobState]) -> float:
    """Estimate how long the processes of a job would have taken if no other job had used the cores [s]."""
    lost = min(job.delayed, _computed_by_others(job, jobs))
    share = job.computed / (job.computed + lost) if lost else 1.0
    return job.late + (job.seconds - job.waited) * share


def _computed_by_others(job: JobState, jobs: Sequence[JobState]) -> float:
    """Return how long the other jobs computed while a job was in progress [s]."""
    return sum(_computed_during(job, other) for other in jobs if other is not job)


def _computed_during(job: JobState, other: JobState) -> float:
    """Return how long another job, and its peer if that is here, computed meanwhile [s], as if they did so evenly."""
    (start, end), (others_start, others_end) = _span(job), _span(other)
    both, whole = min(end, others_end) - max(start, others_start), others_end - others_start
    computed = other.computed * (2 if other.is_local else 1)
    return computed * max(both, 0.0) / whole if whole > 0 else 0.0


def _span(job: JobState) -> tuple[float, float]:
    """Return when a job started and ended [s]."""
    return job.first_started or 0.0, job.ended or 0.0


def _verdict(report: BatchReport, in_turn: float, saved: float) -> Verdict:
    if report.most_jobs < 2:
        return Verdict.IN_TURN
    if not _all_done(report) or not _knows_delays(report):
        return Verdict.UNKNOWN
    if abs(saved) < max(DOUBT * in_turn, LEAST):
        return Verdict.NO_DIFFERENCE
    if saved > 0:
        return Verdict.SAVED
    return Verdict.UNKNOWN if _doubts(report) else Verdict.COST


def _all_done(report: BatchReport) -> bool:
    return all(job.state is State.DONE for job in report.jobs)


def _knows_delays(report: BatchReport) -> bool:
    """Return whether the system says how long threads wait for a core: where it does, no process has none at all."""
    return any(job.delayed for job in report.jobs)


def _doubts(report: BatchReport) -> str:
    """Return why the batch may have taken longer than the estimate for another reason than its own jobs."""
    if any(job.starts > 1 or job.failures for job in report.jobs):
        return "jobs were started again, and the pauses before that took time, too"
    lost = sum(_computed_by_others(job, report.jobs) for job in report.jobs)
    if sum(job.delayed for job in report.jobs) > FOREIGN * lost:
        return "other programs used the cores, too"
    return ""


def use_in_words(report: BatchReport) -> str:
    """Return a sentence about how much of the machine the batch used."""
    cores = f"{gain_of(report).cores_used:.1f} of {report.cores:g} cores"
    memory = f"{in_units(report.peak_memory)} of {in_units(report.memory)} of memory"
    jobs = "one job" if report.most_jobs == 1 else f"up to {report.most_jobs} jobs"
    return f"{jobs} at a time, on average {cores}, at most {memory}"


def gain_in_words(report: BatchReport) -> str:
    """Return a sentence about what running at the same time gained, and what to do if it gained nothing.

    It is empty if no two jobs ran at the same time, or not all jobs are done.
    """
    gain = gain_of(report)
    alone = f"one after another, the jobs would have taken about {duration(gain.in_turn)}"
    together = "running them at the same time"
    match gain.verdict:
        case Verdict.IN_TURN:
            return ""
        case Verdict.UNKNOWN if not _all_done(report):
            return ""
        case Verdict.SAVED:
            return f"{alone}: {together} saved {duration(gain.saved)}"
        case Verdict.NO_DIFFERENCE:
            return f"{alone}: {together} made no difference"
        case Verdict.UNKNOWN if not _knows_delays(report):
            return f"nobody knows what {together} saved: this system does not say how long threads wait for a core"
        case Verdict.UNKNOWN:
            return f"{alone}, but this is not certain: {_doubts(report)}"
    return f"{alone}: {together} cost {duration(-gain.saved)}. {_advice(report)}"


def _advice(report: BatchReport) -> str:
    peers = [job.peer for job in report.jobs]
    shared = next((peer for peer in peers if peers.count(peer) > 1), "")
    merge = f", or make the jobs with {shared} tasks of one job" if shared else ""
    return f"Run them with `--jobs 1`{merge}."
