"""Every error that concerns the other party: the connection to it, its identity, its messages, its job file.

The classes follow the rules of psicli.core.errors.
"""

from __future__ import annotations

from psicli.core.errors import (
    EXIT_CODES,
    BadInputError,
    BusyError,
    ConfigError,
    InputMissingError,
    PolicyError,
    PsicliError,
)


class PeerLostError(PsicliError):
    """The other party could not be reached, or the connection to it was lost."""

    code = 69
    peer_at_fault = True


class PeerAbsentError(PeerLostError):
    """Facts: reason, advice."""

    sentence = "{peer} did not answer within {seconds:.0f} s: {reason}"
    hint = "{advice}"


class HandshakesFailedError(PeerAbsentError):
    sentence = (
        "{peer} did not answer within {seconds:.0f} s, but {connections} ended in the TLS handshake, the last one "
        "{ago:.0f} s ago"
    )
    hint = (
        "{trust} Compare this with {peer}'s certificate and ca_file, check both clocks, and read {peer}'s log, which "
        "gives the reason."
    )


class NotPsicliError(PeerLostError):
    sentence = "another program than {peer}'s psicli answers at {where}: {program}"
    hint = (
        "Compare host and port under cluster.nodes in both job files, and --port-offset, with the address where "
        "{peer}'s psicli listens."
    )


class PeerGoneError(PeerLostError):
    sentence = "{peer} disconnected before the session was complete: {reason}"
    hint = "Ask {peer} for the reason in its log, then run again."


class LinkBrokenError(PeerLostError):
    sentence = "the connection to {peer} was lost ({cause}) and could not be restored within {seconds:.0f} s"
    hint = "Check the network, then run again; link_desc.reconnect_window_ms sets how long psicli tries to reconnect."


class PeerSilentError(PeerLostError):
    sentence = "{peer} sent nothing for {seconds:.0f} s"
    hint = "Check {peer}'s run and the network; link_desc.recv_timeout_ms sets how long psicli waits."


class PeerStuckError(PeerLostError):
    sentence = "{peer} is connected, but made no progress for {seconds:.0f} s"
    hint = "Ask {peer} what its run is doing; the limit is a multiple of link_desc.recv_timeout_ms."


class PeerSlowError(PeerStuckError):
    sentence = (
        "{peer} is too slow: while this side waited for {seconds:.0f} s, it sent and read fewer than {pace} bytes a "
        "second"
    )
    hint = "Check {peer}'s run and the network; the wait is a multiple of link_desc.recv_timeout_ms."


class ProbeTooLongError(PeerLostError):
    sentence = "measuring the link to {peer} was not over after {seconds:.0f} s"
    hint = "Check the network to {peer}; `psicli check --no-probe` leaves the measurement out."


class PeerStoppedError(PeerLostError):
    sentence = "{peer} stopped before the session was complete: {reason}"
    hint = "Ask {peer} for the reason in its log, then run again."


class PeerBusyError(BusyError):
    sentence = "{peer} already has a session with another run of this party"
    hint = "Check whether this party was started twice; wait for the other run to end."


class PeerProtocolError(PsicliError):
    """The other party broke the protocol; psicli uses nothing of what it sent."""

    code = 76
    peer_at_fault = True
    sentence = "{peer} broke the protocol: {detail}"
    hint = "Ask {peer}'s operator for an explanation before you run with {peer} again; this task wrote no output."


class LateMessageError(PeerProtocolError):
    sentence = "{peer} broke the protocol: it sent {kind} after the end of the last task"
    hint = (
        "All tasks were complete before, and their outputs are in place. Ask {peer}'s operator for an explanation "
        "before you run with {peer} again."
    )


class SamePartyError(PeerProtocolError):
    sentence = "{peer} broke the protocol: it introduced itself as {party}, which is this party"
    hint = (
        "Check whether both sides were started as {party}; if so, correct self_party (or --party) on one of them. "
        "Otherwise somebody is sending this side's own messages back."
    )


class PeerAccusesError(PsicliError):
    sentence = "{peer} stopped and reported that this side broke the protocol"
    code = 76
    peer_at_fault = True
    hint = "Check that both sides run the same version of psicli; {peer}'s log gives the details."


class IdentityError(PsicliError):
    """TLS failed, or a certificate does not name the expected party."""

    code = 77
    hint = "Check ca_file, certificate_file and private_key_file on both sides."


