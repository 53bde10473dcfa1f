"""Every error a user can meet: its sentence, its exit code and its hint.

This module imports nothing of ours, so that every other module may raise from it. An error class carries a
sentence and a hint as templates; whoever raises it gives the facts as named fields, of which fault and advice may be
two. Facts are paths, line numbers, column and party names, counts: never an item, a key value, a point or a scalar.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

# The only list of exit codes; the table in docs/operations.md is generated from it.
EXIT_CODES: dict[int, tuple[str, str]] = {
    0: ("done", "The run is complete; an empty intersection is a complete run."),
    2: ("usage", "The command line is wrong."),
    65: ("bad input", "An input file holds something that cannot be read as it stands."),
    66: ("input missing", "An input file or one of its key columns does not exist."),
    69: ("peer lost", "The other party could not be reached, or was lost on the way. Try again."),
    70: ("internal", "A mistake in psicli, or a failed self-check of its arithmetic."),
    73: ("cannot create", "An output, a lock or a state file cannot be created."),
    74: ("I/O error", "Reading or writing failed on the way, for example because the disk is full."),
    75: ("busy", "The port is in use, or the other party already has a session. Try again."),
    76: ("protocol", "The other party sent something the protocol does not allow."),
    77: ("identity", "TLS failed, or the other end is not who it should be."),
    78: ("configuration", "The job file is wrong, or the two parties' job files disagree."),
    79: ("policy", "This party's policy does not allow the run."),
    80: ("peer failed", "The other party failed and said so."),
    130: ("interrupted", "Stopped by SIGINT (Ctrl-C)."),
    143: ("terminated", "Stopped by SIGTERM."),
}


def shown(text: str, limit: int = 200) -> str:
    """Return text from outside as a bounded, printable repr, so that it cannot confuse a terminal."""
    clipped = text if len(text) <= limit else text[:limit] + "…"
    return ascii(clipped)


def reason(exc: OSError) -> str:
    """Return why the system refused, as it stands in a sentence."""
    return (exc.strerror or "unknown").lower()


class PsicliError(Exception):
    """Base of all errors; `sentence` and `hint` are templates filled with the facts of this occurrence."""

    code: ClassVar[int] = 70
    sentence: ClassVar[str] = "{detail}"
    hint: ClassVar[str] = ""
    # Whether the other party, not this one, has to act.
    peer_at_fault: ClassVar[bool] = False

    def __init__(self, **facts: object) -> None:
        # Who raises deep in the protocol does not know the peer's name; the session fills it in.
        self.facts: dict[str, object] = {"peer": "the other party", **facts}
        super().__init__()

    def __str__(self) -> str:
        return self.message

    @property
    def message(self) -> str:
        return self.sentence.format(**self.facts)

    @property
    def advice(self) -> str:
        return self.hint.format(**self.facts)


class BadInputError(PsicliError):
    """An input is there but cannot be read as it stands."""

    code = 65


class MalformedInputError(BadInputError):
    """A file that is not what its format says: fault, and advice on it."""

    sentence = "{place}: {fault}"
    hint = "{advice}"


class UnclosedQuoteError(MalformedInputError):
    """A quote that is not closed in what was read so far."""


class ColumnError(BadInputError):
    """A column that cannot be compared or written as it stands: fault, and advice on it."""

    sentence = "{place}: {fault}"
    hint = "{advice}"


class InputChangedError(BadInputError):
    sentence = "{path}: the file was changed or replaced while it was read"
    hint = "Let the export finish (write elsewhere, then rename) before psicli starts."


class TooManyRowsError(BadInputError):
    sentence = "the input has more than {limit} rows"
    hint = "Split it into several tasks."


class InputMissingError(PsicliError):
    """A file, or a column that the job names, does not exist or cannot be read: fault, and advice on it."""

    code = 66
    sentence = "{place}: {fault}"
    hint = "{advice}"


class PeerLostError(PsicliError):
    """The other party was never reached, or was lost."""

    code = 69
    peer_at_fault = True


class PeerAbsentError(PeerLostError):
    sentence = "{peer} did not appear within {seconds:.0f} s: {reason}"
    hint = "Is the other side running, does it use this address, and was it not started as the same party as this side?"


class HandshakesFailedError(PeerAbsentError):
    sentence = (
        "{peer} did not appear within {seconds:.0f} s, but {count} connections to {where} ended in the TLS handshake, "
        "the last {ago:.0f} s ago"
    )
    hint = (
        "The dialer's log names the reason. Here, see that ca_file holds the authority of {peer}'s certificate, that "
        "the own certificate comes from one {peer} trusts, and that the clock is right."
    )


class PeerGoneError(PeerLostError):
    sentence = "{peer} went away before the session was complete: {reason}"
    hint = "Look at the other side's log for its own reason, then run again."


class LinkBrokenError(PeerLostError):
    sentence = "the connection with {peer} broke ({cause}) and did not come back within {seconds:.0f} s"
    hint = "Look at the network between the two; link_desc.reconnect_window_ms sets how long to wait. Then run again."


class PeerSilentError(PeerLostError):
    sentence = "{peer} sent nothing for {seconds:.0f} s"
    hint = "Look at the other side and the network; link_desc.recv_timeout_ms sets how long to wait."


class PeerStuckError(PeerLostError):
    sentence = "{peer} has said for {seconds:.0f} s that it works, and nothing else"
    hint = "Look at what the other side is at; link_desc.recv_timeout_ms, of which this is a multiple, sets the limit."


class PeerStoppedError(PeerLostError):
    sentence = "{peer} stopped before the session was complete: {reason}"
    hint = "Look at the other side's log for its own reason, then run again."


class WorkerLostError(PsicliError):
    sentence = "bin {bin} was lost: whatever computed it stopped"
    code = 69
    hint = "Look for a reason on the machine that computed it, then run again."


class InternalError(PsicliError):
    """Our own mistake; shown with a traceback."""

    code = 70
    hint = "This is a mistake in psicli; please report it with the lines above."


def unexpected(exc: Exception) -> InternalError:
    """Return the error that stands for an exception nobody foresaw; only its class is told."""
    return InternalError(detail=f"an unexpected {type(exc).__name__}")


class LocalProtocolError(InternalError):
    """Our own side broke the order of the protocol."""


class SelfCheckError(InternalError):
    sentence = "The {backend} curve backend failed its self-check: {detail}"
    hint = "Nothing it computed may be used. Check this machine's memory and report the failure."


class CannotCreateError(PsicliError):
    sentence = "{path}: cannot create it: {reason}"
    code = 73
    hint = "Create the folder or change its permissions, then run again."


@contextmanager
def creating(path: object) -> Iterator[None]:
    """Raise CannotCreateError of a path where the system refuses."""
    try:
        yield
    except OSError as exc:
        raise CannotCreateError(path=path, reason=reason(exc)) from exc


class FileThereError(CannotCreateError):
    sentence = "{path}: there is a file of this name already, and keys and certificates are never overwritten"
    hint = "Move it away, or write elsewhere with --out."


class StorageError(PsicliError):
    sentence = "{path}: {reason}"
    code = 74
    hint = "Check the disk (space, quota, health), then run again."


@contextmanager
def storing(path: object, doing: str) -> Iterator[None]:
    """Raise StorageError of a path where the system refuses."""
    try:
        yield
    except OSError as exc:
        raise StorageError(path=path, reason=f"{doing} failed: {reason(exc)}") from exc


class SpoolSpaceError(StorageError):
    sentence = "{folder}: {need} more would be needed there beside {held}, but {free} are free: {reason}"
    hint = "Free space there, name another folder in PSICLI_STATE_DIR, or give psicli more memory (pipeline.memory)."


class DiskTooSmallError(StorageError):
    sentence = "{folder}: the disk is too small: about {need} may be needed there, and {free} are free"
    hint = (
        "Free space there, or put outputs (output_path) or state (PSICLI_STATE_DIR) on another disk. All rows are "
        "taken to match, and the other side to have as many."
    )


class BusyError(PsicliError):
    """Somebody else has what this run needs; trying again later may help."""

    code = 75


class PortBusyError(BusyError):
    sentence = "{where}: the port is in use by another program"
    hint = "Wait for it to end, or give this job another port (address in the job file, or --port-offset)."


class LockHeldError(BusyError):
    sentence = "{what} is taken by {holder}"
    hint = "Wait for it to end (--lock-timeout waits for you), or give this job another port."


class PeerBusyError(BusyError):
    sentence = "{peer} already runs this session with somebody else"
    hint = "Was this party started twice? Wait for the other run to end."


class BinOverflowError(PsicliError):
    sentence = "bin {bin} has more items than there is room for, which happens once in 2^60 bins"
    code = 75
    hint = "Run again: the next run cuts the items in another way."


class PeerProtocolError(PsicliError):
    """The other party broke the protocol; nothing it sent is used."""

    code = 76
    peer_at_fault = True
    sentence = "{peer} broke the protocol: {detail}"
    hint = "Do not use this peer's data until its operator has explained this; nothing of this task was written."


class SamePartyError(PeerProtocolError):
    sentence = "{peer} broke the protocol: it introduced itself as {party}, which is this side"
    hint = (
        "Was this party started on both sides, or have both job files one self_party? Then correct self_party (or "
        "--party) on one of them; else somebody sends this side's own words back."
    )


class PeerAccusesError(PsicliError):
    sentence = "{peer} stopped: it says that this side broke the protocol"
    code = 76
    peer_at_fault = True
    hint = "Are both sides the same version? The other side's log says what it saw."


class IdentityError(PsicliError):
    """TLS failed, or the other end is not the party it should be."""

    code = 77
    hint = "Check ca_file, certificate_file and private_key_file on both sides."


class TlsFileError(IdentityError):
    sentence = "{path}: cannot read this TLS file: {reason}"
    hint = "It must be PEM that this user may read; `psicli certs show` tells what a file of certificates holds."


class OwnCertificateError(IdentityError):
    sentence = "{path}: this side's certificate {fault}"
    hint = "{advice}"


class PeerCertificateError(IdentityError):
    """The other party's certificate is not accepted, for a reason that has no class of its own."""

    sentence = "the certificate of {peer} at {where} is not accepted: {reason}"
    hint = "`psicli certs show` tells what is in a certificate; an authority's may have expired, too."
    peer_at_fault = True


