"""psicli ui in a browser: the address that works once, and jobs that come and go while its reader looks."""

from __future__ import annotations

import re
import signal

import pytest
from playwright.sync_api import Browser
from support.browser import checks
from support.browser.chromium import opened
from support.processes.expectations import marked_pair
from support.processes.runner import LISTENER, PARTIES, Pair
from support.waiting import DEADLINE

pytestmark = pytest.mark.more

# Other jobs of this user may run on this machine, too.
JOB = "seen-in-a-browser"


def test_a_reader_follows_the_address_and_sees_a_job_come_and_go(browser: Browser, pair: Pair) -> None:
    """The page asks only its own server, and nothing is written to the console, as `opened` checks."""
    marked_pair(pair)
    for party in PARTIES:
        pair.jobs[party]["job"] = JOB
    address = pair.path(LISTENER, "address")
    ui = pair.start_command("ui", shell=f">'{address}'")
    ui.wait_for("open this address in a browser")
    link = address.read_text().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", link)
    with opened(browser, link, only=False) as page:
        # The address in the browser has no token, so that nobody reads it there.
        assert page.url == link.partition("?")[0]
        assert page.get_by_role("heading", name="Now").is_visible()
        now = page.locator("#now")
        assert JOB not in now.inner_text()
        waiting = pair.start(LISTENER)
        now.get_by_text(JOB).first.wait_for(timeout=DEADLINE * 1000)
        checks.dark(page)
        checks.fits(page)
        checks.accessible(page)
        waiting.send(signal.SIGTERM)
        assert waiting.result().code == 143
        now.get_by_text(JOB).first.wait_for(state="detached", timeout=DEADLINE * 1000)
        # The run that ended is among the past ones after the next look.
        page.reload()
        assert JOB in page.locator("main").inner_text()
    ui.send(signal.SIGINT)
    assert ui.result().code == 0
