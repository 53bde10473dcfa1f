"""The dialer: the end that makes the connection, and makes a new one when it breaks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from psicli.core import failpoints, peer_errors, signals
from psicli.core.errors import PsicliError
from psicli.core.peer_errors import failure_of_peer
from psicli.protocol.messages import Abort, HelloOctets, Message, Purpose, session_id
from psicli.protocol.wire import decode_hello
from psicli.transport import tls
from psicli.transport.endpoint import (
    COMMON_OPTIONS,
    METHOD,
    REFUSED,
    SERVICE,
    TLS_FAILED,
    Endpoint,
    Ticker,
    left,
    outgoing,
    pump,
)
from psicli.transport.link import BUSY, LAST_WORDS_TIMEOUT, NO_ANSWER, Link, Stream, reason_of

logger = logging.getLogger(__name__)

# The first pause between two attempts [s]: short, because two parties that start together must not lose a second.
FIRST_PAUSE = 0.05
# The longest pause between two attempts to reconnect [s]. TCP alone would retry less and less often.
LONGEST_PAUSE = 1.0
# The longest pause before the dialer retries to report its failure to the peer [s].
REFUSAL_PAUSE = 0.5
# Within one attempt to reconnect: how long the peer's machine may take to accept the connection, and then the peer to
# answer [s].
REACH_TIMEOUT = 3.0
ANSWER_TIMEOUT = 5.0
# How long it may take to tell a plain-text listener that the dialer speaks TLS [s].
PLAIN_REFUSAL_TIMEOUT = 2.0

_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_ONLY_CHECKS = "it runs `psicli check`, not the job"


def backoff(longest: float) -> Iterator[float]:
    """Yield the pauses between attempts [s]: each is twice as long as the one before, up to the longest."""
    pause = min(FIRST_PAUSE, longest)
    while True:
        yield pause
        pause = min(2 * pause, longest)


class Dialer:
    """The end that makes the connection; retry_interval: the longest pause between two attempts [s]."""

    def __init__(self, endpoint: Endpoint, retry_interval: float) -> None:
        self.endpoint = endpoint
        self._retry_interval = retry_interval
        self._link: Link | None = None
        self._channel: Any = None

    def meet(self, make_hello: Callable[[], bytes], timeout: float) -> Link:
        """Connect, retrying until the peer answers with its Hello, and return the link.

        Raises PeerAbsentError after timeout [s], PeerBusyError if the peer already has another session, and a subclass
        of IdentityError if TLS fails for a reason that a retry cannot change.
        """
        deadline = time.monotonic() + timeout
        ticker = Ticker()
        peer, where = self.endpoint.peer, self.endpoint.where
        pauses, reason = backoff(self._retry_interval), NO_ANSWER
        while True:
            try:
                self._link = self._attempt(make_hello(), deadline)
                return self._link
            except peer_errors.PeerGoneError as exc:
                # The last attempt may only have run out of time: an earlier, more specific reason stays.
                reason = reason if reason_of(exc) == NO_ANSWER else reason_of(exc)
            except peer_errors.PeerSpeaksPlainError:
                if self.endpoint.purpose is Purpose.RUN:
                    self._refuse_in_plain()
                raise
            self._hang_up()
            self._check_plain(deadline)
            if left(deadline) <= 0:
                raise peer_errors.PeerAbsentError(seconds=timeout, reason=f"{where}: {reason}")
            ticker.tick(logger.info, "still waiting for %s at %s: %s", peer, where, reason)
            signals.pause(min(next(pauses), left(deadline)))

    def _attempt(self, hello: bytes, deadline: float) -> Link:
        """Connect and exchange Hellos; return the link, which from now on is reconnected when it breaks."""
        link = Link()
        link.own_hello = hello
        self._dial(link, HelloOctets(hello), deadline)
        try:
            link.peer_hello = self._await_hello(link, deadline)
        except peer_errors.PeerProtocolError as exc:
            link.abort(exc.code, LAST_WORDS_TIMEOUT)
            raise
        if self.endpoint.reconnect_window:
            link.allow_reconnect(session_id(link.peer_hello, hello))
            threading.Thread(target=self._keep_connected, args=(link,), name="psicli-reconnect", daemon=True).start()
        return link

    def _await_hello(self, link: Link, deadline: float) -> bytes:
        while (answer := link.first(left(deadline))) is None:
            if time.monotonic() >= deadline:
                raise peer_errors.PeerGoneError(reason=NO_ANSWER)
        if isinstance(answer, Abort):
            raise peer_errors.PeerBusyError() if answer.failure_class == BUSY else failure_of_peer(answer.failure_class)
        if not isinstance(answer, HelloOctets):
            raise peer_errors.PeerProtocolError(detail="it did not answer with a Hello")
        # Decode the Hello here: the caller can still send the peer an Abort if it is wrong.
        if decode_hello(answer.octets).purpose is Purpose.CHECK and self.endpoint.purpose is Purpose.RUN:
            raise peer_errors.PeerGoneError(reason=_ONLY_CHECKS)
        return answer.octets

    def _check_plain(self, deadline: float) -> None:
        """Raise PeerSpeaksTlsError if this party sends plain text and the other end speaks TLS."""
        host, port = self.endpoint.host, self.endpoint.port
        timeout = min(tls.PREFLIGHT_TIMEOUT, left(deadline))
        if self.endpoint.credentials is None and timeout > 0 and tls.presented(host, port, timeout) is not None:
            raise peer_errors.PeerSpeaksTlsError(who=self.endpoint.where)

    def _refuse_in_plain(self) -> None:
        """Tell a plain-text listener that this party speaks TLS, so that it stops waiting; nothing more is sent."""
        plain = Dialer(replace(self.endpoint, credentials=None), self._retry_interval)
        plain.refuse(TLS_FAILED, PLAIN_REFUSAL_TIMEOUT)
        plain.close()

    def refuse(self, failure_class: int, timeout: float) -> None:
        """Tell the peer that this party has failed, if it answers within timeout [s]."""
        deadline = time.monotonic() + timeout
        told = False
        while not told and time.monotonic() < deadline:
            link = Link()
            try:
                self._dial(link, Abort(failure_class), deadline)
                # A peer that refuses our identity would refuse it again.
                told = link.finish(left(deadline)) or isinstance(link.failure, peer_errors.PeerRefusedError)
            except peer_errors.IdentityError as exc:
                # The failure to report matters more than this one, and a retry would not help.
                logger.info("cannot tell %s about the failure: %s", self.endpoint.peer, exc)
                told = True
            except peer_errors.PeerLostError:
                pass
            self._hang_up()
            if not told:
                signals.pause(min(self._retry_interval, REFUSAL_PAUSE))

    def close(self) -> None:
        if self._link is not None:
            self._link.end()
        self._hang_up()

    # Reconnecting

    def _keep_connected(self, link: Link) -> None:
        """Reconnect whenever the stream breaks, until the link ends."""
        try:
            while (lost := link.await_break()) is not None:
                self._reconnect(link, lost.why_it_ended)
        except Exception as exc:
            link.fail(exc)

    def _reconnect(self, link: Link, why: str) -> None:
        """Replace a broken connection, or end the link if that fails."""
        began, ticker = time.monotonic(), Ticker()
        peer, where, window = self.endpoint.peer, self.endpoint.where, self.endpoint.reconnect_window
        logger.warning("the connection to %s broke (%s); trying to reconnect for up to %.0f s", peer, why, window)
        for pause in backoff(min(self._retry_interval, LONGEST_PAUSE)):
            self._hang_up()
            if link.ended:
                return
            reason = self._try_again(link)
            if link.ended:
                continue
            if reason is None:
                logger.info("%s is back after %.1f s", peer, time.monotonic() - began)
                return
            if (death := self._death(link, reason)) is not None:
                link.end(peer_errors.PeerGoneError(reason=f"{why}, then {death}"))
            elif time.monotonic() >= began + window:
                link.end(peer_errors.LinkBrokenError(cause=why, seconds=window))
            else:
                ticker.tick(logger.info, "still trying to reach %s at %s: %s", peer, where, reason)
            link.await_stream(min(pause, left(began + window)))

    def _try_again(self, link: Link) -> str | None:
        """Make one attempt to reconnect; return why it failed, or None if the link is back or has ended."""
        try:
            tls.reach(self.endpoint.host, self.endpoint.port, REACH_TIMEOUT)
        except peer_errors.PeerGoneError as exc:
            return reason_of(exc)
        failpoints.hit("reconnect.dialled")
        try:
            trial = link.try_stream()
            self._connect(trial, time.monotonic() + ANSWER_TIMEOUT)
            link.await_trial(trial, ANSWER_TIMEOUT)
        except peer_errors.PeerGoneError as exc:
            # A peer that accepts the connection but does not finish the TLS handshake gives no answer.
            return NO_ANSWER if reason_of(exc) == tls.TIMED_OUT else reason_of(exc)
        except (peer_errors.CertificateRefusedError, peer_errors.TlsHandshakeError) as exc:
            # Both succeeded before; when the connection breaks again during the handshake, it looks like this.
            return exc.message
        except PsicliError as exc:
            link.end(exc)
        except ValueError:
            # The channel was closed meanwhile because this party has ended the session.
            return NO_ANSWER
        return None

    def _death(self, link: Link, reason: str) -> str | None:
        """Return why the peer seems to be dead, or None if the network may be to blame.

        If the peer's machine accepts connections but the peer does not answer, its process has ended or was stopped.
        """
        if reason == REFUSED:
            return REFUSED
        if reason != NO_ANSWER or not link.long_silent:
            return None
        try:
            # Check again: the network may have failed since the attempt.
            tls.reach(self.endpoint.host, self.endpoint.port, REACH_TIMEOUT)
        except peer_errors.PeerGoneError:
            return None
        return f"its machine accepted a connection but gave no answer within {ANSWER_TIMEOUT:.0f} s: was it stopped?"

    # Connections

    def _dial(self, link: Link, first: Message, deadline: float) -> None:
        failpoints.hit("peer.dialled")
        link.send(first)
        assert link.stream is not None
        self._connect(link.stream, deadline)

    def _connect(self, stream: Stream, deadline: float) -> None:
        self._channel = channel = self._open_channel(stream.link, deadline)
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(outgoing(stream))
        threading.Thread(target=pump, args=(stream, call), name="psicli-pump", daemon=True).start()

    def _open_channel(self, link: Link, deadline: float) -> Any:
        own = self.endpoint.credentials
        if own is None:
            return grpc.insecure_channel(self.endpoint.where, _OPTIONS)
        timeout = min(tls.PREFLIGHT_TIMEOUT, max(left(deadline), 0.1))
        link.peer_certificate = tls.preflight(self.endpoint.host, self.endpoint.port, own, timeout)
        # gRPC trusts only this one certificate, because its own check of names is laxer than ours.
        trusted = link.peer_certificate.public_bytes(Encoding.PEM)
        credentials = grpc.ssl_channel_credentials(trusted, own.private_key, own.certificate)
        options = [*_OPTIONS, ("grpc.ssl_target_name_override", own.peer_name)]
        return grpc.secure_channel(self.endpoint.where, credentials, options)

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
