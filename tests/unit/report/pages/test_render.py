"""What all pages have in common: nothing leaves them, nothing foreign runs in them, and how they write numbers."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.monitoring.pages import HOSTILE, Page, done_task, facts

from psicli.core.errors import CannotCreateError
from psicli.report.pages.charts import Span, lane, marks, merged
from psicli.report.pages.file import BEGINNING, check_page_file, save_page
from psicli.report.pages.render import NOTHING, count, moment, percent, render, seconds, size
from psicli.report.pages.run import run_page


def test_a_page_allows_its_own_style_and_script_and_nothing_else() -> None:
    page = run_page(facts(done_task()))
    policy = next(each["content"] for tag, each in Page(page).elements if "http-equiv" in each)
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    for name in ("style", "script"):
        (inside,) = re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_a_page_names_no_other_file() -> None:
    page = run_page(facts(done_task()))
    for tag, attributes in Page(page).elements:
        for name in ("src", "href", "action", "srcset", "data", "poster", "background"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/svg+xml,")), (tag, name, value)
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, (tag, attributes)
    assert "url(" not in page
    assert "@import" not in page


def test_an_unknown_fact_is_a_mistake_of_the_template() -> None:
    with pytest.raises(Exception, match="parties"):
        render("run.html.j2", job="overlap", missing=None)


def test_a_picture_escapes_its_words() -> None:
    picture = str(lane([Span("c1", HOSTILE, 0, 1)], 2, HOSTILE))
    assert "<script" not in picture
    assert "<img" not in picture
    assert "\u202e" not in picture
    assert "\n" not in picture
    elements = [tag for tag, _ in Page(picture).elements]
    assert elements == ["svg", "path", "path", "title"]


def test_bars_that_are_close_become_one() -> None:
    bars = [(0.0, 1.0), (1.001, 2.0), (1.5, 1.6), (3.0, 4.0)]
    assert merged(bars, 10, 0.01) == [(0.0, 2.0), (3.0, 4.0)]
    assert merged(bars, 1, 0.01) == [(0.0, 4.0)]
    assert merged([], 1, 0.01) == []


@pytest.mark.parametrize("whole", [0.0, 0.004, 0.5, 3.7, 61.0, 86_400.0])
def test_the_marks_of_an_axis_are_few_and_within_it(whole: float) -> None:
    found = marks(whole)
    assert found[0] == 0
    assert len(found) <= 6
    assert found == sorted(set(found))
    assert all(mark <= whole for mark in found)


def test_how_numbers_are_written() -> None:
    assert [*map(count, (0, 1234567, None))] == ["0", "1,234,567", NOTHING]
    assert [*map(size, (1, 2_500_000, None))] == ["1 byte", "2.5 MB", NOTHING]
    assert [*map(seconds, (0.0, 9.994, 9.996, 59.96, 3599.6, 90_000.0, None))] == [
        "0.00 s", "9.99 s", "10.0 s", "1 min 00 s", "1 h 00 min", "25 h 00 min", NOTHING,
    ]  # fmt: skip
    # What is not none and not all never looks like it.
    assert [*map(percent, (0, 1e-9, 0.5, 0.99999, 1, None))] == ["0 %", "0.1 %", "50.0 %", "99.9 %", "100 %", NOTHING]
    assert [*map(moment, ("2026-11-29T02:00:00+02:00", None))] == ["2026-11-29 00:00:00 UTC", NOTHING]


def test_a_page_replaces_pages_alone(tmp_path: Path) -> None:
    page = run_page(facts(done_task()))
    path = tmp_path / "page.html"
    save_page(path, page)
    save_page(path, page)
    assert path.read_text() == f"{page}\n"
    assert page.startswith(BEGINNING)
    assert path.stat().st_mode & 0o777 == 0o600
    empty = tmp_path / "empty.html"
    empty.touch()
    check_page_file(empty)
    for name, content in (("notes.html", "<!DOCTYPE html>\n<html>"), ("job.htm", "job: overlap")):
        other = tmp_path / name
        other.write_text(content)
        with pytest.raises(CannotCreateError, match="no page of psicli"):
            save_page(other, page)
        assert other.read_text() == content


def test_a_run_without_a_page_imports_no_jinja() -> None:
    code = "import sys, psicli.cli.main; sys.exit('jinja2' in sys.modules or 'markupsafe' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
