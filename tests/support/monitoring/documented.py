"""The table of metrics, and the check of rules for alarms: they use only metrics that there are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from support.monitoring.examples import a_batch, a_run

from psicli.report.batch.summary import facts_of
from psicli.report.metrics.batch import batch_to_text
from psicli.report.metrics.run import run_to_text


def _families() -> dict[str, tuple[str, list[str]]]:
    """Return the help and the labels of each metric by its name, of runs first."""
    run = {**a_run(), "spool_bytes": 1, "peer_certificate_expires": "2027-01-01T00:00:00+00:00"}
    run["tasks"][0]["resumed"] = 0.5
    batch = a_batch("one")
    batch.jobs = [replace(job, report=run, peak_memory=1) for job in batch.jobs]
    found = {}
    for text in (run_to_text(run, 1.0), batch_to_text(facts_of(batch), 1.0)):
        for family in text_string_to_metric_families(text):
            found.setdefault(family.name, (family.documentation, [*family.samples[0].labels]))
    return found


# What the labels of all metrics of one kind have in common; the table names the others.
_COMMON = {
    "run": {"job", "party", "peer"},
    "task": {"job", "party", "peer", "task"},
    "certificate": {"job", "party", "peer"},
    "batch": {"batch", "job", "peer"},
}


def table() -> str:
    """Return the table of all metrics."""
    rows = ["| metric | meaning |", "|---|---|"]
    for name, (text, labels) in _families().items():
        further = sorted(set(labels) - _COMMON[name.split("_")[1]])
        shown = f"`{name}`" + (f" ({', '.join(f'`{label}`' for label in further)})" if further else "")
        rows.append(f"| {shown} | {text} |")
    return "\n".join(rows)


def check_rules(document: Mapping[str, Any]) -> None:
    """Check that each rule has a name and an expression, of metrics that there are."""
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert re.fullmatch("[A-Z][A-Za-z]+", rule["alert"])
        used = set(re.findall(r"\bpsicli_\w+", rule["expr"]))
        assert used, rule
        assert used <= _families().keys(), used - _families().keys()
        assert rule["expr"].count("(") == rule["expr"].count(")")
