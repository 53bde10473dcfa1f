"""Tell a monitoring service that a batch starts or ends: one request to its address, in a process of its own.

A look-up of a host and a slow answer can block for minutes whatever the library's timeout is, and a process can be
ended. The path of the address is a secret: whoever knows it can send pings, too. So it is not on the command line, and
no message shows it.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from psicli import __version__
from psicli.batch.unattended.command import run_command

# How long a ping may take in all [s].
TIMEOUT = 10.0
_VARIABLE = "PSICLI_PING_ADDRESS"
_SCHEMES = ("http", "https")


def send(address: str, event: str) -> str | None:
    """Request ADDRESS/EVENT; return a warning if that fails, else None. Raises what `signals.check` raises."""
    parts = urlsplit(address)
    url = parts._replace(path=f"{parts.path.rstrip('/')}/{event}", fragment="").geturl()
    found: list[str] = []
    fault = run_command([sys.executable, "-P", "-m", __name__], None, {_VARIABLE: url}, TIMEOUT, found.append)
    if fault is None:
        return None
    return f"the ping to {parts.hostname} (hooks.ping) failed: {found[-1] if found else f'it {fault}'}"


def main() -> int:
    """Request the address in the environment; print why that failed."""
    fault = _request(os.environ[_VARIABLE])
    if fault is not None:
        sys.stdout.write(fault + "\n")
    return int(fault is not None)


def _request(url: str) -> str | None:
    """Return what went wrong in words that do not repeat the address, as an exception's own text may."""
    if urlsplit(url).scheme not in _SCHEMES:
        return "the address does not begin with https:// or http://"
    request = urllib.request.Request(url, headers={"User-Agent": f"psicli/{__version__}"})
    try:
        with urllib.request.build_opener(_SameHost).open(request, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as exc:
        return f"the answer was {exc.code}"
    except urllib.error.URLError as exc:
        return _reason(exc.reason)
    except (OSError, HTTPException, ValueError) as exc:
        return _reason(exc)


def _reason(exc: object) -> str:
    if verdict := getattr(exc, "verify_message", ""):
        return f"the host's certificate is not valid: {verdict.lower()}"
    return exc.strerror.lower() if isinstance(exc, OSError) and exc.strerror else type(exc).__name__


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to the host that was named, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.hostname != old.hostname or (old.scheme == "https" and new.scheme != "https"):
            # Makes the request fail with the code of this answer.
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


if __name__ == "__main__":
    sys.exit(main())
