"""Gauges by name, and the text that Prometheus reads. Every metric tells about the last run, so it is a gauge."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# Each metric: its name without psicli_, its help, and the name of the fact.
Specs: TypeAlias = Sequence[tuple[str, str, str]]


class Families(Collector):
    """Gauges with their samples, in the order in which they first appear."""

    def __init__(self) -> None:
        self._gauges: dict[str, GaugeMetricFamily] = {}

    def add(self, name: str, text: str, labels: Mapping[str, str], value: float | None) -> None:
        """Add a sample; an unknown value adds nothing."""
        if value is not None:
            gauge = self._gauges.setdefault(name, GaugeMetricFamily(f"psicli_{name}", text, labels=[*labels]))
            gauge.add_metric([*labels.values()], value)

    def add_all(self, specs: Specs, labels: Mapping[str, str], facts: Mapping[str, float | None]) -> None:
        """Add a sample for each of these facts."""
        for name, text, fact in specs:
            self.add(name, text, labels, facts.get(fact))

    def add_state(
        self, name: str, text: str, labels: Mapping[str, str], state: str | None, states: Collection[str]
    ) -> None:
        """Add a sample for each state: 1 for the present one, 0 for the others."""
        for each in states:
            self.add(name, text, {**labels, "state": each}, float(each == state))

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._gauges.values()

    def text(self) -> str:
        """Return the samples in the text format, with HELP and TYPE, and the labels escaped."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode()


def seconds_of(moment: str | None) -> float | None:
    """Return a moment in ISO 8601 as Unix time [s]."""
    return None if moment is None else datetime.fromisoformat(moment).timestamp()
