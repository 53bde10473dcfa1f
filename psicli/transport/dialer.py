"""The dialer: the end that makes the connection, and makes a new one when it breaks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import grpc

from psicli.core import failpoints, peer_errors, signals
from psicli.core.errors import PsicliError
from psicli.core.peer_errors import failure_of_peer
from psicli.protocol.messages import Abort, HelloOctets, Message, Purpose, session_id
from psicli.protocol.wire import decode_hello
from psicli.transport import preflight
from psicli.transport.door import owners
from psicli.transport.door.lookup import End
from psicli.transport.endpoint import (
    COMMON_OPTIONS,
    METHOD,
    REFUSED,
    SERVICE,
    TLS_FAILED,
    Endpoint,
    Ticker,
    left,
    moment,
    outgoing,
    pump,
)
from psicli.transport.link import BUSY, LAST_WORDS_TIMEOUT, Link, Stream, reason_of
from psicli.transport.preflight import NO_ANSWER

logger = logging.getLogger(__name__)

# The first pause between two attempts [s]: short, because two parties that start together must not lose time. At first
# there are this many such pauses; later ones get longer.
FIRST_PAUSE = 0.025
FIRST_PAUSES = 40
# The longest pause between two attempts to reconnect [s]. TCP alone would retry less and less often.
LONGEST_PAUSE = 1.0
# The longest pause before the dialer retries to report its failure to the peer [s].
REFUSAL_PAUSE = 0.5
# Within one attempt to reconnect: how long the peer's machine may take to accept the connection [s].
REACH_TIMEOUT = 3.0
# How long the peer may take to answer at first, and at most [s].
ANSWER_TIMEOUT = 10.0
LONGEST_ANSWER_TIMEOUT = 60.0
# How long it may take to tell a plain-text listener that the dialer speaks TLS [s].
PLAIN_REFUSAL_TIMEOUT = 2.0
# How long the first attempt may take, so that its failure is told soon [s]; a slow network needs the later ones.
FIRST_TIMEOUT = 1.5
# Two parties that start together meet within this time, so no failure before it is worth a line [s].
EARLY = 1.0
# How many different reasons for failed attempts are logged at most.
MAX_REASONS = 8

_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_ONLY_CHECKS = "it runs `psicli check`, not the job"
_WHO_ANSWERS = (
    "Check host and port under cluster.nodes: another program may use this port. If they are right, ask {peer} whether "
    "its psicli was stopped."
)
_ROUTES = "Check host and port under cluster.nodes, and the routes and firewalls between the two machines."
_ADVICE = {
    preflight.UNRESOLVED: "Check the host under cluster.nodes, and the name service of this machine (DNS, /etc/hosts).",
    preflight.TIMED_OUT: _ROUTES,
    "no route to host": _ROUTES,
    "network is unreachable": _ROUTES,
    NO_ANSWER: _WHO_ANSWERS,
    preflight.CLOSED: _WHO_ANSWERS,
    preflight.CLOSED_AFTER_TLS: _WHO_ANSWERS,
    _ONLY_CHECKS: "Ask {peer} to start `psicli run`.",
}
_USUAL_ADVICE = (
    "Check that {peer} has started psicli, as {peer}, and that it listens at this address. If both sides connect and "
    "neither listens, compare cluster.nodes in both job files: the first party listens."
)


def backoff(longest: float) -> Iterator[float]:
    """Yield the pauses between attempts [s]: each is twice as long as the one before, up to the longest."""
    pause = min(FIRST_PAUSE, longest)
    while True:
        yield pause
        pause = min(2 * pause, longest)


def patience(unanswered: int) -> float:
    """Return how long to wait for an answer after so many attempts without one [s].

    A connection waits for its turn if many others connect. An attempt that is given up loses its place, so the next one
    waits longer.
    """
    return min(ANSWER_TIMEOUT * 2.0**unanswered, LONGEST_ANSWER_TIMEOUT)


class _Failures:
    """The failed attempts to meet the peer: each new reason is logged soon, and the latest one every minute."""

    def __init__(self, endpoint: Endpoint, deadline: float) -> None:
        self._endpoint = endpoint
        self._deadline = deadline
        self._ticker = Ticker()
        self._began = time.monotonic()
        self._reason = ""
        # How many attempts, after the first short one, have got no answer.
        self._unanswered = 0
        self._told: set[str] = set()

    @property
    def patience(self) -> float:
        """How long the next attempt to connect may take [s]."""
        return patience(self._unanswered) if self._reason else FIRST_TIMEOUT

    def note(self, reason: str) -> None:
        """Note why an attempt failed."""
        self._unanswered += bool(self._reason) and reason == NO_ANSWER
        in_time = left(self._deadline) > 0
        if in_time or not self._reason:
            # The last attempt may only have run out of time: the reason before it says more.
            self._reason = reason
        about = self._endpoint.peer, self._endpoint.where, self._reason, moment(self._deadline)
        late = in_time and time.monotonic() - self._began >= EARLY
        if late and reason not in self._told and len(self._told) < MAX_REASONS:
            self._told.add(reason)
            logger.info("%s at %s: %s; trying again until %s", *about)
        else:
            line = "still waiting for %s at %s: %s; trying again until %s. %s"
            self._ticker.tick(logger.info, line, *about, self._advice)

    def summary(self, timeout: float) -> peer_errors.PeerAbsentError:
        """Return the error for a peer that did not answer within timeout [s]."""
        reason = f"{self._endpoint.where}: {self._reason}"
        return peer_errors.PeerAbsentError(seconds=timeout, reason=reason, advice=self._advice)

    @property
    def _advice(self) -> str:
        advice = next((text for start, text in _ADVICE.items() if self._reason.startswith(start)), _USUAL_ADVICE)
        return advice.format(peer=self._endpoint.peer)


class Dialer:
    """The end that makes the connection; retry_interval: the longest pause between two attempts [s]."""

    def __init__(self, endpoint: Endpoint, retry_interval: float) -> None:
        self.endpoint = endpoint
        self._retry_interval = retry_interval
        self._link: Link | None = None
        self._channel: Any = None

    def meet(self, make_hello: Callable[[], bytes], timeout: float) -> Link:
        """Connect, retrying until the peer answers with its Hello, and return the link.

        Raises PeerAbsentError or OtherUserError after timeout [s], PeerBusyError if the peer already has another
        session, and a subclass of IdentityError if TLS fails for a reason that a retry cannot change.
        """
        deadline = time.monotonic() + timeout
        where, pauses = self.endpoint.where, backoff(self._retry_interval)
        pauses = chain(repeat(next(pauses), FIRST_PAUSES), pauses)
        failures = _Failures(self.endpoint, deadline)
        other_user: peer_errors.OtherUserError | None = None
        while True:
            try:
                self._link = self._attempt(make_hello(), deadline, failures.patience)
                return self._link
            except peer_errors.PeerGoneError as exc:
                failures.note(reason_of(exc))
            except peer_errors.OtherUserError as exc:
                # Until our peer has the port, anybody can take it, and must not end the run with that.
                failures.note(f"another user of this machine, {exc.facts['user']}, listens there")
                other_user = exc
            except peer_errors.NotPsicliError as exc:
                exc.facts["where"] = where
                raise
            except peer_errors.PeerSpeaksPlainError:
                if self.endpoint.purpose is Purpose.RUN:
                    self._refuse_in_plain()
                raise
            self._hang_up()
            if left(deadline) <= 0:
                raise other_user or failures.summary(timeout)
            signals.pause(min(next(pauses), left(deadline)))

    def _attempt(self, hello: bytes, deadline: float, patience: float) -> Link:
        """Connect within patience [s] and exchange Hellos; return the link, which is reconnected when it breaks."""
        link = Link()
        link.own_hello = hello
        self._dial(link, HelloOctets(hello), min(deadline, time.monotonic() + patience))
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
        ticker = Ticker(FIRST_TIMEOUT)
        while (answer := link.first(min(ticker.left, left(deadline)))) is None:
            if time.monotonic() >= deadline:
                raise peer_errors.PeerGoneError(reason=NO_ANSWER)
            line = "%s at %s: %s; waiting until %s"
            ticker.tick(logger.info, line, self.endpoint.peer, self.endpoint.where, NO_ANSWER, moment(deadline))
        if isinstance(answer, Abort):
            raise peer_errors.PeerBusyError() if answer.failure_class == BUSY else failure_of_peer(answer.failure_class)
        if not isinstance(answer, HelloOctets):
            raise peer_errors.PeerProtocolError(detail="it did not answer with a Hello")
        # Decode the Hello here: the caller can still send the peer an Abort if it is wrong.
        if decode_hello(answer.octets).purpose is Purpose.CHECK and self.endpoint.purpose is Purpose.RUN:
            raise peer_errors.PeerGoneError(reason=_ONLY_CHECKS)
        return answer.octets

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
            except (peer_errors.IdentityError, peer_errors.NotPsicliError) as exc:
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
        began, ticker = time.monotonic(), Ticker(0)
        peer, where, window = self.endpoint.peer, self.endpoint.where, self.endpoint.reconnect_window
        logger.warning("the connection to %s broke (%s); reconnecting", peer, why)
        unanswered = 0
        for pause in backoff(min(self._retry_interval, LONGEST_PAUSE)):
            self._hang_up()
            if link.ended:
                return
            reason = self._try_again(link, patience(unanswered))
            unanswered += reason == NO_ANSWER
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
                line = "%s at %s: %s; trying to reconnect until %s"
                ticker.tick(logger.info, line, peer, where, reason, moment(began + window))
            link.await_stream(min(pause, left(began + window)))

    def _try_again(self, link: Link, timeout: float) -> str | None:
        """Make one attempt to reconnect; return why it failed, or None if the link is back or has ended.

        timeout: how long the peer may take to answer [s].
        """
        try:
            preflight.reach(self.endpoint.host, self.endpoint.port, REACH_TIMEOUT)
        except peer_errors.PeerGoneError as exc:
            return reason_of(exc)
        failpoints.hit("reconnect.dialled")
        try:
            trial = link.try_stream()
            self._connect(trial, time.monotonic() + timeout)
            link.await_trial(trial, timeout)
        except peer_errors.PeerGoneError as exc:
            return reason_of(exc)
        except (
            peer_errors.CertificateRefusedError,
            peer_errors.TlsHandshakeError,
            peer_errors.NotPsicliError,
        ) as exc:
            # All of this succeeded before; a connection that breaks again, or a proxy, can look like this.
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
            preflight.reach(self.endpoint.host, self.endpoint.port, REACH_TIMEOUT)
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
        # gRPC connects only for the call. A connection of an earlier attempt may still be there, and be half closed.
        earlier = owners.connections_to(self.endpoint.port) if self.endpoint.is_own_users else set()
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(outgoing(stream))
        incoming = self._of_own_user(call, earlier) if self.endpoint.is_own_users else call
        threading.Thread(target=pump, args=(stream, incoming), name="psicli-pump", daemon=True).start()

    def _of_own_user(self, incoming: Iterable[bytes], earlier: set[tuple[End, End]]) -> Iterator[bytes]:
        """Yield what arrives if the other end is a process of this user: nothing that matters is sent before that."""
        checked = False
        for octets in incoming:
            if not checked:
                owners.check_connections(self.endpoint.host, self.endpoint.port, earlier)
                checked = True
            yield octets

    def _open_channel(self, link: Link, deadline: float) -> Any:
        own, host, port = self.endpoint.credentials, self.endpoint.host, self.endpoint.port
        if self.endpoint.is_own_users:
            host = owners.address_to_dial(host, port)
        # When the link reconnects, gRPC still trusts only the certificate that passed.
        if not link.peer_hello:
            timeout = max(left(deadline), 0.1)
            link.peer_certificate = preflight.check(host, port, own, timeout)
        if own is None or link.peer_certificate is None:
            return grpc.insecure_channel(preflight.written_address(host, port), _OPTIONS)
        # Imported late, as everything about certificates.
        from psicli.transport.tls import in_pem

        # gRPC trusts only this one certificate, because its own check of names is laxer than ours.
        credentials = grpc.ssl_channel_credentials(in_pem(link.peer_certificate), own.private_key, own.certificate)
        options = [*_OPTIONS, ("grpc.ssl_target_name_override", own.peer_name)]
        return grpc.secure_channel(self.endpoint.where, credentials, options)

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