class PeerCertificateExpiredError(PeerCertificateError):
    sentence = "the certificate of {peer} at {where} expired on {date} (it is {now} here)"
    hint = "{peer} must renew it; if the date is still to come, check this machine's clock."


class PeerCertificateEarlyError(PeerCertificateError):
    sentence = "the certificate of {peer} at {where} is valid only from {date} (it is {now} here)"
    hint = "Check the clocks of both machines; else {peer} needs a certificate that is valid now."


class PeerCertificateIssuerError(PeerCertificateError):
    sentence = "the certificate of {peer} at {where} was issued by {issuer}, which {ca_file} does not hold"
    hint = (
        "Put the certificate of that authority into ca_file if you trust it; else ask {peer} for the right certificate."
    )
    peer_at_fault = False


class PeerCertificateNameError(PeerCertificateError):
    sentence = "the certificate at {where} names {names}, not {name}"
    hint = (
        "Is somebody else at this address? {peer}'s certificate must hold {name} as a DNS subject alternative name, or "
        "the job file give {peer}'s node the tls_name that it holds."
    )


class CertificateRefusedError(IdentityError):
    sentence = "{peer} at {where} refused this side's certificate {path}, issued by {issuer}: {reason}"
    hint = "Ask {peer} whether its ca_file holds that authority and its clock is right; {peer} waits on."


