"""What a task can go on from after a crash: its checkpoint, a folder in the state folder.

    meta        what the task is bound to and how far it got; replaced as a whole, checksummed
    scalar      own scalar, gone as soon as nothing needs masking any more
    order       own order secret
    own-points, peer-points, products, tokens
                frames of the streams, as they were sent, received or computed; each on the disk before meta counts it
    answered    a sender's alone: the digest of every frame it has answered with tokens

Nothing here is sent. A checkpoint that is not exactly what was written is not used: DoubtfulCheckpointError says why.
Writing one never fails a run: what cannot be kept is given up, with a warning.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from psicli import curve, failpoints
from psicli.errors import CannotCreateError, PeerProtocolError, StorageError
from psicli.files import replace_file
from psicli.protocol import History, Stream, StreamShape, first_digest, next_digest
from psicli.state import TaskFolder, reason

logger = logging.getLogger(__name__)

# How old a checkpoint may be, by the clock [s].
MAX_AGE = 24 * 3600.0
# A clock may be put back a little [s].
CLOCK_SLACK = 300.0
# How often one is brought to the disk, beside all else: so much work may be lost [s]; not sooner than so many times as
# long as the last time took.
SAVE_INTERVAL = 1.0
SAVE_PACE = 5

_MAGIC = b"psicli checkpoint 1\n"
_SECRET_BYTES = 32
_DIGEST_BYTES = 32
# A digest and its own checksum.
_ANSWER_BYTES = _DIGEST_BYTES + 8
# Stands for the products where a stream has its number: no stream has this one.
_PRODUCTS = 0


class DoubtfulCheckpointError(Exception):
    """A checkpoint that cannot be gone on from; its text says why, for a log."""


@dataclass(frozen=True)
class Marks:
    """How far each of a task's streams got: frames, and the chain digest after them in hex."""

    own: tuple[int, str]
    peer: tuple[int, str]
    tokens: tuple[int, str]
    products: str


@dataclass(frozen=True)
class Facts:
    """What `meta` says. bound_to: what must be the same in the next run; created: Unix time [s].

    spent: how long it took to come so far [s]; complete: this side needs nothing more from its peer; result: what the
    report says of a task that is through.
    """

    bound_to: Mapping[str, Any]
    created: float
    task_sid: str
    own_count: int
    peer_count: int
    chunk_items: int
    receives: bool
    spent: float = 0.0
    marks: Marks | None = None
    complete: bool = False
    result: Mapping[str, Any] | None = None

    @property
    def masked(self) -> tuple[int, int]:
        """How many own items and points of the peer's were masked, as far as they are kept [items]."""
        if self.complete:
            return self.own_count, self.peer_count
        own, peer = (0, 0) if self.marks is None else (self.marks.own[0], self.marks.peer[0])
        return min(own * self.chunk_items, self.own_count), min(peer * self.chunk_items, self.peer_count)

    def to_octets(self) -> bytes:
        """Return what the file holds: a first line, one line of JSON, and the SHA-256 of both."""
        octets = _MAGIC + json.dumps(asdict(self)).encode() + b"\n"
        return octets + hashlib.sha256(octets).hexdigest().encode() + b"\n"

    @classmethod
    def from_octets(cls, octets: bytes) -> Self:
        """Read it back; raises DoubtfulCheckpointError unless it is exactly what was written."""
        whole, checksum = octets[:-65], octets[-65:]
        if not whole.startswith(_MAGIC) or checksum != hashlib.sha256(whole).hexdigest().encode() + b"\n":
            raise DoubtfulCheckpointError("it is damaged")
        try:
            values = json.loads(whole.removeprefix(_MAGIC))
            marks = values["marks"]
            if marks is not None:
                pairs = {name: tuple(marks[name]) for name in ("own", "peer", "tokens")}
                values["marks"] = Marks(**pairs, products=marks["products"])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as exc:
            raise DoubtfulCheckpointError("it is of another version of psicli") from exc


