from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_files import Errors, Load

from psicli.config import Job, load_job
from psicli.core.errors import ConfigError


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def run(text: str | bytes, **options: Any) -> Job:
        path = tmp_path / "job.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_job(path, **{"variables": {}, **options})

    return run


@pytest.fixture
def errors(tmp_path: Path, load: Load) -> Errors:
    """Load a job file that must be refused; return its errors, each as `LINE: FIELD: what; right`."""

    def run(text: str | bytes, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **options)
        assert caught.value.code == 78
        prefix = f"{tmp_path / 'job.yaml'}:"
        lines = caught.value.message.splitlines()
        assert all(line.startswith(prefix) and "; " in line for line in lines)
        return [line.removeprefix(prefix) for line in lines]

    return run
