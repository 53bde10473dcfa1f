"""Pages in a headless Chromium that reports what a page says and asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Request, Route, sync_playwright
from support.kernel.programs import tool

# The widths and heights of screens, and how a browser of each behaves.
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
# Chromium itself asks the network for nothing, either.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the Chromium of this system; without one, skip the test, or fail it in CI."""
    path = tool("chromium", "chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, where: Path | str, screen: str = "desktop", theme: str = "light", *, only: bool = True, **how: Any
) -> Iterator[Page]:
    """Open a page; at the end, check that it wrote nothing to the console and asked for nothing.

    where: a file or an address. theme: what the system of its reader prefers. only: whether the page is all that it may
    ask for; with False, it may ask for more of its own origin. how: more settings of Playwright's contexts.
    """
    address = where.as_uri() if isinstance(where, Path) else where
    allowed = {address} if only else {address.rpartition("/")[0]}
    said: list[str] = []
    foreign: list[str] = []

    def is_allowed(url: str) -> bool:
        return url in allowed if only else any(url.startswith(each) for each in allowed)

    def ask(request: Request) -> None:
        if not is_allowed(request.url):
            foreign.append(request.url)

    def answer(route: Route) -> None:
        if is_allowed(route.request.url):
            route.continue_()
        else:
            route.abort()

    context = browser.new_context(**SCREENS[screen], color_scheme=theme, **how)
    try:
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", ask)
        context.route("**/*", answer)
        page.goto(address)
        yield page
        assert said == []
        assert foreign == []
    finally:
        context.close()
