from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from playwright.sync_api import Browser
from support.browser.chromium import chromium
from support.browser.samples import MAKERS
from support.kernel.programs import alone, shared_folder

Sample = Callable[[str], Path]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser; its event loop is gone when the tests of another module begin."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Return what returns a sample page by its name; each is made once in a run of the tests."""

    def made(name: str) -> Path:
        folder = shared_folder(tmp_path_factory, f"pages-{name}")
        page = folder / f"{name}.html"
        with alone(folder):
            if not page.exists():
                # A page that could not be made is made anew in the next test.
                shutil.copy(MAKERS[name](Path(mkdtemp(dir=folder))), page)
        return page

    return made
