"""Metrics as a machine reads them, and checks that every file of them must pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

# How psicli names metrics: in snake case, first what they are about.
_NAME = re.compile(r"psicli_(run|task|batch|certificate)_[a-z]+(_[a-z]+)*")
# The facts of a task that are metrics of the same value.
OF_A_TASK = {
    "task_rows": "rows",
    "task_rows_without_key": "matchless_rows",
    "task_items": "distinct_items",
    "task_peer_items": "peer_items",
    "task_peer_questions": "peer_questions",
    "task_matched_items": "matched",
    "task_matched_rows": "matched_rows",
    "task_output_rows": "output_rows",
    "task_sent_bytes": "bytes_sent",
    "task_received_bytes": "bytes_received",
    "task_duration_seconds": "seconds",
    "task_resumed_ratio": "resumed",
}


class Metrics:
    """The samples of a text, each with its labels. Reading it checks what a linter of metrics would."""

    def __init__(self, text: str) -> None:
        self.names: list[str] = []
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            assert family.type == "gauge", family.name
            assert family.documentation.endswith("."), family.name
            assert _NAME.fullmatch(family.name), family.name
            assert f"# HELP {family.name} " in text
            assert f"# TYPE {family.name} gauge\n" in text
            assert family.name not in self.names
            assert family.samples, family.name
            self.names.append(family.name)
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                # node_exporter rejects a file with two samples of the same labels.
                assert key not in self._samples, key
                self._samples[key] = sample.value
        assert text.endswith("\n")
        assert "\n\n" not in text

    @classmethod
    def of(cls, path: Path) -> Metrics:
        return cls(path.read_text())

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of the one sample with these labels, whatever its others are; None if there is none."""
        wanted = labels.items()
        found = [
            value for (each, those), value in self._samples.items() if each == f"psicli_{name}" and wanted <= those
        ]
        assert len(found) <= 1, (name, labels)
        return found[0] if found else None

    def values(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a metric by one of its labels."""
        found = {
            dict(those)[label]: value for (each, those), value in self._samples.items() if each == f"psicli_{name}"
        }
        assert found, name
        return found


def check_tasks(metrics: Metrics, facts: Mapping[str, Any], **labels: str) -> None:
    """Check that the metrics of tasks are what the report says, and that what it does not say is absent."""
    for task in facts["tasks"]:
        own = {**labels, "task": task["name"]}
        for name, fact in OF_A_TASK.items():
            assert metrics.value(name, **own) == task[fact], (name, own)
        states = {state: metrics.value("task_state", **own, state=state) for state in ("done", "failed", "not started")}
        assert states == {state: float(state == task["status"]) for state in states}
        for stage, seconds in (task["stages"] or {}).items():
            assert metrics.value("task_stage_seconds", **own, stage=stage) == seconds
        knows = task["matched_percent"] is not None
        assert (metrics.value("task_match_ratio", **own) is not None) == knows
