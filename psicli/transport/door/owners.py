"""Whose processes are at the ends of a TCP connection within this machine, from the kernel's table of connections.

Without TLS, nothing else tells the peer from another user of the machine. Only root can give a socket to another user.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from psicli.core import errors, peer_errors
from psicli.transport.door import lookup
from psicli.transport.door.lookup import End
from psicli.transport.preflight import written_address

_TABLES = ("tcp", "tcp6")
_ESTABLISHED, _LISTENS = b"01", b"0A"


class Owners:
    """Whose processes have the ends of a port's connections; raises OwnersUnknownError if the kernel does not tell."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._table = None if lookup.is_possible() else _Table(port)

    def user_of(self, near: End, far: End) -> int | None:
        """Return the user whose process has the near end of an intact connection; None if there is none."""
        return self._found(near, far)

    def listener_at(self, end: End) -> int | None:
        """Return the user whose process listens there, or None if there is none."""
        return self._found(end, None)

    def _found(self, near: End, far: End | None) -> int | None:
        if self._table is None:
            with suppress(OSError):
                return lookup.user_of(near, far)
            self._table = _Table(self._port)
        return self._table.user_of(near, far)


class _Table:
    """The kernel's rows of a port, read once; raises OwnersUnknownError if they cannot be read."""

    def __init__(self, port: int) -> None:
        # The user of each row's socket, by its ends as the kernel writes them.
        self._connected: dict[tuple[bytes, bytes], int] = {}
        self._listening: dict[bytes, int] = {}
        needle = b":%04X " % port
        # The table may hold very many connections of other programs, so look for the port before splitting.
        for row in (row.split() for row in _rows() if needle in row):
            near, far, state, user = row[1], row[2], row[3], int(row[7])
            if state == _LISTENS:
                self._listening[near] = user
            elif state == _ESTABLISHED:
                # In any other state, an end may have been closed: then it has no user, and the kernel says root.
                self._connected[near, far] = user

    def user_of(self, near: End, far: End | None) -> int | None:
        """Return the same as `lookup.user_of`."""
        if far is not None:
            pairs = zip(_written(near), _written(far), strict=False)
            return next((self._connected[pair] for pair in pairs if pair in self._connected), None)
        anywhere = [text for host in ("0.0.0.0", "::") for text in _written((host, near[1]))]
        places = [*_written(near), *anywhere]
        return next((self._listening[place] for place in places if place in self._listening), None)


def _rows() -> Iterator[bytes]:
    for table in _TABLES:
        try:
            yield from Path("/proc/self/net", table).read_bytes().split(b"\n")
        except OSError as exc:
            # A kernel without IPv6 has only the first table.
            if table == _TABLES[0] or not isinstance(exc, FileNotFoundError):
                raise peer_errors.OwnersUnknownError(reason=errors.reason(exc)) from exc


def _written(end: End) -> list[bytes]:
    """Return an end as the kernel writes it: an IPv4 address may be in the table of IPv6, too."""
    host, port = end
    forms = [host] if ":" in host else [host, f"::ffff:{host}"]
    return [b"".join(b"%08X" % word for word in _words(form)) + b":%04X" % port for form in forms]


def _words(host: str) -> tuple[int, ...]:
    packed = ipaddress.ip_address(host).packed
    return struct.unpack(f"={len(packed) // 4}I", packed)


def plain(host: str) -> str:
    """Return an address without the prefix that an IPv4 address has on a socket of IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def shown_user(user: int) -> str:
    """Return the name of a user, for a message."""
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return f"uid {user}"


# Who answers a dialer -----------------------------------------------------------------------------------------------


def address_to_dial(host: str, port: int) -> str:
    """Return the loopback address of a host; of a name, the one where this user's process listens, or else 127.0.0.1.

    So another user who listens on ::1 is of no concern to a pair that meets on 127.0.0.1. Raises OtherUserError if
    another user's process listens at the address, before anything is sent to it.
    """
    table, places = Owners(port), _loopback(host)
    users = {each: table.listener_at((each, port)) for each in places}
    address = next((each for each in places if users[each] == os.geteuid()), places[0])
    _check(users[address], address, port)
    return address


def check_connections(host: str, port: int, earlier: set[tuple[End, End]]) -> None:
    """Raise OtherUserError if a new connection of this process to this address has ended at another user's process.

    It may have: a port can change hands after `address_to_dial`. A connection that is gone counts, too. earlier: what
    `connections_to` returned before the new one was made.
    """
    found, table = connections_to(port) - earlier, Owners(port)
    for near, far in found:
        user = table.user_of(far, near)
        if user is None:
            raise peer_errors.PeerGoneError(reason="the connection broke")
        _check(user, host, port)
    if not found:
        raise peer_errors.PeerGoneError(reason="the connection broke")


def _check(user: int | None, host: str, port: int) -> None:
    if user not in (None, os.geteuid()):
        raise peer_errors.OtherUserError(where=written_address(host, port), user=shown_user(user))


def _loopback(host: str) -> list[str]:
    with suppress(ValueError):
        return [plain(host)]
    return ["127.0.0.1", "::1"]


def connections_to(port: int) -> set[tuple[End, End]]:
    """Return both ends of this process's connections to a port, near end first; gRPC does not tell its own."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        # The descriptor may belong to gRPC, which may close it at any time.
        with suppress(OSError), _copied(int(number)) as each:
            if each.family in (socket.AF_INET, socket.AF_INET6) and each.type == socket.SOCK_STREAM:
                near, far = ends(each)
                if far[1] == port:
                    found.add((near, far))
    return found


def _copied(number: int) -> socket.socket:
    """Return a socket with a copy of a descriptor; raises OSError if it is no socket."""
    copy = os.dup(number)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def ends(connection: socket.socket) -> tuple[End, End]:
    """Return the near and the far end of a connection; raises OSError if it is not connected."""
    near, far = connection.getsockname(), connection.getpeername()
    return (plain(near[0]), near[1]), (plain(far[0]), far[1])
