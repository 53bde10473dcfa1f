"""README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme import README, generated

from psicli import errors

ROOT = README.parent


def test_generated_parts_of_the_readme_are_current() -> None:
    assert README.read_text() == generated(README.read_text()), "run: python tests/readme.py"


def test_every_error_has_a_listed_exit_code() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    found = [kind for kind in classes if issubclass(kind, errors.PsicliError)]
    assert len(found) > 20
    assert {kind.code for kind in found} <= set(errors.EXIT_CODES)


@pytest.mark.parametrize(
    "document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "sample_data" / "README.md"])
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
