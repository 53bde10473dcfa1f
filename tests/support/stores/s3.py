"""An S3 server on this machine: a process of its own, since one in this process would share the lock of Python."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from support.processes.runner import free_ports
from support.waiting import wait_until

BUCKET = "crm"


class Store:
    """The server, with one empty bucket. environment: what a process needs to use it."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.environment: dict[str, str] = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ENDPOINT_URL": self.address,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def request(self, method: str, path: str, data: bytes = b"", **headers: str) -> bytes:
        """Send a request that needs no signature here, and return the body of the answer."""
        # The server tells from this header which service of AWS it is to be.
        headers |= {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}
        headers |= {"Content-Type": "application/octet-stream"}
        asked = urllib.request.Request(f"{self.address}/{path}", data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return bytes(answer.read())

    def put(self, name: str, data: bytes) -> str:
        """Write an object and return its URL."""
        self.request("PUT", f"{BUCKET}/{quote(name)}", data)
        return f"s3://{BUCKET}/{name}"

    def get(self, name: str) -> bytes | None:
        """Return an object, or None if there is none."""
        try:
            return self.request("GET", f"{BUCKET}/{name}")
        except urllib.error.HTTPError as exc:
            if exc.code != 404:
                raise
            return None

    def names(self) -> list[str]:
        """Return the names of all objects."""
        text = self.request("GET", f"{BUCKET}?list-type=2").decode()
        return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]


@contextmanager
def s3_server() -> Iterator[Store]:
    with free_ports(1) as (port,):
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen(command, env={**os.environ, "PYTHONWARNINGS": "ignore"}, **quiet)
        store = Store(port)

        def answers() -> bool:
            assert server.poll() is None
            with suppress(OSError):
                store.request("PUT", BUCKET)
                return True
            return False

        try:
            wait_until(answers, "the S3 server answers")
            yield store
        finally:
            server.kill()
            server.wait()
