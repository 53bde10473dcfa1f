"""Views of a file: what they return does not depend on how much they read ahead."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from psicli.storage.places.reading import OpenFile, open_file


class Far(OpenFile):
    """A file on another machine. asked: the ranges that were asked for."""

    is_remote = True

    def __init__(self, content: bytes) -> None:
        self.name, self.size, self.identity = "far", len(content), ()
        self.asked: list[tuple[int, int]] = []
        self._content = content

    def pread(self, offset: int, size: int) -> bytes:
        self.asked.append((offset, size))
        return self._content[offset : offset + size]

    def check_unchanged(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("ahead", [0, 1, 7, 64, 5000])
def test_any_reads_return_what_the_file_has(ahead: int) -> None:
    draw = random.Random(ahead)
    content = draw.randbytes(1000)
    file = Far(content)
    view = file.view(ahead)
    for _ in range(500):
        at = view.seek(draw.randrange(1100)) if draw.random() < 0.3 else view.tell()
        size = draw.randrange(80)
        assert view.read(size) == content[at : at + size]
        assert view.tell() == at + len(content[at : at + size])


def test_small_reads_in_order_take_few_requests() -> None:
    file = Far(bytes(1000))
    view = file.view(100)
    while view.read(9):
        pass
    assert file.asked == [(at, 100) for at in range(0, 1000, 100)]


def test_a_large_read_asks_for_no_more_than_it_needs() -> None:
    file = Far(bytes(1000))
    assert len(file.view(100).read(500)) == 500
    assert file.asked == [(0, 500)]


def test_a_file_of_this_machine_is_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    file = open_file(path, "x")
    asked = []
    monkeypatch.setattr(file, "pread", lambda offset, size: asked.append((offset, size)) or bytes(size))
    file.view(50).read(3)
    file.close()
    file.close()
    assert asked == [(0, 3)]
