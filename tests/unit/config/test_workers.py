"""Where the bins are computed: `pipeline.workers` and the option `--workers`."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from support.job_files import SMALL, TASK, Errors, Load, starts

from psicli.cli.options import Workers
from psicli.config import RayWorkers, Simulation

THREADS = SMALL + TASK


def with_workers(text: str) -> str:
    return SMALL.replace("tasks:", f"pipeline:\n  memory: 400MB\n  workers: {text}\ntasks:") + TASK


def test_threads_by_default(load: Load) -> None:
    for text in (THREADS, with_workers("threads")):
        pipeline = load(text).pipeline
        assert (pipeline.workers, pipeline.ray) == ("threads", None)


def test_a_ray_cluster(load: Load) -> None:
    pipeline = load(with_workers("{ray: auto}")).pipeline
    assert pipeline.ray == pipeline.workers == RayWorkers(ray="auto")
    every = "{ray: '[::1]:6379', worker_cpus: 4, worker_memory: 4GB, max_workers: 8, insecure: true}"
    found = load(with_workers(every)).pipeline.ray
    assert found == RayWorkers(ray="[::1]:6379", worker_cpus=4, worker_memory=4 * 10**9, max_workers=8, insecure=True)
    with pytest.raises(AttributeError):
        found.ray = "auto"


def test_a_simulation_uses_threads(load: Load) -> None:
    pipeline = load(with_workers("{ray: auto}"), simulation=Simulation(18560, Path())).pipeline
    assert (pipeline.ray, pipeline.memory) == (None, 400 * 10**6)


def test_the_address_may_hold_variables(load: Load, errors: Errors) -> None:
    text = with_workers('{ray: "${HEAD}:6379"}')
    ray = load(text, variables={"HEAD": "10.0.0.1"}).pipeline.ray
    assert ray is not None
    assert ray.ray == "10.0.0.1:6379"
    starts(errors(text), "10: pipeline.workers.ray: ${HEAD} is not defined; set it in the environment or with --set")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ray", "pipeline.workers: is the text 'ray'; write `workers: threads`, or `workers: {ray: auto}`"),
        ("10.0.0.1:6379", "pipeline.workers: is the text '10.0.0.1:6379'; write `workers: threads`, or"),
        ("", "pipeline.workers: is empty; write `workers: threads`, or"),
        ("4", "pipeline.workers: is the text '4'; write `workers: threads`, or"),
        ("[ray]", "pipeline.workers: is a list; write it like `workers: {ray: auto}`"),
        ("{}", "pipeline.workers.ray: is missing; add it, for example `ray: auto`"),
        ("{ray: }", "pipeline.workers.ray: is empty; give HOST:PORT of the head of the Ray cluster"),
        ("{ray: here}", "pipeline.workers.ray: 'here' is not the address of a Ray cluster; give HOST:PORT of the head"),
        ("{ray: '10.0.0.1'}", "pipeline.workers.ray: '10.0.0.1' is not the address of a Ray cluster; give HOST:PORT"),
        ("{ray: 'ray://h:10001'}", "pipeline.workers.ray: 'ray://h:10001' is an address of Ray Client, which psicli"),
    ],
)
def test_one_mistake_is_one_line(errors: Errors, text: str, expected: str) -> None:
    starts(errors(with_workers(text)), f"10: {expected}")


def test_all_mistakes_at_once(errors: Errors) -> None:
    fields = ("ray: here", "worker_cpus: 0", "worker_memory: 1GB?", "max_workers: many", "insecure: no", "nodes: 4")
    text = "".join(f"\n    {field}" for field in fields)
    starts(
        errors(with_workers(text)),
        "11: pipeline.workers.ray: 'here' is not",
        "12: pipeline.workers.worker_cpus: 0 is out of range; give at least 1",
        "13: pipeline.workers.worker_memory: '1GB?' is not an amount of memory; give for example",
        "14: pipeline.workers.max_workers: 'many' is not a whole number; give plain digits",
        "15: pipeline.workers.insecure: 'no' is neither true nor false; give true or false",
        "16: pipeline.workers.nodes: unknown field; it belongs under `cluster`; the fields here are ray, worker_cpus, "
        "worker_memory, max_workers, insecure",
    )


def test_the_option_overrides_only_the_address(load: Load) -> None:
    own = with_workers("{ray: auto, worker_cpus: 4}")
    assert load(own, workers="h:1").pipeline.ray == RayWorkers(ray="h:1", worker_cpus=4)
    assert load(own, workers="threads").pipeline.workers == "threads"
    assert load(THREADS, workers="auto", memory=10**9).pipeline.ray == RayWorkers(ray="auto")
    assert load(THREADS, workers="auto", memory=10**9).pipeline.memory == 10**9


def test_the_text_of_the_option() -> None:
    convert = Workers().convert
    assert [convert(text, None, None) for text in ("threads", "ray", "h:1")] == ["threads", "auto", "h:1"]
    with pytest.raises(click.BadParameter, match="'rays' is not the address of a Ray cluster; give threads, ray, or"):
        convert("rays", None, None)
