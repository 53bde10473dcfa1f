"""No file or stream that a run writes, and no repr of an object, holds a key, other value, scalar, point or token.

The runs are real, at the highest verbosity, with all that they can leave: a trace, a page, metrics, reports as JSON
and in the state folder, and the log as text or as JSON. The test records what psicli draws from the
system's random source, so it knows the scalars.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
import inspect
import itertools
import json
import os
import pkgutil
import re
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.memory.pair import items_of, records, run_exchanges
from support.processes.altered import Alteration, Alterations, fail_to_write, watch_vectors, with_little_memory
from support.processes.runner import DIALER, LISTENER, PARTIES, Pair, Side, failing_at
from support.processes.tapped import LEFT, Recording, item, keys, record, tapped_pair

import psicli
from psicli import curve
from psicli.exchange.task_exchange import Storage
from psicli.items.partitions import Partitioner
from psicli.protocol.messages import RR22, Frame, Stream, partition_key, task_session_id
from psicli.protocol.sender import Sender
from psicli.session.live import LiveTask
from psicli.storage.locks import SHARED_FOLDERS
from psicli.storage.spool import Spool
from psicli.transport.tls import TlsCredentials

# Every key and every other value contains this text, and nothing else does.
MARK = "zq7vk3xw9p"
# The number of keys of each party in the tests of one bin, and in those of several.
FEW, MANY = 80, 18_000


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[tuple[Pair, int]]:
    """Yield two parties with marked values and a separate state folder, and the port they connect through."""
    with tapped_pair(tmp_path) as (pair, port):
        pair.environment["PSICLI_STATE_DIR"] = str(pair.folder / "state")
        pair.environment["TEST_VALUE"] = f"{MARK[:5]} {MARK[5:]}"
        write_marked(pair, FEW)
        side = Side(["id"], "in.csv", "out/people.csv")
        pair.add("people", side, side)
        yield pair, port


def write_marked(pair: Pair, keys: int) -> None:
    """Write rows with this many keys per party, half of them common."""
    for party, first in ((LISTENER, 0), (DIALER, keys // 2)):
        rows = [f"{MARK}-{number % keys + first},{MARK} note\n" for number in range(max(4000, 2 * keys))]
        pair.path(party, "in.csv").write_text("id,note\n" + "".join(rows))


def several_bins(broadcast: bool) -> Any:
    def spoil(pair: Pair) -> None:
        write_marked(pair, MANY)
        for party in PARTIES:
            pair.jobs[party]["pipeline"] = {"bin_items": 16_384}
            pair.jobs[party]["tasks"][0]["broadcast_result"] = broadcast

    return spoil


def both(*alterations: Alteration) -> Alterations:
    return dict.fromkeys(PARTIES, alterations)


def flipping(otherwise: Any) -> Any:
    """Make both parties send a damaged second frame."""

    def spoil(pair: Pair) -> None:
        otherwise(pair)
        pair.environment.update(failing_at("frame.sending:flip:2"))

    return spoil


def logging_json(otherwise: Any) -> Any:
    """Let both parties write their logs as JSON."""

    def spoil(pair: Pair) -> None:
        otherwise(pair)
        pair.environment["PSICLI_LOG"] = "json"

    return spoil


def by_rr22(otherwise: Any) -> Any:
    """Let both parties use RR22."""

    def spoil(pair: Pair) -> None:
        otherwise(pair)
        for party in PARTIES:
            pair.jobs[party]["psi"]["protocol"] = RR22

    return spoil


def append(row: str) -> Any:
    def spoil(pair: Pair) -> None:
        with open(pair.path(DIALER, "in.csv"), "a") as file:
            file.write(row)

    return spoil


@pytest.mark.more
@pytest.mark.parametrize(
    ("spoil", "alterations", "codes", "left"),
    [
        (lambda pair: None, both(with_little_memory), (0, 0), set()),
        # The sender keeps its manifest, since the receiver may still ask whether it is done.
        (several_bins(False), both(with_little_memory), (0, 0), {"lock", "meta"}),
        (several_bins(True), both(), (0, 0), set()),
        (append(f"{MARK}-1,{MARK},{MARK}\n"), both(), (80, 65), set()),
        (logging_json(append(f"{MARK}-1,{MARK},{MARK}\n")), both(), (80, 65), set()),
        (append(f"{MARK}-\x01,{MARK}\n"), both(), (80, 65), set()),
        (logging_json(lambda pair: None), both(fail_to_write), (70, 0), set()),
        (lambda pair: None, both(fail_to_write), (70, 0), set()),
        (several_bins(True), {LISTENER: [fail_to_write]}, (70, 80), {"lock", "meta", "bins"}),
        (flipping(several_bins(False)), both(), (76, 76), set()),
        (by_rr22(several_bins(False)), both(with_little_memory, watch_vectors), (0, 0), {"lock", "meta"}),
        (
            by_rr22(several_bins(True)),
            {LISTENER: [fail_to_write, watch_vectors], DIALER: [watch_vectors]},
            (70, 80),
            {"lock", "meta", "bins"},
        ),
        (by_rr22(flipping(several_bins(False))), both(watch_vectors), (76, 76), set()),
    ],
    ids=[
        "done",
        "several bins",
        "a broadcast of several bins",
        "a bad row",
        "a bad row, as JSON",
        "a bad key",
        "an unexpected failure, as JSON",
        "an unexpected failure",
        "an unexpected failure after several bins",
        "a frame that was changed",
        "by RR22",
        "an unexpected failure by RR22",
        "a frame of RR22 that was changed",
    ],
)
def test_nothing_written_holds_a_secret(
    marked: tuple[Pair, int],
    spoil: Any,
    alterations: Alterations,
    codes: tuple[int, int],
    left: set[str],
) -> None:
    """left: the names of the files that the sender keeps for the task."""
    pair, port = marked
    spoil(pair)
    recording = record(pair, port, "--verbose", "--json", alterations=alterations, leaves=True)
    assert tuple(recording.results[party].code for party in PARTIES) == codes
    texts = dict(written(pair, recording))
    assert {f"{party}/{name}" for party in PARTIES for name in LEFT.values()} <= set(texts)
    assert {"alice's stderr", "bob's stdout", "report -o -", "history --json"} <= set(texts)
    if with_little_memory in alterations[LISTENER]:
        assert b'"spool_bytes": 0' not in texts["alice's stdout"]
    kept = {path.relative_to(pair.folder) for path in (pair.folder / "state").glob("task-*/*")}
    assert {path.name for path in kept} == left
    assert len({path.parent for path in kept}) == bool(left)
    reports = {path.relative_to(pair.folder) for path in (pair.folder / "state" / "reports").iterdir()}
    assert len(reports) == 2
    others = {path.name for path in (pair.folder / "state").rglob("*") if path.is_file()}
    others -= {path.name for path in kept | reports}
    # The ledger, the sketches and the reports stay; the test searches them like every other file there.
    assert {name.partition("-")[0] for name in others} | {"lock"} == {"lock", "ledger.head", "ledger.jsonl", "sketches"}
    assert {"state/ledger.jsonl", *map(str, kept | reports)} <= set(texts)
    secrets = dict(secrets_of(recording))
    vectors = [*pair.folder.glob("*.draws.vectors")]
    for path in vectors:
        # Of each vector of secrets, 20 blocks are recorded.
        blocks = {*records(path.read_bytes(), 16)} - {bytes(16)}
        secrets |= {f"{path.name}, {number}": block for number, block in enumerate(sorted(blocks))}
    if pair.jobs[LISTENER]["psi"].get("protocol") == RR22:
        # After a first frame that was changed, one party has drawn nothing.
        assert len(vectors) == 2
        assert len([name for name in secrets if ".draws.vectors, " in name]) > 20
    else:
        assert not vectors
    for place, text in texts.items():
        # The sender of a broadcast may keep its orders until it has read the bitmaps, but no other secret.
        orders = orders_in(text, recording) if place.endswith("/bins") else set()
        if "sketches-" in place:
            # The key of sketches is only for them.
            orders = {bytes.fromhex(json.loads(text.partition(b"\n")[0])["key"])}
        for what, secret in secrets.items():
            assert secret in orders or not any(form in text for form in forms(secret)), f"{place} holds {what}"


def orders_in(text: bytes, recording: Recording) -> set[bytes]:
    """Return the sender's draws found in this text, one per bin; check that none of them is a scalar."""
    found = {draw for draw in recording.draws[DIALER] if len(draw) == 32 and draw in text}
    assert len(found) == 2
    if not recording.data(Stream.SENDER_POINTS):
        # RR22 has no scalar of items; what it draws in its place is shorter or longer.
        return found
    points = set(records(recording.data(Stream.SENDER_POINTS), curve.POINT_BYTES))
    values = keys(f"{MARK}-{MANY // 2 + number}" for number in range(60))
    scalars = set()
    for number, draw in itertools.product(range(2), recording.draws[DIALER]):
        if len(draw) == 32:
            masked = records(curve.hash_and_mask(values, recording.bin_sid("people", number), draw), curve.POINT_BYTES)
            scalars |= {draw} if points & set(masked) else set()
    assert len(scalars) == 2
    assert not found & scalars
    return found


