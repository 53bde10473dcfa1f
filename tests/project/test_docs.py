"""Check that the documentation matches the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.docs.generate import COMMAND, ROOT, generated, pages
from support.docs.site import OUTSIDE

from psicli.core import errors, peer_errors


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path) -> None:
    assert page.read_text() == generated(page.read_text()), f"run: {COMMAND}"


def test_these_pages_have_generated_parts() -> None:
    assert {"job-file.md", "commands.md"} <= {page.name for page in pages()}


def test_every_error_has_a_listed_exit_code() -> None:
    classes = [value for value in (vars(errors) | vars(peer_errors)).values() if isinstance(value, type)]
    found = [kind for kind in classes if issubclass(kind, errors.PsicliError)]
    assert len(found) > 20
    assert {kind.code for kind in found} <= set(errors.EXIT_CODES)


@pytest.mark.parametrize(
    "document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "sample_data" / "README.md"])
)
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub and MkDocs give the headings of a page."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


# The site -------------------------------------------------------------------------------------------------------


def pages_in(nav: Any) -> list[str]:
    """Return the pages of a navigation, or of a part of it."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages_in(part)]


def test_every_page_is_in_the_navigation() -> None:
    listed = pages_in(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)["nav"])
    there = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted([*there, OUTSIDE["CONTRIBUTING.md"]])


@pytest.mark.more
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="`make docs` installs MkDocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]* (?:src|href)=\"?(?:https?:)?//[^>]*>", page.read_text())
        assert not loaded, page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style


# The faults of docs/faults.md and the threats of docs/security.md ------------------------------------------------


def table(page: str, name: str) -> list[list[str]]:
    """Return the cells of every row of a marked table, without its headings."""
    text = (ROOT / "docs" / page).read_text()
    table = text.split(f"<!-- {name} -->\n")[1].split("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [cells for cells in rows if not cells[0].startswith("**")]


@cache
def known_tests() -> set[str]:
    paths = (ROOT / "tests").rglob("test_*.py")
    return {
        node.name
        for path in paths
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_fault_has_a_proof_that_exists() -> None:
    known, faults = known_tests(), table("faults.md", "faults")
    assert len(faults) > 30
    for cells in faults:
        fault, reported, codes, limit, tests = cells
        assert fault, cells
        assert reported, cells
        assert codes, cells
        assert limit, cells
        named = re.findall(r"`([^`]+)`", tests)
        assert named, f"{fault}: no test"
        assert set(named) <= known, f"{fault}: {sorted(set(named) - known)}"
        codes_there = {int(code) for code in re.findall(r"\d+", codes)}
        assert codes_there <= set(errors.EXIT_CODES), cells


def test_every_threat_is_stopped_by_something_tested_or_said_not_to_be() -> None:
    known, threats = known_tests(), table("security.md", "threats")
    assert len(threats) > 20
    for threat, stopped, tests in threats:
        named = re.findall(r"`([^`]+)`", tests)
        assert set(named) <= known, f"{threat}: {sorted(set(named) - known)}"
        assert bool(named) != stopped.startswith("nothing:"), threat