class PeerRefusedError(IdentityError):
    sentence = "{peer} refused this side: it waits for another party than this side's certificate names"
    hint = "Compare the parties and tls_name in both job files; the other side's log says whom it expects."


class StrangerError(IdentityError):
    sentence = "a connection was refused: its certificate names {names}, not {name}"
    hint = "A party's certificate must hold its party name (or its tls_name) as a DNS subject alternative name."
    peer_at_fault = True


class TlsHandshakeError(IdentityError):
    sentence = "the TLS handshake with {peer} failed: {reason}"


class PeerSpeaksPlainError(IdentityError):
    sentence = "{where} does not speak TLS, and this side does"
    hint = "Does {peer}'s job file have cluster.tls, and is it psicli that listens at this address?"
    peer_at_fault = True


class PeerSpeaksTlsError(IdentityError):
    sentence = "{who} speaks TLS, and this side {does} plain text"
    hint = "Add cluster.tls to this side's job file."


class ConfigError(PsicliError):
    """The job file or the environment is wrong, or the two job files disagree."""

    code = 78


class JobFileError(ConfigError):
    """All mistakes of a job file, one a line, each `job.yaml:LINE: FIELD: what is wrong; what would be right`."""

    sentence = "{mistakes}"
    hint = "`psicli config schema` describes every field of a job file."


