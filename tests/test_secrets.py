"""Nothing that a run writes, and no object it shows, holds a key, another value, a scalar, a point or a token.

The runs are real, at the highest verbosity, with a trace and a report in JSON; what psicli drew from the system's
randomness is known to the test, so it knows the scalars.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
import inspect
import pkgutil
import re
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pair import items_of, records, run_exchanges
from runner import DIALER, LISTENER, PARTIES, Pair, Side
from tapped import Recording, record, tapped_pair

import psicli
from psicli.items import ItemSorter
from psicli.link import TlsCredentials
from psicli.locks import SHARED_FOLDER
from psicli.protocol import Sender, Stream
from psicli.session import LiveTask
from psicli.spool import Spool, Storage

# Every key and other value holds it, and nothing else does.
MARK = "zq7vk3xw9p"
# So little for a job's data that items, lists and matched rows go to the state folder.
LITTLE_MEMORY = """
from psicli.config.models import PipelineSettings
PipelineSettings.working_memory = property(lambda self: 1 << 20)
"""
# What a library may say of a row.
FAILING_WRITER = f"""
from psicli.tables import Input
def write_matched(self, *arguments, **named):
    raise ValueError("cannot convert " + {MARK[:5]!r} + {MARK[5:]!r})
Input.write_matched = write_matched
"""


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[tuple[Pair, int]]:
    """Two parties over marked values, with a state folder of their own."""
    with tapped_pair(tmp_path) as (pair, port):
        pair.environment["PSICLI_STATE_DIR"] = str(pair.folder / "state")
        for party, first in ((LISTENER, 0), (DIALER, 40)):
            rows = [f"{MARK}-{number % 80 + first},{MARK} note\n" for number in range(4000)]
            pair.path(party, "in.csv").write_text("id,note\n" + "".join(rows))
        side = Side(["id"], "in.csv", "out/people.csv")
        pair.add("people", side, side)
        yield pair, port


def append(row: str) -> Any:
    def spoil(pair: Pair) -> None:
        with open(pair.path(DIALER, "in.csv"), "a") as file:
            file.write(row)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code", "codes"),
    [
        (lambda pair: None, LITTLE_MEMORY, (0, 0)),
        (append(f"{MARK}-1,{MARK},{MARK}\n"), "", (80, 65)),
        (append(f"{MARK}-\x01,{MARK}\n"), "", (80, 65)),
        (lambda pair: None, FAILING_WRITER, (70, 0)),
    ],
    ids=["done", "a bad row", "a bad key", "an unexpected failure"],
)
def test_nothing_written_holds_a_secret(
    marked: tuple[Pair, int], spoil: Any, code: str, codes: tuple[int, int]
) -> None:
    pair, port = marked
    spoil(pair)
    recording = record(pair, port, "--verbose", "--json", code=dict.fromkeys(PARTIES, code), trace=True)
    assert tuple(recording.results[party].code for party in PARTIES) == codes
    texts = dict(written(pair, recording))
    assert {"alice/trace.json", "bob/trace.json", "alice's stderr", "bob's stdout"} <= set(texts)
    if code == LITTLE_MEMORY:
        assert b'"spool_bytes": 0' not in texts["alice's stdout"]
    secrets = dict(secrets_of(recording))
    for place, text in texts.items():
        for what, secret in secrets.items():
            assert not any(form in text for form in forms(secret)), f"{place} holds {what}"
    # The ledger stays, and was searched.
    assert {path.name for path in (pair.folder / "state").rglob("*")} == {"lock", "ledger.jsonl"}
    assert "state/ledger.jsonl" in texts


def written(pair: Pair, recording: Recording) -> Iterator[tuple[str, bytes]]:
    """Everything two runs wrote but outputs: streams, traces, locks, what stays in state and temporary folders."""
    for party, result in recording.results.items():
        yield f"{party}'s stdout", result.stdout
        yield f"{party}'s stderr", result.stderr.encode()
    status = pair.start_command("status", "--json").result()
    yield "status", status.stdout + status.stderr.encode()
    ours = {*(pair.path(party, name) for party in PARTIES for name in ("in.csv", "out/people.csv", "job.yaml"))}
    locks = [folder.glob(f"psicli-*{pair.port}*") for folder in (SHARED_FOLDER, Path(tempfile.gettempdir()))]
    for path in {*pair.folder.rglob("*"), *locks[0], *locks[1]} - ours:
        if path.is_file() and path.suffix != ".draws":
            yield str(path.relative_to(pair.folder) if path.is_relative_to(pair.folder) else path), path.read_bytes()


def secrets_of(recording: Recording) -> Iterator[tuple[str, bytes]]:
    yield "a value", MARK.encode()
    for number in range(120):
        value = f"{MARK}-{number}".encode()
        yield f"the hash of key {number}", hashlib.sha256(value).digest()
        yield f"the hash of item {number}", hashlib.sha256(b"\x01" + len(value).to_bytes(4, "big") + value).digest()
    for party, draws in recording.draws.items():
        long = [draw for draw in draws if len(draw) == 32]
        # The nonce of a Hello, and of a party that read its input the secret of its order; then its scalar.
        assert len(long) >= 2
        yield from ((f"draw {number} of {party}", draw) for number, draw in enumerate(long))
    for stream, width in ((1, 32), (2, 32), (3, 16)):
        for place, each in enumerate(records(recording.data(Stream(stream)), width)):
            yield f"record {place} of stream {stream}", each


def forms(secret: bytes) -> Iterator[bytes]:
    """What a secret looks like as it is, in hex, as a repr, in base64 wherever it begins, and as a number."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).rstrip(b"=")
        # Without the characters that hold bits of what stands before and after.
        core = encoded[-(-before * 8 // 6) : -1]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))
    yield str(int.from_bytes(secret, "little")).encode()
    yield str(int.from_bytes(secret, "big")).encode()


def test_every_form_is_found() -> None:
    secret = hashlib.sha256(b"secret").digest()
    numbers = [str(int.from_bytes(secret, order)) for order in ("little", "big")]
    texts = [secret, repr([secret]), secret.hex(), bytes(secret).hex().upper(), *numbers]
    texts += [function(bytes(n) + secret + b"x") for n in range(4) for function in (base64.b64encode, _urlsafe)]
    for text in texts:
        octets = text if isinstance(text, bytes) else text.encode()
        assert any(form in octets for form in forms(secret)), text


def _urlsafe(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets)


# Objects ---------------------------------------------------------------------------------------------------------


def test_no_object_shows_what_it_holds(tmp_path: Path) -> None:
    values = [f"{MARK}-{number}" for number in range(40)]
    ends = run_exchanges(items_of(values), items_of(values[20:]))
    pem = f"-----BEGIN PRIVATE KEY-----\n{MARK}\n".encode()
    with Spool.open(tmp_path / "state") as spool:
        names = Path("ca.pem"), Path("alice.pem"), "alice", "bob"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        credentials = TlsCredentials(*names, pem, pem, pem, context, None)  # type: ignore[arg-type]
        shown: list[Any] = [spool, Storage(spool, 1), credentials]
        secret = hashlib.sha256(MARK.encode()).digest()
        for budget in (None, 1):
            sorter = ItemSorter(secret, spool=spool, budget=budget)
            sorter.add(items_of(values))
            shown += [sorter, sorter._runs, ordered := sorter.finish(), vars(ordered)]
        for end in ends:
            exchange = end.exchange
            shown += [end.channel.sent, exchange, exchange.party, exchange.party._setup, exchange._lists]
            shown += [vars(exchange._lists), LiveTask(None, exchange), exchange._crew]  # type: ignore[arg-type]
        secrets = [MARK.encode(), secret, *(point for end in ends for s in (1, 2) for point in end.points(Stream(s)))]
        for value in shown:
            for text in (repr(value).encode(), str(value).encode()):
                assert not any(form in text for each in secrets for form in forms(each)), type(value)


def test_work_under_way_does_not_show_its_points() -> None:
    sender, receiver = run_exchanges(items_of(["a", "b"]), items_of(["b", "c"]))[::-1]
    assert isinstance(sender.exchange.party, Sender)
    (frame,) = sender.data(Stream.SENDER_POINTS)
    assert repr(frame)[2:-1] not in repr(receiver.channel.sent + sender.channel.sent)


def dataclasses_of_psicli() -> list[type]:
    modules = [
        importlib.import_module(each.name)
        for each in pkgutil.walk_packages(psicli.__path__, "psicli.")
        if each.name != "psicli.__main__"
    ]
    found = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    return sorted(
        (kind for kind in found if dataclasses.is_dataclass(kind) and kind.__module__.startswith("psicli")),
        key=lambda kind: kind.__qualname__,
    )


def test_no_dataclass_shows_bytes() -> None:
    """Whatever is bytes may be secret, and the repr a dataclass gets by itself shows all it holds."""
    checked = 0
    for kind in dataclasses_of_psicli():
        # A repr of its own, which test_no_object_shows_what_it_holds looks at.
        if kind is TlsCredentials:
            continue
        for field in dataclasses.fields(kind):
            if re.search(r"\b(bytes|bytearray|memoryview|NDArray|Array)\b", str(field.type)):
                checked += 1
                assert not field.repr, f"{kind.__qualname__}.{field.name}"
    assert checked > 10
