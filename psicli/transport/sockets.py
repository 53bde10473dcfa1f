"""What the system's sockets know of the way to the peer that gRPC does not tell."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote

from psicli.core import signals
from psicli.core.errors import PeerGoneError, reason

TIMED_OUT = "timed out"
# A machine that is there acknowledges what it gets within this time, whatever its processes do [ms].
ACKNOWLEDGED_WITHIN = 10_000
# So many probes of a closed window in a row get no answer where nobody is.
LOST_PROBES = 3
# Of Linux's tcp_info: the probes under way, the segments not acknowledged, and the time since an acknowledgement [ms].
_TCP_INFO = struct.Struct("=3xB20xI28xI")


@contextmanager
def connected(host: str, port: int, timeout: float) -> Iterator[socket.socket]:
    """Connect, and translate what the network may do to the connection into PeerGoneError."""
    try:
        with signals.allowed(), socket.create_connection((host, port), timeout) as plain:
            yield plain
    except OSError as exc:
        why = TIMED_OUT if isinstance(exc, TimeoutError) else reason(exc)
        raise PeerGoneError(reason=why) from exc


def reach(host: str, port: int, timeout: float) -> None:
    """Find out whether a machine takes a connection within timeout [s]; raises PeerGoneError if it does not."""
    with connected(host, port, timeout):
        pass


def is_unanswered(remote: str) -> bool:
    """Return whether what this process sent to a remote end is known to have found nobody.

    remote: as gRPC writes it, percent-encoded: ipv4:ADDRESS:PORT or ipv6:[ADDRESS]:PORT. A process that is stopped
    does not read, but its machine goes on to acknowledge. False where that cannot be known.
    """
    kind, _, where = unquote(remote).partition(":")
    host, _, port = where.rpartition(":")
    if kind not in ("ipv4", "ipv6"):
        return False
    found = _plain(host.strip("[]")), int(port)
    with suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            if (lost := _is_lost(int(number), found)) is not None:
                return lost
    return False


def _plain(host: str) -> str:
    address = ipaddress.ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_lost(number: int, remote: tuple[str, int]) -> bool | None:
    """Return whether the other end of an open connection is lost; None where it is another one."""
    # The descriptor belongs to gRPC, which may close it at any time.
    with suppress(OSError, AttributeError), socket.socket(fileno=os.dup(number)) as found:
        name = found.getpeername()
        if isinstance(name, tuple) and (_plain(name[0]), name[1]) == remote:
            info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            probes, unacknowledged, silence = _TCP_INFO.unpack(info)
            return bool(probes >= LOST_PROBES or (unacknowledged and silence >= ACKNOWLEDGED_WITHIN))
    return None
