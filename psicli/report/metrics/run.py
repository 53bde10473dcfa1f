"""What a run and its tasks become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psicli.report.metrics.families import Families, Specs, seconds_of
from psicli.report.report import Status

_DAY = 86400.0

_OF_A_RUN: Specs = (
    ("run_exit_code", "Exit code of the last run; 0 if it was good.", "exit_code"),
    ("run_duration_seconds", "Duration of the last run, with the wait for the other party.", "seconds"),
    ("run_peak_memory_bytes", "The most memory that the last run used.", "peak_memory"),
    ("run_peak_disk_bytes", "The most temporary disk space that the last run used.", "spool_bytes"),
)
_OF_A_TASK: Specs = (
    ("task_rows", "Rows of this party's input.", "rows"),
    ("task_rows_without_key", "Rows of this party's input that have no key, and cannot match.", "matchless_rows"),
    ("task_items", "Distinct keys of this party.", "distinct_items"),
    ("task_peer_items", "Distinct keys of the other party.", "peer_items"),
    ("task_peer_questions", "Keys that the other party can ask about; padding counts.", "peer_questions"),
    ("task_matched_items", "Distinct keys of this party that matched.", "matched"),
    ("task_matched_rows", "Rows of this party that matched.", "matched_rows"),
    ("task_output_rows", "Rows of the output.", "output_rows"),
    ("task_sent_bytes", "Network traffic of the task to the other party.", "bytes_sent"),
    ("task_received_bytes", "Network traffic of the task from the other party.", "bytes_received"),
    ("task_duration_seconds", "Duration of the task.", "seconds"),
    ("task_resumed_ratio", "Share of the exchange that an earlier run had done, from 0 to 1.", "resumed"),
)  # fmt: skip
_WHO = "job", "party", "peer"


def run_to_text(facts: Mapping[str, Any], last_success: float | None) -> str:
    """Return the metrics of a run, made from the facts of its report.

    last_success: when a run of this job last ended well [s, Unix time]; None if none is known.
    """
    families = Families()
    labels = {name: facts[name] or "" for name in _WHO}
    if facts["version"] is not None:
        about = {name: facts[name] or "" for name in ("version", "peer_version", "backend")}
        families.add("run_info", "Versions of both parties, and what computes.", {**labels, **about}, 1)
    families.add_all(_OF_A_RUN, labels, facts)
    families.add("run_end_timestamp_seconds", "When the last run ended.", labels, ended(facts))
    families.add("run_last_success_timestamp_seconds", "When a run last ended well.", labels, last_success)
    families.add("run_warnings", "Warnings of the last run about no single task.", labels, len(facts["warnings"]))
    add_parts(families, labels, facts)
    return families.text()


def add_parts(families: Families, labels: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Add the tasks and the certificates of a run."""
    for task in facts["tasks"]:
        _add_task(families, {**labels, "task": task["name"]}, task)
    end = ended(facts)
    for whose, name in (("own", "certificate_expires"), ("peer", "peer_certificate_expires")):
        expires, owner = seconds_of(facts[name]), {**labels, "whose": whose}
        families.add(
            "certificate_expiry_timestamp_seconds",
            "Until when the certificate that the last run used is valid.",
            owner,
            expires,
        )
        families.add(
            "certificate_days_left",
            "Days for which this certificate was still valid at the end of the last run.",
            owner,
            None if expires is None or end is None else (expires - end) / _DAY,
        )


def _add_task(families: Families, labels: Mapping[str, str], task: Mapping[str, Any]) -> None:
    states = [status.value for status in Status]
    families.add_state("task_state", "1 for the state of the task after the run.", labels, task["status"], states)
    families.add_all(_OF_A_TASK, labels, task)
    share = "Share of this party's distinct keys that matched, from 0 to 1."
    families.add("task_match_ratio", share, labels, match_ratio(task))
    for stage, seconds in (task["stages"] or {}).items():
        spent = "Time in each stage of the task; stages overlap."
        families.add("task_stage_seconds", spent, {**labels, "stage": stage}, seconds)
    warnings = len(task["warnings"]) + (task["warning"] is not None)
    families.add("task_warnings", "Warnings of the last run about the task.", labels, warnings)
    for drift in task["drift"]:
        far = "Distance from what is usual, for what is outside its usual range; 1 is the edge of the range."
        families.add("task_drift_distance", far, {**labels, "measure": drift["measure"]}, drift["distance"])


def match_ratio(task: Mapping[str, Any]) -> float | None:
    """Return which share of this party's distinct items matched; in whole percent if that is all that is known."""
    if task["matched"] is not None and task["distinct_items"]:
        return float(task["matched"] / task["distinct_items"])
    return None if task["matched_percent"] is None else task["matched_percent"] / 100


def ended(facts: Mapping[str, Any]) -> float | None:
    """Return when a run or a batch ended [s, Unix time]."""
    began = seconds_of(facts["started"])
    return None if began is None else began + (facts["seconds"] or 0.0)