class TlsFileError(IdentityError):
    sentence = "{path}: cannot read this TLS file: {reason}"
    hint = "The file must be PEM and readable by this user; `psicli certs show` lists the certificates in a file."


class WeakCertificateError(IdentityError):
    """A certificate of this party, a request or an authority that psicli does not use. Facts: path, fault, advice."""

    sentence = "{path}: psicli refuses it, because it {fault}"
    hint = "{advice}"


class OwnCertificateError(IdentityError):
    sentence = "{path}: this party's certificate {fault}"
    hint = "{advice}"


class PeerCertificateError(IdentityError):
    """The other party's certificate was rejected, for a reason without a more specific class."""

    sentence = "the certificate of {peer} at {where} was rejected: {reason}"
    hint = "Inspect the certificate with `psicli certs show`; the authority's own certificate may have expired."
    peer_at_fault = True


class PeerCertificateExpiredError(PeerCertificateError):
    sentence = "the certificate of {peer} at {where} expired on {date} (it is {now} here)"
    hint = "Ask {peer} to renew it; if that date is in the future, correct this machine's clock."


class PeerCertificateEarlyError(PeerCertificateError):
    sentence = "the certificate of {peer} at {where} is valid only from {date} (it is {now} here)"
    hint = "Check the clocks of both machines; if they are right, {peer} needs a certificate that is valid now."


class PeerCertificateIssuerError(PeerCertificateError):
    sentence = "the certificate of {peer} at {where} was issued by {issuer}, which {ca_file} does not hold"
    hint = (
        "Check that {peer} is at this address. If you trust that authority, add its certificate to ca_file; otherwise "
        "ask {peer} to use a certificate from an authority that you trust."
    )
    peer_at_fault = False


class PeerCertificateUnfitError(PeerCertificateError):
    """A certificate of a trusted authority that is not one of the other party's. Facts: where, fault, advice."""

    sentence = "the certificate at {where} {fault}"
    hint = "Check that {peer} is at this address. {advice}"


class CertificateRefusedError(IdentityError):
    sentence = "{peer} at {where} refused this side's certificate {path}, issued by {issuer}: {reason}"
    hint = "Ask {peer} to check that its ca_file holds that authority and its clock is right; {peer} keeps waiting."


class PeerRefusedError(IdentityError):
    sentence = (
        "{peer} refused the connection: this side's certificate does not name the party that {peer} expects, it or its "
        "authority has a key that is too weak, or {peer}'s job file lists other certificates for it"
    )
    hint = (
        "Compare the party names, tls_name and certificate_sha256 in both job files; {peer}'s log says what it expects."
    )


class StrangerError(IdentityError):
    """A connection from somebody who is not the other party. Facts: fault, advice."""

    sentence = "psicli refused a connection whose certificate {fault}"
    hint = "{advice}"
    peer_at_fault = True


class OtherUserError(IdentityError):
    sentence = "{where} belongs to another user of this machine, {user}; without TLS, psicli talks to its own user only"
    hint = (
        "Check the port under cluster.nodes: another program may use it. Between two users of a machine, use TLS: add "
        "cluster.tls to both job files."
    )


class UserRefusedError(IdentityError):
    sentence = (
        "psicli refused a connection from a process of another user of this machine, {user}: in plain text, it accepts "
        "this user's processes only; two users need cluster.tls in both job files"
    )


class OwnersUnknownError(IdentityError):
    sentence = "/proc/self/net: psicli cannot tell which user's processes are connected: {reason}"
    hint = "Make the table of connections (/proc/self/net/tcp) readable, or use TLS: add cluster.tls to both job files."


class TlsHandshakeError(IdentityError):
    sentence = "the TLS handshake with {peer} failed: {reason}"


class PeerSpeaksPlainError(IdentityError):
    sentence = "{where} does not use TLS, but this side does"
    hint = "Check that {peer}'s job file has cluster.tls, and that this is {peer}'s address."
    peer_at_fault = True


class PeerSpeaksTlsError(IdentityError):
    sentence = "{who} uses TLS, but this side does not"
    hint = "If {peer} uses TLS, add cluster.tls to this side's job file; otherwise check {peer}'s address."


class DisagreementError(ConfigError):
    sentence = "the two job files disagree:\n{table}"
    hint = "Make these fields the same in both job files, and run the same version of psicli; no data was sent."