class UnknownFormatError(ConfigError):
    sentence = "{path}: no format has this suffix"
    hint = "The suffixes are {suffixes}, in lower case."


class VariableError(ConfigError):
    """A variable of the environment asks for something that does not exist: fault, and advice on it."""

    sentence = "{variable} {fault}"
    hint = "{advice}"


class DisagreementError(ConfigError):
    sentence = "the two job files disagree:\n{table}"
    hint = "Make the two job files equal in these fields; nothing was sent."


class PeerDisagreesError(ConfigError):
    sentence = "{peer} stopped: its job file and ours disagree"
    hint = "Compare the two job files; the other side's log names the fields."


class BindError(ConfigError):
    sentence = "{where}: cannot listen there: {reason}"
    hint = "listen_address (or the first node's address) must be an address of this machine, with a port we may use."


class TaskFilesError(ConfigError):
    """The inputs and outputs of a task do not suit this command: fault, and advice on it."""

    sentence = "task {task}: {fault}"
    hint = "{advice}"


class TooManyItemsError(ConfigError):
    """The two sides have too many items to compare: fault, and advice on it."""

    sentence = "{fault}"
    hint = "{advice}"


class PolicyError(PsicliError):
    """This party's policy does not allow the run."""

    code = 79
    hint = "If this is as it should be, change the limit under policy in the job file; else look into it with {peer}."


class AnsweredTwiceError(PolicyError):
    hint = "Run again: the task starts afresh, and counts as another run."
    sentence = "task {task}: {peer} asks a third time about items it was answered twice"


class PeerSizeError(PolicyError):
    sentence = "task {task}: {peer} has {items} distinct items{padding}, {than} than policy.{name}, which is {limit}"


class TooManyRunsError(PolicyError):
    sentence = (
        "task {task}: this input was run with {peer} {runs} times in the last 24 hours, and policy.max_runs_per_day "
        "is {limit}"
    )
    hint = "`psicli ledger` shows these runs, by input and key columns. Wait, or change the limit in the job file."


class MatchRateError(PolicyError):
    sentence = (
        "task {task}: {matched} of {own} own distinct items matched, which is above policy.max_match_rate, {limit}"
    )


class OutputRowsError(PolicyError):
    sentence = "task {task}: the output would have {rows} rows, fewer than policy.min_output_rows, which is {limit}"


class PeerFailedError(PsicliError):
    sentence = "{peer} failed: {reason}"
    code = 80
    peer_at_fault = True
    hint = "The other side's log says more; this side has nothing to mend."


class PeerPolicyError(PeerFailedError):
    sentence = "The other party's policy does not allow this run."
    hint = "Ask {peer} what its policy allows; its log names the limit."


class InterruptedBySignal(PsicliError):
    """Raised in the main thread by a signal handler, so that everything is released on the way out."""

    sentence = "stopped by SIGINT"
    code = 130


class TerminatedBySignal(InterruptedBySignal):
    sentence = "stopped by SIGTERM"
    code = 143


# What the peer's exit code makes of ours ------------------------------------------------------------------------

# 1 stands for a failure that may not be named, most likely a signal: as that, it is worth another try.
_STOPPED = frozenset({1, 69, 74, 75, 130, 143})


def failure_of_peer(failure_class: int) -> PsicliError:
    """Return our error for a peer that stopped with this exit code; only the class travels, no text."""
    known = EXIT_CODES if failure_class >= BadInputError.code else {}
    _, meaning = known.get(failure_class, ("", "It did not say why."))
    if failure_class in _STOPPED:
        return PeerStoppedError(reason=meaning)
    if failure_class == PeerProtocolError.code:
        return PeerAccusesError()
    if failure_class == ConfigError.code:
        return PeerDisagreesError()
    if failure_class == PolicyError.code:
        return PeerPolicyError()
    return PeerFailedError(reason=meaning)
