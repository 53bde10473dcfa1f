"""What it gained to run the jobs of a batch at the same time: an estimate from what the system says about them.

A job that runs alone waits for its peer and computes, but never waits for a core that another job of the batch uses. So
its time alone is the time that it waited for its peer, and the rest without the time in which its threads were ready
but other jobs had the cores. What other programs took stays, and the peer of a job on this machine counts like the job.
The estimate for one job after another is the sum of these times. It leaves out what no figure tells: that one job may
slow down the memory of another, and the pauses before a job is started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from psicli.core.errors import in_units
from psicli.report.batch import BatchReport, JobState
from psicli.report.console import duration

# A difference below this share of the time is none: two runs of the same batch differ as much.
DOUBT = 0.05


class Verdict(StrEnum):
    """Whether it paid to run jobs at the same time."""

    SAVED = "saved"
    NO_DIFFERENCE = "no difference"
    COST = "cost"
    # No two jobs were in progress at the same time.
    IN_TURN = "in turn"
    # Jobs were started again, and nobody knows how much of the time was pauses.
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
    siblings = _share_of_siblings(report)
    in_turn = sum(_seconds_alone(job, siblings) for job in report.jobs)
    saved = in_turn - report.seconds
    cores_used = report.computed / report.seconds if report.seconds else 0.0
    return Gain(_verdict(report, in_turn, saved), in_turn, saved, cores_used)


def _share_of_siblings(report: BatchReport) -> float:
    """Return which share of what competed with a job for the cores was other jobs of the batch, from 0 to 1."""
    active = sum(job.seconds - job.waited for job in report.jobs)
    at_once = max(active / report.seconds if report.seconds else 0.0, 1.0)
    computed = sum(job.computed * (2 if job.is_local else 1) for job in report.jobs)
    own = computed / report.seconds / at_once if report.seconds else 0.0
    return min(own * (at_once - 1) / max(report.busy - own, 1e-9), 1.0)


def _seconds_alone(job: JobState, siblings: float) -> float:
    """Estimate how long the processes of a job would have taken if no other job had used the cores [s].

    siblings: the share of what competed for the cores that was other jobs of the batch.
    """
    ready = job.computed + job.delayed
    share = 1.0 - siblings * job.delayed / ready if ready else 1.0
    return job.waited + (job.seconds - job.waited) * share


def _verdict(report: BatchReport, in_turn: float, saved: float) -> Verdict:
    if report.most_jobs < 2:
        return Verdict.IN_TURN
    if abs(saved) < DOUBT * in_turn:
        return Verdict.NO_DIFFERENCE
    if saved > 0:
        return Verdict.SAVED
    return Verdict.UNKNOWN if any(job.starts > 1 for job in report.jobs) else Verdict.COST


def use_in_words(report: BatchReport) -> str:
    """Return a sentence about how much of the machine the batch used."""
    cores = f"{gain_of(report).cores_used:.1f} of {report.cores:g} cores"
    memory = f"{in_units(report.peak_memory)} of {in_units(report.memory)} of memory"
    jobs = "one job" if report.most_jobs == 1 else f"up to {report.most_jobs} jobs"
    return f"{jobs} at a time, on average {cores}, at most {memory}"


def gain_in_words(report: BatchReport) -> str:
    """Return a sentence about what running at the same time gained, and what to do if it gained nothing.

    It is empty if no two jobs ran at the same time.
    """
    gain = gain_of(report)
    alone = f"one after another, the jobs would have taken about {duration(gain.in_turn)}"
    together = "running them at the same time"
    match gain.verdict:
        case Verdict.IN_TURN:
            return ""
        case Verdict.SAVED:
            return f"{alone}: {together} saved {duration(gain.saved)}"
        case Verdict.NO_DIFFERENCE:
            return f"{alone}: {together} made no difference"
        case Verdict.UNKNOWN:
            return f"{alone}, without the pauses before jobs were started again"
    return f"{alone}: {together} cost {duration(-gain.saved)}. {_advice(report)}"


def _advice(report: BatchReport) -> str:
    peers = [job.peer for job in report.jobs]
    shared = next((peer for peer in peers if peers.count(peer) > 1), "")
    merge = f", or make the jobs with {shared} tasks of one job" if shared else ""
    return f"Run them with `--jobs 1`{merge}."
