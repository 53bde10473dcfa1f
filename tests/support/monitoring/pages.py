"""Reports whose pages are made in tests, and the text of a page."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from psicli.core.errors import PsicliError
from psicli.report.report import Report, Status, TaskReport, facts_of

# Of a name, a path or a warning: HTML, quotes, a line break, and a mark that turns the direction of text.
HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x>\n\u202e\x00💥"

_STAGES = ("reading", "computing", "waiting_for_peer", "waiting_for_room", "matching", "writing")
# Elements without an end.
_EMPTY = {"meta", "link"}


def done_task(name: str = "people", **changes: Any) -> TaskReport:
    """Return a task of which alice has learned the matching rows."""
    known = {
        "status": Status.DONE, "key_columns": ["'id' (string)"], "rows": 1200, "distinct_items": 1000,
        "matchless_rows": 7, "peer_items": 800, "peer_questions": 800, "bins": 1, "matched": 123, "matched_percent": 12,
        "matched_rows": 321, "output_rows": 321, "output_holds": "matched", "output": "out/people.csv",
        "task_sid": "ab" * 32, "output_sha256": "cd" * 32, "seconds": 2.5, "bytes_sent": 34_000,
        "bytes_received": 56_000, "stages": dict(zip(_STAGES, (0.5, 1.0, 0.25, 0.0, 0.1, 0.2), strict=True)),
        "timeline": [("reading", 1.0, 1.5), ("computing", 1.5, 2.5), ("waiting_for_peer", 2.5, 2.75)],
    }  # fmt: skip
    return TaskReport(name, changes.pop("receiver", "alice"), changes.pop("broadcast_result", False), **known | changes)


def sent_task(name: str = "people", **changes: Any) -> TaskReport:
    """Return a task of which only bob has learned the matching rows."""
    unknown = ("matched", "matched_percent", "matched_rows", "output_rows", "output_holds", "output", "output_sha256")
    return done_task(name, **{"receiver": "bob", **dict.fromkeys(unknown), **changes})


def facts(*tasks: TaskReport, error: PsicliError | None = None, **changes: Any) -> dict[str, Any]:
    """Return the facts of a run of alice with bob."""
    report = Report("overlap", "alice", "bob", "1.2.3", "native avx2", [*tasks], run="b0c4", seconds=4.0)
    report.started = "2026-11-29T02:00:00.000+00:00"
    if error is not None:
        report.fail(error)
    for name, value in changes.items():
        setattr(report, name, value)
    return facts_of(report, report.error)


class Page(HTMLParser):
    """The elements of a page, whose tags must match, and its text outside of its style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, self._open

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["script"]):
            self.words.append(data)