class Checkpoint:
    """The checkpoint of a task under way, or of one that is through. For any thread, but appending is for one.

    scalar, order_secret: of the earlier run, where they are still needed; empty otherwise.
    """

    def __init__(self, folder: TaskFolder, facts: Facts, scalar: bytes, order_secret: bytes) -> None:
        """Use `create` or `load`."""
        self.facts = facts
        self.scalar = scalar
        self.order_secret = order_secret
        self._folder = folder
        # Whether it was let go or removed; whether there is nothing to go on from.
        self._over = False
        self._cleared = False
        self._guard = threading.RLock()
        self._spent_before, self._began = facts.spent, time.monotonic()
        self._saving = False
        self._next_save = time.monotonic() + SAVE_INTERVAL
        own, peer = self._shapes()
        self._own = _Frames(folder.path / "own-points", own)
        self._peer = _Frames(folder.path / "peer-points", peer)
        self._products = _Frames(folder.path / "products", peer)
        self._tokens = _Frames(folder.path / "tokens", self._token_shape())
        # Frames of own points that an earlier run had made.
        self._made = 0
        # Of an earlier run: the chain digests of each stream after 0, 1, 2, … frames.
        self._chains: dict[int, Sequence[bytes]] = {}
        self._product_chain = [first_digest(_PRODUCTS, self._task_sid)]
        self._answers = _Answers(folder.path / "answered")

    @classmethod
    def create(cls, path: Path, facts: Facts, scalar: bytes, order_secret: bytes) -> Self | None:
        """Begin a checkpoint that replaces whatever there was; None if there cannot be one now, with a warning.

        scalar, order_secret: empty for a task that is through.
        """
        folder, about = None, {"task": facts.bound_to["task"]}
        try:
            folder = TaskFolder.make(path)
            if folder is None:
                logger.warning(
                    "another run has the checkpoint of this task; this one could not be resumed", extra=about
                )
                return None
            for left in folder.path.iterdir():
                if left.name != "lock":
                    left.unlink()
            if scalar:
                replace_file(folder.path / "scalar", _sealed(scalar))
                replace_file(folder.path / "order", _sealed(order_secret))
            replace_file(folder.path / "meta", facts.to_octets())
            return cls(folder, facts, b"", b"")
        except (CannotCreateError, OSError) as exc:
            why = reason(exc) if isinstance(exc, OSError) else exc.message
            logger.warning("no checkpoint can be kept, this task could not be resumed: %s", why, extra=about)
            if folder is not None:
                remove(folder)
            return None

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return the checkpoint that an earlier run has left, None if there is none.

        Nothing but `meta` and the secrets is looked at yet. Raises DoubtfulCheckpointError when it has removed one,
        CannotCreateError, StorageError.
        """
        folder = TaskFolder.hold(path)
        if folder is None:
            return None
        try:
            facts = cls.look(folder.path)
            return cls(folder, facts, _unsealed(folder.path / "scalar"), _unsealed(folder.path / "order"))
        except DoubtfulCheckpointError:
            remove(folder)
            raise
        except OSError as exc:
            remove(folder)
            raise DoubtfulCheckpointError(f"it cannot be read: {reason(exc)}") from exc

    @staticmethod
    def look(path: Path) -> Facts:
        """Return what `meta` says; another run may be writing it now. Raises DoubtfulCheckpointError."""
        try:
            facts = Facts.from_octets((path / "meta").read_bytes())
        except OSError as exc:
            raise DoubtfulCheckpointError(f"it cannot be read: {reason(exc)}") from exc
        _check_age(facts.created)
        return facts

    @property
    def _task_sid(self) -> bytes:
        return bytes.fromhex(self.facts.task_sid)

    @property
    def usable(self) -> bool:
        """Whether a later run could go on from it."""
        return not (self._over or self._cleared)

    # What an earlier run has left

    def history(self) -> History:
        """Return what this side can go on from, every frame of it read once and compared with what `meta` says.

        Raises DoubtfulCheckpointError.
        """
        facts, marks = self.facts, self.facts.marks
        try:
            if marks is not None and facts.result is None:
                self._chains = self._verified(marks)
        except OSError as exc:
            raise DoubtfulCheckpointError(f"it cannot be read: {reason(exc)}") from exc
        if not self._chains and not facts.complete:
            raise DoubtfulCheckpointError("nothing had been kept yet")
        counts = facts.own_count, facts.peer_count, facts.chunk_items
        return History(self._task_sid, *counts, self._chains, facts.complete)

    def _verified(self, marks: Marks) -> dict[int, Sequence[bytes]]:
        own, peer = self._shapes()
        chains: dict[int, Sequence[bytes]] = {
            own.stream: self._chain(self._own, own.stream, marks.own),
            peer.stream: self._chain(self._peer, peer.stream, marks.peer),
        }
        self._product_chain = self._chain(self._products, _PRODUCTS, (marks.peer[0], marks.products))
        if self.facts.receives:
            chains[Stream.TOKENS] = self._chain(self._tokens, Stream.TOKENS, marks.tokens)
        else:
            tokens = (curve.tokens(each, self._task_sid) for each in self._products.read(marks.peer[0]))
            chains[Stream.TOKENS] = _checked_chain(tokens, Stream.TOKENS, self._task_sid, marks.tokens)
            self._answers.load()
        return chains

    def _chain(self, file: _Frames, stream: int, mark: tuple[int, str]) -> list[bytes]:
        chain = _checked_chain(file.read(mark[0]), stream, self._task_sid, mark)
        file.frames = mark[0]
        return chain

    def go_on_from(self, own: int, peer: int, tokens: int) -> None:
        """Forget what lies beyond so many frames; the digests of what was answered stay. Raises StorageError.

        Own points beyond stay at hand, to be sent again. `meta` counts less before the files hold less: a run that is
        killed in between can still be gone on from.
        """
        self._made = self._own.frames
        self._began = time.monotonic()
        streams, frames = [shape.stream for shape in self._shapes()], (own, peer)
        kept = [(count, self._chains[stream][count].hex()) for stream, count in zip(streams, frames, strict=True)]
        tokens_kept = tokens, self._chains[Stream.TOKENS][tokens].hex()
        del self._product_chain[peer + 1 :]
        self.facts = replace(self.facts, marks=Marks(kept[0], kept[1], tokens_kept, self._product_chain[-1].hex()))
        with self._no_os_errors():
            replace_file(self._folder.path / "meta", self.facts.to_octets())
            self._own.frames = own
            self._peer.cut(peer)
            self._products.cut(peer)
            if self.facts.receives:
                self._tokens.cut(tokens)

    def own_points(self) -> Iterator[bytes]:
        """Give the own points, frame by frame."""
        return self._own.read(self._own.frames)

    def made_before(self, seq: int) -> bytes | None:
        """Return a frame of own points that the earlier run has made, None where it is not at hand."""
        try:
            return self._own.read_one(seq) if seq < self._made else None
        except OSError:
            # The checkpoint was given up meanwhile, or the disk fails.
            return None

    def peer_points(self) -> Iterator[bytes]:
        return self._peer.read(self._peer.frames)

    def products(self) -> Iterator[bytes]:
        """Give the peer's points multiplied by the own scalar, frame by frame."""
        return self._products.read(self._products.frames)

    def tokens(self) -> Iterator[bytes]:
        """Give the tokens of the own items, frame by frame; a receiver's alone."""
        return self._tokens.read(self._tokens.frames)

    # While the task runs

    def add_own(self, points: bytes) -> None:
        """Keep the next frame of own points."""
        self._write(lambda: self._own.append(points))

    def add_peer(self, points: bytes, products: bytes) -> None:
        """Keep the next frame of the peer's points, and what they came to."""
        self._write(lambda: self._peer.append(points))
        self._write(lambda: self._products.append(products))
        self._product_chain.append(next_digest(self._product_chain[-1], products))

    def add_tokens(self, tokens: bytes) -> None:
        """Keep the next frame of tokens of own items."""
        self._write(lambda: self._tokens.append(tokens))

    def answer(self, seq: int, points: bytes) -> None:
        """Have it on the disk that a frame of points is answered, before its tokens leave.

        Raises PeerProtocolError if another one was answered in its place: whoever asks twice under one scalar learns of
        items beyond its list.
        """
        digest = hashlib.sha256(points).digest()
        if self._answers.known(seq) not in (None, digest):
            raise PeerProtocolError(detail=f"frame {seq} is not the one that was answered before the break")
        self._write(lambda: self._answers.note(seq, digest))

    def due(self) -> bool:
        """Tell whether it is time to save."""
        return not self._saving and not self._over and time.monotonic() >= self._next_save

    def marks(self, digest_after: Callable[[Stream, int], bytes | None]) -> Marks | None:
        """Return how far the kept frames go, or None where a digest is not at hand; for the appending thread.

        digest_after: the chain digest of a stream after so many frames.
        """
        own, peer = self._shapes()
        tokens = self._tokens.frames if self.facts.receives else self._peer.frames
        counts = {own.stream: self._own.frames, peer.stream: self._peer.frames, Stream.TOKENS: tokens}
        digests = {stream: digest_after(stream, frames) for stream, frames in counts.items()}
        marked = {stream: (counts[stream], digest.hex()) for stream, digest in digests.items() if digest is not None}
        if len(marked) < len(digests):
            return None
        return Marks(marked[own.stream], marked[peer.stream], marked[Stream.TOKENS], self._product_chain[-1].hex())

    def begin_save(self) -> None:
        """Say that `save` is on its way: it is not due meanwhile."""
        self._saving = True

    def save(self, marks: Marks) -> None:
        """Bring the frames up to these marks to the disk, then `meta`."""
        started = time.monotonic()
        self._write(lambda: self._save(marks, complete=False))
        took = time.monotonic() - started
        self._next_save = time.monotonic() + max(SAVE_INTERVAL, SAVE_PACE * took)
        self._saving = False

    def complete(self, marks: Marks) -> None:
        """Save for the last time: all lists are whole and checked, so the scalar goes."""
        self._write(lambda: self._save(marks, complete=True))
        self._write(self._wipe_scalar)

    def clear(self) -> None:
        """Keep nothing any more that the task could go on from."""
        self._write(self._clear)

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Keep that the task is through and what it came to, and nothing else."""
        self._write(lambda: self._conclude(result))

    def _clear(self) -> None:
        with self._guard:
            self._cleared = True
            self._wipe_scalar()
            # Without it all the rest is nothing.
            (self._folder.path / "meta").unlink(missing_ok=True)

    def _conclude(self, result: Mapping[str, Any]) -> None:
        with self._guard:
            facts = replace(self.facts, marks=None, complete=True, result=result)
            replace_file(self._folder.path / "meta", facts.to_octets())
            self.facts, self._cleared = facts, False
            self._wipe_scalar()
            self._close_files()
            for name in ("order", "own-points", "peer-points", "products", "tokens", "answered"):
                (self._folder.path / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove all of it; raises StorageError if the scalar stays on the disk."""
        with self._guard:
            if self._over:
                return
            self._over = True
            self._close_files()
            self.scalar = b""
            remove(self._folder)

    def forget_scalar(self) -> None:
        """Keep it on the disk alone; somebody else has it in memory now."""
        self.scalar = b""

    def let_go(self) -> None:
        """Leave it for the next run."""
        with self._guard:
            self._over = True
            self._close_files()
            self._folder.let_go()

    def _write(self, work: Callable[[], object]) -> None:
        """Do something to the files; when that fails there is no checkpoint any more."""
        if self._over:
            return
        try:
            work()
        except OSError as exc:
            if self._over:
                # What was still at work when the run ended.
                return
            text = "the checkpoint is given up, this task could not be resumed: %s"
            logger.warning(text, reason(exc), extra={"task": self.facts.bound_to["task"]})
            self.discard()

    def _save(self, marks: Marks, *, complete: bool) -> None:
        with self._guard:
            if self._over or self._cleared or self.facts.complete:
                return
            spent = self._spent_before + time.monotonic() - self._began
            facts = replace(self.facts, spent=spent, marks=marks, complete=complete)
            for frames in (self._own, self._peer, self._products, self._tokens):
                frames.file.sync()
            failpoints.passage("checkpoint.data")
            replace_file(self._folder.path / "meta", facts.to_octets())
            self.facts = facts

    def _wipe_scalar(self) -> None:
        self.scalar = b""
        _wipe(self._folder.path / "scalar")

    def _close_files(self) -> None:
        for each in (self._own, self._peer, self._products, self._tokens, self._answers):
            each.file.close()

    @contextmanager
    def _no_os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StorageError(path=self._folder.path, reason=reason(exc)) from exc

    def _shapes(self) -> tuple[StreamShape, StreamShape]:
        """Return how own and peer's points are cut into frames."""
        facts = self.facts
        streams = Stream.RECEIVER_POINTS, Stream.SENDER_POINTS
        own, peer = streams if facts.receives else streams[::-1]
        return (
            StreamShape(own, facts.own_count, facts.chunk_items),
            StreamShape(peer, facts.peer_count, facts.chunk_items),
        )

    def _token_shape(self) -> StreamShape:
        return StreamShape(Stream.TOKENS, self.facts.own_count, self.facts.chunk_items)


