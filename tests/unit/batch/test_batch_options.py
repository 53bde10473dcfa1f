"""The command lines of psicli batch and psicli schedule that are mistakes."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.batch_files import job, write_jobs

from psicli.cli.main import cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jobs(tmp_path, {name: job(f"nightly-{name}") for name in ("bob", "carol")})
    (tmp_path / "nightly.yaml").write_text("jobs: [bob.yaml, carol.yaml]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "batch nightly.yaml --only nightly-bob nightly-carol",
            "Repeat the option for each job: `--only nightly-bob --only nightly-carol`.",
        ),
        ("batch jobs/*.yaml", "No file matches jobs/*.yaml."),
        ("batch bob.yaml ?.yaml", "No file matches ?.yaml."),
        ("retry *.yaml", "No file matches *.yaml."),
        ("batch nightly.yaml --retries all", "'all' is not a valid whole number."),
        ("batch nightly.yaml --jobs 0", "0 is not in the range 1<=x<=1024."),
        ("batch nightly.yaml -q -v", "Use --quiet or --verbose, not both."),
        ("run bob.yaml -vq", "Use --quiet or --verbose, not both."),
        ("run bob.yaml --lock-timeout soon", "'soon' is not a valid number of seconds."),
        ("schedule . --on-calendar daily", ". is a folder. Name one batch file."),
    ],
)
def test_a_mistake_on_the_command_line(line: str, message: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        CliRunner().invoke(cli, line.split(), standalone_mode=False, catch_exceptions=False)
    assert caught.value.exit_code == 2
    assert caught.value.message.endswith(message)


def test_an_option_overrides_the_variable_of_its_opposite(folder: Path) -> None:
    line = ["batch", "nightly.yaml", "--verbose", "--dry-run"]
    result = CliRunner().invoke(cli, line, env={"PSICLI_QUIET": "1", "PSICLI_STATE_DIR": str(folder)})
    assert "not both" not in result.output
