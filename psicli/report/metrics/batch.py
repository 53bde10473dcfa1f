"""What a batch and its jobs become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psicli.report.batch import OVER
from psicli.report.metrics.families import Families, Specs
from psicli.report.metrics.run import add_parts, ended

_OF_A_BATCH: Specs = (
    ("batch_exit_code", "Exit code of the last run of the batch; 0 if it was good.", "exit_code"),
    ("batch_duration_seconds", "Duration of the last run of the batch.", "seconds"),
    ("batch_cpu_seconds", "Processor time of all its jobs.", "computed"),
    ("batch_peak_memory_bytes", "The most memory that its jobs used at the same time.", "peak_memory"),
)
_OF_A_JOB: Specs = (
    ("batch_job_exit_code", "Exit code of the last process of the job; 0 if it was good.", "exit_code"),
    ("batch_job_starts", "How often a process of the job was started.", "starts"),
    ("batch_job_failures", "Starts that failed for another reason than an absent party.", "failures"),
    ("batch_job_duration_seconds", "Duration of all starts of the job.", "seconds"),
    ("batch_job_wait_seconds", "Time of these in which the job waited for the other party.", "waited"),
    ("batch_job_peak_memory_bytes", "The most memory that the job used.", "peak_memory"),
    ("batch_job_matched_rows", "Rows that the tasks of the job have written.", "matched_rows"),
)  # fmt: skip
_STATES = sorted(OVER)


def batch_to_text(facts: Mapping[str, Any], last_success: float | None) -> str:
    """Return the metrics of a batch, made from the facts of its report.

    last_success: when a run of this batch last ended with all jobs done [s, Unix time]; None if none is known. Tasks
    have the names that the batch gives to their jobs.
    """
    families = Families()
    labels = {"batch": facts["batch"] or ""}
    families.add("batch_info", "Version of psicli.", {**labels, "version": facts["version"]}, 1)
    families.add_all(_OF_A_BATCH, labels, facts)
    families.add("batch_end_timestamp_seconds", "When the last run of the batch ended.", labels, ended(facts))
    last = "When a run of the batch last ended with all jobs done."
    families.add("batch_last_success_timestamp_seconds", last, labels, last_success)
    families.add("batch_warnings", "Warnings about the batch as a whole.", labels, len(facts["warnings"]))
    states = [job["state"] for job in facts["jobs"]]
    for state in _STATES if states else ():
        number = "Number of jobs in each state after the batch."
        families.add("batch_jobs", number, {**labels, "state": state}, states.count(state))
    for job in facts["jobs"]:
        of_job = {**labels, "job": job["name"], "peer": job["peer"]}
        what = "1 for the state of the job after the batch."
        families.add_state("batch_job_state", what, of_job, job["state"], _STATES)
        # A job that had no process in this start did not run, or was done before it.
        unknown = {} if job["peak_memory"] else {"waited": None, "peak_memory": None}
        families.add_all(_OF_A_JOB, of_job, {**job, **unknown})
    for job in facts["jobs"]:
        report = job["report"]
        if report is not None:
            who = {"job": job["name"], "party": report["party"] or "", "peer": job["peer"]}
            add_parts(families, who, report)
    return families.text()
