from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_files import Load

from psicli.config import Job, load_job


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(text: str, **options: Any) -> Job:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return load_job(path, variables={}, **options)

    return run
