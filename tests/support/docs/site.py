"""A hook of MkDocs: add the pages outside docs/ to the site, and make links to them work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[3]
# Where each file is in the site.
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "report-a-vulnerability.md",
    "CHANGELOG.md": "changelog.md",
    "sample_data/README.md": "sample-data.md",
    "psicli/protocol/wire/psi.proto": "psi.proto",
}
# Pages with a wide table get the room of the table of contents.
WIDE = {"faults.md"}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/."""
    from mkdocs.structure.files import File

    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page, which are made for the repository, into links within the site."""
    name = page.file.src_uri
    if name in WIDE:
        page.meta["hide"] = ["toc"]
    sources = {new: ROOT / old for old, new in OUTSIDE.items()}
    folder = sources.get(name, ROOT / "docs" / name).parent

    def moved(found: re.Match[str]) -> str:
        target = (folder / found[1]).resolve()
        path = str(target.relative_to(ROOT))
        if path == "README.md":
            path = "index.md"
        elif path in OUTSIDE:
            path = OUTSIDE[path]
        elif target.is_relative_to(ROOT / "docs"):
            path = str((target / "README.md" if target.is_dir() else target).relative_to(ROOT / "docs"))
        return "../" * name.count("/") + path

    return LINK.sub(moved, markdown)
