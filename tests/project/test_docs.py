"""The documentation says what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from support.docs.generate import COMMAND, ROOT, generated, pages

from psicli.core import errors


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path) -> None:
    assert page.read_text() == generated(page.read_text()), f"run: {COMMAND}"


def test_these_pages_have_generated_parts() -> None:
    assert {"job-file.md", "commands.md"} <= {page.name for page in pages()}


def test_every_error_has_a_listed_exit_code() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    found = [kind for kind in classes if issubclass(kind, errors.PsicliError)]
    assert len(found) > 20
    assert {kind.code for kind in found} <= set(errors.EXIT_CODES)


@pytest.mark.parametrize(
    "document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "sample_data" / "README.md"])
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


# The faults of docs/faults.md ------------------------------------------------------------------------------------


def faults() -> list[list[str]]:
    """Return the cells of every row of the table, without its headings."""
    text = (ROOT / "docs" / "faults.md").read_text()
    table = text.split("<!-- faults -->\n")[1].split("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [cells for cells in rows if not cells[0].startswith("**")]


def known_tests() -> set[str]:
    paths = (ROOT / "tests").rglob("test_*.py")
    return {
        node.name
        for path in paths
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_fault_has_a_proof_that_exists() -> None:
    known = known_tests()
    assert len(faults()) > 30
    for cells in faults():
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
