"""One intersection of a data frame, without a job file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from psicli.api.errors import told
from psicli.api.jobs import load_job
from psicli.api.process import Cancel, Progress
from psicli.api.runs import run
from psicli.core.errors import ArgumentError

Frame = TypeVar("Frame")
# A value for each key column; a text or None if there is one column.
_Forms = str | Sequence[str | None] | None
_TASK = "rows"
_BOTH = "both"


@overload
def intersect(
    frame: Frame,
    on: str | Sequence[str],
    *,
    party: str,
    peer: str,
    address: str,
    receiver: Literal["both"] = "both",
    listener: str | None = None,
    listen_address: str | None = None,
    protocol: Literal["ecdh", "rr22"] = "ecdh",
    key_form: _Forms = None,
    normalize: _Forms = None,
    tls: Mapping[str, str | os.PathLike[str]] | Literal["insecure"] | None = None,
    policy: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    job: str = "intersect",
    progress: Callable[[Progress], object] | None = None,
    cancel: Cancel | None = None,
    timeout: float | None = None,
    memory: int | None = None,
) -> Frame: ...


@overload
def intersect(
    frame: Frame,
    on: str | Sequence[str],
    *,
    party: str,
    peer: str,
    address: str,
    receiver: str,
    listener: str | None = None,
    listen_address: str | None = None,
    protocol: Literal["ecdh", "rr22"] = "ecdh",
    key_form: _Forms = None,
    normalize: _Forms = None,
    tls: Mapping[str, str | os.PathLike[str]] | Literal["insecure"] | None = None,
    policy: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    job: str = "intersect",
    progress: Callable[[Progress], object] | None = None,
    cancel: Cancel | None = None,
    timeout: float | None = None,
    memory: int | None = None,
) -> Frame | None: ...


def intersect(
    frame: Any,
    on: str | Sequence[str],
    *,
    party: str,
    peer: str,
    address: str,
    receiver: str = _BOTH,
    listener: str | None = None,
    listen_address: str | None = None,
    protocol: Literal["ecdh", "rr22"] = "ecdh",
    key_form: _Forms = None,
    normalize: _Forms = None,
    tls: Mapping[str, str | os.PathLike[str]] | Literal["insecure"] | None = None,
    policy: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    job: str = "intersect",
    progress: Callable[[Progress], object] | None = None,
    cancel: Cancel | None = None,
    timeout: float | None = None,
    memory: int | None = None,
) -> Any:
    """Return the rows of a data frame whose keys the other party also has, as a data frame of the same library.

    Both parties call it at about the same time, each with its own data frame; the one that comes first waits. They give
    the same `address`, `receiver`, `listener`, `protocol`, `key_form` and `job`, and the same number of key columns.

    on: the key columns, in the order in which they are compared. party, peer: the names of this party and the other.
    address: HOST:PORT of the listener, as the dialer reaches it. listener: the party that listens, the same on both
    sides; by default the one whose name comes first in the alphabet. listen_address: IP:PORT on which it listens, if
    that is another. receiver: who learns the result: `both`, or the name of one party. protocol: how the parties
    compare their items, key_form: the form in which keys are compared, and normalize: how this party writes them, as in
    a job file. tls: `ca_file`, `certificate_file` and `private_key_file`, or `insecure`; without it, both parties must
    be processes of one user on one machine. policy, output: as in a job file. job: the name of the job. timeout: the
    longest wait for the other party, by default 10 minutes [s]. progress, cancel, memory: as in `run`.

    Returns None if this party does not learn the result. Raises as `run` does.
    """
    with told(lines=False):
        nodes = _nodes(party, peer, address, listener, listen_address)
        content = {
            "job": job,
            "self_party": party,
            "cluster": {"nodes": nodes, "tls": tls},
            "psi": {**_psi(receiver, party, peer), "protocol": protocol},
            "policy": policy or {},
            "tasks": [
                {"name": _TASK, "keys": {party: _keys(on, normalize)}, "key_form": key_form, "output": output},
            ],
        }
        loaded = load_job(content)
    report = run(loaded, {_TASK: frame}, progress=progress, cancel=cancel, timeout=timeout, memory=memory)
    return report[_TASK].like_the_input() if report[_TASK].has_rows else None


def _nodes(
    party: str, peer: str, address: str, listener: str | None, listen_address: str | None
) -> list[dict[str, str | None]]:
    """Return the two parties, the listener first."""
    parties = sorted((party, peer))
    if listener is not None:
        if listener not in parties:
            raise ArgumentError(option="listener", fault=f"{listener!r} is no party", advice=_one_of(parties))
        parties.sort(key=lambda each: each != listener)
    # The dialer has no use for the address on which the other party listens.
    own = listen_address if parties[0] == party else None
    return [{"party": parties[0], "address": address, "listen_address": own}, {"party": parties[1]}]


def _psi(receiver: str, party: str, peer: str) -> dict[str, Any]:
    """Return who learns the result, the same on both sides."""
    parties = sorted((party, peer))
    if receiver not in (_BOTH, *parties):
        raise ArgumentError(option="receiver", fault=f"{receiver!r} is no party", advice=_one_of([*parties, _BOTH]))
    return {"receiver": parties[0] if receiver == _BOTH else receiver, "broadcast_result": receiver == _BOTH}


def _keys(on: str | Sequence[str], normalize: _Forms) -> list[dict[str, str | None]]:
    """Return each key column with how this party writes it."""
    if not isinstance(on, str | Sequence) or not all(isinstance(each, str) for each in on):
        raise TypeError("`on` is the name of a column, or a list of names")
    columns = [on] if isinstance(on, str) else list(on)
    forms = [normalize] if isinstance(normalize, str) else list(normalize or [None] * len(columns))
    if len(forms) != len(columns):
        fault = f"it has {len(forms)} values, and there are {len(columns)} key columns"
        raise ArgumentError(option="normalize", fault=fault, advice="Give a list with one value for each key column.")
    return [{"column": column, "normalize": form} for column, form in zip(columns, forms, strict=True)]


def _one_of(names: Sequence[str]) -> str:
    return f"Give {', '.join(map(repr, names[:-1]))} or {names[-1]!r}."
