"""Objects of a store: which ones a URL names, and that a change is noticed while one is read."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.stores.s3 import Store, s3_server

from psicli import tables
from psicli.core.errors import InputChangedError, InputMissingError
from psicli.core.formats import file_format
from psicli.core.places import Url
from psicli.storage.places import remote
from psicli.storage.places.reading import open_file, sha256_of
from psicli.storage.places.remote import list_files

NAMES = [
    "in/_SUCCESS",
    "in/.part.crc",
    "in/a.csv",
    "in/b/c.csv",
    "in/b/d.txt",
    "in/z.csv",
    "in/_tmp/e.csv",
    "in2/a.csv",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with s3_server() as store:
        # A worker may come back to this module later, and finds another server then.
        remote._file_system.cache_clear()
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("s3://crm/in", ["a.csv", "b/c.csv", "b/d.txt", "z.csv"]),
        ("s3://crm/in/", ["a.csv", "b/c.csv", "b/d.txt", "z.csv"]),
        ("s3://crm/in/a.csv", ["a.csv"]),
        ("s3://crm/in/*.csv", ["a.csv", "z.csv"]),
        ("s3://crm/in/[b-z].csv", ["z.csv"]),
        ("s3://crm/in/**/*.csv", ["a.csv", "b/c.csv", "z.csv"]),
        ("s3://crm/in*/a.csv", ["in/a.csv", "in2/a.csv"]),
        ("s3://crm/in/_*", ["_SUCCESS", "_tmp/e.csv"]),
        ("s3://crm/in/b*/", ["b/c.csv", "b/d.txt"]),
    ],
)
def test_a_url_names_a_file_a_folder_or_a_pattern(store: Store, text: str, names: list[str]) -> None:
    for name in NAMES:
        store.put(name, name.encode())
    found = list_files(Url(text))
    assert [each.name for each in found] == names
    for each in found:
        assert isinstance(each.place, Url)
        name = each.place.text.removeprefix("s3://crm/")
        assert name.endswith(each.name)
        assert each.size == len(name)
        assert each.changed > 0


@pytest.mark.parametrize("text", ["s3://crm/none", "s3://crm/none/*.csv", "s3://nobody/none"])
def test_a_folder_that_is_not_there_is_missing(store: Store, text: str) -> None:
    with pytest.raises(InputMissingError, match=r"no such (object|bucket)"):
        list_files(Url(text))


def test_the_identity_has_the_version_and_the_digest_is_that_of_the_content(store: Store) -> None:
    url = Url(store.put("in/a.csv", b"id\n1\n"))
    first = open_file(url, "a")
    assert (first.size, first.pread(3, 100)) == (5, b"1\n")
    first.check_unchanged()
    assert sha256_of(url) == hashlib.sha256(b"id\n1\n").hexdigest()
    store.put("in/a.csv", b"id\n2\n")
    second = open_file(url, "a")
    assert first.identity != second.identity
    with pytest.raises(InputChangedError, match="a: the file was changed or replaced"):
        first.check_unchanged()
    store.request("DELETE", "crm/in/a.csv")
    with pytest.raises(InputChangedError, match="a: the file was changed or replaced"):
        second.check_unchanged()


def parquet(first: int) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"id": range(first, first + 90_000)}), target, row_group_size=10_000, compression="none")
    return target.getvalue()


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("replaced", [True, False])
def test_an_object_that_changes_while_it_is_read_is_an_error(store: Store, name: str, replaced: bool) -> None:
    def content(first: int) -> bytes:
        if name == "a.parquet":
            return parquet(first)
        row = '{"id": "%060d"}\n' if name == "a.jsonl" else "%060d\n"
        text = ("id\n" if "csv" in name else "") + "".join(row % each for each in range(first, first + 90_000))
        return gzip.compress(text.encode(), 1) if name.endswith("gz") else text.encode()

    url = Url(store.put(name, content(0)))
    with tables.open_input(url, file_format(url), ["id"]) as source:
        batches = source.key_batches()
        next(batches)
        if replaced:
            store.put(name, content(7))
        else:
            store.request("DELETE", f"crm/{name}")
        with pytest.raises(InputChangedError) as caught:
            for _ in batches:
                pass
    assert caught.value.code == 65
    assert str(url) in caught.value.message
