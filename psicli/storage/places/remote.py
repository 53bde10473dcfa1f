"""Object stores, as pyarrow's file systems show them; the only module that imports pyarrow.fs.

Addresses and credentials come from the environment, as for other tools, and never from a URL. No message repeats what
a library says, which may hold names of requests and keys: it has psicli's own words, and the code of the store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum, auto
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from psicli.core.errors import InputMissingError, PsicliError
from psicli.core.places import CannotStoreError, StoreError, Url
from psicli.storage.places.listing import Found, fitting

# How long to wait for a connection, and for the next byte of an answer [s], and how often to try.
_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 15
_ATTEMPTS = 3

_WILD = re.compile(r"[*\[]")
_HADOOP = "Install Hadoop's client and Java, and set JAVA_HOME, HADOOP_HOME and CLASSPATH (`hadoop classpath --glob`)."
# Where the credentials of a store come from, and its address.
_CREDENTIALS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_CLIENT_ID",
    "hdfs": "HADOOP_USER_NAME, or type `kinit`",
}
_ADDRESS = {
    "s3": "AWS_ENDPOINT_URL and AWS_REGION",
    "gs": "STORAGE_EMULATOR_HOST",
    "abfs": "the account's name",
    "hdfs": "the address in the URL",
}
# What libcurl's codes mean.
_CURL = {
    "6": "its host name is unknown",
    "7": "nothing answers at its address",
    "28": "it does not answer",
    "35": "TLS failed",
    "60": "its certificate is not trusted",
}
_CODE = re.compile(
    r"AWS Error (?P<aws>[A-Z_]+)(?: \(HTTP status (?P<http>\d+)\))?|google::cloud::Status\((?P<gs>[A-Z_]+)"
    r"|Azure Error: \[(?P<azure>\w*)\] (?P<status>\d{3})"
)
_MISSING = {"NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "NOT_FOUND", "404"}
_DENIED = {
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE", "EXPIRED_TOKEN"),
    *("INVALID_CLIENT_TOKEN_ID", "MISSING_AUTHENTICATION_TOKEN", "UNRECOGNIZED_CLIENT", "REQUEST_EXPIRED"),
    *("REQUEST_TIME_TOO_SKEWED", "OPT_IN_REQUIRED", "ACCOUNT_PROBLEM", "PERMISSION_DENIED", "UNAUTHENTICATED"),
    *("401", "403"),
}
_NO_ANSWER = {"NETWORK_CONNECTION", "REQUEST_TIMEOUT", "UNAVAILABLE", "DEADLINE_EXCEEDED"}


class Location(NamedTuple):
    """Where a URL leads. files: a pyarrow file system; path: in it."""

    files: Any
    path: str


def located(url: Url, *, at_once: bool = True) -> Location:
    """Return where a URL leads; connects to nothing but to ask for the region of a bucket of AWS. Raises OSError.

    at_once: whether a small object of S3 is written with one request, so that no kill leaves half of an upload.
    """
    rest = url.text.partition("://")[2]
    authority, _, path = rest.partition("/")
    path = path.rstrip("/")
    if url.scheme == "hdfs":
        return Location(_file_system("hdfs", authority, at_once), f"/{path}")
    bucket, _, account = authority.partition("@")
    kind = "abfs" if url.scheme == "abfss" else url.scheme
    return Location(_file_system(kind, account if kind == "abfs" else bucket, at_once), f"{bucket}/{path}".rstrip("/"))


@lru_cache
def _file_system(kind: str, authority: str, at_once: bool) -> Any:
    """Return the file system of a bucket (s3, gs), an account (abfs) or a name node (hdfs)."""
    match kind:
        case "s3":
            return _s3(authority, at_once)
        case "gs":
            # pyarrow itself heeds STORAGE_EMULATOR_HOST, and an emulator needs no credentials.
            emulated = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
            return fs.GcsFileSystem(anonymous=emulated, retry_time_limit=timedelta(seconds=2 * _ANSWER_SECONDS))
        case "abfs":
            return _azure(authority)
    parts = urlsplit(f"//{authority}")
    return fs.HadoopFileSystem(parts.hostname or "default", parts.port or 0, user=parts.username)


def _s3(bucket: str, at_once: bool) -> Any:
    options: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "request_timeout": _ANSWER_SECONDS,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        # Otherwise pyarrow keeps every piece of a fast disk in memory until a slow network has taken it.
        "background_writes": False,
        "allow_delayed_open": at_once,
    }
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        options["tls_ca_file_path"] = bundle
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        scheme, found, rest = endpoint.partition("://")
        options |= (
            {"scheme": scheme, "endpoint_override": rest.rstrip("/")} if found else {"endpoint_override": endpoint}
        )
    elif not os.environ.get("AWS_REGION"):
        # AWS answers requests for a bucket of another region with an error.
        options["region"] = fs.resolve_s3_region(bucket)
    if (region := os.environ.get("AWS_REGION")) is not None:
        options["region"] = region
    return fs.S3FileSystem(**options)


def _azure(account: str) -> Any:
    def named(*names: str) -> str | None:
        return next((value for name in names if (value := os.environ.get(name))), None)

    name = account.partition(".")[0] or named("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME") or ""
    key, token = named("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"), named("AZURE_STORAGE_SAS_TOKEN")
    return fs.AzureFileSystem(name, account_key=key, sas_token=None if key else token)


def list_files(url: Url) -> list[Found]:
    """Return the files that a URL names, in the order of their names: a file, a folder or a pattern.

    Raises InputMissingError, StoreError.
    """
    parts = url.text.rstrip("/").split("/")
    fixed = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts))
    base, pattern = Url("/".join(parts[:fixed])), parts[fixed:]
    with store_faults(url, str(url), missing):
        files, path = located(base)
        info = files.get_file_info(path)
        if info.type == fs.FileType.File and not pattern:
            return [Found(url, info.base_name, info.size, info.mtime_ns or 0)]
        if info.type != fs.FileType.Directory:
            raise FileNotFoundError
        infos = files.get_file_info(fs.FileSelector(path, recursive=True))
    found, fits = [], fitting(pattern)
    for info in infos:
        name = info.path.removeprefix(path).lstrip("/")
        if info.type == fs.FileType.File and fits(name):
            found.append(Found(Url(f"{base.text.rstrip('/')}/{name}"), name, info.size, info.mtime_ns or 0))
    return sorted(found, key=lambda each: each.name)


class Trouble(Enum):
    """Why a store did not do what it was asked."""

    MISSING = auto()
    DENIED = auto()
    NO_ANSWER = auto()
    OTHER = auto()


def _trouble(exc: BaseException) -> tuple[Trouble, str]:
    """Return the kind of trouble, and the store's code for it or psicli's words."""
    text = str(exc)
    if "libjvm" in text or "libhdfs" in text:
        return Trouble.OTHER, "the library for HDFS cannot be loaded"
    found = _CODE.search(text)
    codes = [] if found is None else [each for each in found.groups() if each]
    if found is not None and codes:
        shown = " ".join(codes)
        if _MISSING.intersection(codes):
            return Trouble.MISSING, shown
        if _DENIED.intersection(codes):
            return Trouble.DENIED, shown
        if _NO_ANSWER.intersection(codes):
            curl = re.search(r"(?:curlCode: |CURL error \[)(\d+)", text)
            return Trouble.NO_ANSWER, _CURL.get(curl[1] if curl else "", f"it does not answer ({shown})")
        return Trouble.OTHER, f"the store refused it or failed ({shown})"
    if isinstance(exc, FileNotFoundError):
        return Trouble.MISSING, ""
    if isinstance(exc, PermissionError):
        return Trouble.DENIED, ""
    return Trouble.OTHER, f"the store refused it or failed ({type(exc).__name__})"


@contextmanager
def store_faults(url: Url, name: str, refused: Callable[[Url, str, str], PsicliError]) -> Iterator[None]:
    """Turn what a store's library raises in the block into psicli's errors, with psicli's words.

    refused: makes the error for what is missing or not allowed.
    """
    try:
        yield
    except MemoryError:
        raise
    except (OSError, pa.ArrowException, ValueError) as exc:
        # A signal or an error of psicli may have passed through pyarrow.
        kind, why = _trouble(exc)
        store = "abfs" if url.scheme == "abfss" else url.scheme
        code = f" ({why})" if why else ""
        match kind:
            case Trouble.MISSING:
                raise refused(url, f"no such {_thing(url)}{code}", "") from exc
            case Trouble.DENIED:
                advice = f"Check the credentials in the environment ({_CREDENTIALS[store]}), and what they allow there."
                raise refused(url, f"the store does not allow it{code}", advice) from exc
            case Trouble.NO_ANSWER:
                advice = f"Check the network and {_ADDRESS[store]}, then run again."
                raise StoreError(path=name, reason=f"the store cannot be reached: {why}", advice=advice) from exc
        advice = _HADOOP if "HDFS" in why else f"Check {_ADDRESS[store]}, then run again."
        raise StoreError(path=name, reason=why, advice=advice) from exc


def _thing(url: Url) -> str:
    """Return what is missing: the bucket or what is in it."""
    if url.scheme not in ("s3", "gs"):
        return "file"
    bucket = url.text.partition("://")[2].partition("/")[0]
    try:
        if located(url).files.get_file_info(bucket).type == fs.FileType.NotFound:
            return "bucket"
    except (OSError, pa.ArrowException):
        pass
    return "object"


def missing(url: Url, fault: str, advice: str) -> PsicliError:
    """Return the error for an input that is not there, or not for this user."""
    advice = advice or "Check input_path in the job file."
    return InputMissingError(place=str(url), fault=fault, advice=advice)


def not_storable(url: Url, fault: str, advice: str) -> PsicliError:
    """Return the error for an output that has no bucket, or that this user may not write."""
    advice = advice or "Check output_path in the job file; psicli makes no bucket."
    return CannotStoreError(path=str(url), reason=fault, advice=advice)
