"""Batch files and their job files as text, and helpers to load them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from psicli.config.batch import Batch, load_batch


def job(name: str, **fields: Any) -> dict[str, Any]:
    """Return a job of alice with the peer that its name ends in; fields replace those of the job file."""
    peer = name.rpartition("-")[2]
    task = {
        "name": "t",
        "keys": {"alice": ["id"], peer: ["id"]},
        "input_path": {"alice": "in.csv", peer: "in.csv"},
        "output_path": {"alice": f"out/{name}.csv", peer: f"out/{name}-there.csv"},
    }
    nodes = [{"party": "alice", "address": "127.0.0.1:18560"}, {"party": peer}]
    document = {
        "job": name,
        "self_party": "alice",
        "cluster": {"nodes": nodes},
        "psi": {"receiver": "alice"},
        "tasks": [{**task, **fields.pop("task", {})}],
    }
    return {**document, **fields}


def write_jobs(folder: Path, jobs: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write job files, each by its name without the suffix; return their paths."""
    paths = []
    for name, document in jobs.items():
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(dict(document), sort_keys=False))
    return paths


def load(folder: Path, text: str, files: Sequence[Path] = (), **options: Any) -> Batch:
    """Load a batch file with this text, or these job files."""
    path = folder / "nightly.yaml"
    path.write_text(text)
    return load_batch(files or [path], **{"settings": {}, "environment": {}, **options})