def written(pair: Pair, recording: Recording) -> Iterator[tuple[str, bytes]]:
    """Yield everything that both parties wrote except outputs: streams, what they left, locks and the state folder."""
    for party, result in recording.results.items():
        yield f"{party}'s stdout", result.stdout
        yield f"{party}'s stderr", result.stderr.encode()
    for command in ("status --json", "ledger --json", "history --json", "report -o -"):
        told = pair.start_command(*command.split()).result()
        assert told.code == 0, told.text
        yield command, told.stdout + told.stderr.encode()
    ours = {*(pair.path(party, name) for party in PARTIES for name in ("in.csv", "out/people.csv", "job.yaml"))}
    locks = {path for folder in SHARED_FOLDERS for path in folder.glob(f"psicli-{os.geteuid()}/*")}
    for path in {*pair.folder.rglob("*")} - ours:
        if path.is_file() and ".draws" not in path.suffixes:
            yield str(path.relative_to(pair.folder)), path.read_bytes()
    for path in locks:
        # The runs of other tests remove their locks at any time.
        with suppress(FileNotFoundError):
            yield str(path), path.read_bytes()


def secrets_of(recording: Recording) -> Iterator[tuple[str, bytes]]:
    """Yield the secrets of a run with their descriptions; of long lists, only the first of each frame and draw."""
    yield "a value", MARK.encode()
    key = partition_key(task_session_id(recording.sid, "people"))
    for number in range(120):
        value = f"{MARK}-{number}"
        yield f"the hash of key {number}", hashlib.sha256(value.encode()).digest()
        yield f"the hash of item {number}", hashlib.sha256(item(value)).digest()
        yield f"the keyed hash of item {number}", hashlib.sha256(key + item(value)).digest()[:16]
    for party, draws in recording.draws.items():
        long = [draw for draw in draws if len(draw) >= 32 and not len(draw) % 32]
        frames = [message for message in recording.sent[party] if isinstance(message, Frame)]
        bins = {frame.bin for frame in frames}
        # The draws are the nonce of a Hello, and for each bin the order secret, the scalar and the padding.
        assert len(long) >= 1 + (3 if len(bins) > 1 else 2) * len(bins)
        for number, draw in enumerate(long):
            yield from ((f"draw {number} of {party}, {at}", part) for at, part in enumerate(_some_of(draw, 32)))
        for frame in frames:
            if frame.stream != Stream.BITMAP:
                wide = (Stream.RECEIVER_POINTS, Stream.SENDER_POINTS, Stream.KEYS)
                parts = _some_of(frame.data, 32 if frame.stream in wide else 16)
                name = f"stream {frame.stream}, bin {frame.bin}, frame {frame.seq}"
                yield from ((f"record {at} of {name}", part) for at, part in enumerate(parts))


