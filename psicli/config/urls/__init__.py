"""Checks of the URLs in a job file: their scheme, that they hold no secret, and that they name a file."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from psicli.core.errors import printable, shown
from psicli.core.places import SCHEMES, Url, is_url

# s3://bucket/x.csv, dbfs:/x.csv: the scheme has at least two letters, so it is no drive of Windows.
URL = re.compile(r"(?:jdbc:)?([A-Za-z][A-Za-z0-9+.-]+):/")
# What is not printable ASCII.
_ODD = re.compile(r"[^!-~]")
_BUCKET = re.compile(r"[A-Za-z0-9._-]+")
# What other tools call what psicli calls by another name.
_OTHER_NAMES = {
    **dict.fromkeys(("s3a", "s3n"), "s3"),
    **dict.fromkeys(("gcs",), "gs"),
    **dict.fromkeys(("wasb", "wasbs", "adl", "az", "azure"), "abfs"),
    **dict.fromkeys(("webhdfs", "swebhdfs", "viewfs"), "hdfs"),
}
_WRITTEN = "s3, gs, abfs or hdfs"
_LOCAL = f"use {_WRITTEN}, or https for an input; or copy the file here, or mount its storage"


def is_folder(text: str) -> bool:
    """Return whether a URL seems to name a folder or a pattern, which only the store can tell for sure."""
    name, scheme = Url(text).name, Url(text).scheme
    if scheme not in SCHEMES or scheme == "https":
        return False
    return text.endswith("/") or "." not in name or "=" in name or is_pattern(text)


def is_pattern(text: str) -> bool:
    """Return whether a URL has wildcards; ? is none, because it begins a query."""
    return "*" in text or "[" in text


def fault_of_url(text: str, *, is_input: bool) -> tuple[str, str] | None:
    """Return what is wrong with a URL, and what would be right."""
    url = URL.match(text)
    assert url is not None
    scheme, rest = url[1].lower(), text.partition("//")[2]
    if scheme not in SCHEMES or not is_url(text) or text[: len(scheme)] != scheme:
        return _fault_of_scheme(text, scheme)
    if scheme == "https" and not is_input:
        return f"{shown_url(text)} is on a web server, to which psicli does not write", f"use {_WRITTEN}"
    authority, _, path = rest.partition("/")
    account, at, _ = authority.rpartition("@")
    if at and (":" in account or scheme in ("s3", "gs", "https")):
        right = "remove it, and give the credentials in the environment, as docs/places.md lists them"
        return f"{shown_url(text)} holds a user name or a password", right
    if ("?" in text or "#" in text) and scheme != "https":
        return f"{shown_url(text)} has a query", "end it before ? or #; settings belong into the environment"
    if not (authority or scheme == "hdfs"):
        return f"{shown_url(text)} names no bucket or host", f"write {scheme}://NAME/{printable(path) or 'PATH'}"
    if scheme in ("s3", "gs") and not _BUCKET.fullmatch(authority):
        return (
            f"{shown_url(text)} names no bucket",
            f"write {scheme}://BUCKET/PATH; an address belongs into the environment",
        )
    if fault := _fault_of_port(authority, scheme):
        return f"{shown_url(text)} {fault}", "write HOST or HOST:PORT"
    if scheme == "https" and (odd := _fault_of_character(text)):
        return odd
    if not is_input and is_pattern(text):
        return f"{shown_url(text)} is a pattern", "name one object"
    if scheme == "https" and is_pattern(text.partition("?")[0]):
        return f"{shown_url(text)} is a pattern, and a web server has no list of its files", "name one file"
    return None


def _fault_of_scheme(text: str, scheme: str) -> tuple[str, str]:
    rest = printable(text.partition(":")[2].lstrip("/"))
    if scheme == "file":
        return f"{shown_url(text)} is a URL of a local file", f"write /{rest}"
    if scheme in SCHEMES:
        return f"{shown_url(text)} is not how this URL is written", f"write {scheme}:// before the name"
    if other := _OTHER_NAMES.get(scheme):
        return f"{shown_url(text)} is what other tools call it", f"begin it with {other}://"
    if scheme == "http":
        return f"{shown_url(text)} would come in the clear, and anyone could change it on its way", "use https"
    if scheme == "dbfs":
        right = "give the URL of the storage behind it (s3, abfs or gs), or the path under /dbfs if it is mounted here"
        return f"{shown_url(text)} is a path of Databricks", right
    return f"{shown_url(text)} is a URL of a kind that psicli does not know", _LOCAL


def _fault_of_character(text: str) -> tuple[str, str] | None:
    odd = _ODD.search(text)
    if odd is None:
        return None
    before, url = text[: odd.start()], shown_url(text)
    if "?" in before or "#" in before:
        # A query may be a signature.
        return f"{url} has a character in its query that no URL holds", "write it as % and two hexadecimal digits"
    what = "a space" if odd[0] == " " else shown(odd[0])
    if "/" not in before.partition("//")[2]:
        return f"{url} has {what} in its host, which no URL holds", "write the host in ASCII (xn--…)"
    return f"{url} has {what}, which no URL holds", f"write {quote(odd[0], errors='replace')}"


def _fault_of_port(authority: str, scheme: str) -> str | None:
    if scheme not in ("hdfs", "https"):
        return None
    try:
        _ = urlsplit(f"//{authority}").port
    except ValueError:
        return "has a port that is no number"
    return None


def shown_url(text: str) -> str:
    """Return a path in quotes, and a URL without the password or signature that it may hold."""
    if URL.match(text):
        text = re.sub(r"[?#].*", "?…", re.sub(r"//.*@", "//…@", text), flags=re.DOTALL)
    return shown(text)
