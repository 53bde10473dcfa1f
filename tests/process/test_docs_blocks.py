"""The code blocks of README.md and docs/ work as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.docs import static
from support.docs.blocks import read_blocks
from support.docs.generate import ROOT
from support.docs.story import Story, environment
from support.processes.runner import free_ports

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/decisions/*.md", "sample_data/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
# The only blocks of commands or output that are checked, but not run: how many there are of each reason.
NOT_RUN = {
    "installs psicli for the reader": 3,
    "needs a clone with its virtual environment": 6,
    "builds and tries a release": 2,
    "shows one check with several kinds of findings": 1,
    "shows the report of one party": 5,
    "shows the first keys of an example": 1,
    "shows the report of a batch": 1,
    "shows what a second run of the same job prints": 1,
    "needs jq, which psicli does not need": 1,
    "changes the shell of the reader": 1,
    "changes the systemd of the reader": 1,
    "runs again what has failed": 1,
    "starts a Ray cluster": 7,
    "needs both parties": 1,
    "runs until Ctrl-C": 2,
    "needs the other party in a notebook of its own": 1,
}


# The pages whose blocks `make test` runs.
SOON = {"README.md", "docs/index.md", "docs/operations.md"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_valid(page: Path) -> None:
    for block in read_blocks(page):
        static.check(block)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if name(page) in SOON else pytest.mark.more)
        for page in PAGES
        if re.search("```(sh|python)", page.read_text())
    ],
    ids=name,
)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    with free_ports(1) as ports:
        Story(folder, ports[0], environment(tmp_path / "bin")).run(read_blocks(page))


def test_few_blocks_are_not_run() -> None:
    reasons = [block.not_run for page in PAGES for block in read_blocks(page) if block.not_run]
    assert {reason: reasons.count(reason) for reason in reasons} == NOT_RUN
