"""The trace of a run as a file for Perfetto and Chrome's trace viewer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from psicli.core import trace
from psicli.storage.files import AtomicFile


def save_trace(path: Path, party: str, facts: Mapping[str, str]) -> None:
    """Stop recording and write the trace with these facts about the run; do nothing if no recording was started.

    Raises CannotCreateError or StorageError. Times are those of the machine's clock, so the traces of two parties on
    one machine can be merged.
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