class _DataFile:
    """A file that is written at any place and brought to the disk beside that. For any thread. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._closed = False
        self._guard = threading.Lock()

    def write_at(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        with self._guard:
            descriptor = self._opened()
            while view:
                failpoints.passage("checkpoint.appended")
                done = os.pwrite(descriptor, view, offset)
                offset, view = offset + done, view[done:]

    def read_at(self, offset: int, size: int) -> bytes:
        with self._guard:
            return os.pread(self._opened(), size, offset)

    def truncate(self, size: int) -> None:
        with self._guard:
            os.ftruncate(self._opened(), size)

    def sync(self) -> None:
        with self._guard:
            if self._descriptor < 0:
                return
            # The file may be written, and even closed, while the disk works.
            descriptor = os.dup(self._descriptor)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close it for good: what is written later fails."""
        with self._guard:
            self._closed = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _opened(self) -> int:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return self._descriptor


class _Frames:
    """A file of frames of known sizes, one after the other. Raises OSError."""

    def __init__(self, path: Path, shape: StreamShape) -> None:
        self.frames = 0
        self.file = _DataFile(path)
        self._shape = shape

    def append(self, data: bytes) -> None:
        self.file.write_at(self._offset(self.frames), data)
        self.frames += 1

    def read(self, frames: int) -> Iterator[bytes]:
        """Give the first frames; raises DoubtfulCheckpointError where there are fewer."""
        for seq in range(frames):
            data = self.read_one(seq) if seq < self._shape.frames else None
            if data is None:
                raise DoubtfulCheckpointError("a part of it is missing")
            yield data

    def read_one(self, seq: int) -> bytes | None:
        """Return a frame, None where the file does not hold all of it."""
        size = self._shape.frame_bytes(seq)
        data = self.file.read_at(self._offset(seq), size)
        return data if len(data) == size else None

    def cut(self, frames: int) -> None:
        """Keep the first frames alone."""
        self.file.truncate(self._offset(frames))
        self.frames = frames

    def _offset(self, frames: int) -> int:
        # All frames but the last are full.
        return frames * self._shape.frame_bytes(0) if frames else 0