def _some_of(data: bytes, width: int) -> list[bytes]:
    return records(data, width)[: 2 * FEW if len(data) <= 2 * FEW * width else 20]


def forms(secret: bytes) -> Iterator[bytes]:
    """Yield the forms of a secret: raw, in hex, as a repr, in base64 at every alignment, and as a number."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).rstrip(b"=")
        # Leave out the characters that also hold bits of the bytes before and after.
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


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    values = [f"{MARK}-{number}" for number in range(300)]
    ends = [
        end
        for broadcast in (False, True)
        for end in run_exchanges(items_of(values[:200]), items_of(values[100:]), broadcast=broadcast, bin_items=128)
    ]
    pem = f"-----BEGIN PRIVATE KEY-----\n{MARK}\n".encode()
    with Spool(tmp_path / "state") as spool:
        credentials = object.__new__(TlsCredentials)
        vars(credentials).update(ca=pem, certificate=pem, private_key=pem)
        shown: list[Any] = [spool, Storage(spool), credentials]
        secret = hashlib.sha256(MARK.encode()).digest()
        for budget in (None, 1):
            partitioner = Partitioner(secret, spool, budget)
            partitioner.add(items_of(values))
            shown += [partitioner, partitioner._held, partitioner._disk, found := partitioner.finish()]
            shown += [found.bin(0, 1, room) for room in (1 << 20, 0)]
        secrets = [MARK.encode(), secret]
        for end in ends:
            exchange = end.exchange
            shown += [end.channel.sent, exchange, exchange.party, vars(exchange.party), exchange.pools, end.prepared]
            shown += [exchange._results, exchange._bins, LiveTask(0, None, exchange, Future())]  # type: ignore[arg-type]
            shown += [exchange.workers, [worker._items for worker in exchange.workers.values()]]
            secrets += [*exchange.scalars.values(), *(worker.order_secret for worker in exchange.workers.values())]
            secrets += [worker._padding[:32] for worker in exchange.workers.values()]
            secrets += [point for stream in (1, 2) for point in end.points(Stream(stream))[::20]]
            shown += [worker.match(bitmap=True) for worker in exchange.workers.values() if exchange.party.receives]
        assert len(secrets) > 100
        looked_for = [form for each in secrets for form in forms(each)]
        for value in shown:
            for text in (repr(value).encode(), str(value).encode()):
                assert not any(form in text for form in looked_for), type(value)


def test_the_repr_of_a_message_does_not_show_its_points() -> None:
    sender, receiver = run_exchanges(items_of(["a", "b"]), items_of(["b", "c"]))[::-1]
    assert isinstance(sender.party, Sender)
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
    """Any bytes may be secret, and the generated repr of a dataclass shows all its fields."""
    checked = 0
    for kind in dataclasses_of_psicli():
        for field in dataclasses.fields(kind):
            if re.search(r"\b(bytes|bytearray|memoryview|NDArray|Array)\b", str(field.type)):
                checked += 1
                assert not field.repr, f"{kind.__qualname__}.{field.name}"
    assert checked > 10
