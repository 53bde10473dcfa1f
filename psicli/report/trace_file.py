"""The trace of a run as a file that Chrome's tracing and Perfetto show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from psicli.core import trace
from psicli.storage.files import AtomicFile


def save_trace(path: Path, party: str, facts: Mapping[str, str]) -> None:
    """Stop recording and write the trace, if one was begun, with these facts about the run.

    Raises CannotCreateError or StorageError. Times are of the machine's clock, so traces of two parties on one machine
    fit together.
    """
    recorder = trace.stop()
    if recorder is None:
        return
    about = {**facts, "full": str(recorder.full_at is not None).lower()}
    with AtomicFile(path) as target:
        target.file.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(about)}, "traceEvents": ['.encode())
        for number, event in enumerate(recorder.to_json(party)):
            target.file.write(f"{',' if number else ''}\n{json.dumps(event)}".encode())
        target.file.write(b"\n]}\n")
        target.publish()
