"""URLs in job files: which are taken, and what is said about the others."""

from __future__ import annotations

import pytest
from support.job_files import Errors, Load, starts, with_paths

from psicli.core.places import Url

IN, OUT = "11: tasks[0].input_path.alice: ", "12: tasks[0].output_path.alice: "


@pytest.mark.parametrize(
    "url", ["s3://b/in/a.csv", "gs://b/a.csv.gz", "abfs://c@acc.dfs.core.windows.net/a.parquet", "hdfs://nn:8020/a.csv"]
)
def test_urls_of_stores_are_inputs_and_outputs(load: Load, url: str) -> None:
    (task,) = load(with_paths(f"{{alice: '{url}'}}", f"{{alice: '{url.replace('a.', 'out.')}'}}")).tasks
    assert (task.input.paths, task.output_path) == ((Url(url),), Url(url.replace("a.", "out.")))


def test_a_signed_url_of_a_web_server_is_an_input(load: Load) -> None:
    (task,) = load(with_paths("{alice: 'https://x.example/a.csv?sig=HIDDEN'}", "{alice: out.csv}")).tasks
    assert str(task.input) == "https://x.example/a.csv?…"
    assert "HIDDEN" not in repr(task)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://x.example/a.csv", "would come in the clear, and anyone could change it on its way; use https"),
        ("s3a://b/a.csv", "is what other tools call it; begin it with s3://"),
        ("wasbs://c@acc.blob.core.windows.net/a.csv", "is what other tools call it; begin it with abfs://"),
        ("dbfs:/mnt/a.csv", "is a path of Databricks; give the URL of the storage behind it"),
        ("ftp://x.example/a.csv", "is a URL of a kind that psicli does not know; use s3, gs, abfs or hdfs, or https"),
        ("file:///data/a.csv", "is a URL of a local file; write /data/a.csv"),
        ("s3:/b/a.csv", "is not how this URL is written; write s3:// before the name"),
        ("s3:///a.csv", "names no bucket or host; write s3://NAME/a.csv"),
        ("hdfs://nn:port/a.csv", "has a port that is no number; write HOST or HOST:PORT"),
        ("s3://b/a.csv?versionId=1", "has a query; end it before ? or #"),
        ("https://x.example/*.csv", "is a pattern, and a web server has no list of its files; name one file"),
        ("https://x.example/my file.csv", "has a space, which no URL holds; write %20"),
        ("https://x.example/é.csv", "has 'é', which no URL holds; write %C3%A9"),
        ("https://é.example/a.csv", "has 'é' in its host, which no URL holds; write the host in ASCII (xn--…)"),
        ("https://x.example/a.csv?é", "a.csv?…' has a character in its query that no URL holds; write it as % and two"),
        ("s3://b/a.txt", "has no known suffix; rename or link it"),
    ],
)
def test_other_urls_are_refused_with_what_to_do(errors: Errors, url: str, what: str) -> None:
    (line,) = errors(with_paths(f"{{alice: '{url}'}}", "{alice: out.csv}"))
    assert line.startswith(IN)
    assert what in line


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("https://x.example/a.csv", "is on a web server, to which psicli does not write; use s3, gs, abfs or hdfs"),
        ("s3://b/*.csv", "is a pattern; name one object"),
        ("s3://b/out/", "has no known suffix"),
    ],
)
def test_outputs_that_are_refused(errors: Errors, url: str, what: str) -> None:
    (line,) = errors(with_paths("{alice: in.csv}", f"{{alice: '{url}'}}"))
    assert line.startswith(OUT)
    assert what in line


@pytest.mark.parametrize("url", ["s3://key:HIDDEN@b/a.csv", "https://me:HIDDEN@x.example/a.csv?sig=HIDDEN"])
def test_a_url_holds_no_password(errors: Errors, url: str) -> None:
    (line,) = errors(with_paths(f"{{alice: '{url}'}}", "{alice: out.csv}"))
    starts([line], f"{IN}'{url.partition('//')[0]}//…@")
    assert "holds a user name or a password; remove it, and give the credentials in the environment" in line
    assert "HIDDEN" not in line


def test_an_output_that_is_the_input_is_refused(errors: Errors) -> None:
    found = errors(with_paths("{alice: 's3://b/a.csv'}", "{alice: 's3://b/a.csv'}"))
    starts(found, f"{OUT}is the same file as tasks[0].input_path.alice (line 11)")
