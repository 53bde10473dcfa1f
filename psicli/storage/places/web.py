"""Downloads files of web servers. A download cannot be read twice in the same state, so it becomes a private file."""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import urlsplit

from psicli.core import signals
from psicli.core.errors import InputMissingError, MalformedInputError, storing
from psicli.core.places import StoreError, Url
from psicli.storage.files import private
from psicli.storage.state import run_folder, state_folder

# How long to wait for a connection, and for the next bytes of an answer [s].
_SECONDS = 30
_PIECE_BYTES = 1 << 20
_AGENT = "psicli"
_LENGTH = re.compile(r"\s*[0-9]{1,18}\s*")


def download(url: Url, stack: ExitStack, check: Callable[[], None]) -> Path:
    """Download a file to a new file that only this user can read; stack: removes it.

    check: called every moment; what it raises ends the download. Raises InputMissingError, MalformedInputError if the
    answer is not complete, StorageError, CannotCreateError.
    """
    path = stack.enter_context(run_folder(state_folder())) / "download"
    request = urllib.request.Request(url.text, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"})
    with storing(path, "writing"):
        copy = open(path, "xb", opener=private)  # noqa: SIM115
    with copy:
        try:
            with _opener(check).open(request, timeout=_SECONDS) as answer:
                _check(url, answer)
                _copy(url, answer, copy, path)
                return path
        except urllib.error.HTTPError as exc:
            exc.close()
            _refuse(url, exc.code, in_circle=exc.msg.startswith(_OnlyHttps.inf_msg))
        except (ValueError, http.client.InvalidURL) as exc:
            raise InputMissingError(
                place=str(url),
                fault="this URL, or one that the server redirects to, is not valid",
                advice="Correct the URL in the job file, or ask whoever runs the server.",
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise StoreError(
                path=str(url),
                reason=f"the server cannot be reached: {_reason(exc)}",
                advice="Check the URL and the network (HTTPS_PROXY, SSL_CERT_FILE), then run again.",
            ) from exc


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none that would send the request in the clear."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://"):
            raise InputMissingError(
                place=str(Url(req.full_url)),
                fault="the server redirects to a URL that is not https",
                advice="Give the URL that holds the file.",
            )
        if not urlsplit(newurl).hostname:
            raise ValueError("no host")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(check: Callable[[], None]) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_OnlyHttps, urllib.request.HTTPSHandler(context=_context(check)))


def _context(check: Callable[[], None]) -> ssl.SSLContext:
    """Return what connections need; here, because also the head of an answer may come a byte at a time, for ever."""

    class Checked(ssl.SSLSocket):
        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            end = time.monotonic() + _SECONDS
            self.settimeout(signals.SLICE)
            while True:
                check()
                try:
                    return super().recv_into(*args, **kwargs)
                except TimeoutError:
                    if time.monotonic() > end:
                        raise

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = Checked
    return context


def _check(url: Url, answer: Any) -> None:
    if answer.status != 200:
        _refuse(url, answer.status)
    if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise MalformedInputError(
            place=str(url),
            fault=f"the server has compressed the file for the transport ({coding[:20]!r}) though psicli did not ask",
            advice="Set the server to send the file as it is.",
        )
    lengths = set(answer.headers.get_all("Content-Length", ()))
    if not answer.chunked and not (len(lengths) == 1 and _LENGTH.fullmatch(*lengths)):
        raise MalformedInputError(
            place=str(url),
            fault="the server does not say how long the file is, so psicli cannot tell whether it is whole",
            advice="Set the server to send its length (Content-Length), or download the file and name the copy.",
        )


def _copy(url: Url, answer: Any, copy: IO[bytes], path: Path) -> None:
    while True:
        try:
            piece = answer.read(_PIECE_BYTES)
        except http.client.IncompleteRead as exc:
            raise _short(url) from exc
        if not piece:
            break
        with storing(path, "writing"):
            copy.write(piece)
    # http.client does not tell a connection that ended early from the end of the file.
    if answer.length:
        raise _short(url)
    with storing(path, "writing"):
        copy.flush()


def _short(url: Url) -> MalformedInputError:
    return MalformedInputError(
        place=str(url),
        fault="the download ended before its end: fewer bytes came than the server had promised",
        advice="Run again; if that does not help, ask whoever runs the server.",
    )


def _refuse(url: Url, status: int, *, in_circle: bool = False) -> NoReturn:
    words = {401: "wants a login", 403: "does not allow it", 404: "has no such file", 410: "has no such file any more"}
    what = "redirects in a circle" if in_circle else words.get(status, "did not send the file")
    fault = f"the server {what} (HTTP status {status})"
    if status >= 500 or status in (408, 429):
        raise StoreError(path=str(url), reason=fault, advice="Run again later, or ask whoever runs the server.")
    advice = "Check input_path in the job file; a signed URL may have expired."
    raise InputMissingError(place=str(url), fault=fault, advice=advice)


def _reason(exc: BaseException) -> str:
    """Return why there was no answer; the text of the library may hold the URL."""
    cause = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(cause, TimeoutError):
        return "it does not answer"
    if "CERTIFICATE_VERIFY_FAILED" in str(cause):
        return "its certificate is not trusted"
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return cause.strerror.lower().lstrip("[").split("] ")[-1] if "[" not in cause.strerror else "TLS failed"
    return type(cause).__name__
