"""The front: the thread that accepts the connections of a listener and relays their octets to gRPC."""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import ssl
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import grpc

from psicli.core import peer_errors
from psicli.core.errors import PsicliError
from psicli.storage.state import make_state_folder, state_folder
from psicli.transport.door.admission import LEAVING_STAY, Admission, descriptors
from psicli.transport.door.guest import Guest
from psicli.transport.door.owners import Owners, shown_user
from psicli.transport.door.strangers import Strangers

logger = logging.getLogger(__name__)

# How many connections the kernel may queue until they are accepted; it may have a lower limit of its own.
_BACKLOG = 4096
# How long to wait for a free descriptor [s].
_STARVED_PAUSE = 0.2
_STARVED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# After somebody had to wait, the door counts as crowded for this long [s].
_CROWDED_FOR = 10.0
# Who is not known is looked up again after this time [s]; looking up takes at most this share of a core.
_LOOK_INTERVAL, _LOOK_SHARE = 0.05, 0.2
# A connection that the kernel does not know when it is looked up this many times has ended.
_LOOKS = 3
# A dialer opens one stream on each connection. A stranger who opens more than this, one after the other, has to go.
_MOST_STREAMS = 8
# How gRPC writes the name of the socket that connected to its own.
_INNER = "unix-abstract:"


