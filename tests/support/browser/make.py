"""Make sample pages in build/pages, and pictures of them where Chromium is installed: `make pages`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from support.browser.chromium import SCREENS, chromium, opened
from support.browser.samples import MAKERS

OUT = Path(__file__).parents[3] / "build" / "pages"


def main(*names: str) -> None:
    """Make the named pages, by default all."""
    OUT.mkdir(parents=True, exist_ok=True)
    pages = []
    for name in names or MAKERS:
        with tempfile.TemporaryDirectory(prefix="psicli-pages-") as folder:
            pages.append(Path(shutil.copy(MAKERS[name](Path(folder)), OUT)))
    if shutil.which("chromium") is not None:
        picture(pages)


def picture(pages: list[Path]) -> None:
    """Take pictures of pages, on each screen in light and dark, and print them."""
    with chromium() as browser:
        for path in pages:
            for screen in SCREENS:
                for theme in ("light", "dark"):
                    with opened(browser, path, screen, theme) as page:
                        page.screenshot(path=path.with_suffix(f".{screen}.{theme}.png"), full_page=True)
            with opened(browser, path) as page:
                page.pdf(path=path.with_suffix(".pdf"), prefer_css_page_size=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
