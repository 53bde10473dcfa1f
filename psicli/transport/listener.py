"""The listener: the end that accepts connections. One of them takes the session and may reconnect when it breaks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from psicli.core import errors, failpoints, peer_errors, signals
from psicli.core.errors import PsicliError
from psicli.core.peer_errors import failure_of_peer
from psicli.protocol.messages import Abort, HelloOctets, Message, Purpose, Reconnect, measure_link, session_id
from psicli.protocol.wire import decode_hello
from psicli.transport.door.admission import LONGEST_STAY
from psicli.transport.door.front import Front
from psicli.transport.door.guest import Guest
from psicli.transport.door.strangers import GRACE, Strangers
from psicli.transport.endpoint import (
    COMMON_OPTIONS,
    METHOD,
    SERVICE,
    TLS_FAILED,
    Endpoint,
    Ticker,
    left,
    moment,
    outgoing,
    pump,
)
from psicli.transport.link import BUSY, LAST_WORDS_TIMEOUT, Link, Stream

logger = logging.getLogger(__name__)

# How often the listener looks at who connects while it waits for its peer [s].
LOOK_INTERVAL = 0.5
# A dialer that does not reconnect within this time is considered dead [s], unless its machine had stopped acknowledging
# before the break: then the network is to blame, and the listener waits for the whole window.
DEAD_AFTER = 5.0
# The same while many strangers connect: the dialer may have to wait for its turn several times [s].
DEAD_IN_A_CROWD_AFTER = 60.0
# How often the listener checks whether the machine of a silent peer still acknowledges [s].
WATCH_INTERVAL = 5.0

_ADVICE = (
    "Check that {peer} has started psicli, as {peer}, and that the address in its job file leads here. If both sides "
    "listen and neither connects, compare cluster.nodes in both job files: the first party listens."
)

# Each connection carries one stream, and the front limits the connections, so no stream has to wait for a thread.
_MAX_STREAMS = 128
_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 1),
]


class Listener:
    """The end that accepts the connection; it binds the port when it is constructed.

    With purpose CHECK it answers any Hello, and no connection takes the session. Raises PortBusyError if it cannot bind
    the port; the lock of the port reports other reasons before that.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Condition()
        self._make_hello: Callable[[], bytes] | None = None
        # The link that took the session.
        self._session_link: Link | None = None
        # The class of our failure if this party has failed; the class of the peer's failure if the peer sent it.
        self._refusal: int | None = None
        self._peer_failure: int | None = None
        # Whether either party's failure was sent, or a check was answered.
        self._reported = False
        self._strangers = Strangers()
        self._links: set[Link] = set()
        self._threads = ThreadPoolExecutor(_MAX_STREAMS, "psicli-link")
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server = grpc.server(
            self._threads,
            handlers=[grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})],
            options=_OPTIONS,
            maximum_concurrent_rpcs=_MAX_STREAMS,
        )
        self._front = self._bound_front()
        with errors.creating("a folder for gRPC's socket"):
            self._front.lead_to(self._server)
        failpoints.hit("port.bound")

    def _bound_front(self) -> Front:
        at = self.endpoint
        context = None if at.credentials is None else at.credentials.server_context
        try:
            return Front(
                at.host, at.port, self._strangers, context=context, identify=self._identify, own_user=at.is_own_users
            )
        except OSError as exc:
            raise errors.no_descriptor(at.where, exc) or errors.PortBusyError(where=at.where) from exc

    def _start(self) -> None:
        self._server.start()
        self._front.open()

    # The session's side

    def meet(self, make_hello: Callable[[], bytes], timeout: float) -> Link:
        """Wait for the peer's Hello and return the link once both Hellos are exchanged.

        Raises PeerAbsentError if none arrives within timeout [s], or HandshakesFailedError if TLS handshakes failed.
        """
        with self._lock:
            self._make_hello = make_hello
        deadline = time.monotonic() + timeout
        self._start()
        ticker, warned = Ticker(), False
        while not signals.wait_for(
            self._lock, lambda: self._session_link or self._peer_failure, min(LOOK_INTERVAL, left(deadline))
        ):
            if time.monotonic() >= deadline:
                raise self._absence(timeout)
            if self.endpoint.credentials is None:
                self._name_other_programs()
            elif self._strangers.fail_in_tls and not warned:
                warned = True
                ticker.hasten()
            ticker.tick(self._log_waiting, deadline)
        if self._session_link is not None:
            return self._session_link
        assert self._peer_failure is not None
        if self.endpoint.credentials is None and self._peer_failure == TLS_FAILED:
            raise peer_errors.PeerSpeaksTlsError(who=self.endpoint.peer)
        raise failure_of_peer(self._peer_failure)

    def _absence(self, timeout: float) -> peer_errors.PeerAbsentError:
        strangers, peer, place = self._strangers, self.endpoint.peer, self.endpoint.place
        if strangers.handshakes > 0 and self.endpoint.credentials is not None:
            facts = {"connections": self._failed(), "ago": strangers.handshake_ago}
            return peer_errors.HandshakesFailedError(seconds=timeout, trust=self.endpoint.credentials.trust, **facts)
        nobody = f"nobody connected to {place} as {peer}"
        reason = [nobody, *strangers.told][-1]
        return peer_errors.PeerAbsentError(seconds=timeout, reason=reason, advice=_ADVICE.format(peer=peer))

    def _failed(self) -> str:
        """Return how many connections ended in the TLS handshake, and from where if that is known."""
        machines = sorted(self._strangers.hosts)
        source = f" from {', '.join(machines[:3])}" if machines else ""
        return f"{errors.counted(self._strangers.handshakes, 'connection')}{source} to {self.endpoint.place}"

    def _name_other_programs(self) -> None:
        for machine in sorted(self._strangers.hosts | self._front.hosts_without_stream(GRACE)):
            self._strangers.note(f"a program on {machine} has connected to {self.endpoint.place}, but it is not psicli")

    def _log_waiting(self, deadline: float) -> None:
        peer, until = self.endpoint.peer, moment(deadline)
        if self._front.is_crowded:
            line = "still waiting for %s until %s: so many others connect to %s that it has to wait for its turn"
            logger.warning(line, peer, until, self.endpoint.place)
        elif self._strangers.fail_in_tls and self.endpoint.credentials is not None:
            line = "still waiting for %s until %s: %s ended in the TLS handshake. %s"
            logger.warning(line, peer, until, self._failed(), self.endpoint.credentials.trust)
        else:
            line = "still waiting for %s to connect to %s until %s. %s"
            logger.info(line, peer, self.endpoint.place, until, _ADVICE.format(peer=peer))

    def refuse(self, failure_class: int, timeout: float) -> None:
        """Tell the peer that this party has failed, if it connects within timeout [s]."""
        with self._lock:
            self._refusal = failure_class
        self._start()
        signals.wait_for(self._lock, lambda: self._reported, timeout)

    def close(self) -> None:
        """End every stream and free the port."""
        self._server.stop(LAST_WORDS_TIMEOUT if self._reported else 0).wait(2 * LAST_WORDS_TIMEOUT)
        for link in [*self._links, *([self._session_link] if self._session_link else [])]:
            link.close_outgoing()
            link.end()
        self._front.close()
        self._threads.shutdown(wait=False)

    # Who connects

    def _serve(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Handle one stream; the text of an exception must never reach the other end."""
        guest = self._front.guest_of(context.peer())
        if guest is None:
            # The connection has broken meanwhile.
            return
        link = Link()
        stream = link.stream
        assert stream is not None
        self._links.add(link)
        try:
            if guest.refusal is not None:
                raise guest.refusal
            stream.guest, stream.served = guest, True
            if not context.add_callback(stream.was_served):
                stream.was_served()
            link.peer_certificate = guest.certificate
            threading.Thread(target=pump, args=(stream, requests), name="psicli-pump", daemon=True).start()
            self._admit(link, link.first(LONGEST_STAY))
            yield from outgoing(stream)
            if stream.link is self._session_link or self._refusal is not None:
                # Only the peer's own last message proves that ours has arrived. And a dialer believes a refusal only as
                # long as the connection shows whose process has sent it.
                stream.link.await_end(stream)
        except peer_errors.IdentityError as exc:
            self._strangers.note(exc.message)
            context.set_code(grpc.StatusCode.PERMISSION_DENIED)
        except PsicliError as exc:
            # This was not our peer, and anybody may connect: the listener drops the connection and keeps waiting.
            logger.debug("dropped a connection: %s", exc)
        except Exception:
            logger.exception("dropped a connection after an unexpected failure")
            context.set_code(grpc.StatusCode.INTERNAL)
        finally:
            self._links.discard(link)
            self._front.release(guest)

    def _identify(self, guest: Guest) -> None:
        """Note the certificate of the other end; raises StrangerError if it is not our peer's."""
        assert self.endpoint.credentials is not None
        try:
            chain = guest.chain
        except ValueError as exc:
            # Imported late, as everything about certificates.
            from psicli.transport.certs import USABLE_KEYS

            raise peer_errors.StrangerError(fault="psicli cannot read", advice=USABLE_KEYS) from exc
        self.endpoint.credentials.accept(chain)
        guest.certificate = chain[0]

    def _admit(self, link: Link, first: Message | None) -> None:
        """Answer the first message of a stream: the first Hello with purpose RUN takes the session."""
        with self._lock:
            if isinstance(first, HelloOctets):
                self._answer(link, first.octets)
            elif isinstance(first, Abort) and self._session_link is None:
                self._peer_failure = first.failure_class
                self._reported = True
                link.close_outgoing()
            elif isinstance(first, Reconnect):
                self._readmit(link, first)
            else:
                raise peer_errors.PeerProtocolError(detail="it did not start a connection with a Hello")
            stream = link.stream
            if stream is not None and stream.guest is not None and stream.link is self._session_link:
                self._front.admit(stream.guest)
            self._lock.notify_all()

    def _answer(self, link: Link, octets: bytes) -> None:
        purpose = decode_hello(octets).purpose
        if self._refusal is not None:
            self._reject(link, self._refusal)
            # A dialer that only checks is not the peer's run: the run must still hear of the failure.
            self._reported |= purpose is Purpose.RUN
        elif self.endpoint.purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            # Two checks that measure the link go on; whoever has called meet ends it.
            if self._session_link is not None or not measure_link(*map(decode_hello, (link.own_hello, octets))):
                link.close_outgoing()
            self._session_link = self._session_link or link
            self._reported = True
        elif purpose is Purpose.CHECK:
            self._say_hello(link, octets)
            if self._session_link is not None:
                link.send(Abort(BUSY))
            link.close_outgoing()
        elif self._session_link is not None:
            self._reject(link, BUSY)
        else:
            self._say_hello(link, octets)
            self._session_link = link
            if self.endpoint.reconnect_window:
                link.allow_reconnect(session_id(link.own_hello, octets))
                threading.Thread(
                    target=self._keep_connected, args=(link,), name="psicli-reconnect", daemon=True
                ).start()

    def _say_hello(self, link: Link, octets: bytes) -> None:
        assert self._make_hello is not None
        link.own_hello, link.peer_hello = self._make_hello(), octets
        link.send(HelloOctets(link.own_hello))

    def _reject(self, link: Link, failure_class: int) -> None:
        link.send(Abort(failure_class))
        link.close_outgoing()

    # Reconnecting

    def _readmit(self, link: Link, first: Reconnect) -> None:
        """Move our session to a new stream if the peer asks for this session; refuse any other one.

        This also replaces a stream that looks intact: the peer would not reconnect if its own end were.
        """
        if self._session_link is not None and self._session_link.is_of(first.sid):
            failpoints.hit("reconnect.answered")
            self._session_link.take_over(link, first)
        else:
            self._reject(link, peer_errors.PeerLostError.code)

    def _keep_connected(self, link: Link) -> None:
        """Wait for the peer to reconnect whenever the stream breaks, until the link ends.

        While a peer is silent, record whether its machine still acknowledges: after the break it is too late to tell.
        """
        try:
            while not link.ended:
                if (lost := link.await_break(WATCH_INTERVAL)) is not None:
                    self._await_again(link, lost)
                elif (stream := link.stream) is not None and link.long_silent:
                    stream.unanswered = stream.guest is not None and stream.guest.is_unanswered()
        except Exception as exc:
            link.fail(exc)

    def _await_again(self, link: Link, lost: Stream) -> None:
        """Wait for the peer to reconnect, or end the link if it does not."""
        peer, window, why = self.endpoint.peer, self.endpoint.reconnect_window, lost.why_it_ended
        dead_after = DEAD_IN_A_CROWD_AFTER if self._front.is_crowded else DEAD_AFTER
        patience = window if lost.unanswered else min(dead_after, window)
        began, ticker = time.monotonic(), Ticker()
        logger.warning("the connection from %s broke (%s); waiting up to %.0f s for a new one", peer, why, patience)
        while not link.await_stream(min(ticker.left, left(began + patience))):
            gone = time.monotonic() - began
            if gone >= patience:
                absent = peer_errors.PeerGoneError(reason=f"{why}, and it did not reconnect within {patience:.0f} s")
                link.end(peer_errors.LinkBrokenError(cause=why, seconds=patience) if lost.unanswered else absent)
                return
            line = "still waiting for %s to reconnect: %.0f s of %.0f s have passed"
            ticker.tick(logger.info, line, peer, gone, patience)
        if not link.ended:
            logger.info("%s is back after %.1f s", peer, time.monotonic() - began)