class _Answers:
    """The digest of every frame that was answered, by its number. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.file = _DataFile(path)
        self._known: dict[int, bytes] = {}

    def load(self) -> None:
        """Read what an earlier run has noted; raises DoubtfulCheckpointError."""
        octets = self.file.path.read_bytes() if self.file.path.exists() else b""
        for seq in range(-(-len(octets) // _ANSWER_BYTES)):
            entry = octets[seq * _ANSWER_BYTES : (seq + 1) * _ANSWER_BYTES]
            if any(entry):
                if entry != _answer(entry[:_DIGEST_BYTES]):
                    raise DoubtfulCheckpointError("it is damaged")
                self._known[seq] = entry[:_DIGEST_BYTES]

    def known(self, seq: int) -> bytes | None:
        return self._known.get(seq)

    def note(self, seq: int, digest: bytes) -> None:
        if seq not in self._known:
            self.file.write_at(seq * _ANSWER_BYTES, _answer(digest))
            self.file.sync()
            failpoints.passage("checkpoint.answered")
            self._known[seq] = digest


def remove(folder: TaskFolder) -> None:
    """Remove a task's folder and all in it, the scalar overwritten; raises StorageError if something stays."""
    try:
        _wipe(folder.path / "scalar")
        folder.remove()
    except OSError as exc:
        raise StorageError(path=folder.path, reason=f"it cannot be removed: {reason(exc)}") from exc
    except CannotCreateError as exc:
        raise StorageError(path=folder.path, reason=exc.message) from exc