class OtherJobError(DisagreementError):
    """The other side of the connection runs another job, or is another party."""

    hint = (
        "If both sides run several jobs on this port, run them in the same order, use `psicli batch` on both sides, or "
        "give each job a port of its own. Otherwise make these fields the same in both job files; no data was sent."
    )


class PeerDisagreesError(ConfigError):
    sentence = "{peer} stopped because its job file and this side's disagree"
    hint = "Compare the two job files; {peer}'s log names the fields that differ."


class PeerFailedError(PsicliError):
    sentence = "{peer} failed: {reason}"
    code = 80
    peer_at_fault = True
    hint = "Ask {peer} for the details in its log; nothing needs to be fixed on this side."


class PeerSkippedError(PsicliError):
    """The other party skipped a task because its own input or output is bad; this party runs the others."""

    sentence = "{peer} could not take part in task {task} (exit code {failure_class}: {reason})"
    code = 80
    peer_at_fault = True
    hint = "Ask {peer} for the details in its log; nothing needs to be fixed on this side."


class SkipEndsRunError(PeerSkippedError):
    hint = (
        "Ask {peer} for the details in its log. {peer} would run the other tasks; with `keep_going: true` in this "
        "side's job file, this side does too."
    )


class NoFileHereError(InputMissingError):
    """Files of a task with per_file that only the other party has. Facts: group, names."""

    sentence = "{group}: this side has no file for {names}, which {peer} has; the other tasks are not affected"
    hint = "Add the missing file, or ask {peer} whether it should be there. Files are paired by name, without suffix."


class NoPartnerError(InputMissingError):
    """A task with per_file of which no file has a partner. Facts: group, party, ours, theirs."""

    sentence = "{group}: no file has a partner: {party} has {ours}, and {peer} has {theirs}"
    hint = "Files are paired by name, without suffix: give them the same names on both sides."


class PeerLacksFileError(PsicliError):
    """Files of a task with per_file that only this party has. Facts: group, names."""

    sentence = "{group}: {peer} has no file for {names}; the other tasks are not affected"
    code = 80
    peer_at_fault = True
    hint = (
        "Ask {peer} for the missing file, or remove this one if it should not be there. Files are paired by name, "
        "without suffix."
    )


class PeerEndsRunError(PeerFailedError):
    sentence = "{peer} stopped because this side skipped a task, and {peer}'s job file does not set keep_going"
    hint = "Correct that task's input or output and run again; with `keep_going: true` on both sides, other tasks run."


class PeerPolicyError(PeerFailedError):
    sentence = "{peer}'s policy does not allow this run"
    hint = "Ask {peer} what its policy allows; its log names the limit."


def failure_of_peer(failure_class: int) -> PsicliError:
    """Return our error for a peer that stopped with this exit code; the peer sends only the code, no text."""
    # A peer that must not reveal its reason sends 1. That is most likely a signal, so a retry is worthwhile.
    if failure_class in {1, 69, 74, 75, 130, 143}:
        return PeerStoppedError(reason=_reason_of_peer(failure_class))
    if failure_class == PeerProtocolError.code:
        return PeerAccusesError()
    if failure_class == ConfigError.code:
        return PeerDisagreesError()
    if failure_class == PolicyError.code:
        return PeerPolicyError()
    if failure_class == PeerSkippedError.code:
        return PeerEndsRunError()
    return PeerFailedError(reason=_reason_of_peer(failure_class))


def skip_of_peer(task: str, failure_class: int, *, keep_going: bool) -> PeerSkippedError:
    """Return our error for a task that the peer skipped; the peer sends only the class, no text."""
    kind = PeerSkippedError if keep_going else SkipEndsRunError
    return kind(task=task, failure_class=failure_class, reason=_reason_of_peer(failure_class))


def _reason_of_peer(failure_class: int) -> str:
    """Return the meaning of the peer's exit code as part of a sentence; to the peer, the other party is this one."""
    if failure_class < BadInputError.code or failure_class not in EXIT_CODES:
        return "it did not say why"
    meaning, _, _ = EXIT_CODES[failure_class][1].partition(".")
    meaning = meaning if meaning.startswith("TLS") else meaning[0].lower() + meaning[1:]
    return meaning.replace("the other party", "this party")
