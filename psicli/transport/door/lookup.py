"""Ask the kernel about one TCP socket by its ends (netlink's sock_diag), in a tenth of a millisecond.

Reading the whole table takes ten milliseconds even if it is empty, because the kernel has room for many connections.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from functools import cache
from typing import TypeAlias

# The address and the port of one end of a connection; an IPv4 address is never written as one of IPv6.
End: TypeAlias = tuple[str, int]

_ESTABLISHED, _LISTENS = 1, 10
_ANYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}

# From linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ANY_STATE = 0xFFFFFFFF
_LOOPBACK = "lo"
_ANY_COOKIE = b"\xff" * 8
# The most octets of an answer [bytes].
_MOST = 4096
# A header of netlink, then inet_diag_req_v2.
_REQUEST = struct.Struct("=IHHII BBBxI 2s2s16s16sI8s")
# The header; then the number of an error, or inet_diag_msg, of which the state and the user matter here.
_ERROR, _SOCKET = struct.Struct("=16xi"), struct.Struct("=16x xB2x48x12xI4x")


@cache
def is_possible() -> bool:
    """Whether the kernel answers: not every one can, some containers forbid it, and "no such socket" proves nothing."""
    with suppress(OSError), socket.create_server(("127.0.0.1", 0)) as server:
        return user_of(server.getsockname(), None) == os.geteuid()
    return False


def user_of(near: End, far: End | None) -> int | None:
    """Return the user whose process has the near end of an intact connection, or listens there if far is None.

    None if there is no such socket. Raises OSError if the kernel does not answer.
    """
    family = socket.AF_INET6 if ":" in near[0] else socket.AF_INET
    ends = near, far or (_ANYWHERE[family], 0)
    addresses = [socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in ends]
    ports = [port.to_bytes(2, "big") for _, port in ends]
    header = _REQUEST.size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0
    protocol = family, socket.IPPROTO_TCP, 0, _ANY_STATE
    # Without the interface, the kernel finds no socket that is bound to it.
    device = socket.if_nametoindex(_LOOPBACK)
    request = _REQUEST.pack(*header, *protocol, *ports, *addresses, device, _ANY_COOKIE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG) as kernel:
        kernel.sendto(request, (0, 0))
        answer, (sender, _) = kernel.recvfrom(_MOST)
    if sender == 0 and len(answer) >= _SOCKET.size:
        state, user = _SOCKET.unpack_from(answer)
        # In any other state, an end may have been closed: then it has no user, and the kernel says root.
        return int(user) if state == (_LISTENS if far is None else _ESTABLISHED) else None
    code = -_ERROR.unpack_from(answer)[0] if len(answer) >= _ERROR.size else errno.EBADMSG
    if code == errno.ENOENT:
        return None
    raise OSError(code, os.strerror(code))