class Front:
    """Owns the port of a listener; it accepts nobody until `open`."""

    def __init__(
        self,
        host: str,
        port: int,
        strangers: Strangers,
        *,
        context: ssl.SSLContext | None,
        identify: Callable[[Guest], None],
        own_user: bool,
    ) -> None:
        """Bind the port; raises OSError, and OwnersUnknownError if nobody can tell whose a connection is.

        context: the server's side of TLS, None for plain text. identify: called after each TLS handshake; it raises why
        the other end is not our peer. own_user: whether to accept only connections of this user's processes.
        """
        self._port, self._strangers, self._context, self._identify = port, strangers, context, identify
        self._own_user = own_user
        if own_user:
            Owners(port)
        self._admission = Admission[Guest](descriptors())
        self._listening = _listen(host, port)
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._guests: set[Guest] = set()
        # By the names of their inner sockets.
        self._served: dict[str, Guest] = {}
        # Those with octets to move at once; those whose user is not known yet, and how often they were looked up.
        self._busy: list[Guest] = []
        self._unknown: dict[Guest, int] = {}
        # When to look up users, and to accept a connection, at the earliest [s, monotonic].
        self._look_at = self._accept_at = 0.0
        # Whether the selector reports connections that wait; whether some do; when somebody last had to [s, monotonic].
        self._heeds_the_port = self._others_wait = False
        self._crowded_at = float("-inf")
        # What other threads ask of this one, and a descriptor that wakes it.
        self._ringing = threading.Lock()
        self._asked: deque[Callable[[], None]] = deque()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # gRPC's socket, and when to stop [s, monotonic].
        self._inside = -1
        self._closes_at: float | None = None

    # For other threads

    def lead_to(self, server: grpc.Server) -> None:
        """Let a gRPC server listen on a socket that only this front can reach: its name is removed again."""
        with _private_folder() as folder:
            # The path goes through a descriptor, because the name of a socket may not be long.
            way = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                server.add_insecure_port(f"unix:/proc/self/fd/{way}/grpc")
                self._inside = os.open(Path(folder, "grpc"), os.O_PATH | os.O_CLOEXEC)
            finally:
                os.close(way)

    def open(self) -> None:
        """Begin to accept connections, unless this was done before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="psicli-door", daemon=True)
            self._thread.start()

    def guest_of(self, peer: str) -> Guest | None:
        """Return the connection of a stream, or None if it is gone; peer: its other end, in gRPC's notation."""
        guest = self._served.get(peer.removeprefix(_INNER))
        if guest is not None:
            guest.streams += 1
            if guest.streams > _MOST_STREAMS:
                self._ask(partial(self._drop, guest))
                return None
            self._strangers.note_stream()
        return guest

    def admit(self, guest: Guest) -> None:
        """Keep a connection, which is the peer's, for as long as it lasts."""
        guest.admitted = guest.was_admitted = True
        self._ask(partial(self._admission.forget, guest))

    def release(self, guest: Guest) -> None:
        """Note that a connection has ended its stream."""
        if guest.admitted:
            guest.admitted = False
            self._ask(partial(self._renew, guest))

    @property
    def is_crowded(self) -> bool:
        """Whether so many connect that the peer may have to wait for its turn."""
        return time.monotonic() - self._crowded_at < _CROWDED_FOR

    def hosts_without_stream(self, since: float) -> set[str]:
        """Return the machines whose connections have led to no stream for this long [s]."""
        then = time.monotonic() - since
        return {each.host for each in list(self._guests) if not each.has_stream and each.came_at <= then}

    def close(self) -> None:
        """Free the port, send what gRPC has written, and close all connections."""
        if self._thread is None:
            self._release()
        else:
            self._ask(self._begin_to_close)
            self._thread.join()

    def _ask(self, action: Callable[[], None]) -> None:
        with self._ringing:
            if self._bell >= 0:
                self._asked.append(action)
                os.eventfd_write(self._bell, 1)

    # The thread

    def _run(self) -> None:
        self._selector.register(self._bell, selectors.EVENT_READ)
        try:
            while not self._is_closed:
                for key, _ in self._selector.select(self._tend(time.monotonic())):
                    if key.fileobj is self._listening:
                        self._others_wait = True
                    elif key.data is None:
                        os.eventfd_read(self._bell)
                    else:
                        self._step(key.data)
                busy, self._busy = self._busy, []
                for guest in busy:
                    self._step(guest)
        except Exception:
            logger.exception("the thread that accepts connections has failed")
        finally:
            self._release()

    @property
    def _is_closed(self) -> bool:
        """Whether this thread has nothing more to do."""
        return self._closes_at is not None and (not self._guests or time.monotonic() >= self._closes_at)

    def _tend(self, now: float) -> float:
        """Do what is due, and return for how long nothing else is, unless something arrives [s]."""
        while self._asked:
            self._asked.popleft()()
        # Before anybody has to go: those who wait for this look must not go because it comes late.
        self._look_up(now)
        if self._others_wait:
            self._accept(now)
        admission = self._admission
        while True:
            if (late := admission.overdue(now, others_wait=self._others_wait)) is not None:
                self._drop(late)
            elif (turn := admission.serve(now)) is not None:
                self._step(turn)
            else:
                break
        self._look_up(now)
        if self._others_wait or admission.others_are_ready:
            self._crowded_at = now
        self._heed_the_port(not self._others_wait and self._closes_at is None)
        if self._busy or self._is_closed:
            return 0.0
        waits = [admission.wait(now, others_wait=self._others_wait)]
        waits += [self._look_at - now] if self._unknown else []
        waits += [at - now for at in (self._accept_at, self._closes_at) if at is not None and at > now]
        return max(0.0, min(waits))

    def _heed_the_port(self, wanted: bool) -> None:
        """Let the selector report connections that wait, or not."""
        if wanted and not self._heeds_the_port:
            self._selector.register(self._listening, selectors.EVENT_READ)
        elif self._heeds_the_port and not wanted:
            self._selector.unregister(self._listening)
        self._heeds_the_port = wanted

    def _begin_to_close(self) -> None:
        """Stop accepting connections, and drop all but those that gRPC may still have something to send to."""
        self._closes_at = time.monotonic() + LEAVING_STAY
        self._others_wait = False
        self._heed_the_port(wanted=False)
        self._listening.close()
        for guest in list(self._guests):
            if not guest.has_stream:
                self._drop(guest)

    def _release(self) -> None:
        for guest in list(self._guests):
            self._drop(guest)
        self._selector.close()
        self._listening.close()
        with self._ringing:
            for descriptor in (self._bell, self._inside):
                if descriptor >= 0:
                    os.close(descriptor)
            self._bell = self._inside = -1

    # Who comes

    def _accept(self, now: float) -> None:
        while now >= self._accept_at and self._admission.accepts(now):
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:
                self._others_wait = False
                return
            except OSError as exc:
                # The connection may have broken; or there is no descriptor for it, and it waits until there is.
                if exc.errno in _STARVED:
                    self._accept_at = now + _STARVED_PAUSE
                continue
            self._welcome(connection, now)

    def _welcome(self, connection: socket.socket, now: float) -> None:
        try:
            guest = Guest(connection, now)
            gone = guest.has_gone()
        except OSError:
            gone = True
        if gone:
            connection.close()
            self._admission.was_gone()
            return
        self._guests.add(guest)
        self._admission.come(guest, now)
        guest.proceed = self._hear_first
        guest.watch(self._selector)

    def _look_up(self, now: float) -> None:
        """Let those in whose connections belong to this user's processes; nobody else is read or gets an octet."""
        if not self._unknown or now < self._look_at:
            return
        users: dict[Guest, int | None] = {}
        began = time.thread_time()
        try:
            table = Owners(self._port)
            users = {guest: table.user_of(guest.far, guest.near) for guest in self._unknown}
        except peer_errors.OwnersUnknownError as exc:
            self._strangers.note(exc.message)
        took = time.thread_time() - began
        for guest in list(self._unknown):
            user = users.get(guest)
            self._unknown[guest] += 1
            if user == os.geteuid():
                del self._unknown[guest]
                self._admission.renew(guest, now)
                guest.proceed = self._relay_to_grpc
                self._step(guest)
            elif user is not None:
                self._strangers.note(peer_errors.UserRefusedError(user=shown_user(user)).message)
                self._drop(guest)
            elif self._unknown[guest] >= _LOOKS:
                del self._unknown[guest]
                self._dismiss(guest)
        self._look_at = now + max(_LOOK_INTERVAL * bool(self._unknown), took / _LOOK_SHARE)

    # What a guest does next

    def _step(self, guest: Guest) -> None:
        try:
            if not guest.is_closed:
                guest.proceed(guest)
        except OSError as exc:
            self._strangers.note_failure(guest.host, exc)
            self._drop(guest)
        except Exception:
            logger.exception("dropped a connection after an unexpected failure")
            self._drop(guest)

    def _hear_first(self, guest: Guest) -> None:
        """Line a guest up that has spoken; forget one that has gone."""
        if guest.has_gone():
            self._drop(guest, reset=False)
            return
        guest.ignore(self._selector)
        guest.proceed = self._begin
        self._admission.speak(guest, time.monotonic())

    def _begin(self, guest: Guest) -> None:
        if guest.has_gone():
            self._drop(guest, reset=False)
            return
        guest.tune()
        if self._own_user:
            self._unknown[guest] = 0
            return
        if self._context is None:
            self._relay_to_grpc(guest)
            return
        self._strangers.note_handshake(guest.host)
        guest.begin_tls(self._context)
        guest.proceed = self._shake_hands
        self._shake_hands(guest)

    def _shake_hands(self, guest: Guest) -> None:
        try:
            over = guest.shake_hands()
        except OSError as exc:
            # TLS has sent an alert that says why.
            self._strangers.note_failure(guest.host, exc)
            self._dismiss(guest)
            return
        if not over:
            guest.watch(self._selector)
            return
        try:
            self._identify(guest)
        except PsicliError as exc:
            guest.refusal = exc
        self._admission.renew(guest, time.monotonic())
        self._relay_to_grpc(guest)

    def _relay_to_grpc(self, guest: Guest) -> None:
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        guest.connect(inner)
        inner.setblocking(False)
        # The kernel chooses an unused name, by which gRPC's streams can be told apart.
        inner.bind(b"")
        guest.name = inner.getsockname()[1:].decode()
        self._served[guest.name] = guest
        inner.connect(f"/proc/self/fd/{self._inside}")
        guest.proceed = self._relay
        self._relay(guest)

    def _relay(self, guest: Guest) -> None:
        more = guest.relay()
        if guest.was_served:
            if not guest.has_stream:
                self._strangers.note_host(guest.host)
            self._dismiss(guest)
        elif guest.has_left:
            self._drop(guest, reset=False)
        else:
            guest.watch(self._selector)
            if more:
                self._busy.append(guest)

    def _renew(self, guest: Guest) -> None:
        if guest in self._guests and not guest.is_leaving:
            self._admission.renew(guest, time.monotonic())

    def _dismiss(self, guest: Guest) -> None:
        """Let the other end read our last octets."""
        guest.ignore(self._selector)
        guest.say_goodbye()
        self._admission.dismiss(guest, time.monotonic())
        guest.proceed = self._hear_out
        guest.watch(self._selector)
        self._hear_out(guest)

    def _hear_out(self, guest: Guest) -> None:
        if guest.has_ended():
            self._drop(guest, reset=False)

    def _drop(self, guest: Guest, *, reset: bool = True) -> None:
        self._guests.discard(guest)
        self._served.pop(guest.name, None)
        self._unknown.pop(guest, None)
        self._admission.forget(guest)
        guest.ignore(self._selector)
        # What was sent to the peer must still reach it.
        guest.close(reset=reset and not guest.was_admitted)


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder of this user alone; raises OSError and CannotCreateError.

    Other users can fill the shared folders, and a full disk leaves none that Python would use.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="psicli-")
    except OSError:
        state = state_folder()
        make_state_folder(state)
        return tempfile.TemporaryDirectory(prefix="psicli-", dir=state)


def _listen(host: str, port: int) -> socket.socket:
    """Bind a port and listen; a host that stands for all addresses means those of IPv6, too, if there are any."""
    version = ip_address(host.partition("%")[0])
    everywhere = [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")]
    own = [(socket.AF_INET6 if version.version == 6 else socket.AF_INET, host)]
    *first, last = everywhere if version.is_unspecified else own
    for family, where in first:
        try:
            return _bound(family, where, port)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise
    return _bound(*last, port)


def _bound(family: int, where: str, port: int) -> socket.socket:
    # As octets: for text, Python imports its tables of international names.
    ((*_, address),) = socket.getaddrinfo(where.encode(), port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