def _wipe(path: Path) -> None:
    """Overwrite a secret and delete it; raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    failpoints.passage("checkpoint.wiped")


def _checked_chain(data: Iterator[bytes], stream: int, task_sid: bytes, mark: tuple[int, str]) -> list[bytes]:
    """Return the chain digests after 0, 1, … frames; raises DoubtfulCheckpointError if the last is another."""
    chain = [first_digest(stream, task_sid)]
    for frame in data:
        chain.append(next_digest(chain[-1], frame))
    if (len(chain) - 1, chain[-1].hex()) != mark:
        raise DoubtfulCheckpointError("it is damaged")
    return chain


def _check_age(created: float) -> None:
    age = time.time() - created
    if age > MAX_AGE:
        raise DoubtfulCheckpointError("it is more than 24 hours old")
    if age < -CLOCK_SLACK:
        raise DoubtfulCheckpointError("it is from the future, by this machine's clock")


def _sealed(secret: bytes) -> bytes:
    return secret + hashlib.sha256(secret).digest()


def _unsealed(path: Path) -> bytes:
    """Return a secret, empty if it is gone; raises DoubtfulCheckpointError, OSError."""
    try:
        octets = path.read_bytes()
    except FileNotFoundError:
        return b""
    if octets != _sealed(octets[:_SECRET_BYTES]):
        raise DoubtfulCheckpointError("it is damaged")
    return octets[:_SECRET_BYTES]


def _answer(digest: bytes) -> bytes:
    return digest + hashlib.sha256(digest).digest()[: _ANSWER_BYTES - _DIGEST_BYTES]
