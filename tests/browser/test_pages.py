"""Pages of real runs in a browser: what a reader sees, sorts, switches and prints, and that nothing leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support.browser import checks
from support.browser.chromium import SCREENS, opened
from support.browser.samples import ALONE, FAULTS, JOBS, MAKERS, MISSING, NIGHTS

Sample = Callable[[str], Path]

# A page is made in the first test that needs it: that of the simulation soonest, so the others are left to test-more.
QUICK = "simulation"
pages = pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.more] * (each != QUICK)) for each in MAKERS]
)


@pytest.mark.more
@pages
def test_a_reader_sees_how_it_ended_sorts_and_switches_to_dark(browser: Browser, sample: Sample, name: str) -> None:
    """Nothing is asked for and nothing is written to the console, as `opened` checks."""
    with opened(browser, sample(name)) as page:
        checks.dark(page)
        assert checks.sortable(page) >= 1


@pytest.mark.more
def test_the_verdict_comes_first(browser: Browser, sample: Sample) -> None:
    with opened(browser, sample("simulation")) as page:
        assert page.locator(".verdict .words").all_inner_texts() == ["Done, with 2 warnings", "Done"]
        numbers = page.locator(".verdict").first.locator(".numbers").inner_text()
        assert {"45,568", "3 of 3"} <= set(numbers.splitlines())
    with opened(browser, sample("hundred")) as page:
        assert page.locator("main > :first-child h1").inner_text() == "Done, with 11 warnings"
        assert "100 of 100" in page.locator(".verdict .numbers").inner_text()


@pytest.mark.more
def test_a_table_of_numbers_is_sorted_by_value(browser: Browser, sample: Sample) -> None:
    """The first click shows the greatest number on top, as a reader looks for it; the second the least."""
    with opened(browser, sample("simulation")) as page:
        table = page.locator(checks.TABLES).first
        head = table.get_by_role("button", name="Matched rows")
        for order, names in (("descending", ["airlines", "planes"]), ("ascending", ["planes", "airlines"])):
            head.click()
            assert table.locator("thead [aria-sort]").get_attribute("aria-sort") == order
            # The airline does not learn how many airports match.
            assert table.locator("tbody th").all_inner_texts() == [*names, "airports"]
        # With the keyboard, too, and beside the words.
        head.press("Enter")
        assert table.locator("tbody th").first.inner_text() == "airlines"
        table.locator("thead th").filter(has_text="Matched rows").click(position={"x": 2, "y": 2})
        assert table.locator("tbody th").first.inner_text() == "planes"


@pytest.mark.more
def test_a_batch_says_which_jobs_failed_and_why(browser: Browser, sample: Sample) -> None:
    with opened(browser, sample("batch")) as page:
        assert page.locator(".verdict h1").inner_text() == "10 of 12 jobs done"
        table = page.locator(checks.TABLES).first
        assert table.locator("tbody tr").count() == len(JOBS)
        for job, why in ((MISSING, f"{MISSING}.csv: no such file"), (ALONE, "erin")):
            row = table.locator("tbody tr").filter(has_text=job)
            assert "failed" in row.inner_text()
            assert why in row.inner_text()


@pytest.mark.more
def test_a_job_of_a_batch_leads_to_its_report(browser: Browser, sample: Sample) -> None:
    """Each time that its name is clicked, and also in an address that somebody has sent."""
    with opened(browser, sample("batch")) as page:
        link = page.locator("#jobs tbody a").nth(2)
        report = page.locator(f"details{link.get_attribute('href')}")
        for _ in range(2):
            assert report.get_attribute("open") is None
            link.click()
            assert report.get_attribute("open") is not None
            summary = report.locator("> summary")
            assert link.inner_text() in summary.inner_text()
            summary.click()
        page.reload()
        assert report.get_attribute("open") is not None


@pytest.mark.more
def test_the_history_shows_every_unusual_night(browser: Browser, sample: Sample) -> None:
    """Half the rows, no matches, a doubled input and a slow night, and at most one false alarm in ninety nights."""
    with opened(browser, sample("history")) as page:
        assert page.locator(".verdict h1").inner_text() == "The last run of every job is done"
        table = page.get_by_role("region", name="Runs of customers", include_hidden=True).locator("table")
        nights = [text for _, text in checks.column(table, -1)]
        # The newest night is the first row.
        unusual = {NIGHTS - 1 - row for row, text in enumerate(nights) if text}
        assert len(nights) == NIGHTS
        assert set(FAULTS) <= unusual
        assert len(unusual) <= len(FAULTS) + 1


@pages
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.more
def test_everybody_can_read_a_page_on_any_screen(
    browser: Browser, sample: Sample, name: str, screen: str, theme: str
) -> None:
    """Contrast and everything else in WCAG 2 AA that a program can check; no page is wider than its screen."""
    with opened(browser, sample(name), screen, theme) as page:
        checks.fits(page)
        checks.accessible(page)


@pytest.mark.more
def test_everybody_can_read_a_simulation_on_a_phone_at_night(browser: Browser, sample: Sample) -> None:
    """A part of the test above for every run of the tests."""
    with opened(browser, sample("simulation"), "phone", "dark") as page:
        checks.fits(page)
        checks.accessible(page)


@pages
@pytest.mark.more
def test_a_page_prints_on_a4(browser: Browser, sample: Sample, name: str) -> None:
    """Also if its reader prefers dark: paper is white."""
    with opened(browser, sample(name), theme="dark") as page:
        assert 1 <= checks.prints(page) <= 40
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 32, 39)"


@pages
@pytest.mark.more
def test_a_page_can_be_read_without_scripts(browser: Browser, sample: Sample, name: str) -> None:
    with opened(browser, sample(name), java_script_enabled=False) as page:
        assert not page.locator("#theme").is_visible()
        assert page.locator("h1").first.is_visible()
        assert page.locator("table tbody th").first.is_visible()


@pytest.mark.more
def test_a_page_is_valid_html(sample: Sample) -> None:
    checks.valid(sample(QUICK))


@pytest.mark.more
def test_all_pages_are_valid_html(sample: Sample) -> None:
    checks.valid(*(sample(name) for name in MAKERS if name != QUICK))
