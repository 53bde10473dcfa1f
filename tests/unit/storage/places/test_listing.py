"""Which files a folder or a pattern of this machine names."""

from __future__ import annotations

from pathlib import Path

import pytest

from psicli.core.errors import InputMissingError
from psicli.storage.places.listing import covers, find_files, is_pattern


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(place: Path) -> list[str]:
    return [each.name for each in find_files(place)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["[]x.csv", "a.csv", "b/c.csv", "b/d/e.csv", "ab.txt"]),
        ("*.csv", ["[]x.csv", "a.csv"]),
        ("?.csv", ["a.csv"]),
        ("[a-b]*", ["a.csv", "ab.txt", "b/c.csv", "b/d/e.csv"]),
        ("[!a]*.csv", ["[]x.csv"]),
        ("**/*.csv", ["[]x.csv", "a.csv", "b/c.csv", "b/d/e.csv"]),
        ("b/*", ["c.csv", "d/e.csv"]),
        ("_*", ["_old/f.csv"]),
        # What is no set stands for itself.
        ("[z-a]*", []),
        ("[]*.csv", ["[]x.csv"]),
        ("[!].csv", []),
    ],
)
def test_names(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "a.csv", "ab.txt", "b/c.csv", "b/d/e.csv", "[]x.csv", ".hidden/g.csv", "_old/f.csv", "a.csv.crc")
    assert names(tmp_path / pattern) == sorted(expected, key=str.encode)


def test_folders_whose_names_look_like_patterns(tmp_path: Path) -> None:
    """Above all the folder of the job file, whose name nobody chose for psicli."""
    folder = tmp_path / "[2026] all?" / "in*"
    make(folder, "a.csv", "b.txt")
    assert names(folder) == ["a.csv", "b.txt"]
    assert names(folder / "*.csv") == ["a.csv"]
    assert not is_pattern(folder / "out/a.csv")
    assert is_pattern(tmp_path / "[2027] all?/a.csv")


def test_many_stars_take_no_time(tmp_path: Path) -> None:
    make(tmp_path, "a" * 200)
    assert names(tmp_path / f"{'*a' * 20}*b") == []


def test_a_link_to_a_folder_above_ends_there(tmp_path: Path) -> None:
    make(tmp_path, "a/b.csv")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert names(tmp_path) == ["a/b.csv"]


def test_a_file_that_links_give_two_names(tmp_path: Path) -> None:
    make(tmp_path, "d1/a.csv")
    (tmp_path / "latest").symlink_to(tmp_path / "d1")
    with pytest.raises(InputMissingError, match=r"latest/a.csv: it is the same file as .*d1/a.csv, so each"):
        find_files(tmp_path)
    assert names(tmp_path / "d*") == ["d1/a.csv"]


def test_folders_that_link_to_each_other(tmp_path: Path) -> None:
    """The ways through ten of them are countless."""
    make(tmp_path, *(f"d{number}/{number}.csv" for number in range(10)))
    for one in range(10):
        for other in range(10):
            (tmp_path / f"d{one}/to{other}").symlink_to(tmp_path / f"d{other}")
    with pytest.raises(InputMissingError, match="links lead to it in more than 20 ways"):
        find_files(tmp_path)


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"exports: the folder .*exports does not exist"):
        find_files(tmp_path / "exports")
    assert covers(tmp_path / "exports", tmp_path / "exports/a.csv")
    assert not covers(tmp_path / "exports.csv", tmp_path / "exports.csv/a.csv")
    assert find_files(tmp_path / "exports.csv") == []
