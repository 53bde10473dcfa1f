"""A listener and a dialer in one process."""

from __future__ import annotations

import os

from psicli.protocol.messages import Hello, Purpose
from psicli.protocol.wire import encode_hello
from psicli.transport.endpoint import METHOD, SERVICE

DEADLINE = 30.0


PATH = f"/{SERVICE}/{METHOD}"


def hello(party: str, purpose: Purpose = Purpose.RUN) -> bytes:
    return encode_hello(Hello("0", party, "job", (), 1024, 1 << 20, os.urandom(32), purpose))
